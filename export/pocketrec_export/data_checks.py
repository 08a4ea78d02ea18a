"""Checks of the columns of interactions and items: ids, event types, and what is odd but usable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pocketrec_export.data_files import SUFFIXES, Table
from pocketrec_export.data_report import DataWarning, refuse, sample

MAX_EVENT_TYPES = 2**15 - 1
USED = ("user_id", "item_id", "timestamp", "event")


@dataclass(frozen=True)
class Ids:
    """An id column: each id once, and a number for each row.

    Attributes:
        names: text, in order of first appearance.
        codes: int32 [rows], indices into `names`.
    """

    names: pl.Series
    codes: NDArray[np.int32]

    def texts(self) -> pl.Series:
        """The id of each row."""
        return self.names.gather(self.codes)


def ids(table: Table, column: str, warnings: list[DataWarning]) -> Ids:
    """An id column as text.

    Raises:
        DataError: an empty id, or a column whose type has no exact text form (such as float).
    """
    series = table.frame[column]
    if not (
        series.dtype == pl.String
        or series.dtype.is_integer()
        or isinstance(series.dtype, (pl.Categorical, pl.Enum))
    ):
        refuse(
            table.name,
            f"ids of type {series.dtype} have no exact text form",
            "Write ids as text or as whole numbers.",
            code="data-bad-id",
            column=column,
        )
    names, codes = _encoded(series)
    stripped = names.str.strip_chars()
    empty = (names.is_null() | (stripped == "")).to_numpy()
    if empty.any():
        rows = np.flatnonzero(empty[codes])
        more = f" (and {len(rows) - 1:,} more rows)" if len(rows) > 1 else ""
        refuse(
            table.name,
            f"is empty{more}",
            "Give every row an id, or remove the row.",
            code="data-bad-id",
            place=table.place(int(rows[0])),
            column=column,
        )
    padded = (names != stripped).to_numpy()
    if padded.any():
        rows = np.flatnonzero(padded[codes])
        warnings.append(
            DataWarning(
                "padded-id",
                table.name,
                len(rows),
                f"{len(rows):,} ids begin or end with a blank, which makes them different ids",
                "Remove the blanks.",
                column,
                table.numbers(rows),
                sample(names.gather(codes[rows[:5]]).to_list()),
            )
        )
    return Ids(names, codes)


def _encoded(series: pl.Series) -> tuple[pl.Series, NDArray[np.int32]]:
    """Each different value as text (null stays null) in order of first appearance, and the index of each
    row's, int32."""
    if not isinstance(series.dtype, pl.Categorical):
        series = series.cast(pl.String).cast(pl.Categorical)
    physical = series.to_physical()
    unique = physical.unique(maintain_order=True)
    number = pl.Series(np.arange(unique.len(), dtype=np.int32))
    # Categories are numbered across all columns: what stands at a number that is not here is never read.
    place = np.zeros(int(unique.max() or 0) + 2, np.int32)  # type: ignore[arg-type]
    nothing = len(place) - 1
    place[unique.fill_null(nothing).to_numpy()] = number.to_numpy()
    codes = place[(physical.fill_null(nothing) if physical.null_count() else physical).to_numpy()]
    return series.unique(maintain_order=True).cast(pl.String), codes


def event_types(table: Table) -> tuple[list[str], NDArray[np.int16]]:
    """Event vocabulary ("" first, then sorted) and the event index of each row, int16 [rows]."""
    if "event" not in table.frame.columns:
        return [""], np.zeros(table.frame.height, np.int16)
    written, codes = _encoded(table.frame["event"])
    said = written.fill_null("").str.strip_chars()
    names = ["", *sorted(set(said.to_list()) - {""})]
    if len(names) > MAX_EVENT_TYPES:
        refuse(
            table.name,
            f"{len(names) - 1:,} different event types, at most {MAX_EVENT_TYPES - 1:,} are possible",
            "Name a few kinds of events, such as view, cart, buy.",
            code="data-bad-event",
            column="event",
        )
    event_ids = said.cast(pl.Enum(names)).to_physical().to_numpy().astype(np.int16)[codes]
    empty = np.flatnonzero(event_ids == 0)
    if len(empty):
        table.warnings.append(
            DataWarning(
                "empty-event",
                table.name,
                len(empty),
                f"{len(empty):,} of {len(codes):,} rows name no event type and count as an unknown one",
                "Name the event, or leave the column out.",
                "event",
                table.numbers(empty),
            )
        )
    return names, event_ids


def unused_columns(table: Table) -> list[DataWarning]:
    """Columns of the interactions that nothing reads."""
    notes = []
    for name in table.frame.columns:
        if name not in USED:
            kind = "unused-rating" if name == "rating" else "unused-column"
            message = "is not used: every row counts as an interaction" if name == "rating" else "is ignored"
            remedy = "Remove rows that are no sign of interest." if name == "rating" else ""
            filled = table.frame.height - table.frame[name].null_count()
            notes.append(DataWarning(kind, table.name, filled, message, remedy, name))
    return notes


def duplicate_rows(
    table: Table, order: NDArray[np.int64], users: NDArray[np.int32], micros: NDArray[np.int64]
) -> list[DataWarning]:
    """Rows that repeat an earlier row in every column; they are kept.

    Args:
        order: int64 [rows], row numbers by user, then time.
        users, micros: [rows], user and time of each row. Only rows that share both can be the same.
    """
    ahead, behind = order[:-1], order[1:]
    same = (users[ahead] == users[behind]) & (micros[ahead] == micros[behind])
    suspects = np.sort(order[np.append(same, False) | np.append(False, same)])
    if not len(suspects):
        return []
    again = (~table.frame[suspects].select(pl.struct(pl.all()).is_first_distinct()).to_series()).arg_true()
    if not again.len():
        return []
    message = f"{again.len():,} rows repeat an earlier row exactly and are kept"
    rows = table.numbers(suspects[again.to_numpy()])
    return [DataWarning("duplicate-row", table.name, again.len(), message, "Remove them.", rows=rows)]


def short_users(table: Table, user_ids: pl.Series, lengths: NDArray[np.integer]) -> list[DataWarning]:
    """Users with too few events for a history and a target."""
    notes = []
    for length, kind, use in (
        (1, "one-event-user", "counted for popularity, not evaluated"),
        (2, "two-event-user", "in the test split only"),
    ):
        users = np.flatnonzero(lengths == length)
        if len(users):
            who = "1 user has" if len(users) == 1 else f"{len(users):,} users have"
            message = f"{who} {length} event{'s' * (length > 1)}; {use}"
            values = sample(user_ids.gather(users[:5]).to_list())
            notes.append(DataWarning(kind, table.name, len(users), message, "", "user_id", values=values))
    return notes


def cold_items(file: str, item_ids: pl.Series, seen: NDArray[np.integer]) -> list[DataWarning]:
    """Items that nobody interacted with."""
    cold = np.flatnonzero(seen == 0)
    if not len(cold):
        return []
    what = "1 item has" if len(cold) == 1 else f"{len(cold):,} items have"
    message = f"{what} no interaction: ranked by text alone"
    values = sample(item_ids.gather(cold[:5]).to_list())
    return [DataWarning("cold-item", file, len(cold), message, "", "item_id", values=values)]


def unused_files(directory: Path) -> list[DataWarning]:
    """Data files of the directory that nothing reads."""
    used = {f"{stem}{suffix}" for stem in ("interactions", "items") for suffix in SUFFIXES}
    other = sorted(p.name for p in directory.iterdir() if p.name.endswith(SUFFIXES) and p.name not in used)
    return [DataWarning("unused-file", name, 1, "is not read") for name in other]
