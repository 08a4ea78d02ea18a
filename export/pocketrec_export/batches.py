"""Training batches: windows of histories, packed into rows of fixed width.

Histories are short (nine events on average in some sets) and the graph is long, so padding would be most of
the work. As attention is masked to one history and RoPE knows only distances, several windows share a row and
nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .student import gap_buckets


@dataclass(frozen=True)
class Histories:
    """The events a model may learn from: users in CSR form, oldest event first.

    Attributes:
        offsets: int64 [users + 1].
        items: int32 [events], catalogue positions.
        events: int64 [events], event types.
        gaps: int64 [events], gap buckets.
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
        return cls(
            offsets,
            items.astype(np.int32),
            event_ids.astype(np.int64),
            gap_buckets(timestamps, first, gap_seconds),
        )

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


def batches(
    histories: Histories, length: int, positions: int, rng: np.random.Generator | None
) -> Iterator[Batch]:
    """One epoch of batches of about `positions` next-item predictions, windows in random order (file order
    without `rng`)."""
    start, size = histories.windows(length, rng)
    if rng is not None:
        order = rng.permutation(len(start))
        start, size = start[order], size[order]
    bounds = np.searchsorted(np.cumsum(size), np.arange(positions, size.sum() + positions, positions))
    begin = 0
    for end in np.minimum(bounds + 1, len(size)):
        if end > begin:
            yield assemble(histories, length, start[begin:end], size[begin:end])
        begin = end


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
