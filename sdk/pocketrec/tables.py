"""The table: quantised rows on the device, looked up and scanned (docs/bundle.md, sections 3 and 6).

Two scans give the same lists. The mapped one reads the rows as they lie in the file and needs no memory of
its own; the packed one needs a copy of the table and is several times as fast. A table starts with the first
and packs one segment at every scan after the first, so that neither a program that ranks once nor any single
list pays for it all. docs/benchmarks/scan.md has what each costs.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import BundleError, PocketrecError
from pocketrec.manifest import TableSpec
from pocketrec.quantise import GROUP, dequantise_rows_int4, dequantise_rows_int8
from pocketrec.ranking import Best, Part, member
from pocketrec.safetensors_map import Tensors, only, take
from pocketrec.scan import FloatArray, IntArray, MappedScan, Query, quantise_query

if TYPE_CHECKING:
    from pocketrec.scan_packed import Segment

__all__ = ["Table", "check_finite", "quantise_query"]

ScanName = Literal["auto", "mapped", "packed"]

SEGMENT_BYTES = 16 << 20
"""Integers of one packed segment: what one step of packing copies."""

_SCRATCH_BYTES = 1 << 20
_PACKED_SHARE = 4  # "auto" packs a table that takes at most this part of the machine's memory
_ROUNDING = 2.0**-20  # of a bound or a score, see Segment.bounds
_TINY = 1e-37  # and where floats are denormal
_SEEDS = 4  # times k rows are scored to begin with, where only bounds are known
_MANY = 16  # a scan of the whole table beats looking up more than every 16th row of it


class Table:
    """One table of n rows of width d. Thread-safe.

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
        # Below this t no score of integers can overflow, so that none has to be looked at.
        largest = np.inf if self._scale is None else float(self._scale.max(initial=0))
        self._safe_t = float(np.finfo(np.float32).max) / (2 * max(largest, 1e-30) * 128**2 * d)
        self._mapped = MappedScan(spec.scheme, self._q, self._scale, n, d)
        self._segments: list[Segment] = []
        self._packing = threading.Lock()
        self._scans = 0
        self._local = threading.local()
        self._norms: FloatArray | None = None
        self.use("auto")

    def rows(self, indices: IntArray) -> FloatArray:
        """The rows at `indices` [m] as float32 [m, d]."""
        q = self._q[indices]
        if self._scale is None:
            return np.array(q, dtype=np.float32)
        if self.scheme == "int8":
            return dequantise_rows_int8(q, self._scale[indices])
        return dequantise_rows_int4(q, self._scale[indices])

    def use(self, scan: ScanName) -> None:
        """Choose the scan.

        Args:
            scan: "mapped": never a copy of the table; "packed": pack what can be packed now; "auto": pack bit
                by bit from the second scan on, when the copy takes no more than a quarter of the machine's
                memory.
        """
        if scan not in ("auto", "mapped", "packed"):
            raise PocketrecError(
                f"there is no scan {scan!r}.", code="scan-invalid", remedy="Choose auto, mapped or packed."
            )
        with self._packing:
            self._scan, self._scans = scan, 0
            if scan == "mapped":
                self._segments = []
        while scan == "packed" and self._pack():
            pass

    @property
    def packed_rows(self) -> int:
        """How many rows, from the first on, are packed."""
        return sum(segment.rows for segment in self._segments)

    def scores(self, query: FloatArray, subset: IntArray | None = None) -> FloatArray:
        """The score of every row against `query` float32 [d], or of the rows `subset` [m] only: float32 [n]
        or [m].

        Raises:
            PocketrecError: `query-invalid` when the query is not finite; `scores-invalid` when a score is
                not.
        """
        return self._scores(self._query(query), subset)

    def best(
        self,
        query: FloatArray,
        k: int,
        *,
        banned: NDArray[np.intp] | None = None,
        among: NDArray[np.intp] | None = None,
    ) -> tuple[NDArray[np.intp], FloatArray]:
        """Positions and scores of the k rows that score best: what sorting all of `scores` would give.

        Args:
            k: at least 1; fewer come back when fewer are left.
            banned: positions to leave out, rising.
            among: rank only these positions, rising; None ranks all.

        Returns:
            Positions int64 and scores float32, best first, equal scores by position.

        Raises:
            PocketrecError: as `scores`.
        """
        return self._best(self._query(query), k, banned, among, None)

    def nearest(
        self, position: int, k: int, *, banned: NDArray[np.intp] | None = None
    ) -> tuple[NDArray[np.intp], FloatArray]:
        """`best` by the cosine between the row at `position`, as a query, and each row; 0 for a row of
        zeros."""
        norms = self.norms()
        query = self._query(self.rows(np.array([position]))[0])
        return self._best(query, k, banned, None, norms * norms[position])

    def _best(
        self,
        query: Query,
        k: int,
        banned: NDArray[np.intp] | None,
        among: NDArray[np.intp] | None,
        per: FloatArray | None,
    ) -> tuple[NDArray[np.intp], FloatArray]:
        """The best by score or, with `per` float32 [n], by score / per."""

        def exact(positions: NDArray[np.intp]) -> FloatArray:
            scores = self._scores(query, positions)
            return scores if per is None else _divide(scores, per[positions])

        best = Best(k)
        if among is not None:
            kept = among if banned is None else among[~member(among, banned)]
            if len(kept) <= self.n // _MANY:
                best.add(kept, exact(kept))
                return best.result()
        for start, values, done in self._parts(query):
            rows = slice(start, start + len(values))
            if per is not None:
                _divide(values, per[rows])
            if among is not None:
                first, last = np.searchsorted(kept, (rows.start, rows.stop))
                others = np.ones(len(values), dtype=bool)
                others[kept[first:last] - start] = False
                values[others] = -np.inf
            elif banned is not None and len(banned):
                first, last = np.searchsorted(banned, (rows.start, rows.stop))
                values[banned[first:last] - start] = -np.inf
            part = Part(values)
            if done:
                found = part.reaching(max(best.floor, part.floor(k)))
                best.add(found + start, values[found])
            else:
                floor = best.floor
                if floor == -np.inf:  # what the rows with the highest bounds truly have
                    some = exact(part.reaching(part.floor(_SEEDS * k)) + start)
                    floor = float(np.partition(some, -k)[-k]) if len(some) >= k else floor
                floor /= float(query.t)
                found = part.reaching(floor - abs(floor) * _ROUNDING - _TINY) + start
                best.add(found, exact(found))
        return best.result()

    def _query(self, query: FloatArray) -> Query:
        query = np.ascontiguousarray(query, dtype=np.float32)
        if query.shape != (self.d,) or not np.isfinite(query).all():
            raise PocketrecError(
                f"the engine gave a query of shape {query.shape} that is not {self.d} finite numbers.",
                code="query-invalid",
                remedy="Run `pocketrec verify` on the bundle.",
            )
        return Query.of(query)

    def _scores(self, query: Query, subset: IntArray | None) -> FloatArray:
        """Exact scores, checked."""
        out = np.empty(self.n if subset is None else len(subset), dtype=np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            if subset is not None:
                self._mapped.scores(query, subset, out)
            else:
                done = 0
                for segment in self._grown():
                    if not segment.exact:
                        break
                    segment.bounds(query, self._scratch(segment.rows))
                    out[done : done + segment.rows] = self._scratch(segment.rows)
                    done += segment.rows
                self._mapped.scores(query, slice(done, self.n), out[done:])
        _check_scores(out)
        return out

    def _parts(self, query: Query) -> Iterator[tuple[int, FloatArray, bool]]:
        """All rows, part by part: the first row, float32 values (a scratch, to be used before the next part),
        and whether these are scores; else they are bounds of them, in units of the query's t."""
        start = 0
        safe = float(query.t) < self._safe_t
        for segment in self._grown() if safe else ():
            out = self._scratch(segment.rows)
            segment.bounds(query, out)
            yield start, out, segment.exact
            start += segment.rows
        while start < self.n:
            stop = min(self.n, start + self._segment_rows)
            out = self._scratch(stop - start)
            with np.errstate(over="ignore", invalid="ignore"):
                self._mapped.scores(query, slice(start, stop), out)
            if not safe:
                _check_scores(out)
            yield start, out, True
            start = stop

    def _scratch(self, rows: int) -> FloatArray:
        """The first `rows` places of this thread's scratch."""
        if not hasattr(self._local, "scratch"):
            self._local.scratch = np.empty(min(self.n, self._segment_rows), dtype=np.float32)
        scratch: FloatArray = self._local.scratch[:rows]
        return scratch

    @property
    def _segment_rows(self) -> int:
        return max(1, SEGMENT_BYTES // self.d)

    def _grown(self) -> list[Segment]:
        """The packed segments, after one more was packed when it is time for that."""
        self._scans += 1  # not exact when threads meet, and need not be
        if self._scan == "auto" and self._scans > 1:
            self._pack()
        return list(self._segments)

    def _pack(self) -> bool:
        """Pack the next segment; False when there is none, it must not be, or another thread is at it."""
        if self.packed_rows >= self.n or not self._packing.acquire(blocking=False):
            return False
        try:
            start = self.packed_rows
            if start >= self.n or self._scan == "mapped" or not self._packable():
                return False
            from pocketrec.scan_packed import Segment, packing

            how = packing(self.scheme, self.d, self.n)
            if how is None:
                return False
            rows = slice(start, start + self._segment_rows)
            assert self._scale is not None
            self._segments = [*self._segments, Segment(how, self._q[rows], self._scale[rows])]
            if self.packed_rows >= self.n:
                _trim()
            return True
        finally:
            self._packing.release()

    def _packable(self) -> bool:
        return self.scheme != "fp32" and (
            self._scan != "auto" or self._q.nbytes <= _memory() // _PACKED_SHARE
        )

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


def _divide(scores: FloatArray, per: FloatArray) -> FloatArray:
    """scores / per in place, 0 where `per` is."""
    np.divide(scores, per, out=scores, where=per > 0)
    scores[per == 0] = 0
    return scores


def _trim() -> None:
    """Have the C library return what packing freed, where it is one (glibc) that otherwise keeps it."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)


def _check_scores(scores: FloatArray) -> None:
    if not np.isfinite(scores).all():
        raise PocketrecError(
            "a score is not finite: the scales of the table are out of all proportion.",
            code="scores-invalid",
            remedy="Build the bundle again.",
        )


def _memory() -> int:
    """Bytes of memory of this machine; 2 GiB where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2 << 30


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
