"""The event: one thing a person did with one item, and the forms in which callers may write a history."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from pocketrec.errors import DataError

MAX_ID_BYTES = 512
"""Longest item id and event type, in UTF-8 bytes (docs/bundle.md, section 1)."""

MAX_TIME = 2**53 - 1
"""Largest magnitude of a timestamp: what every JSON reader keeps exactly."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    Attributes:
        item_id: the item, not empty; it need not be in the catalogue.
        event: the type, one of the manifest's `events`; "" (or a type the bundle does not know) is the plain
            one.
        timestamp: whole Unix seconds, or None when unknown.

    Raises:
        DataError: a value of another type, an empty or too long id, a time out of range.
    """

    item_id: str
    event: str = ""
    timestamp: int | None = None

    def __post_init__(self) -> None:
        check_text(self.item_id, "item id")
        if not self.item_id:
            raise DataError("an item id is empty.", code="item-id-invalid", remedy="Leave the event out.")
        check_text(self.event, "event type")
        if self.timestamp is not None:
            object.__setattr__(self, "timestamp", check_time(self.timestamp))


HistoryItem: TypeAlias = "str | Event | tuple[str, str, int | None]"
"""How a caller may write one event: an item id, an `Event`, or `(item_id, event, timestamp)`."""


def as_events(history: Iterable[HistoryItem]) -> list[Event]:
    """A history, oldest first, in any of the accepted forms, as events.

    Raises:
        DataError: something that is neither an item id, an `Event` nor a triple; names its index.
    """
    if isinstance(history, (str, bytes)):
        raise DataError(
            f"a history is a list of events, not the text {history!r}.",
            code="history-invalid",
            remedy="Wrap a single item id in a list.",
        )
    events = []
    for index, item in enumerate(history):
        if isinstance(item, Event):
            events.append(item)
        elif isinstance(item, str):
            events.append(Event(item))
        elif isinstance(item, (tuple, list)) and len(item) == 3:
            events.append(Event(*item))
        else:
            raise DataError(
                f"history[{index}] is {item!r}, not an event.",
                code="history-invalid",
                remedy="Give an item id, an Event, or (item_id, event, timestamp).",
            )
    return events


def check_text(value: object, what: str) -> str:
    """`value` when it is text of at most 512 UTF-8 bytes; DataError otherwise."""
    if not isinstance(value, str):
        raise DataError(f"the {what} {value!r} is not text.", code="text-invalid", remedy="Give a str.")
    try:
        size = len(value.encode("utf-8"))
    except UnicodeEncodeError:
        raise DataError(
            f"the {what} {value!r} is not valid Unicode.",
            code="text-invalid",
            remedy="Remove the lone surrogates.",
        ) from None
    if size > MAX_ID_BYTES:
        raise DataError(
            f"the {what} {value[:40]!r}… has {size} bytes.",
            code="text-invalid",
            remedy=f"At most {MAX_ID_BYTES} are allowed.",
        )
    return value


def check_time(value: object) -> int:
    """`value` as a Python int when it is a whole number of Unix seconds in range; DataError otherwise."""
    whole = None if isinstance(value, bool) else _index(value)
    if whole is None or abs(whole) > MAX_TIME:
        raise DataError(
            f"the timestamp {value!r} is not a whole number of Unix seconds.",
            code="timestamp-invalid",
            remedy="Give int(time.time()), not milliseconds, a float or text.",
        )
    return whole


def _index(value: object) -> int | None:
    """Python and numpy integers as int; None for everything else."""
    try:
        return int(value.__index__())  # type: ignore[attr-defined]
    except (AttributeError, TypeError):
        return None
