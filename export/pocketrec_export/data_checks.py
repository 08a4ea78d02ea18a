"""Checks of the columns of interactions and items: ids, event types, and what is odd but usable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pocketrec_export.data_files import SUFFIXES, Table
from pocketrec_export.data_report import DataWarning, refuse, sample

MAX_EVENT_TYPES = 2**15 - 1
USED = ("user_id", "item_id", "timestamp", "event")


def ids(table: Table, column: str, warnings: list[DataWarning]) -> pl.Series:
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
    series = series.cast(pl.String)
    empty = (series.is_null() | (series.str.strip_chars() == "")).arg_true()
    if empty.len():
        more = f" (and {empty.len() - 1:,} more rows)" if empty.len() > 1 else ""
        refuse(
            table.name,
            f"is empty{more}",
            "Give every row an id, or remove the row.",
            code="data-bad-id",
            place=table.place(int(empty[0])),
            column=column,
        )
    padded = (series != series.str.strip_chars()).arg_true()
    if padded.len():
        warnings.append(
            DataWarning(
                "padded-id",
                table.name,
                padded.len(),
                f"{padded.len():,} ids begin or end with a blank, which makes them different ids",
                "Remove the blanks.",
                column,
                table.numbers(padded),
                sample(series.gather(padded[:5]).to_list()),
            )
        )
    return series


def event_types(table: Table) -> tuple[list[str], NDArray[np.int16]]:
    """Event vocabulary ("" first, then sorted) and the event index of each row, int16 [rows]."""
    if "event" not in table.frame.columns:
        return [""], np.zeros(table.frame.height, np.int16)
    series = table.frame["event"].cast(pl.String).fill_null("").str.strip_chars()
    names = ["", *sorted(set(series.unique().to_list()) - {""})]
    if len(names) > MAX_EVENT_TYPES:
        refuse(
            table.name,
            f"{len(names) - 1:,} different event types, at most {MAX_EVENT_TYPES - 1:,} are possible",
            "Name a few kinds of events, such as view, cart, buy.",
            code="data-bad-event",
            column="event",
        )
    empty = (series == "").arg_true()
    if empty.len():
        table.warnings.append(
            DataWarning(
                "empty-event",
                table.name,
                empty.len(),
                f"{empty.len():,} of {series.len():,} rows name no event type and count as an unknown one",
                "Name the event, or leave the column out.",
                "event",
                table.numbers(empty),
            )
        )
    return names, series.cast(pl.Enum(names)).to_physical().to_numpy().astype(np.int16)


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


def duplicate_rows(table: Table) -> list[DataWarning]:
    """Rows that repeat an earlier row in every column; they are kept."""
    again = table.frame.height - table.frame.n_unique()
    if not again:
        return []
    rows = (~table.frame.select(pl.struct(pl.all()).is_first_distinct()).to_series()).arg_true()
    message = f"{again:,} rows repeat an earlier row exactly and are kept"
    return [
        DataWarning("duplicate-row", table.name, again, message, "Remove them.", rows=table.numbers(rows))
    ]


def short_users(table: Table, user_ids: pl.Series, lengths: NDArray[np.integer]) -> list[DataWarning]:
    """Users with too few events for a history and a target."""
    notes = []
    for length, kind, use in (
        (1, "one-event-user", "they count for popularity and are not evaluated"),
        (2, "two-event-user", "they are in the test split only"),
    ):
        users = np.flatnonzero(lengths == length)
        if len(users):
            message = f"{len(users):,} users have {length} event{'s' * (length > 1)}; {use}"
            values = sample(user_ids.gather(users[:5]).to_list())
            notes.append(DataWarning(kind, table.name, len(users), message, "", "user_id", values=values))
    return notes


def cold_items(file: str, item_ids: pl.Series, seen: NDArray[np.integer]) -> list[DataWarning]:
    """Items that nobody interacted with."""
    cold = np.flatnonzero(seen == 0)
    if not len(cold):
        return []
    message = f"{len(cold):,} items have no interaction and are ranked by their text alone"
    values = sample(item_ids.gather(cold[:5]).to_list())
    return [DataWarning("cold-item", file, len(cold), message, "", "item_id", values=values)]


def unused_files(directory: Path) -> list[DataWarning]:
    """Data files of the directory that nothing reads."""
    used = {f"{stem}{suffix}" for stem in ("interactions", "items") for suffix in SUFFIXES}
    other = sorted(p.name for p in directory.iterdir() if p.name.endswith(SUFFIXES) and p.name not in used)
    return [DataWarning("unused-file", name, 1, "is not read") for name in other]
