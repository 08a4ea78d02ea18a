"""What is kept of a stored history between lists, so that a new event does not cost reading it all again.

Kept are the known events of the history as arrays: catalogue positions, types, times. Each stands for one
event alone, so those of a history that grew are the old ones and the new ones after them: equal to what
reading everything gives, and a test says so. When anything was deleted meanwhile, by whomever, everything is
read.

Not kept: keys and values of the graph. Positions count from the end of the window (left padding), so every
event moves by one with each new one, and with it its rotary embedding, hence its keys, and everything above
the first layer: there is nothing of it that would be equal.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from pocketrec.events import Event
from pocketrec.history import History, News
from pocketrec.inputs import Known


class StoredHistory:
    """The known events of a history, read where it grew. Thread-safe.

    Args:
        history: where the events are; other threads and processes may write to it.
        known: what makes arrays of events, one event at a time: `InputRows.known` with a catalogue.
    """

    def __init__(self, history: History, known: Callable[[list[Event]], Known]) -> None:
        self._history, self._known_of = history, known
        self._lock = threading.Lock()
        self._kept: tuple[News, Known] | None = None

    def known(self) -> Known:
        """The known events of the whole history as it is now, oldest first."""
        with self._lock:
            kept = self._kept
            news = self._history.news(None if kept is None else kept[0])
            if kept is None or news.whole:
                known = self._known_of(news.events)
            elif news.events:
                known = _joined(kept[1], self._known_of(news.events))
            else:
                return kept[1]
            self._kept = news.without_events(), known
            return known

    def drop(self) -> None:
        """Keep nothing: for what deletes from the history, so that nothing deleted stays in memory."""
        with self._lock:
            self._kept = None


def _joined(old: Known, new: Known) -> Known:
    return Known(
        np.concatenate([old.positions, new.positions]),
        np.concatenate([old.types, new.types]),
        np.concatenate([old.times, new.times]),
        np.concatenate([old.timed, new.timed]),
        old.skipped + new.skipped,
    )
