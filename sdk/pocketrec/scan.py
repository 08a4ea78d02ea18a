"""The scan over the rows as they lie in the file: exact scores, block by block (docs/bundle.md, section 6).

It never holds a float copy of the table. A block of rows is converted into a float32 scratch that stays in
the cache and multiplied there: the sums are of integers below 2^24, which float32 holds exactly, so the score
is the exact integer of section 6 in whatever order the terms are added. Above that bound the scratch is
float64. The products are chosen such that no BLAS starts threads for them, which on a busy machine cost more
than the whole scan.

With simsimd installed (the extra `scan`), int8 rows go through its kernels instead, which read the mapped
bytes without converting them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pocketrec.quantise import GROUP

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.integer[Any]]
Scheme = Literal["fp32", "int8", "int4"]

MAX_QUERY = 127
_SCRATCH_BYTES = 1 << 20  # half of a common second-level cache
_EXACT_FLOAT32 = 1 << 24
_ONE_THREAD = 1 << 18  # multiplications up to which OpenBLAS computes a matrix product on the calling thread


@dataclass(frozen=True)
class Query:
    """A query as section 6 uses it: `exact` float32 [d], and t, u with exact ≈ t · u.

    Attributes:
        t: float32, the step.
        u: integers −127 … 127 in a float32 array [d].
    """

    exact: FloatArray
    t: np.float32
    u: FloatArray

    @classmethod
    def of(cls, query: FloatArray) -> Query:
        """Quantise a finite query float32 [d]."""
        return cls(query, *quantise_query(query))


def quantise_query(query: FloatArray) -> tuple[np.float32, FloatArray]:
    """Section 6: t float32 and u, integers −127 … 127 in a float32 array [d], with query ≈ t · u."""
    t = np.float32(np.abs(query).max()) / np.float32(MAX_QUERY)
    if t == 0:
        t = np.float32(1)
    return t, np.clip(np.rint(query / t), -MAX_QUERY, MAX_QUERY).astype(np.float32)


class MappedScan:
    """Exact scores of rows that stay where they are, usually in a memory-mapped file. Thread-safe: each
    thread has its own scratch.

    Args:
        scheme, q, scale: the tensors of section 3; `rows` of fp32 as `q`, with no scale.
        n, d: rows and width.
    """

    def __init__(self, scheme: Scheme, q: NDArray[Any], scale: NDArray[Any] | None, n: int, d: int) -> None:
        self._q, self._scale, self._n, self._d = q, scale, n, d
        scans = {"fp32": self._fp32, "int8": self._int8, "int4": self._int4}
        self._scan = scans[scheme]
        self._simsimd = find_simsimd() if scheme == "int8" else None
        self._step = max(1, _SCRATCH_BYTES // (4 * d))
        self._local = threading.local()

    def scores(self, query: Query, which: slice | IntArray, out: FloatArray) -> None:
        """Write the scores of the rows `which`, a slice with both ends or indices [m], into out float32 [m].

        A score beyond float32 comes out infinite or NaN: the caller's business.
        """
        self._scan(query, which, out)

    def _fp32(self, query: Query, which: slice | IntArray, out: FloatArray) -> None:
        # In float64, rounded once: equal rows get equal scores, and a subset gets the scores of the whole.
        wide = query.exact.astype(np.float64)
        for where, block, _ in self._blocks(which, len(out), np.float64):
            out[where] = np.vecdot(block, wide)

    def _int8(self, query: Query, which: slice | IntArray, out: FloatArray) -> None:
        assert self._scale is not None
        if self._simsimd is not None:
            u = query.u.astype(np.int8)[None]
            for where, raw, _ in self._raw_blocks(which, len(out)):
                out[where] = np.asarray(self._simsimd.cdist(u, raw, metric="dot"))[0]
        else:
            exact = self._d * MAX_QUERY * 128 < _EXACT_FLOAT32
            dtype: type[np.floating[Any]] = np.float32 if exact else np.float64
            u = query.u.astype(dtype)
            for where, block, _ in self._blocks(which, len(out), dtype):
                out[where] = np.vecdot(block, u)
        out *= query.t * self._scale[which]

    def _int4(self, query: Query, which: slice | IntArray, out: FloatArray) -> None:
        assert self._scale is not None
        d, groups = self._d, self._d // GROUP
        # Byte j holds elements 2j (low) and 2j + 1 (high). One column a group, zero outside it: the product
        # sums by group.
        byte = np.arange(d // 2)
        low, high = np.zeros((2, d // 2, groups), dtype=np.float32)
        low[byte, byte // (GROUP // 2)] = query.u[0::2]
        high[byte, byte // (GROUP // 2)] = query.u[1::2]
        offset = 8 * query.u.reshape(groups, GROUP).sum(axis=1)
        few = max(1, _ONE_THREAD // low.size)
        # The sums reach at most 32 · 127 · 8 and scales are multiples of 2^-24: with scales below 128 the
        # float64 sum over the groups is exact too, in any order.
        for where, packed, rows in self._raw_blocks(which, len(out)):
            sums = np.empty((len(packed), groups), dtype=np.float32)
            low_nibbles = (packed & np.uint8(15)).astype(np.float32)
            high_nibbles = (packed >> np.uint8(4)).astype(np.float32)
            for start in range(0, len(packed), few):
                part = slice(start, start + few)
                np.matmul(low_nibbles[part], low, out=sums[part])
                sums[part] += high_nibbles[part] @ high
            sums -= offset
            scale = self._scale[rows].astype(np.float64)
            out[where] = np.einsum("ij,ij->i", sums.astype(np.float64), scale)
        out *= query.t

    def _raw_blocks(
        self, which: slice | IntArray, count: int
    ) -> Iterator[tuple[slice, NDArray[Any], slice | IntArray]]:
        """Slices of the output, the stored rows that belong there, and which rows these are."""
        for start in range(0, count, self._step):
            where = slice(start, min(count, start + self._step))
            if isinstance(which, slice):
                rows: slice | IntArray = slice(which.start + where.start, which.start + where.stop)
            else:
                rows = which[where]
            yield where, self._q[rows], rows

    def _blocks(
        self, which: slice | IntArray, count: int, dtype: type[np.floating[Any]]
    ) -> Iterator[tuple[slice, NDArray[Any], slice | IntArray]]:
        """`_raw_blocks`, converted into this thread's scratch."""
        scratch = getattr(self._local, "scratch", None)
        if scratch is None or scratch.dtype != dtype:
            scratch = self._local.scratch = np.empty((min(self._step, self._n), self._d), dtype=dtype)
        for where, raw, rows in self._raw_blocks(which, count):
            block = scratch[: len(raw)] if len(raw) <= len(scratch) else np.empty(raw.shape, dtype=dtype)
            np.copyto(block, raw, casting="safe")
            yield where, block, rows


def find_simsimd() -> Any:
    """simsimd when it is there and adds int8 products as integers, else None."""
    try:
        import simsimd  # type: ignore[import-not-found, unused-ignore]

        u, q = np.full((1, 4096), -127, np.int8), np.full((2, 4096), -128, np.int8)
        q[1] = 127
        # Never its `out=`: in 6.5 that returns a None it does not own, which ends Python 3.11 after a while.
        out = np.asarray(simsimd.cdist(u, q, metric="dot"))
    except (ImportError, AttributeError, TypeError, ValueError):
        return None
    return simsimd if out.tolist() == [[127 * 128 * 4096, -127 * 127 * 4096]] else None
