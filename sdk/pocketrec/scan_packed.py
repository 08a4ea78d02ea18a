"""The scan over packed rows: ONNX Runtime's `MatMulNBits`, the kernel that language models are served with.

One query is one row of activations, the table is the weights, and the kernel reads them once, at the speed of
the memory. It has to have the rows in an order of its own, so a packed table is a copy of the table in memory
that is not shared with other processes; it is made a segment at a time.

The kernel quantises the activations in blocks, to 127 steps of the largest in each:

* int8 rows up to 256 wide are one block. The largest |u| of a query is 127 by its definition, so u is kept as
  it is, and the sums are the exact integers of section 6 (below 2^24, so float32 holds them).
* int8 rows that are wider, and int4 rows (a block for each scale), come out a little off. By how much at most
  follows from the query and the scales: `Segment.scores` says it, and whoever wants the exact best
  re-scores those near the border.

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


class Segment:
    """Some consecutive rows of an int8 or int4 table, packed.

    Args:
        scheme, q, scale: the rows, as in section 3 of docs/bundle.md: int8 [m, d] and float32 [m], or uint8
            [m, d/2] and float16 [m, d/32].
    """

    def __init__(self, scheme: Literal["int8", "int4"], q: NDArray[Any], scale: NDArray[Any]) -> None:
        self.rows = len(q)
        self._int8 = scheme == "int8"
        if self._int8:
            self._d = q.shape[1]
            block = min(_WIDEST_BLOCK, 1 << max(4, (self._d - 1).bit_length()))
            self._k = -(-self._d // block) * block
            # A map of its own goes back to the system when it is dropped; the heap would keep it.
            size = self.rows * self._k
            weights = np.frombuffer(mmap.mmap(-1, size), np.uint8, size).reshape(self.rows, self._k)
            weights[:, self._d :] = 128
            np.bitwise_xor(q.view(np.uint8), np.uint8(128), out=weights[:, : self._d])
            self._scale: FloatArray | None = np.array(scale, dtype=np.float32)
            self._largest = np.array([self._scale.max(initial=0)] * (self._k // block), dtype=np.float64)
            steps = np.ones((self.rows, self._k // block), dtype=np.float32)
        else:
            block, self._d = GROUP, 2 * q.shape[1]
            self._k = self._d
            weights, self._scale = q, None
            steps = scale.astype(np.float32)
            self._largest = steps.max(axis=0).astype(np.float64)
        self._block = block
        # |u − its 127 steps| ≤ half a step; integers of the rows reach 128 or 8.
        self._reach = block * (128 if self._int8 else 8)
        self.exact = self._int8 and self._k == block
        bits = 8 if self._int8 else 4
        shapes = {"b": (self.rows, self._k // block, block * bits // 8), "s": (self.rows, self._k // block)}
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

    def scores(self, query: Query, out: FloatArray) -> float:
        """Write the scores of all rows into out float32 [m]; returns by how much one may be off at most."""
        binding, activations = self._binding(out)
        activations[0, : self._d] = query.u
        self._session.run_with_iobinding(binding)
        out *= query.t if self._scale is None else query.t * self._scale
        return self._slack(query)

    def _slack(self, query: Query) -> float:
        if self.exact:
            return 0.0
        u = np.zeros(self._k)
        u[: self._d] = np.abs(query.u)
        peaks = u.reshape(-1, self._block).max(axis=1)
        rounding = (len(peaks) + 16) * _EPSILON
        step = 0.501 / MAX_QUERY + rounding
        return float(query.t) * float((peaks * step * self._reach) @ self._largest)

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


@functools.cache
def usable(scheme: str, d: int) -> bool:
    """Whether the kernel for this scheme and width keeps its word here; tried once a process."""
    if scheme not in ("int8", "int4"):
        return False
    rng = np.random.default_rng(0)
    low, high = (-128, 127) if scheme == "int8" else (-8, 7)
    q = rng.integers(low, high + 1, (64, d)).astype(np.int8)
    q[0], q[1], q[2, ::2], q[2, 1::2], q[3] = low, high, low, high, 0
    q[4] = np.where(np.arange(d) % 4 < 2, low, high)
    try:
        if scheme == "int8":
            segment = Segment("int8", q, np.ones(64, dtype=np.float32))
        else:
            segment = Segment("int4", pack_nibbles(q), np.ones((64, d // GROUP), dtype=np.float16))
        for query in (np.full(d, 127.0), np.full(d, -127.0), np.sign(q[2] + 0.5) * 127.0, rng.normal(size=d)):
            asked = Query.of(query.astype(np.float32))
            out = np.empty(64, dtype=np.float32)
            slack = segment.scores(asked, out)
            want = (q.astype(np.int64) @ asked.u.astype(np.int64)).astype(np.float32) * asked.t
            if not (np.abs(out.astype(np.float64) - want) <= slack).all():
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
