"""Which history files this process has open.

SQLite's locks are POSIX locks, which belong to a process and not to a connection. So whoever wants a file for
itself (a change of key) cannot learn from a lock that its own process has it open, and asks here.
"""

from __future__ import annotations

import os
import threading
from collections import Counter

from pocketrec.history_errors import HistoryError

_lock = threading.Lock()
_open: Counter[str] = Counter()
_alone: set[str] = set()


def register(path: str) -> None:
    """Note that the file is open once more.

    Raises:
        HistoryError: `history-busy`, its key is being changed.
    """
    name = os.path.realpath(path)
    with _lock:
        if name in _alone:
            raise _busy(path)
        _open[name] += 1


def unregister(path: str) -> None:
    """Take back one `register`."""
    name = os.path.realpath(path)
    with _lock:
        _open[name] -= 1
        if _open[name] <= 0:
            del _open[name]


def claim(path: str) -> None:
    """Nobody else in this process may have the file open until `release`.

    Raises:
        HistoryError: `history-busy`, somebody has.
    """
    name = os.path.realpath(path)
    with _lock:
        if name in _open or name in _alone:
            raise _busy(path)
        _alone.add(name)


def release(path: str) -> None:
    """Take back `claim`."""
    with _lock:
        _alone.discard(os.path.realpath(path))


def _busy(path: str) -> HistoryError:
    return HistoryError(
        f"the history {path} is in use in this process.",
        code="history-busy",
        remedy="Close it first; a change of key needs the file for itself.",
    )
