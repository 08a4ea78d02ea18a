"""From a history to the rows of the graph (docs/bundle.md, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocketrec.catalogue import Catalogue
from pocketrec.events import Event
from pocketrec.tables import Table

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Known:
    """The events of a history whose items the catalogue has (step 1), oldest first.

    Attributes:
        positions: int64 [m], catalogue positions.
        types: int64 [m], indices into `events` of the manifest.
        times: int64 [m], Unix seconds; 0 where unknown.
        timed: bool [m], whether the time is known.
        skipped: events whose item the catalogue lacks.
    """

    positions: NDArray[np.int64]
    types: NDArray[np.int64]
    times: NDArray[np.int64]
    timed: NDArray[np.bool_]
    skipped: int

    def __len__(self) -> int:
        return len(self.positions)

    def last(self, count: int) -> Known:
        """The last `count` of them, at least 1; views."""
        part = slice(-count, None)
        return Known(self.positions[part], self.types[part], self.times[part], self.timed[part], self.skipped)


class InputRows:
    """Turns histories into `rows` and `mask`. Stateless after construction, so thread-safe."""

    def __init__(
        self,
        items: Table,
        event_rows: FloatArray,
        gap_rows: FloatArray,
        events: Sequence[str],
        gap_seconds: Sequence[int],
        length: int,
    ) -> None:
        self._items = items
        self._event_rows = event_rows
        self._gap_rows = gap_rows
        self._type_of = {name: index for index, name in enumerate(events)}
        self._gap_seconds = np.array(gap_seconds, dtype=np.int64)
        self.length = length

    def known(self, events: Sequence[Event], catalogue: Catalogue) -> Known:
        """Step 1: the events that count, as arrays."""
        positions = catalogue.positions([event.item_id for event in events])
        keep = positions >= 0
        types = np.array([self._type_of.get(event.event, 0) for event in events], dtype=np.int64)
        times = np.array([event.timestamp or 0 for event in events], dtype=np.int64)
        timed = np.array([event.timestamp is not None for event in events], dtype=bool)
        return Known(positions[keep], types[keep], times[keep], timed[keep], int(len(events) - keep.sum()))

    def fuse(self, known: Known) -> tuple[FloatArray, FloatArray]:
        """Steps 2 to 4: `rows` float32 [1, length, d] and `mask` float32 [1, length]."""
        used = min(len(known), self.length)
        rows = np.zeros((1, self.length, self._items.d), dtype=np.float32)
        mask = np.zeros((1, self.length), dtype=np.float32)
        if used:
            x = self._items.rows(known.positions[-used:])
            x += self._event_rows[known.types[-used:]]
            x += self._gap_rows[self.gap_buckets(known.last(used + 1))[-used:]]
            rows[0, -used:] = x
            mask[0, -used:] = 1.0
        return rows, mask

    def gap_buckets(self, known: Known) -> NDArray[np.int64]:
        """The gap bucket of every known event, int64 [m]: 0 without two times, else 1 + thresholds
        reached."""
        buckets = np.zeros(len(known), dtype=np.int64)
        if len(known) > 1:
            gaps = np.maximum(np.diff(known.times), 0)
            reached = 1 + np.searchsorted(self._gap_seconds, gaps, side="right")
            buckets[1:] = np.where(known.timed[1:] & known.timed[:-1], reached, 0)
        return buckets
