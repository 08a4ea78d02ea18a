"""A history as text that people and other programs can read: JSON lines, oldest first.

    {"item_id": "B004756YJA", "event": "view", "timestamp": 1700000000}
    {"item_id": "B0002", "event": "", "timestamp": null}

UTF-8, one object a line with exactly these three keys, in the order of recording. `event` may be "",
`timestamp` is whole Unix seconds or null. What is exported can be imported, and is then the same history.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pocketrec.errors import DataError
from pocketrec.events import Event
from pocketrec.history_errors import HistoryError

MAX_LINE_BYTES = 16_384
"""Longer lines hold no event: ids and types have at most 512 bytes, six times as many when escaped."""

_KEYS = {"item_id", "event", "timestamp"}


def write_lines(path: str | Path, events: Iterable[Event]) -> int:
    """Write the events, for the owner's eyes only; a file that was there is replaced when all is written.

    Raises:
        HistoryError: `export-failed`.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    count = 0
    try:
        with open(
            os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w", encoding="utf-8"
        ) as out:
            for event in events:
                count += 1
                line = {"item_id": event.item_id, "event": event.event, "timestamp": event.timestamp}
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
            out.flush()
            os.fsync(out.fileno())
        os.replace(partial, target)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise HistoryError(
            f"the history cannot be exported to {target}: {error.strerror}.",
            code="export-failed",
            remedy="Choose a file in a writable directory.",
        ) from None
    return count


def read_lines(path: str | Path) -> list[Event]:
    """The events of a file that `write_lines` wrote.

    Raises:
        HistoryError: `import-failed`, with the line that is wrong.
    """
    events = []
    try:
        with open(path, "rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                events.append(_event(line, number, path))
    except OSError as error:
        raise HistoryError(
            f"{path} cannot be read: {error.strerror}.", code="import-failed", remedy="Check the path."
        ) from None
    return events


def _event(line: bytes, number: int, path: str | Path) -> Event:
    try:
        if len(line) > MAX_LINE_BYTES:
            raise ValueError("it is too long")
        found = json.loads(line)
        if not isinstance(found, dict) or set(found) != _KEYS:
            raise ValueError(f"it is no object with the keys {', '.join(sorted(_KEYS))}")
        return Event(found["item_id"], found["event"], found["timestamp"])
    except (ValueError, RecursionError, DataError) as error:
        raise HistoryError(
            f"line {number} of {path} is no event: {error}.",
            code="import-failed",
            remedy="Nothing was imported; mend the line.",
        ) from None
