"""The backbone as one exportable module: rows and mask in, query out (docs/bundle.md §5).

The same weights as a `transformers` `Qwen3Model` or `LlamaModel`, written for a fixed length and batch 1, and
for what XNNPACK takes whole (anything it leaves behind splits the graph in two):

* the mean inside RMSNorm is a product with the constant 1/width, the sum over positions a product with ones;
* heads are views and 3-D `bmm`; grouped-query attention folds the group into the rows, nothing is expanded;
* RoPE's tables and the causal mask are constants; 1/sqrt(head_dim) is folded into the tables of the queries;
* the last layer computes keys and values for all positions, everything else for the last one only.

Joining q, k and v, or gate and up, into one product was measured and gains nothing on either runtime.

`Backbone` is also what the targets quantise and export; `backbone_tensors` gives the tensors of the format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pocketrec.engine_numpy import rope_tables
from pocketrec.errors import PocketrecError
from pocketrec_export.precision import Precision, quantise_linear, scheme_of

if TYPE_CHECKING:
    from transformers import LlamaModel, PretrainedConfig, Qwen3Model

ARCHITECTURES = ("qwen3", "llama")
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class BackboneShape:
    """The `backbone` section of the manifest; `dim` and `length` are in its `graph` section."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    rms_eps: float = 1e-6
    rope_theta: float = 10000.0
    architecture: str = "qwen3"  # or "llama", which lacks the norms of queries and keys


class Backbone(nn.Module):
    """rows float32 [1, L, d] and mask float32 [1, L] to the query float32 [1, d].

    Args:
        shape: sizes of the layers; length, dim: L and d.

    The weights start at zero; `from_decoder` fills them.
    """

    def __init__(self, shape: BackboneShape, length: int, dim: int) -> None:
        super().__init__()
        self.shape, self.length, self.dim = shape, length, dim
        self.layers = nn.ModuleList(
            Layer(shape, length, dim, last=i == shape.layers - 1) for i in range(shape.layers)
        )
        self.norm = RmsNorm(dim, shape.rms_eps)
        self.recency = nn.Parameter(torch.zeros(length, dim), requires_grad=False)
        self.register_buffer("causal", torch.ones(1, length, length).tril(), persistent=False)
        self.register_buffer("ones", torch.ones(1, 1, length), persistent=False)
        self.eval()

    @classmethod
    def from_decoder(cls, model: Qwen3Model | LlamaModel, recency: Tensor) -> Backbone:
        """The backbone of a Qwen3 or Llama model, with `recency` [L, d] as its path from rows to query.

        Raises:
            PocketrecError: code "backbone-unsupported", the configuration has something the format lacks.
        """
        config = model.config
        shape = decoder_shape(config)
        length, dim = recency.shape
        if dim != config.hidden_size:
            raise PocketrecError(
                f"recency is {list(recency.shape)}, the backbone is {config.hidden_size} wide.",
                code="bad-shape",
            )
        backbone = cls(shape, length, dim)
        state = {
            our_name(name): value
            for name, value in model.state_dict().items()
            if not name.startswith("embed_tokens.")
        }
        state["recency"] = recency
        backbone.load_state_dict({name: value.detach().float() for name, value in state.items()})
        return backbone

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        x = rows.view(self.length, self.dim)
        mask = mask.view(1, 1, self.length)
        every = (self.causal * mask - 1.0) * 1e9  # (1, L, L): 0 where query may see key, else -1e9
        final = (mask - 1.0) * 1e9  # (1, 1, L): the last query may see every row
        h = x
        for layer in self.layers:
            h = layer(h, final if layer.last else every)
        recent = torch.bmm(self.ones, rows * self.recency)  # (1, 1, d); XNNPACK takes bmm, not sum or mm
        last = h if len(self.layers) else x[self.length - 1 :]
        return self.norm(last) + recent.view(1, self.dim)

    def linears(self) -> dict[str, nn.Linear]:
        """Name, as in the format ("layers.0.q_proj"), to module, in the order of the graph.

        A linear of low rank is two: "layers.0.q_proj.a", then "layers.0.q_proj.b".
        """
        found: dict[str, nn.Linear] = {}
        for i, layer in enumerate(self.layers):
            for name in LINEARS:
                module = getattr(layer, name)
                if isinstance(module, LowRankLinear):
                    found |= {f"layers.{i}.{name}.a": module.a, f"layers.{i}.{name}.b": module.b}
                else:
                    found[f"layers.{i}.{name}"] = module
        return found

    @property
    def is_low_rank(self) -> bool:
        """Whether any linear is two."""
        return any(isinstance(module, LowRankLinear) for module in self.modules())


class LowRankLinear(nn.Module):
    """x through `a` [rank, in], then `b` [out, rank]: a linear whose weight b · a has that rank at most."""

    def __init__(self, a: Tensor, b: Tensor) -> None:
        super().__init__()
        self.a, self.b = _linear(a.shape[1], a.shape[0]), _linear(b.shape[1], b.shape[0])
        # Contiguous: the ONNX exporter stumbles over weights that lie transposed in memory.
        for linear, weight in ((self.a, a), (self.b, b)):
            linear.weight.data = weight.detach().clone(memory_format=torch.contiguous_format)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


class Layer(nn.Module):
    """One decoder layer, (L, d) to (L, d); the last one gives (1, d), its last position."""

    def __init__(self, shape: BackboneShape, length: int, dim: int, last: bool) -> None:
        super().__init__()
        self.last, self.length = last, length
        self.kv, self.group, self.head_dim = shape.kv_heads, shape.heads // shape.kv_heads, shape.head_dim
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.input_norm = RmsNorm(dim, shape.rms_eps)
        self.q_proj = _linear(dim, queries)
        self.k_proj = _linear(dim, keys)
        self.v_proj = _linear(dim, keys)
        normed = shape.architecture == "qwen3"
        self.q_norm = RmsNorm(shape.head_dim, shape.rms_eps) if normed else nn.Identity()
        self.k_norm = RmsNorm(shape.head_dim, shape.rms_eps) if normed else nn.Identity()
        self.o_proj = _linear(queries, dim)
        self.post_norm = RmsNorm(dim, shape.rms_eps)
        self.gate_proj = _linear(dim, shape.intermediate)
        self.up_proj = _linear(dim, shape.intermediate)
        self.down_proj = _linear(shape.intermediate, dim)
        cos, sin = (torch.from_numpy(t) for t in rope_tables(length, shape.head_dim, shape.rope_theta))
        sin = torch.cat([-sin[:, : shape.head_dim // 2], sin[:, shape.head_dim // 2 :]], dim=1)
        start = length - 1 if last else 0
        for name, table in (("k_cos", cos), ("k_sin", sin)):
            self.register_buffer(name, table.view(length, 1, -1).contiguous(), persistent=False)
        for name, table in (("q_cos", cos[start:]), ("q_sin", sin[start:])):
            scaled = table / shape.head_dim**0.5
            self.register_buffer(name, scaled.view(length - start, 1, -1).contiguous(), persistent=False)

    def forward(self, h: Tensor, bias: Tensor) -> Tensor:
        n = self.input_norm(h)
        if self.last:
            h, own = h[self.length - 1 :], n[self.length - 1 :]
        else:
            own = n
        h = h + self.o_proj(self._attention(own, n, bias))
        n = self.post_norm(h)
        gate = self.gate_proj(n)
        return h + self.down_proj(gate * torch.sigmoid(gate) * self.up_proj(n))

    def _attention(self, own: Tensor, n: Tensor, bias: Tensor) -> Tensor:
        """Queries of `own` (T, d), keys and values of `n` (L, d), to (T, heads · head_dim)."""
        kv, group, width, count = self.kv, self.group, self.head_dim, own.shape[0]
        q = self.q_norm(self.q_proj(own).view(count, kv * group, width))
        q = _rope(q, self.q_cos, self.q_sin).permute(1, 0, 2).reshape(kv, group * count, width)
        k = self.k_norm(self.k_proj(n).view(self.length, kv, width))
        k = _rope(k, self.k_cos, self.k_sin).permute(1, 2, 0)  # (kv, width, L)
        v = self.v_proj(n).view(self.length, kv, width).permute(1, 0, 2)  # (kv, L, width)
        scores = torch.bmm(q, k).view(kv * group, count, self.length) + bias
        weights = torch.softmax(scores, dim=-1).view(kv, group * count, self.length)
        a = torch.bmm(weights, v).view(kv * group, count, width)
        return a.permute(1, 0, 2).reshape(count, kv * group * width)


class RmsNorm(nn.Module):
    """w · x / sqrt(mean(x²) + eps) over the last axis."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width), requires_grad=False)
        self.register_buffer("average", torch.full((1, width), 1.0 / width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        mean = functional.linear(x * x, self.average)
        return x * torch.rsqrt(mean + self.eps) * self.weight


def decoder_shape(config: PretrainedConfig) -> BackboneShape:
    """The shape of a decoder with this configuration.

    Raises:
        PocketrecError: code "backbone-unsupported", the configuration has something the format lacks.
    """
    if config.model_type not in ARCHITECTURES:
        raise PocketrecError(
            f"the backbone's architecture is {config.model_type!r}, which the bundle format lacks.",
            code="backbone-unsupported",
            remedy=f"Use one of {', '.join(ARCHITECTURES)} (SmolLM and many others are stored as llama).",
        )
    unsupported = {
        "attention_bias": config.attention_bias,
        "mlp_bias": getattr(config, "mlp_bias", False),
        "use_sliding_window": getattr(config, "use_sliding_window", False),
        "rope_scaling": config.rope_scaling,
        "hidden_act": config.hidden_act != "silu" and config.hidden_act,
    }
    for key, value in unsupported.items():
        if value:
            raise PocketrecError(
                f"the backbone has {key} = {value!r}, which the bundle format lacks.",
                code="backbone-unsupported",
                remedy="Use a model without biases, windows and RoPE scaling.",
            )
    return BackboneShape(
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        intermediate=config.intermediate_size,
        rms_eps=float(config.rms_norm_eps),
        rope_theta=float(config.rope_theta),
        architecture=config.model_type,
    )


def backbone_tensors(backbone: Backbone, precision: Precision) -> dict[str, NDArray[np.generic]]:
    """What `backbone.safetensors` holds (docs/bundle.md §5): linears in the form that `precision` chooses."""
    tensors: dict[str, NDArray[np.generic]] = {}
    linears = backbone.linears()
    for name, value in backbone.state_dict().items():
        short = name.removesuffix(".weight")
        weight = value.detach().cpu().numpy().astype(np.float32)
        if short in linears:
            tensors |= quantise_linear(short, weight, scheme_of(precision, short, weight.shape))
        else:
            tensors[short] = weight
    return tensors


def _linear(inner: int, out: int) -> nn.Linear:
    linear = nn.Linear(inner, out, bias=False)
    linear.weight = nn.Parameter(torch.zeros(out, inner), requires_grad=False)
    return linear


def _rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate-half on (T, heads, width); the minus of the first half is in `sin`."""
    half = x.shape[-1] // 2
    swapped = torch.cat([x[..., half:], x[..., :half]], dim=-1)
    return x * cos + swapped * sin


def our_name(theirs: str) -> str:
    """transformers' name to ours: "layers.0.self_attn.q_proj.weight" to "layers.0.q_proj.weight"."""
    for old, new in (
        ("self_attn.", ""),
        ("mlp.", ""),
        ("input_layernorm", "input_norm"),
        ("post_attention_layernorm", "post_norm"),
    ):
        theirs = theirs.replace(old, new)
    return theirs
