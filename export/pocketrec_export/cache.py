"""What a teacher said, on disk: its best items for every training event, written once, mapped ever after.

A cache is a directory:

* `ids.npy` int32 [n, K]: catalogue items, best first; −1 where a list is shorter or was never written.
* `log_probs.npy` float16 or float32 [n, K]: log-probabilities over the catalogue; 0 where `ids` is −1.
* `target_rank.npy` int32 [n]: the rank of the true next item from 1; 0 where the teacher said nothing.
* `target_log_prob.npy` float32 [n].
* `meta.json`: format, version, key, n, k, items, dtype, teacher, chunks, rows, complete.

Row j belongs to event j of the histories and is about the event that follows it. Items that the user had by
then are filtered out of lists and ranks, the true next item itself never. Rows of a user's last training
event stay unwritten. Nothing here reads an array as a whole.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pocketrec.errors import DataError

from .cache_files import META, Dtype, Meta, create_arrays, map_arrays, read_meta, write_meta

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeacherBatch:
    """What the teacher says about P positions.

    Attributes:
        index: int64 [P], the events the positions belong to.
        ids: int64 [P, K], best first, −1 past the end of a list.
        log_probs: float32 [P, K], 0 past the end of a list.
        target_rank: int64 [P] from 1; 0 where the teacher says nothing.
        target_log_prob: float32 [P].
    """

    index: Tensor
    ids: Tensor
    log_probs: Tensor
    target_rank: Tensor
    target_log_prob: Tensor

    def items(self, k: int | None = None) -> Tensor:
        """int64 [any]: items of the first k places (of all places), repeats included, without −1."""
        ids = self.ids[:, :k]
        return ids[ids >= 0]

    def to(self, device: torch.device | str) -> TeacherBatch:
        """The same on another device."""
        return TeacherBatch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


class CacheWriter:
    """Fills a cache chunk by chunk; killed at any moment, the next `open` goes on after the last whole chunk.

    Attributes:
        done: finished chunks; the next one to write.
        complete: nothing is left to write.
        notice: why an earlier cache in this place was given up; empty when it was not.
    """

    def __init__(self, path: Path, meta: Meta, arrays: dict[str, np.memmap], notice: str) -> None:
        """Use `CacheWriter.open`."""
        self.path, self.notice = path, notice
        self._meta, self._arrays = meta, arrays

    @classmethod
    def open(
        cls,
        path: str | Path,
        n: int,
        k: int,
        items: int,
        key: str,
        *,
        dtype: Dtype = "float16",
        teacher: str = "",
    ) -> CacheWriter:
        """Continue the cache at `path` if it is the same job, else start it over.

        Args:
            n: training events.
            k: length of the lists.
            items: size of the catalogue.
            key: stands for everything that the contents depend on: data, split, teacher and its weights.
            dtype: of the log-probabilities; float16 keeps them to about three digits.
            teacher: what the teacher is, for people.

        Raises:
            DataError: `cache-disk` when the arrays cannot be made, such as on a full disk.
        """
        if n < 1 or not 1 <= k <= items:
            raise ValueError(f"n = {n}, k = {k}, items = {items}: want n >= 1 and 1 <= k <= items")
        path = Path(path)
        wanted = Meta(key, n, k, items, dtype, teacher)
        notice = ""
        if (path / META).exists():
            try:
                found = read_meta(path)
                differences = found.differences(wanted)
                if not differences:
                    return cls(path, found, map_arrays(path, found, "r+"), "")
                notice = f"{path}: the cache there has {differences}."
            except DataError as error:
                notice = f"{path}: the cache there is of no use: {error}"
            notice += " It is started over."
            log.warning("%s", notice)
        try:
            arrays = create_arrays(path, wanted)
        except OSError as error:
            size = sum(int(np.prod(shape)) * kind.itemsize for shape, kind in wanted.files().values())
            raise DataError(
                f"{path}: a teacher cache of {size / 1e6:.0f} MB cannot be made: {error}.",
                code="cache-disk",
                remedy="Free some space, choose another place, or a smaller teacher.top_k.",
            ) from None
        return cls(path, wanted, arrays, notice)

    @property
    def done(self) -> int:
        return self._meta.chunks

    @property
    def complete(self) -> bool:
        return self._meta.complete

    def write(
        self,
        chunk: int,
        rows: ArrayLike,
        ids: ArrayLike,
        log_probs: ArrayLike,
        target_rank: ArrayLike,
        target_log_prob: ArrayLike,
    ) -> None:
        """Write the lists of `rows`, and record the chunk as finished once they are on the disk.

        Args:
            chunk: must be `done`; chunks are written in order.
            rows: int [m], events.
            ids: int [m, K]; −1 only behind the end of a list.
            log_probs: float [m, K], not increasing along a list. An item at −inf, one that was filtered, is
                stored as −1.
            target_rank: int [m] from 1, or 0 with an empty list: no opinion.
            target_log_prob: float [m].

        Raises:
            DataError: `cache-rows` for what no teacher can mean, naming the row.
        """
        if chunk != self.done or self.complete:
            raise ValueError(
                f"chunk {chunk} of a cache with {self.done} finished chunks, complete: {self.complete}"
            )
        where = np.asarray(rows, np.int64)
        log_probs = np.asarray(log_probs, np.float32)
        values = {
            "ids": np.where(np.isneginf(log_probs), -1, np.asarray(ids)),
            "log_probs": log_probs,
            "target_rank": np.asarray(target_rank),
            "target_log_prob": np.asarray(target_log_prob, np.float32),
        }
        self._check(where, values)
        blank = values["ids"] < 0
        floor = np.finfo(self._meta.dtype).min  # float16 ends at -65504; a number beats -inf
        values["log_probs"] = np.where(blank, 0, np.maximum(values["log_probs"], floor))
        for name, array in self._arrays.items():
            array[where] = values[name].astype(array.dtype)
        for array in self._arrays.values():
            array.flush()
        self._record(chunks=chunk + 1, rows=self._meta.rows + len(where))

    def finish(self) -> None:
        """Mark the cache complete; only then can it be opened."""
        if not self.complete:
            self._record(complete=True)

    def _record(self, **changes: Any) -> None:
        self._meta = replace(self._meta, **changes)
        write_meta(self.path, self._meta)

    def _check(self, rows: NDArray[np.int64], values: dict[str, NDArray[Any]]) -> None:
        meta, m = self._meta, len(rows)
        for name, (shape, _) in meta.files().items():  # before what broadcasts
            if values[name].shape != (m, *shape[1:]):
                raise ValueError(f"{name} of shape {values[name].shape} for {m} rows; want {(m, *shape[1:])}")
        ids, log_probs, rank = values["ids"], values["log_probs"], values["target_rank"]
        there = ids >= 0
        ordered = np.sort(ids, axis=1)
        wrong = {
            f"a row outside 0 … {meta.n - 1}": (rows < 0) | (rows >= meta.n),
            f"an item outside −1 … {meta.items - 1}": ((ids < -1) | (ids >= meta.items)).any(1),
            "an item behind the end of its list": (there[:, 1:] & ~there[:, :-1]).any(1),
            "an item twice": ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(1),
            "a log-probability that is no number": ~np.where(there, np.isfinite(log_probs), True).all(1),
            "log-probabilities that grow along the list": (
                there[:, 1:] & (log_probs[:, 1:] > log_probs[:, :-1])
            ).any(1),
            f"a target rank outside 0 … {meta.items}": (rank < 0) | (rank > meta.items),
            "a target rank without a list, or a list without one": (rank > 0) != there[:, 0],
            "a target log-probability that is no number": ~np.isfinite(values["target_log_prob"]),
        }
        for what, bad in wrong.items():
            if bad.any():
                row = int(rows[int(np.argmax(bad))])
                raise DataError(f"{self.path}: the lists for row {row} hold {what}.", code="cache-rows")


class TeacherCache:
    """A finished cache, read-only and memory-mapped.

    Attributes:
        n, k, items, key, teacher: as they were written.
    """

    def __init__(self, path: Path, meta: Meta) -> None:
        """Use `TeacherCache.open`."""
        self.path = path
        self.n, self.k, self.items = meta.n, meta.k, meta.items
        self.key, self.teacher = meta.key, meta.teacher
        self._arrays = map_arrays(path, meta, "r")

    @classmethod
    def open(cls, path: str | Path, key: str | None = None) -> TeacherCache:
        """Map the cache at `path`.

        Raises:
            DataError: `cache-missing`, `cache-damaged`, `cache-unfinished`, or `cache-foreign` when its key
                is not `key`.
        """
        path = Path(path)
        meta = read_meta(path)
        if not meta.complete:
            raise DataError(
                f"{path}: this teacher cache is unfinished: {meta.rows} of at most {meta.n} rows are there.",
                code="cache-unfinished",
                remedy="Run the command that writes it again; it goes on where it stopped.",
            )
        if key is not None and meta.key != key:
            raise DataError(
                f"{path}: this teacher cache has key {meta.key!r}; {key!r} was asked for.",
                code="cache-foreign",
                remedy="It is of other data or another teacher: write a new one.",
            )
        return cls(path, meta)

    def batch(self, index: NDArray[np.integer] | Tensor) -> TeacherBatch:
        """The lists for these events, int64 [P], on the device of `index`.

        Raises:
            DataError: an event that the cache does not have.
        """
        device = index.device if isinstance(index, Tensor) else torch.device("cpu")
        rows = index.cpu().numpy() if isinstance(index, Tensor) else np.asarray(index, np.int64)
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < self.n:
            raise DataError(
                f"{self.path}: events {int(rows.min())} … {int(rows.max())} of a cache of {self.n} rows.",
                code="cache-foreign",
                remedy="The cache is of other data: write a new one.",
            )

        def take(name: str, dtype: type[np.generic]) -> Tensor:
            return torch.from_numpy(self._arrays[name][rows].astype(dtype))

        return TeacherBatch(
            index=torch.from_numpy(rows),
            ids=take("ids", np.int64),
            log_probs=take("log_probs", np.float32),
            target_rank=take("target_rank", np.int64),
            target_log_prob=take("target_log_prob", np.float32),
        ).to(device)
