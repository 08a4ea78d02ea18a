"""The ONNX target: the backbone as one self-contained `model.onnx`, with the arithmetic of docs/bundle.md §5.

What ONNX Runtime would do by itself with 8-bit weights is not that arithmetic, and on x86 without VNNI it
is wrong (uint8 × int8 saturates). So the quantised linears are written out:

* activations: `QuantizeLinear` with one scale and zero point a row, both computed in the graph. Linears
  that read the same rows share one, by eliminating common subexpressions;
* int8: `MatMulInteger` of uint8 with uint8, weights shifted by 128, exact on every processor; the row's
  zero point is taken out again with the column sums;
* int4: `MatMulNBits` in float32 on the integers of the activations. Scales hold 8 bits, so that every
  product is exact and only the sum rounds.

Measured with one thread on an EPYC with VNNI, L = 50, d = 256, 2 layers, 4 heads of 64, MLP 512;
milliseconds a query and bytes:

    fp32                                                              0.82   4.86 M
    int8 as here                                                      0.78   1.38 M
    int8 weights cast to float at load, float MatMul on the integers  1.02   1.36 M
    int8 by the native uint8 × int8, not exact on other processors    0.60   1.38 M
    int4 as here                                                      1.05   0.90 M
    int4 unpacked to float at load, eight times the memory            0.97   0.91 M

One 256 → 512 linear, microseconds: fp32 119, as here 100, float on integers 129, `MatMulNBits` with 8 bits
282, native 53.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnx_ir.passes.common as passes
import onnxscript.optimizer
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pocketrec.errors import PocketrecError
from pocketrec.quantise import GROUP
from pocketrec_export.backbone import Backbone, RmsNorm, backbone_tensors
from pocketrec_export.precision import Precision

OPSET = 18
IR_VERSION = 10  # what ONNX Runtime 1.20 still reads
_SMALLEST_NORMAL = float(np.finfo(np.float32).smallest_normal)
_symbolic = torch.onnx.ops.symbolic


def to_onnx(backbone: Backbone, precision: Precision) -> bytes:
    """The bytes of `model.onnx`: inputs rows [1, L, d] and mask [1, L], output query [1, d], all float32.

    Equal backbones and precisions give equal bytes. Nothing in the file refers to another file or to this
    machine.

    Raises:
        PocketrecError: code "export-failed", the file is larger than its weights explain.
    """
    tensors = backbone_tensors(backbone, precision)
    model = _export(_for_onnx(backbone, tensors)).model
    onnx_ir.passes.Sequential(
        passes.InlinePass(),
        # Folds the arithmetic on shapes; a limit so low that weights stay as they are.
        onnxscript.optimizer.constant_folding.FoldConstantsPass(
            shape_inference=True, input_size_limit=256, output_size_limit=256
        ),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateHashedInitializersPass(size_limit=2**62),
        passes.CommonSubexpressionEliminationPass(),
        passes.IdentityEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.ClearMetadataAndDocStringPass(),  # stack traces, with the paths of this machine
    )(model)
    for value in [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
    model.producer_name, model.producer_version = "pocketrec", None
    model.ir_version = IR_VERSION
    proto = onnx_ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=False)
    data: bytes = proto.SerializeToString(deterministic=True)
    _check_size(len(data), backbone, tensors)
    return data


def operators_onnx(model: bytes) -> Counter[str]:
    """How often each operator occurs; those outside the standard set carry their domain."""
    nodes = onnx.load_from_string(model).graph.node
    return Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in nodes)


class Int8Linear(nn.Module):
    """x float32 [T, in] through `q` int8 [out, in] and `scale` float32 [out]."""

    def __init__(self, q: NDArray[np.int8], scale: NDArray[np.float32]) -> None:
        super().__init__()
        wide = q.T.astype(np.int32)
        self.register_buffer("q", torch.from_numpy((wide + 128).astype(np.uint8, order="C")))
        self.register_buffer("sums", torch.from_numpy(wide.sum(axis=0, dtype=np.int32)))
        self.register_buffer("middle", torch.tensor(128, dtype=torch.uint8))
        self.register_buffer("scale", torch.from_numpy(scale.copy()))

    def forward(self, x: Tensor) -> Tensor:
        a, zero, scale = _quantised_rows(x)
        shape = (x.shape[0], self.q.shape[1])
        product = _symbolic("MatMulInteger", (a, self.q, None, self.middle), dtype=torch.int32, shape=shape)
        product = product - zero.to(torch.int32).view(-1, 1) * self.sums
        y = _symbolic("DequantizeLinear", (product, scale), {"axis": 0}, dtype=torch.float32, shape=shape)
        return y * self.scale


class Int4Linear(nn.Module):
    """x float32 [T, in] through nibbles `q` uint8 [out, in/2] and `scale` float32 [out, in/32]."""

    def __init__(self, q: NDArray[np.uint8], scale: NDArray[np.float32]) -> None:
        super().__init__()
        self.out, groups = scale.shape
        self.attributes = {
            "K": groups * GROUP,
            "N": self.out,
            "bits": 4,
            "block_size": GROUP,
            "accuracy_level": 1,
        }
        self.register_buffer("q", torch.from_numpy(q.reshape(self.out, groups, GROUP // 2).copy()))
        self.register_buffer("scale", torch.from_numpy(scale.reshape(-1).copy()))

    def forward(self, x: Tensor) -> Tensor:
        a, zero, scale = _quantised_rows(x)
        centred = a.to(torch.float32) - zero.to(torch.float32).view(-1, 1)
        y = _symbolic(
            "com.microsoft::MatMulNBits",
            (centred, self.q, self.scale),
            self.attributes,
            dtype=torch.float32,
            shape=(x.shape[0], self.out),
            version=1,
        )
        return y * scale.view(-1, 1)


def _quantised_rows(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x [T, in] to a uint8 [T, in], zero point uint8 [T] and scale float32 [T].

    The format's a and z shifted by 128. A row without any spread gets the smallest scale there is instead
    of 1: all its a − z are 0 either way.
    """
    below, above = torch.relu(-torch.amin(x, dim=-1)), torch.relu(torch.amax(x, dim=-1))
    scale = torch.clamp((above + below) / 255.0, min=_SMALLEST_NORMAL)
    zero = _symbolic("QuantizeLinear", (below, scale), {"axis": 0}, dtype=torch.uint8, shape=below.shape)
    a = _symbolic("QuantizeLinear", (x, scale, zero), {"axis": 0}, dtype=torch.uint8, shape=x.shape)
    return a, zero, scale


class FusedRmsNorm(nn.Module):
    """RMSNorm in the form that ONNX Runtime runs as one operator; 5 % of the int8 graph."""

    def __init__(self, norm: RmsNorm) -> None:
        super().__init__()
        self.eps, self.weight = norm.eps, norm.weight

    def forward(self, x: Tensor) -> Tensor:
        mean = torch.mean(torch.pow(x, 2), dim=-1, keepdim=True)
        return self.weight * (x / torch.sqrt(mean + self.eps))


def _for_onnx(backbone: Backbone, tensors: Mapping[str, NDArray[Any]]) -> Backbone:
    """A copy with the norms and the quantised linears in the forms above."""
    out = copy.deepcopy(backbone)
    for name, module in backbone.named_modules():
        if isinstance(module, RmsNorm):
            out.set_submodule(name, FusedRmsNorm(module))
    for name in backbone.linears():
        if name in tensors:
            continue
        q, scale = tensors[f"{name}.q"], tensors[f"{name}.scale"]
        out.set_submodule(name, Int8Linear(q, scale) if q.dtype == np.int8 else Int4Linear(q, scale))
    return out


def _export(module: Backbone) -> Any:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it misses torchvision, which nothing here uses
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.onnx.export(
                module,
                (torch.zeros(1, module.length, module.dim), torch.ones(1, module.length)),
                dynamo=True,
                opset_version=OPSET,
                input_names=["rows", "mask"],
                output_names=["query"],
                verbose=False,
                optimize=False,  # its constant folding would unpack what is packed
            )
    finally:
        logger.setLevel(level)


def _check_size(size: int, backbone: Backbone, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Catches weights that were stored twice, or unpacked: they are what an export fails at silently."""
    weights = sum(t.nbytes for t in tensors.values())
    constants = sum(b.numel() * b.element_size() for b in backbone.buffers())
    sums = 4 * sum(t.shape[0] for t in tensors.values() if t.dtype == np.int8)
    nodes = 40_000 + 30_000 * backbone.shape.layers
    if size > weights + constants + sums + nodes:
        raise PocketrecError(
            f"model.onnx is {size:,} bytes, its weights and constants are {weights + constants:,}.",
            code="export-failed",
            remedy="Weights were stored twice or unpacked; compare the operators with target_onnx.py.",
        )
