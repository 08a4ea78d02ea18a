"""What reading a data directory found: counts, and a counted warning for all that was odd but accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NoReturn

from pocketrec.errors import DataError

SAMPLE = 5
"""How many rows and values a warning quotes."""

EARLIEST = 10**8
"""Seconds (the year 1973); timestamps that never reach it are positions rather than times."""


@dataclass(frozen=True)
class DataWarning:
    """Something in the data that was accepted, but that its owner should know.

    Args:
        kind: stable name of the case, kebab-case.
        file: file name inside the data directory.
        count: how many rows, values or files it concerns.
        message: what was found and what was done with it.
        remedy: what to change in the data when that was not wanted; may be empty.
        column: the column concerned, "" when the case is about whole rows or the file.
        rows: the first few data rows concerned, counted from 1 without the header.
        values: the first few values concerned.
    """

    kind: str
    file: str
    count: int
    message: str
    remedy: str = ""
    column: str = ""
    rows: tuple[int, ...] = ()
    values: tuple[str, ...] = ()

    def anonymous(self) -> str:
        """What was found without the values and rows it was found in, which may be ids of people: for what
        leaves this machine, such as a manifest."""
        return str(replace(self, rows=(), values=()))

    def __str__(self) -> str:
        place = self.file + (f", column {self.column!r}" if self.column else "")
        sample = ""
        if self.values:
            sample = f" [{', '.join(map(repr, self.values))}{', …' if self.count > len(self.values) else ''}]"
        if self.rows:
            sample += f" (row {', '.join(map(str, self.rows))}{', …' if self.count > len(self.rows) else ''})"
        return f"{place}: {self.message}{sample}. {self.remedy}".rstrip()


@dataclass(frozen=True)
class DataReport:
    """Counts of a data set and the warnings met while reading it; `str()` gives the text for a terminal."""

    path: str
    users: int
    items: int
    events: int
    interacted_items: int
    first_timestamp: int
    last_timestamp: int
    event_types: tuple[str, ...] = ()
    text_columns: tuple[str, ...] = ()
    other_columns: tuple[str, ...] = ()
    warnings: tuple[DataWarning, ...] = field(default=())

    def count(self, kind: str) -> int:
        """The summed count of the warnings of one kind, 0 when there is none."""
        return sum(w.count for w in self.warnings if w.kind == kind)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{self.path}: {self.users:,} users, {self.items:,} items "
            f"({self.interacted_items:,} with events), "
            f"{self.events:,} events, {_day(self.first_timestamp)} to {_day(self.last_timestamp)}",
            f"  event types: {', '.join(self.event_types) or 'none'}",
            f"  text: {', '.join(self.text_columns) or 'none'}"
            + (
                f" (shown, but not read as text: {', '.join(self.other_columns)})"
                if self.other_columns
                else ""
            ),
        ]
        return "\n".join(lines + [f"  warning: {w}" for w in self.warnings])


def _day(seconds: int) -> str:
    """A date where the number can be one; small numbers are positions and are shown as they are."""
    if not EARLIEST <= seconds < 10**11:
        return str(seconds)
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def refuse(file: str, problem: str, remedy: str, *, code: str, place: str = "", column: str = "") -> NoReturn:
    """Raise a `DataError` that names file, place ("row 3, line 4"), column, problem and remedy."""
    head = file + (f", {place}" if place else "") + (f", column {column!r}" if column else "")
    raise DataError(f"{head}: {problem}.", code=code, remedy=remedy)


def short(value: object, limit: int = 60) -> str:
    """`repr` of a value, cut so that a message stays readable."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def sample(values: Sequence[Any]) -> tuple[str, ...]:
    """The first few values as short strings, for a warning."""
    return tuple(str(v) if len(str(v)) <= 60 else str(v)[:59] + "…" for v in values[:SAMPLE])
