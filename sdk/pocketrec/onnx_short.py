"""The backbone for short histories: as many rows as there are events, where `model.onnx` always runs L.

Most histories are far shorter than the window, and everything that `model.onnx` computes for the padding is
thrown away. This graph is written here, from the tensors of `backbone.safetensors`, with the length left
open: no padding, no mask. The arithmetic is that of docs/bundle.md §5, position by position (a row keeps
the place that it has at the end of the window), in the form of `target_onnx` in the exporter; only float sums
over fewer zeros may round differently. Products that read the same rows (q, k, v; gate, up) are joined.

It answers for `model.onnx` only where it gives the same queries: `load` compares the two, so that a file that
computes something else is found out by its own answers, as before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pocketrec.engine_numpy import NumpyEngine, rope_tables
from pocketrec.engine_onnxruntime import session_options  # switches telemetry off before the import below
from pocketrec.engines import FloatArray
from pocketrec.onnx_write import FLOAT, INT64, MICROSOFT, GraphWriter
from pocketrec.quantise import GROUP

import onnxruntime  # isort: skip

if TYPE_CHECKING:
    from pocketrec.bundle import Bundle

Array = NDArray[Any]

_log = logging.getLogger(__name__)

MOST_BYTES = 64 << 20
"""Of a backbone: beyond it, holding the weights twice costs more than the time is worth."""

MOST_EVENTS = 256
"""What a history may hold at most: the scores of attention grow with its square."""

_KEPT = 64
_AGREE = 0.03
"""Difference of two queries by the length of one: what an activation that rounds the other way may cause."""

_MASKED = np.float32(-1e9)
_NEXT_TO_NOTHING = np.float32(255) * np.finfo(np.float32).smallest_normal
_END = np.iinfo(np.int64).max


def load(
    bundle: Bundle, threads: int, whole: Callable[[FloatArray, FloatArray], FloatArray]
) -> ShortGraph | None:
    """The short graph of a bundle; None when it is too large, or is not what `model.onnx` computes here.

    Args:
        whole: runs `model.onnx`: rows [1, L, d] and mask [1, L] to the query.
    """
    manifest = bundle.manifest
    file, graph = manifest.engines["numpy"].file, manifest.graph
    if bundle.sizes[file] > MOST_BYTES or not manifest.backbone.layers or graph.length < 2:
        return None
    try:
        tensors = bundle.tensors(file)
        NumpyEngine(tensors, manifest.backbone, graph.length, graph.dim).close()  # checks them
        short = ShortGraph(tensors, manifest.backbone, graph.length, graph.dim, threads)
        for count in {1, short.most}:
            rows = np.zeros((1, graph.length, graph.dim), np.float32)
            mask = np.zeros((1, graph.length), np.float32)
            rows[0, -count:] = 0.1 * np.random.default_rng(count).standard_normal((count, graph.dim))
            mask[0, -count:] = 1
            want = whole(rows, mask).reshape(-1)
            if not np.linalg.norm(short.run(rows[0, -count:]) - want) <= _AGREE * np.linalg.norm(want):
                _log.debug("no graph for short histories: model.onnx answers otherwise to %d events", count)
                return None
    except Exception as error:
        # An ONNX Runtime without these operators, damaged tensors: any of a dozen types. The file goes on.
        _log.debug("no graph for short histories: %s: %s", type(error).__name__, error)
        return None
    return short


class ShortGraph:
    """One session for histories of 1 to `most` events; threads may share it.

    Args:
        tensors: of `backbone.safetensors`, checked (`NumpyEngine` does).
        shape: as `NumpyEngine` takes it, with a layer at least.
        length, dim: L and d.
    """

    def __init__(self, tensors: Mapping[str, Array], shape: Any, length: int, dim: int, threads: int) -> None:
        self.most = min(max(1, 3 * length // 4), MOST_EVENTS)  # near L there is little to save
        self._length, self._group = length, shape.heads // shape.kv_heads
        self._layers = shape.layers
        graph = _Writer(tensors, shape, length, dim).written()
        options = session_options(threads)
        # There is nothing to fold, and the other rewriting takes longer than a hundred lists gain by it.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_external_initializers(
            list(graph.constants),
            [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in graph.constants.values()],
        )
        model = graph.model({"query": (FLOAT, (1, dim))})
        self._session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._kept: dict[int, dict[str, Array]] = {}

    def run(self, x: FloatArray) -> FloatArray:
        """The query float32 [d] of the rows [m, d] of a history, 1 <= m <= `most`."""
        (query,) = self._session.run(["query"], {"x": np.ascontiguousarray(x), **self._by_count(len(x))})
        return np.asarray(query, dtype=np.float32).reshape(-1)

    def _by_count(self, count: int) -> dict[str, Array]:
        """What depends on the number of rows alone; kept where it is small, as most histories are."""
        if count in self._kept:
            return self._kept[count]
        given: dict[str, Array] = {"start": np.array([self._length - count])}
        if self._layers > 1:
            late = np.triu(np.full((count, count), _MASKED), 1)
            given["bias"] = np.tile(late, (self._group, 1))
        if count <= _KEPT:
            self._kept[count] = given
        return given


class _Writer:
    """Writes the graph: x [m, d] and start [1] = L − m, and for two layers or more bias [group · m, m]."""

    def __init__(self, tensors: Mapping[str, Array], shape: Any, length: int, dim: int) -> None:
        self.tensors, self.shape, self.length, self.dim = tensors, shape, length, dim
        self.graph = GraphWriter()
        self.first_axis, self.last_axis = self.graph.constant([0]), self.graph.constant([-1])
        self.end = self.graph.constant([_END])
        self.column = self.graph.constant([-1, 1])

    def written(self) -> GraphWriter:
        node, constant, shape = self.graph.node, self.graph.constant, self.shape
        x = self.graph.input("x", FLOAT, ("m", self.dim))
        start = self.graph.input("start", INT64, (1,))
        bias = self.graph.input("bias", FLOAT, ("group·m", "m")) if shape.layers > 1 else ""
        cos, sin = rope_tables(self.length, shape.head_dim, shape.rope_theta)
        sin = np.concatenate([-sin[:, : shape.head_dim // 2], sin[:, shape.head_dim // 2 :]], axis=1)
        root = np.float32(shape.head_dim**0.5)
        tables = [table[:, None] for table in (cos, sin, cos / root, sin / root)]
        keys = [self._tail(constant(table), start) for table in tables[:2]]
        queries = [self._tail(constant(table), start) for table in tables[2:]] if shape.layers > 1 else []
        final = [constant(table[-1:]) for table in tables[2:]]
        h = x
        for layer in range(shape.layers):
            last = layer == shape.layers - 1
            h = self._layer(h, f"layers.{layer}", keys, final if last else queries, "" if last else bias)
        recency = self._tail(constant(self.tensors["recency"]), start)
        recent = node("ReduceSum", node("Mul", x, recency), self.first_axis, keepdims=1)
        node("Add", self._rms(h, "norm"), recent, name="query")
        return self.graph

    def _layer(self, h: str, prefix: str, keys: list[str], queries: list[str], bias: str) -> str:
        """One layer; without a `bias` it is the last, of which only the last row is wanted."""
        node, one = self.graph.node, not bias
        n = self._rms(h, f"{prefix}.input_norm")
        names = [f"{prefix}.{part}_proj" for part in "qkv"]
        if bias:
            q, k, v = self._linears(n, names)
        else:
            h, own = self._last(h), self._last(n)
            (q,), (k, v) = self._linears(own, names[:1], one), self._linears(n, names[1:])
        a = self._attention(prefix, q, k, v, keys, queries, bias)
        h = node("Add", h, self._linears(a, [f"{prefix}.o_proj"], one)[0])
        n = self._rms(h, f"{prefix}.post_norm")
        gate, up = self._linears(n, [f"{prefix}.gate_proj", f"{prefix}.up_proj"], one)
        gated = node("Mul", node("Mul", gate, node("Sigmoid", gate)), up)
        return node("Add", h, self._linears(gated, [f"{prefix}.down_proj"], one)[0])

    def _attention(
        self, prefix: str, q: str, k: str, v: str, keys: list[str], queries: list[str], bias: str
    ) -> str:
        node, shape = self.graph.node, self.shape
        kv, group, width = shape.kv_heads, shape.heads // shape.kv_heads, shape.head_dim
        q = self._rope(self._heads(q, shape.heads, f"{prefix}.q_norm"), queries)
        k = self._rope(self._heads(k, kv, f"{prefix}.k_norm"), keys)
        v = node("Reshape", v, self.graph.constant([-1, kv, width]))
        k, v = node("Transpose", k, perm=[1, 2, 0]), node("Transpose", v, perm=[1, 0, 2])
        q = node("Transpose", q, perm=[1, 0, 2]) if bias else q
        q = node("Reshape", q, self.graph.constant([kv, -1, width]))
        scores = node("MatMul", q, k)  # [kv, group · m, m]
        weights = node("Softmax", node("Add", scores, bias) if bias else scores, axis=-1)
        a = node("MatMul", weights, v)  # [kv, group · m, width]
        if bias:
            a = node("Reshape", a, self.graph.constant([kv * group, -1, width]))
            a = node("Transpose", a, perm=[1, 0, 2])
        return node("Reshape", a, self.graph.constant([-1, kv * group * width]))

    def _heads(self, x: str, heads: int, norm: str) -> str:
        x = self.graph.node("Reshape", x, self.graph.constant([-1, heads, self.shape.head_dim]))
        return self._rms(x, norm) if self.shape.architecture == "qwen3" else x

    def _rope(self, x: str, tables: list[str]) -> str:
        """Rotate-half; the minus of the first half is in the table of sines."""
        node, half = self.graph.node, self.shape.head_dim // 2
        sizes = self.graph.constant([half, half])
        low, high = self.graph.nodes("Split", x, sizes, names=2, axis=-1)
        swapped = node("Concat", high, low, axis=-1)
        return node("Add", node("Mul", x, tables[0]), node("Mul", swapped, tables[1]))

    def _rms(self, x: str, name: str) -> str:
        eps = float(self.shape.rms_eps)
        weight = self.graph.constant(self.tensors[name])
        return self.graph.node("SimplifiedLayerNormalization", x, weight, axis=-1, epsilon=eps, stash_type=1)

    def _tail(self, table: str, start: str) -> str:
        return self.graph.node("Slice", table, start, self.end, self.first_axis)

    def _last(self, x: str) -> str:
        return self.graph.node("Slice", x, self.last_axis, self.end, self.first_axis)

    def _linears(self, x: str, names: Sequence[str], one: bool = False) -> list[str]:
        """The linears `names` of x [m, in]: one product where all have one form. With `one`, m is 1."""
        if any(f"{name}.a" in self.tensors or f"{name}.a.q" in self.tensors for name in names):
            return [self._low_rank(x, name, one) for name in names]
        forms = {self.tensors[_stored(self.tensors, name)].dtype.name for name in names}
        if len(forms) > 1:
            return [self._linears(x, [name], one)[0] for name in names]
        y = {"float32": self._fp32, "int8": self._int8, "uint8": self._int4}[forms.pop()](x, names, one)
        if len(names) == 1:
            return [y]
        sizes = [len(self.tensors[_stored(self.tensors, name)]) for name in names]
        return self.graph.nodes("Split", y, self.graph.constant(sizes), names=len(names), axis=-1)

    def _low_rank(self, x: str, name: str, one: bool) -> str:
        if _stored(self.tensors, name) in self.tensors:
            return self._linears(x, [name], one)[0]
        return self._linears(self._linears(x, [f"{name}.a"], one)[0], [f"{name}.b"], one)[0]

    def _fp32(self, x: str, names: Sequence[str], one: bool) -> str:
        weights = np.concatenate([self.tensors[name].T for name in names], axis=1)
        return self.graph.node("MatMul", x, self.graph.constant(weights))

    def _int8(self, x: str, names: Sequence[str], one: bool) -> str:
        node, constant = self.graph.node, self.graph.constant
        q = np.concatenate([self.tensors[f"{name}.q"] for name in names])  # [out, in]
        wide = np.concatenate([self.tensors[f"{name}.scale"] for name in names])
        weights, middle = constant((q.view(np.uint8) ^ np.uint8(128)).T), constant(np.uint8(128))
        if one:
            a, scale, zero = self.graph.nodes("DynamicQuantizeLinear", x, names=3)
            product = node("DequantizeLinear", node("MatMulInteger", a, weights, zero, middle), scale)
            return node("Mul", product, constant(wide))
        a, zero, scale = self._quantised(x)
        product = node("MatMulInteger", a, weights, "", middle)
        shift = node("Reshape", node("Cast", zero, to=6), self.column)
        product = node("Sub", product, node("Mul", shift, constant(q.sum(axis=1, dtype=np.int32))))
        return node("Mul", node("DequantizeLinear", product, scale, axis=0), constant(wide))

    def _int4(self, x: str, names: Sequence[str], one: bool) -> str:
        node, constant = self.graph.node, self.graph.constant
        q = np.concatenate([self.tensors[f"{name}.q"] for name in names])
        scales = np.concatenate([self.tensors[f"{name}.scale"] for name in names])
        out, groups = scales.shape
        a, zero, scale = self._quantised(x)
        shift = node("Reshape", node("Cast", zero, to=FLOAT), self.column)
        centred = node("Sub", node("Cast", a, to=FLOAT), shift)
        y = node(
            "MatMulNBits",
            centred,
            constant(q.reshape(out, groups, GROUP // 2)),
            constant(scales.reshape(-1)),
            domain=MICROSOFT,
            K=groups * GROUP,
            N=out,
            bits=4,
            block_size=GROUP,
            accuracy_level=1,
        )
        return node("Mul", y, node("Reshape", scale, self.column))

    def _quantised(self, x: str) -> tuple[str, str, str]:
        """x [m, in] to a uint8 [m, in], zero point uint8 [m] and scale float32 [m], as `target_onnx` does.

        Row by row what `DynamicQuantizeLinear` does for a whole tensor, and in its place where m is 1: ten
        small operators cost more there than the product.
        """
        node, constant = self.graph.node, self.graph.constant
        below = node("Relu", node("Neg", node("ReduceMin", x, self.last_axis, keepdims=0)))
        # Not Relu: a row of zeros has a step that is not 0 then, and no other row notices.
        above = node("Max", node("ReduceMax", x, self.last_axis, keepdims=0), constant(_NEXT_TO_NOTHING))
        scale = node("Div", node("Add", above, below), constant(255.0))
        zero = node("QuantizeLinear", below, scale, axis=0)
        return node("QuantizeLinear", x, scale, zero, axis=0), zero, scale


def _stored(tensors: Mapping[str, Array], name: str) -> str:
    """The tensor that holds the weights of a linear."""
    return name if name in tensors else f"{name}.q"
