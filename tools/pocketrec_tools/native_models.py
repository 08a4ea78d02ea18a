"""The backbone as an engineer without pocketrec would export it: plain torch, each runtime's own int8.

`PlainDecoder` is written from the description of the model (docs/bundle.md §5), not from `Backbone`, and in
the usual way: batch first, every layer for every position, `scaled_dot_product_attention`, keys and values
repeated for their group. ExecuTorch's int8 is that of `XNNPACKQuantizer` (dynamic, per channel), ONNX
Runtime's that of `quantize_dynamic` (per channel).
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketrec_export.backbone import BackboneShape
from pocketrec_export.target_executorch import quiet

OPSET = 18


class PlainDecoder(nn.Module):
    """rows float32 [1, L, d] and mask float32 [1, L] to the query float32 [1, d].

    Args:
        shape: of the backbone.
        state: `state_dict` of the decoder (`transformers`), without the embeddings.
        recency: float32 [L, d].
    """

    cos: Tensor
    sin: Tensor
    recency: Tensor

    def __init__(self, shape: BackboneShape, state: dict[str, Tensor], recency: Tensor) -> None:
        super().__init__()
        length, dim = recency.shape
        self.layers = nn.ModuleList(PlainLayer(shape, dim) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(dim, shape.rms_eps)
        self.load_state_dict(state)
        angles = torch.outer(
            torch.arange(length).float(),
            shape.rope_theta ** (-torch.arange(0, shape.head_dim, 2).float() / shape.head_dim),
        )
        both = torch.cat([angles, angles], dim=-1)
        self.register_buffer("cos", both.cos(), persistent=False)
        self.register_buffer("sin", both.sin(), persistent=False)
        self.register_buffer("recency", recency, persistent=False)
        self.register_buffer("causal", torch.ones(length, length).tril(), persistent=False)
        self.eval()

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        allowed = (self.causal * mask[:, None, :] - 1.0) * 1e9
        h = rows
        for layer in self.layers:
            h = layer(h, allowed[:, None], self.cos, self.sin)
        return self.norm(h[:, -1]) + (rows * self.recency).sum(dim=1)


class PlainLayer(nn.Module):
    """A Qwen3 or Llama layer, [1, L, d] to [1, L, d]; the names are those of `transformers`."""

    def __init__(self, shape: BackboneShape, dim: int) -> None:
        super().__init__()
        self.self_attn = PlainAttention(shape, dim)
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(dim, shape.intermediate, bias=False),
                "up_proj": nn.Linear(dim, shape.intermediate, bias=False),
                "down_proj": nn.Linear(shape.intermediate, dim, bias=False),
            }
        )
        self.input_layernorm = nn.RMSNorm(dim, shape.rms_eps)
        self.post_attention_layernorm = nn.RMSNorm(dim, shape.rms_eps)

    def forward(self, h: Tensor, allowed: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        h = h + self.self_attn(self.input_layernorm(h), allowed, cos, sin)
        n = self.post_attention_layernorm(h)
        gated = functional.silu(self.mlp["gate_proj"](n)) * self.mlp["up_proj"](n)
        return h + self.mlp["down_proj"](gated)


class PlainAttention(nn.Module):
    """Grouped-query attention with RoPE, and with normed heads where the architecture has them."""

    def __init__(self, shape: BackboneShape, dim: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = shape.heads, shape.kv_heads, shape.head_dim
        self.q_proj = nn.Linear(dim, shape.heads * shape.head_dim, bias=False)
        self.k_proj = nn.Linear(dim, shape.kv_heads * shape.head_dim, bias=False)
        self.v_proj = nn.Linear(dim, shape.kv_heads * shape.head_dim, bias=False)
        self.o_proj = nn.Linear(shape.heads * shape.head_dim, dim, bias=False)
        normed = shape.architecture == "qwen3"
        self.q_norm = nn.RMSNorm(shape.head_dim, shape.rms_eps) if normed else nn.Identity()
        self.k_norm = nn.RMSNorm(shape.head_dim, shape.rms_eps) if normed else nn.Identity()

    def forward(self, n: Tensor, allowed: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = n.shape

        def split(x: Tensor, heads: int) -> Tensor:
            return x.view(batch, length, heads, self.head_dim)

        q = self.q_norm(split(self.q_proj(n), self.heads)).transpose(1, 2)
        k = self.k_norm(split(self.k_proj(n), self.kv_heads)).transpose(1, 2)
        v = split(self.v_proj(n), self.kv_heads).transpose(1, 2)
        q, k = _rotated(q, cos, sin), _rotated(k, cos, sin)
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        a = functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        out: Tensor = self.o_proj(a.transpose(1, 2).reshape(batch, length, -1))
        return out


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin


def native_executorch(model: nn.Module, calibration: list[tuple[Tensor, Tensor]], int8: bool) -> bytes:
    """The bytes of a `.pte` for XNNPACK, float32 or with dynamic int8 linears; rows and mask to the query."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    with quiet(), torch.no_grad():
        module: Any = model
        if int8:
            config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
            quantizer = XNNPACKQuantizer().set_global(config)
            module = prepare_pt2e(torch.export.export(model, calibration[0]).module(), quantizer)
            for example in calibration:
                module(*example)
            module = convert_pt2e(module)
        exported = torch.export.export(module, calibration[0])
        edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        return bytes(edge.to_executorch().buffer)


def native_onnx(model: nn.Module, example: tuple[Tensor, Tensor]) -> bytes:
    """The bytes of a float32 ONNX model."""
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            model, example, input_names=["rows", "mask"], output_names=["query"], opset_version=OPSET,
            dynamo=True, verbose=False,
        )  # fmt: skip
        assert program is not None
        buffer = io.BytesIO()
        program.save(buffer)
        return buffer.getvalue()


def quantised_onnx(model: bytes) -> bytes:
    """A float32 model with the dynamic int8 linears of ONNX Runtime's own tool."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder, quiet():
        whole, small = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        proto = onnx.load_from_string(model)
        del proto.graph.value_info[:]  # shapes that the tool infers anew, and stumbles over when they differ
        onnx.save(proto, str(whole))
        quantize_dynamic(whole, small, per_channel=True, weight_type=QuantType.QInt8)
        return small.read_bytes()
