"""The numpy engine: docs/bundle.md §5 line by line. Slow, readable, and what the others are compared with.

One line of §5 is made use of: of the last layer only the last row is used, so there the rest is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pocketrec.engines import CheckedEngine, FloatArray
from pocketrec.errors import BundleError
from pocketrec.quantise import linear_int4, linear_int8

if TYPE_CHECKING:
    from pocketrec.bundle import Bundle

Array = NDArray[Any]  # float32 throughout; numpy's own types lose that on the way

MASKED = np.float32(-1e9)


def load(bundle: Bundle, threads: int) -> NumpyEngine:
    """The engine of this bundle. `threads` is left to the BLAS that numpy was built with."""
    name = bundle.manifest.engines["numpy"].file
    return NumpyEngine(
        bundle.tensors(name),
        bundle.manifest.backbone,
        bundle.manifest.graph.length,
        bundle.manifest.graph.dim,
    )


class NumpyEngine(CheckedEngine):
    """The graph over the tensors of `backbone.safetensors`.

    Args:
        tensors: as docs/bundle.md §5 lists them; kept, not copied.
        shape: anything with architecture, layers, heads, kv_heads, head_dim, rms_eps and rope_theta.
        length, dim: L and d.

    Raises:
        BundleError: a tensor is missing or has another shape than `shape` asks for.
    """

    name = "numpy"
    version = np.__version__

    def __init__(self, tensors: Mapping[str, Array], shape: Any, length: int, dim: int) -> None:
        super().__init__(length, dim)
        self.tensors, self.shape = dict(tensors), shape
        self._check_tensors()
        position = np.arange(length, dtype=np.float32)
        self.causal = position[None, :] <= position[:, None]  # [query, key]
        self.cos, self.sin = rope_tables(length, shape.head_dim, shape.rope_theta)

    def _run(self, rows: FloatArray, mask: FloatArray) -> Array:
        x = rows[0]
        bias = np.where(self.causal & (mask[0] == 1), np.float32(0), MASKED)  # [L, L]
        h = x
        for layer in range(self.shape.layers):
            start = self.length - 1 if layer == self.shape.layers - 1 else 0  # rows before it are only read
            n = self._rms(h, f"layers.{layer}.input_norm")
            h = h[start:] + self._attention(n, bias, layer, start)
            n = self._rms(h, f"layers.{layer}.post_norm")
            gate = self._linear(n, f"layers.{layer}.gate_proj")
            up = self._linear(n, f"layers.{layer}.up_proj")
            h = h + self._linear(silu(gate) * up, f"layers.{layer}.down_proj")
        recency: Array = (self.tensors["recency"] * x).sum(axis=0)
        return self._rms(h[-1], "norm") + recency

    def _attention(self, n: Array, bias: Array, layer: int, start: int) -> Array:
        """What the rows from `start` on read, [L − start, d], from all rows n [L, d]."""
        shape, prefix = self.shape, f"layers.{layer}"
        q = self._heads(self._linear(n[start:], f"{prefix}.q_proj"), shape.heads)  # [heads, rows, head_dim]
        k = self._heads(self._linear(n, f"{prefix}.k_proj"), shape.kv_heads)
        v = self._heads(self._linear(n, f"{prefix}.v_proj"), shape.kv_heads)
        if shape.architecture == "qwen3":
            q, k = self._rms(q, f"{prefix}.q_norm"), self._rms(k, f"{prefix}.k_norm")
        q, k = self._rope(q, start), self._rope(k, 0)
        k = np.repeat(k, shape.heads // shape.kv_heads, axis=0)  # query head i reads key head i div group
        v = np.repeat(v, shape.heads // shape.kv_heads, axis=0)
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(np.float32(shape.head_dim)) + bias[start:]
        a = softmax(scores) @ v
        return self._linear(a.transpose(1, 0, 2).reshape(len(bias) - start, -1), f"{prefix}.o_proj")

    def _heads(self, x: Array, heads: int) -> Array:
        return x.reshape(len(x), heads, self.shape.head_dim).transpose(1, 0, 2)

    def _rope(self, x: Array, start: int) -> Array:
        half = self.shape.head_dim // 2
        rotated = np.concatenate([-x[..., half:], x[..., :half]], axis=-1)
        return x * self.cos[start:] + rotated * self.sin[start:]

    def _rms(self, x: Array, name: str) -> Array:
        mean = np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32)
        normed: Array = x / np.sqrt(mean + np.float32(self.shape.rms_eps))
        return self.tensors[name] * normed

    def _linear(self, x: Array, name: str) -> Array:
        if self._is_low_rank(name):
            return self._linear(self._linear(x, f"{name}.a"), f"{name}.b")
        if name in self.tensors:
            return x @ self.tensors[name].T
        q, scale = self.tensors[f"{name}.q"], self.tensors[f"{name}.scale"]
        return linear_int8(x, q, scale) if q.dtype == np.int8 else linear_int4(x, q, scale)

    def _free(self) -> None:
        self.tensors = {}

    def _check_tensors(self) -> None:
        for name, wanted in self._vectors().items():
            self._expect(name, wanted, np.float32)
        for name, (out, inner) in linear_shapes(self.shape, self.dim).items():
            if self._is_low_rank(name):
                rank = self._rank(name, min(out, inner))
                self._expect_linear(f"{name}.a", rank, inner)
                self._expect_linear(f"{name}.b", out, rank)
            else:
                self._expect_linear(name, out, inner)

    def _is_low_rank(self, name: str) -> bool:
        return f"{name}.a" in self.tensors or f"{name}.a.q" in self.tensors

    def _rank(self, name: str, most: int) -> int:
        """What `NAME.a` says of the rank; `NAME.b` is held against it."""
        factor = self.tensors[f"{name}.a" if f"{name}.a" in self.tensors else f"{name}.a.q"]
        rank = factor.shape[0] if factor.ndim == 2 else 0
        if not 1 <= rank <= most:
            raise BundleError(
                f"{name!r} is {list(factor.shape)} in its first part; its rank must be 1 to {most}.",
                code="tensors-invalid",
                remedy="Build the bundle again.",
            )
        return rank

    def _expect_linear(self, name: str, out: int, inner: int) -> None:
        if name in self.tensors:
            self._expect(name, (out, inner), np.float32)
        elif f"{name}.q" in self.tensors and self.tensors[f"{name}.q"].dtype == np.int8:
            self._expect(f"{name}.q", (out, inner), np.int8)
            self._expect(f"{name}.scale", (out,), np.float32)
        else:
            self._expect(f"{name}.q", (out, inner // 2), np.uint8)
            self._expect(f"{name}.scale", (out, inner // 32), np.float32)

    def _vectors(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"norm": (self.dim,), "recency": (self.length, self.dim)}
        for layer in range(self.shape.layers):
            shapes |= {f"layers.{layer}.{name}": (self.dim,) for name in ("input_norm", "post_norm")}
            if self.shape.architecture == "qwen3":
                shapes |= {f"layers.{layer}.{name}": (self.shape.head_dim,) for name in ("q_norm", "k_norm")}
        return shapes

    def _expect(self, name: str, shape: tuple[int, ...], dtype: type) -> None:
        tensor = self.tensors.get(name)
        if tensor is None:
            raise BundleError(
                f"the backbone has no tensor {name!r}.",
                code="tensors-invalid",
                remedy="Build the bundle again.",
            )
        if tensor.shape != shape or tensor.dtype != dtype:
            raise BundleError(
                f"{name!r} is {tensor.dtype} {list(tensor.shape)}, the manifest asks for "
                f"{np.dtype(dtype)} {list(shape)}.",
                code="tensors-invalid",
                remedy="Build the bundle again.",
            )


def linear_shapes(shape: Any, dim: int) -> dict[str, tuple[int, int]]:
    """Name -> (out, in) of every linear, in the order of the graph; `shape` as NumpyEngine takes it."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    one = {
        "q_proj": (queries, dim),
        "k_proj": (keys, dim),
        "v_proj": (keys, dim),
        "o_proj": (dim, queries),
        "gate_proj": (shape.intermediate, dim),
        "up_proj": (shape.intermediate, dim),
        "down_proj": (dim, shape.intermediate),
    }
    return {f"layers.{layer}.{name}": pair for layer in range(shape.layers) for name, pair in one.items()}


def rope_tables(length: int, head_dim: int, theta: float) -> tuple[FloatArray, FloatArray]:
    """cos and sin float32 [length, head_dim] of the rotary embedding, the halves repeated (rotate-half)."""
    exponent = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    frequency = (1.0 / theta**exponent).astype(np.float32)
    angle = np.arange(length, dtype=np.float32)[:, None] * frequency[None, :]
    angle = np.concatenate([angle, angle], axis=1)
    return np.cos(angle), np.sin(angle)


def silu(x: Array) -> Array:
    """x · sigmoid(x), without overflow in exp for large negative x."""
    y: Array = x * np.exp(-np.logaddexp(np.float32(0), -x))
    return y


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    shares: Array = e / e.sum(axis=-1, keepdims=True)
    return shares
