"""The scan over packed rows: ONNX Runtime's `MatMulNBits`, the kernel that language models are served with.

One query is one row of activations, the table is the weights, and the kernel reads them once, at the speed of
the memory. It has to have the rows in an order of its own, so a packed table is a copy of the table in memory
that is not shared with other processes; it is made a segment at a time.

The kernel quantises the activations in blocks, to 127 steps of the largest in each. A row up to 256 wide can
be one block, and the largest |u| of a query is 127 by its definition: then u is kept as it is, and the sums
are exact integers (below 2^24, so float32 holds them). Wider rows and int4 rows (a block for each scale) come
out a little off; by how much at most follows from the query and the scales.

What is packed, then:

* **int8, a small table**: all 8 bits, when a row is one block. The scores are exact.
* **int8 otherwise: the upper 4 bits.** A large table does not fit the caches, so that bytes are what a scan
  costs, and half of them say nearly everything: with w = 16 h + l, l of 0 … 15,

      Σ u w ≤ 16 Σ u h + 7.5 Σ u + min(|u|₂ · max |l − 7.5|₂, 7.5 Σ |u|)

  (Cauchy–Schwarz, and Hölder). Few rows have a bound that reaches the k-th best score; those are scored
  exactly from the table itself. The lists are exact whatever the rows are; only how many are scored twice
  depends on them. (The idea is that of a vector-approximation file: Weber, Schek and Blott, VLDB 1998.)
* **int4**: all 4 bits, and a bound in the same way.

Before a kernel is used it must show, on rows made of the extreme values, that this holds here. (Kernels for
processors without 8-bit dot products are known to saturate.)
"""

from __future__ import annotations

import functools
import mmap
import threading
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pocketrec import onnx_write
from pocketrec.engine_onnxruntime import session_options  # switches telemetry off before the import below
from pocketrec.quantise import GROUP, pack_nibbles
from pocketrec.scan import MAX_QUERY, FloatArray, Query

import onnxruntime  # isort: skip

_WIDEST_BLOCK = 256
_EPSILON = 2.0**-23
_UPPER = 16  # of the upper 4 bits
_CENTRE = 7.5  # of the lower 4
_CHUNK = 1 << 14

SMALL = 16 << 20
"""Numbers of an int8 table up to which all 8 bits are packed."""

Packing = Literal["int8", "upper", "int4"]


class Segment:
    """Some consecutive rows of an int8 or int4 table, packed.

    Args:
        packing: "int8", "upper" (the upper 4 bits of int8 rows), or "int4".
        q, scale: the rows, as in section 3 of docs/bundle.md: int8 [m, d] and float32 [m], or uint8 [m, d/2]
            and float16 [m, d/32].

    Attributes:
        exact: what `bounds` writes are the scores themselves.
    """

    def __init__(self, packing: Packing, q: NDArray[Any], scale: NDArray[Any]) -> None:
        self.rows = len(q)
        self._packing = packing
        self._d = 2 * q.shape[1] if packing == "int4" else q.shape[1]
        block = GROUP if packing == "int4" else min(_WIDEST_BLOCK, 1 << max(4, (self._d - 1).bit_length()))
        self._k = -(-self._d // block) * block
        self._scale = None if packing == "int4" else np.array(scale, dtype=np.float32)
        blocks = self._k // block
        steps = scale.astype(np.float32) if packing == "int4" else np.ones((self.rows, blocks), np.float32)
        if packing == "upper":
            steps *= _UPPER
        self._block = block
        # |u − its 127 steps| ≤ half a step; the integers of a row reach 128 or 8.
        largest = steps.max(axis=0, initial=0).astype(np.float64)
        self._reach = largest * (block * (128 if packing == "int8" else 8))
        self._spread = _spread(q) if packing == "upper" else 0.0
        self._whole = packing != "int4" and blocks == 1
        self.exact = self._whole and packing == "int8"
        bits = 8 if packing == "int8" else 4
        weights = self._weights(q)
        shapes = {"b": (self.rows, blocks, block * bits // 8), "s": (self.rows, blocks)}
        options = session_options(1)
        options.enable_cpu_mem_arena = False
        # Not in the bytes of the model: ONNX Runtime would keep them beside what it packs.
        options.add_external_initializers(
            list(shapes),
            [
                onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(data).reshape(shapes[name]))
                for name, data in (("b", weights), ("s", steps))
            ],
        )
        self._session: Any = onnxruntime.InferenceSession(
            _model(self._k, self.rows, bits, block, shapes), options, providers=["CPUExecutionProvider"]
        )
        self._local = threading.local()

    def _weights(self, q: NDArray[Any]) -> NDArray[np.uint8]:
        """The rows as the operator has them: offset by half their range, and as wide as whole blocks."""
        if self._packing == "int4":
            return q
        width = self._k if self._packing == "int8" else self._k // 2
        # A map of its own goes back to the system when it is dropped; the heap would keep it.
        weights = np.frombuffer(mmap.mmap(-1, max(1, self.rows * width)), np.uint8, self.rows * width)
        weights = weights.reshape(self.rows, width)
        raw = q.view(np.uint8)
        if self._packing == "int8":
            weights[:, self._d :] = 128
            np.bitwise_xor(raw, np.uint8(128), out=weights[:, : self._d])
            return weights
        weights[:, self._d // 2 :] = 0x88
        for start in range(0, self.rows, _CHUNK):
            upper = (raw[start : start + _CHUNK] >> np.uint8(4)) ^ np.uint8(8)
            weights[start : start + _CHUNK, : self._d // 2] = upper[:, 0::2] | (upper[:, 1::2] << np.uint8(4))
        return weights

    def bounds(self, query: Query, out: FloatArray) -> None:
        """Write into out float32 [m], in units of the query's t, what the score of each row is at most.

        That is, score ≤ t · out up to a rounding of 2^-20 of either. An `exact` segment writes the scores
        themselves, and not in units.
        """
        error = self.sums(query, out)
        if self.exact and self._scale is not None:
            out *= query.t * self._scale
            return
        if self._packing == "upper":
            u = query.u.astype(np.float64)
            size = float(np.abs(u).sum())
            error += _CENTRE * float(u.sum()) + min(float(np.sqrt(u @ u)) * self._spread, _CENTRE * size)
        out += np.float32(error)
        if self._scale is not None:
            out *= self._scale

    def sums(self, query: Query, out: FloatArray) -> float:
        """Write Σ u · w of the rows into out float32 [m], with the integers that are packed (the upper bits
        times 16; those of int4 times their scales); returns by how much one may be off at most."""
        binding, activations = self._binding(out)
        activations[0, : self._d] = query.u
        self._session.run_with_iobinding(binding)
        if self._whole:
            return 0.0
        u = np.zeros(self._k)
        u[: self._d] = np.abs(query.u)
        peaks = u.reshape(-1, self._block).max(axis=1)
        rounding = (len(peaks) + 16) * _EPSILON
        return float((peaks * (0.501 / MAX_QUERY + rounding)) @ self._reach)

    def _binding(self, out: FloatArray) -> tuple[Any, FloatArray]:
        """This thread's binding of the session to `out`, and its input row."""
        local = self._local
        if getattr(local, "address", None) != out.ctypes.data:
            if not hasattr(local, "activations"):
                local.activations = np.zeros((1, self._k), dtype=np.float32)
            local.binding = self._session.io_binding()
            local.binding.bind_input("a", "cpu", 0, np.float32, (1, self._k), local.activations.ctypes.data)
            local.binding.bind_output("y", "cpu", 0, np.float32, (1, self.rows), out.ctypes.data)
            local.address = out.ctypes.data
        return local.binding, local.activations


def _spread(q: NDArray[Any]) -> float:
    """The largest |l − 7.5|₂ of int8 rows [m, d], l being the lower 4 bits of each number."""
    raw, largest = q.view(np.uint8), 0.0
    for start in range(0, len(raw), _CHUNK):
        lower = (raw[start : start + _CHUNK] & np.uint8(_UPPER - 1)).astype(np.float32)
        lower -= _CENTRE
        largest = max(largest, float(np.vecdot(lower, lower).max()))  # exact: of quarters, and below 2^22
    return float(np.sqrt(largest))


def packing(scheme: str, d: int, rows: int) -> Packing | None:
    """How a table is packed here; None when it had better not be."""
    if scheme == "int4":
        return "int4" if _usable("int4", d) else None
    if scheme != "int8":
        return None
    if rows * d <= SMALL and d <= _WIDEST_BLOCK and _usable("int8", d):
        return "int8"
    return "upper" if _usable("upper", d) else None


@functools.cache
def _usable(packing: Packing, d: int) -> bool:
    """Whether the kernel for this packing and width keeps its word here; tried once a process."""
    rng = np.random.default_rng(0)
    low, high = (-8, 7) if packing == "int4" else (-128, 127)
    q = rng.integers(low, high + 1, (64, d)).astype(np.int8)
    q[0], q[1], q[2, ::2], q[2, 1::2], q[3] = low, high, low, high, 0
    q[4] = np.where(np.arange(d) % 4 < 2, low, high)
    held = q.astype(np.int64) // _UPPER * _UPPER if packing == "upper" else q.astype(np.int64)
    try:
        if packing == "int4":
            segment = Segment("int4", pack_nibbles(q), np.ones((64, d // GROUP), dtype=np.float16))
        else:
            segment = Segment(packing, q, np.ones(64, dtype=np.float32))
        for query in (np.full(d, 127.0), np.full(d, -127.0), np.sign(q[2] + 0.5) * 127.0, rng.normal(size=d)):
            asked = Query.of(query.astype(np.float32))
            out = np.empty(64, dtype=np.float32)
            off = segment.sums(asked, out)
            if (np.abs(out.astype(np.float64) - held @ asked.u.astype(np.int64)) > off).any():
                return False
    except Exception:  # an ONNX Runtime without the operator, or without 8 bits: any of a dozen types
        return False
    return True


def _model(k: int, rows: int, bits: int, block: int, shapes: dict[str, tuple[int, ...]]) -> bytes:
    """A model of one node, y [1, rows] = MatMulNBits(a [1, k], b, s); b and s, uint8 and float32 of these
    shapes, are handed over apart from it."""
    attributes = {"K": k, "N": rows, "bits": bits, "block_size": block, "accuracy_level": 4}
    return onnx_write.model(
        [onnx_write.node("MatMulNBits", ["a", "b", "s"], ["y"], onnx_write.MICROSOFT, attributes)],
        [onnx_write.external("b", "uint8", shapes["b"]), onnx_write.external("s", "float32", shapes["s"])],
        [onnx_write.value("a", onnx_write.FLOAT, (1, k))],
        [onnx_write.value("y", onnx_write.FLOAT, (1, rows))],
    )
