"""Training batches: windows of histories, packed into rows of fixed width.

Histories are short (nine events on average in some sets) and the graph is long, so padding would be most of
the work. As attention is masked to one history and RoPE knows only distances, several windows share a row and
nothing changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .student import gap_buckets

BLOCK = 1 << 22
"""Events worked on at a time, where temporary arrays would be longer than what is kept."""


@dataclass(frozen=True)
class Histories:
    """The events a model may learn from: users in CSR form, oldest event first.

    Attributes:
        offsets: int64 [users + 1].
        items: int32 [events], catalogue positions.
        events: int32 [events], event types.
        gaps: int32 [events], gap buckets.
    """

    offsets: np.ndarray
    items: np.ndarray
    events: np.ndarray
    gaps: np.ndarray

    @classmethod
    def from_events(
        cls,
        offsets: np.ndarray,
        items: np.ndarray,
        event_ids: np.ndarray,
        timestamps: np.ndarray,
        gap_seconds: tuple[int, ...],
    ) -> Histories:
        """Build from CSR arrays; `timestamps` are int64 seconds."""
        first = np.zeros(len(items), bool)
        first[offsets[:-1][offsets[:-1] < len(items)]] = True
        gaps = np.empty(len(items), np.int32)
        for start in range(0, len(items), BLOCK):
            back = min(start, 1)  # one event more, from which the first gap is counted
            part = slice(start - back, start + BLOCK)
            gaps[start : start + BLOCK] = gap_buckets(timestamps[part], first[part], gap_seconds)[back:]
        return cls(offsets, items.astype(np.int32, copy=False), event_ids.astype(np.int32), gaps)

    def windows(self, length: int, rng: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray]:
        """Cut every history into windows of at most `length` inputs, each of which has a next item.

        With `rng` the cut points of long histories start at a random phase, so that over the epochs every
        event is seen with long and with short context.

        Returns:
            start, size: int64 [windows]; inputs are `start … start + size − 1`, targets one further.
        """
        inputs = np.diff(self.offsets) - 1
        start = self.offsets[:-1]
        keep = inputs > 0
        inputs, start = inputs[keep], start[keep]
        phase = np.zeros(len(inputs), np.int64)
        if rng is not None:
            phase = np.where(inputs > length, rng.integers(0, length, len(inputs)), 0)
        # A phase p > 0 makes a first window of p inputs; the rest follow in steps of `length`.
        head = np.where(phase > 0, phase, np.minimum(inputs, length))
        rest = inputs - head
        extra = -(-rest // length)
        total = 1 + extra
        owner = np.repeat(np.arange(len(inputs)), total)
        nth = np.arange(len(owner)) - np.repeat(np.cumsum(total) - total, total)
        begin = np.where(nth == 0, 0, head[owner] + (nth - 1) * length)
        size = np.where(nth == 0, head[owner], np.minimum(length, inputs[owner] - begin))
        return start[owner] + begin, size

    def covering_windows(self, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Windows that give every event with a next one a context of at least half of `length`, where its
        history has it.

        Returns:
            start, size, skip: int64 [windows]; the first `skip` inputs of a window are context only, their
                predictions belong to an earlier window.
        """
        inputs = np.diff(self.offsets) - 1
        start = self.offsets[:-1]
        keep = inputs > 0
        inputs, start = inputs[keep], start[keep]
        half = length // 2
        extra = np.maximum(0, -(-(inputs - length) // (length - half)))
        owner = np.repeat(np.arange(len(inputs)), 1 + extra)
        nth = np.arange(len(owner)) - np.repeat(np.cumsum(1 + extra) - (1 + extra), 1 + extra)
        begin = nth * (length - half)
        size = np.minimum(length, inputs[owner] - begin)
        return start[owner] + begin, size, np.where(nth > 0, half, 0)


@dataclass(frozen=True)
class Batch:
    """Packed windows. All arrays int64 [rows, width]; `segments` is 0 at padding, where the others are 0 too.

    `index` is the position of each input among the events of the histories: the key under which a teacher's
    lists are found.
    """

    items: np.ndarray
    targets: np.ndarray
    events: np.ndarray
    gaps: np.ndarray
    segments: np.ndarray
    index: np.ndarray


def pack(sizes: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """First-fit over eight open rows; returns the row and column of each window, in the order given."""
    row = np.empty(len(sizes), np.int64)
    column = np.empty(len(sizes), np.int64)
    open_rows: list[list[int]] = []  # [free, row]
    rows = 0
    for i, size in enumerate(sizes.tolist()):
        for slot in open_rows:
            if slot[0] >= size:
                break
        else:
            if len(open_rows) == 8:
                open_rows.remove(min(open_rows))
            slot = [width, rows]
            rows += 1
            open_rows.append(slot)
        row[i], column[i] = slot[1], width - slot[0]
        slot[0] -= size
    return row, column


class Epoch:
    """One epoch of batches of about `positions` next-item predictions, windows in random order (file order
    without `rng`), of which each of several processes takes its share.

    What is kept are two numbers a window; a batch is put together when it is asked for, at the same cost in a
    small set and in a large one.

    Args:
        positions: predictions in a batch, of all processes together.
        rng: drawn from here and nowhere later.

    Attributes:
        predictions: of the whole epoch.
    """

    def __init__(
        self, histories: Histories, length: int, positions: int, rng: np.random.Generator | None
    ) -> None:
        self.histories, self.length = histories, length
        start, size = histories.windows(length, rng)
        if rng is not None:
            order = rng.permutation(len(start))
            start, size = start[order], size[order]
        self._start, self._size = start, size
        total = np.cumsum(size)
        self.predictions = int(size.sum())
        ends = np.searchsorted(total, np.arange(positions, self.predictions + positions, positions))
        self._bounds = np.unique(np.append(0, np.minimum(ends + 1, len(size))))

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def batch(self, number: int, process: int = 0, processes: int = 1) -> tuple[Batch, float]:
        """The share of one process in a batch, and what its mean loss counts for: the mean over processes of
        weight times mean loss is the mean over all positions of the batch.

        With fewer windows than processes some take a window that has its place elsewhere, at weight 0.
        """
        begin, end = int(self._bounds[number]), int(self._bounds[number + 1])
        start, size = self._start[begin:end], self._size[begin:end]
        if processes == 1:
            return assemble(self.histories, self.length, start, size), 1.0
        total = np.cumsum(size)
        # A window belongs to the process in whose part of the positions its middle lies.
        owner = (total - size / 2) * processes // total[-1]
        own = owner == process
        weight = processes * float(size[own].sum() / total[-1])
        own[0] |= not own.any()
        return assemble(self.histories, self.length, start[own], size[own]), weight


def assemble(histories: Histories, width: int, start: np.ndarray, size: np.ndarray) -> Batch:
    """Pack the given windows into rows of `width` inputs."""
    row, column = pack(size, width)
    shape = (int(row.max()) + 1, width)
    within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
    index = np.repeat(start, size) + within
    place = (np.repeat(row, size), np.repeat(column, size) + within)

    def fill(values: np.ndarray) -> np.ndarray:
        out = np.zeros(shape, np.int64)
        out[place] = values
        return out

    segments = np.repeat(np.arange(1, len(size) + 1), size)
    return Batch(
        items=fill(histories.items[index]),
        targets=fill(histories.items[index + 1]),
        events=fill(histories.events[index]),
        gaps=fill(histories.gaps[index]),
        segments=fill(segments),
        index=fill(index),
    )
