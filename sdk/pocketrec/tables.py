"""The table: quantised rows on the device, looked up and scanned (docs/bundle.md, sections 3 and 6).

The scan never holds a float copy of the table. It takes a block of rows, converts its integers into a float32
scratch that stays in the cache, and multiplies there: the sums are of integers below 2^24, which float32
holds exactly, so the score is the exact integer of section 6 in whatever order the terms are added. Above
that bound the scratch is float64. The products are chosen such that no BLAS starts threads for them, which
on a busy machine cost more than the whole scan.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import BundleError, PocketrecError
from pocketrec.manifest import TableSpec
from pocketrec.quantise import GROUP, dequantise_rows_int4, dequantise_rows_int8
from pocketrec.safetensors_map import Tensors, only, take

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.integer[Any]]

_SCRATCH_BYTES = 1 << 20  # half of a common second-level cache
_MAX_QUERY = 127
_EXACT_FLOAT32 = 1 << 24
_ONE_THREAD = 1 << 18  # multiplications up to which OpenBLAS computes a matrix product on the calling thread


class Table:
    """One table of n rows of width d. Thread-safe: each thread has its own scratch.

    Attributes:
        n, d: rows and width.
        scheme: "fp32", "int8" or "int4".
    """

    def __init__(self, spec: TableSpec, tensors: Tensors) -> None:
        """Check the tensors of the table's file against the manifest; copies nothing.

        Raises:
            BundleError: `tensors-invalid` for a wrong tensor, `values-invalid` for a scale or row that is not
                finite or, of a scale, negative.
        """
        n, d, file = spec.rows, spec.dim, spec.file
        self.n, self.d, self.scheme = n, d, spec.scheme
        if spec.scheme == "fp32":
            only(tensors, file, {"rows"})
            self._q = take(tensors, file, "rows", "F32", (n, d))
            self._scale: NDArray[Any] | None = None
            check_finite(self._q, f"rows of {file}")
        else:
            only(tensors, file, {"q", "scale"})
            if spec.scheme == "int8":
                self._q = take(tensors, file, "q", "I8", (n, d))
                self._scale = take(tensors, file, "scale", "F32", (n,))
            else:
                self._q = take(tensors, file, "q", "U8", (n, d // 2))
                self._scale = take(tensors, file, "scale", "F16", (n, d // GROUP))
            check_finite(self._scale, f"scale of {file}", negative=False)
        self._local = threading.local()
        self._norms: FloatArray | None = None

    def rows(self, indices: IntArray) -> FloatArray:
        """The rows at `indices` [m] as float32 [m, d]."""
        q = self._q[indices]
        if self._scale is None:
            return np.array(q, dtype=np.float32)
        if self.scheme == "int8":
            return dequantise_rows_int8(q, self._scale[indices])
        return dequantise_rows_int4(q, self._scale[indices])

    def scores(self, query: FloatArray, subset: IntArray | None = None) -> FloatArray:
        """The score of every row against `query` float32 [d], or of the rows `subset` [m] only: float32 [n]
        or [m].

        Raises:
            PocketrecError: `query-invalid` when the query is not finite; `scores-invalid` when a score is
                not.
        """
        query = np.ascontiguousarray(query, dtype=np.float32)
        if query.shape != (self.d,) or not np.isfinite(query).all():
            raise PocketrecError(
                f"the engine gave a query of shape {query.shape} that is not {self.d} finite numbers.",
                code="query-invalid",
                remedy="Run `pocketrec verify` on the bundle.",
            )
        count = self.n if subset is None else len(subset)
        out = np.empty(count, dtype=np.float32)
        scan = {"fp32": self._scan_fp32, "int8": self._scan_int8, "int4": self._scan_int4}[self.scheme]
        with np.errstate(over="ignore", invalid="ignore"):
            scan(query, subset, out)
        if not np.isfinite(out).all():
            raise PocketrecError(
                "a score is not finite: the scales of the table are out of all proportion.",
                code="scores-invalid",
                remedy="Build the bundle again.",
            )
        return out

    def norms(self) -> FloatArray:
        """The Euclidean length of every row, float32 [n]; computed at the first call, then kept (four bytes a
        row)."""
        if self._norms is None:
            out = np.empty(self.n, dtype=np.float32)
            step = max(1, _SCRATCH_BYTES // (4 * self.d))
            for start in range(0, self.n, step):
                block = self.rows(np.arange(start, min(self.n, start + step))).astype(np.float64)
                out[start : start + len(block)] = np.sqrt(np.einsum("ij,ij->i", block, block))
            self._norms = out
        return self._norms

    def _scan_fp32(self, query: FloatArray, subset: IntArray | None, out: FloatArray) -> None:
        # In float64, rounded once: equal rows get equal scores, and a subset gets the scores of the whole.
        wide = query.astype(np.float64)
        for where, block in self._blocks(subset, len(out), np.float64):
            out[where] = np.vecdot(block, wide)

    def _scan_int8(self, query: FloatArray, subset: IntArray | None, out: FloatArray) -> None:
        assert self._scale is not None
        exact = self.d * _MAX_QUERY * 128 < _EXACT_FLOAT32
        dtype: type[np.floating[Any]] = np.float32 if exact else np.float64
        t, u = quantise_query(query)
        u = u.astype(dtype)
        for where, block in self._blocks(subset, len(out), dtype):
            out[where] = np.vecdot(block, u)
        out *= t * (self._scale if subset is None else self._scale[subset])

    def _scan_int4(self, query: FloatArray, subset: IntArray | None, out: FloatArray) -> None:
        assert self._scale is not None
        t, u = quantise_query(query)
        groups = self.d // GROUP
        assert GROUP * _MAX_QUERY * 15 < _EXACT_FLOAT32
        # Byte j holds elements 2j (low) and 2j + 1 (high). One column a group, zero outside it: the product
        # sums by group.
        byte = np.arange(self.d // 2)
        low, high = np.zeros((2, self.d // 2, groups), dtype=np.float32)
        low[byte, byte // (GROUP // 2)] = u[0::2]
        high[byte, byte // (GROUP // 2)] = u[1::2]
        offset = 8 * u.reshape(groups, GROUP).sum(axis=1)
        few = max(1, _ONE_THREAD // low.size)
        # The sums reach at most 32 · 127 · 8 and scales are multiples of 2^-24: with scales below 128 the
        # float64 sum over the groups is exact too, in any order.
        for where, packed in self._raw_blocks(subset, len(out)):
            sums = np.empty((len(packed), groups), dtype=np.float32)
            low_nibbles = (packed & np.uint8(15)).astype(np.float32)
            high_nibbles = (packed >> np.uint8(4)).astype(np.float32)
            for start in range(0, len(packed), few):
                part = slice(start, start + few)
                np.matmul(low_nibbles[part], low, out=sums[part])
                sums[part] += high_nibbles[part] @ high
            sums -= offset
            scale = self._scale[where if subset is None else subset[where]]
            out[where] = np.einsum("ij,ij->i", sums.astype(np.float64), scale.astype(np.float64))
        out *= t

    def _raw_blocks(self, subset: IntArray | None, count: int) -> Any:
        """Slices of the output and the stored rows that belong there, a scratchful at a time."""
        step = max(1, _SCRATCH_BYTES // (4 * self.d))
        for start in range(0, count, step):
            where = slice(start, min(count, start + step))
            yield where, self._q[where if subset is None else subset[where]]

    def _blocks(self, subset: IntArray | None, count: int, dtype: type[np.floating[Any]]) -> Any:
        """`_raw_blocks`, converted into this thread's scratch."""
        scratch = getattr(self._local, "scratch", None)
        if scratch is None or scratch.dtype != dtype:
            rows = max(1, _SCRATCH_BYTES // (4 * self.d))
            scratch = self._local.scratch = np.empty((min(rows, self.n), self.d), dtype=dtype)
        for where, raw in self._raw_blocks(subset, count):
            block = scratch[: len(raw)] if len(raw) <= len(scratch) else np.empty(raw.shape, dtype=dtype)
            np.copyto(block, raw, casting="safe")
            yield where, block


def quantise_query(query: FloatArray) -> tuple[np.float32, FloatArray]:
    """Section 6: t float32 and u, integers −127 … 127 in a float32 array [d], with query ≈ t · u."""
    t = np.float32(np.abs(query).max()) / np.float32(_MAX_QUERY)
    if t == 0:
        t = np.float32(1)
    return t, np.clip(np.rint(query / t), -_MAX_QUERY, _MAX_QUERY).astype(np.float32)


def check_finite(array: NDArray[Any], what: str, *, negative: bool = True) -> None:
    """BundleError `values-invalid` when a value is NaN or infinite or, without `negative`, below zero."""
    flat = array.reshape(-1)
    for start in range(0, len(flat), 1 << 20):
        part = flat[start : start + (1 << 20)]
        good = np.isfinite(part).all() and (negative or (part >= 0).all())
        if not good:
            raise BundleError(
                f"{what} holds a value that is not finite{'' if negative else ' or is negative'}.",
                code="values-invalid",
                remedy="Build the bundle again.",
            )
