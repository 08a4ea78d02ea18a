"""The ExecuTorch target: the backbone as one `model.pte` that XNNPACK runs whole.

The integers of `backbone_tensors` become torchao tensors ("8-bit activations, 8- or 4-bit weights"), which
XNNPACK's partitioner turns into its own quantised linears; their arithmetic is that of docs/bundle.md §5.
Lowering takes some 5 seconds a layer, however narrow.

Measured with one thread on an EPYC with VNNI, L = 50, d = 256, 2 layers, 4 heads of 64, MLP 512;
milliseconds a query and bytes: fp32 0.81, 4.86 M · int8 0.32, 1.35 M · int4 0.45, 0.82 M.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pocketrec.errors import PocketrecError
from pocketrec.quantise import GROUP, unpack_nibbles
from pocketrec_export.backbone import Backbone, backbone_tensors
from pocketrec_export.precision import Precision

# All that may be left outside of XNNPACK. Anything more is slow at best, and missing on some phone at worst.
EXPECTED = frozenset({"delegate::XnnpackBackend"})


def to_executorch(backbone: Backbone, precision: Precision) -> bytes:
    """The bytes of `model.pte`: inputs rows [1, L, d] and mask [1, L], output query [1, d], all float32.

    Raises:
        PocketrecError: code "export-failed", some operator was not taken by XNNPACK.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower

    tensors = backbone_tensors(backbone, precision)
    example = (torch.zeros(1, backbone.length, backbone.dim), torch.ones(1, backbone.length))
    with quiet(), torch.no_grad():
        exported = torch.export.export(_with_torchao_weights(backbone, tensors), example, strict=True)
        edge = to_edge_transform_and_lower(
            exported,
            partitioner=[XnnpackPartitioner()],
            compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
        )
        program = edge.to_executorch(
            ExecutorchBackendConfig(do_quant_fusion_and_const_prop=True, extract_delegate_segments=True)
        )
        data = bytes(program.buffer)
    left = set(operators_executorch(data)) - EXPECTED
    if left:
        raise PocketrecError(
            f"XNNPACK did not take {', '.join(sorted(left))}.",
            code="export-failed",
            remedy="Write the operation in backbone.py with others that it takes.",
        )
    return data


def operators_executorch(program: bytes) -> Counter[str]:
    """How often each operator and each delegate ("delegate::NAME") occurs in the bytes of a `.pte`."""
    from executorch.exir._serialize._program import deserialize_pte_binary
    from executorch.exir.schema import DelegateCall, KernelCall

    file = deserialize_pte_binary(program)
    found: Counter[str] = Counter()
    for plan in getattr(file, "program", file).execution_plan:
        for instruction in (i for chain in plan.chains for i in chain.instructions):
            call = instruction.instr_args
            if isinstance(call, DelegateCall):
                found[f"delegate::{plan.delegates[call.delegate_index].id}"] += 1
            elif isinstance(call, KernelCall):
                operator = plan.operators[call.op_index]
                found[f"{operator.name}.{operator.overload}".rstrip(".")] += 1
    return found


def _with_torchao_weights(backbone: Backbone, tensors: Mapping[str, NDArray[Any]]) -> Backbone:
    """A copy whose linears hold torchao tensors with exactly the integers and scales of `tensors`."""
    from torchao.quantization import IntxUnpackedToInt8Tensor

    out = copy.deepcopy(backbone)
    for name, linear in out.linears().items():
        if name in tensors:
            continue
        q, scale = tensors[f"{name}.q"], tensors[f"{name}.scale"]
        is_int8 = q.dtype == np.int8
        integers = torch.from_numpy(q.copy() if is_int8 else unpack_nibbles(q))
        scales = torch.from_numpy(scale.copy()).view(integers.shape[0], -1)
        weight = IntxUnpackedToInt8Tensor(
            integers,
            scales,
            torch.zeros(scales.shape, dtype=torch.int8),
            torch.int8 if is_int8 else torch.int4,
            (1, integers.shape[1] if is_int8 else GROUP),
            torch.float32,
            "int8_asym_per_token",
        )
        linear.weight = nn.Parameter(weight, requires_grad=False)
    return out


@contextmanager
def quiet() -> Iterator[None]:
    """Exporting logs hundreds of lines below the level of an error; none is for who builds a bundle."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
