"""The catalogue of a data directory: item ids in their final order, display columns, a text for each item."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from pocketrec_export.data_checks import Ids, ids
from pocketrec_export.data_files import Table, find_table, read_table
from pocketrec_export.data_report import DataWarning, refuse, sample, short

_NAMES = (
    "title name text description summary subtitle brand artist author category categories genre genres tags"
)
TEXT_NAMES = frozenset(_NAMES.split())
"""Columns that are text whatever their values look like."""

ID_ROWS = 20
"""Fewer values than this say nothing about whether a column holds ids."""

ID_SHARE = 0.98
"""A column is taken for ids when this share of its values is unique and this share has no blank in it."""


@dataclass
class CatalogueData:
    """What items.csv says, with the items that only interactions name at the end."""

    item_ids: pl.Series
    texts: list[str]
    columns: dict[str, list[str]]
    text_columns: tuple[str, ...]
    file: str
    warnings: list[DataWarning] = field(default_factory=list)


def read_catalogue(directory: Path, interactions: Table, items: Ids) -> CatalogueData:
    """Read items.* of a directory and extend it by the items that the interactions name.

    Args:
        items: of `interactions`.

    Raises:
        DataError: an item id that is empty or there twice, or a file that cannot be read.
    """
    path = find_table(directory, "items")
    if path is None:
        warning = DataWarning(
            "no-items-file",
            directory.name,
            1,
            "there is no items file, so items are known by behaviour alone",
            "Add items.csv with item_id and text columns such as title.",
        )
        found = items.names
        return CatalogueData(found, [""] * found.len(), {}, (), interactions.name, [warning])
    table = read_table(path, ("item_id",))
    own = ids(table, "item_id", table.warnings).texts()
    _refuse_duplicates(table, own)
    everything = pl.concat([own, items.names]).unique(maintain_order=True)
    extra = everything.len() - own.len()
    frame = pl.DataFrame(
        [_as_text(table, name) for name in table.frame.columns if name and name != "item_id"]
    )
    frame = frame.select(s for s in frame if s.dtype == pl.String)
    text_columns = tuple(s.name for s in frame if not looks_like_ids(s))
    texts = (
        joined(frame.select(text_columns)) if text_columns else pl.Series([""] * own.len(), dtype=pl.String)
    )
    warnings = table.warnings + _notes(table, frame, text_columns, texts)
    if extra:
        warnings.append(_unknown_items(interactions, items, own, path.name, extra))
    columns = {s.name: s.to_list() + [""] * extra for s in frame}
    return CatalogueData(
        everything, texts.to_list() + [""] * extra, columns, text_columns, path.name, warnings
    )


def _refuse_duplicates(table: Table, own: pl.Series) -> None:
    again = (~own.is_first_distinct()).arg_true()
    if again.len() == 0:
        return
    second = int(again[0])
    first = int((own == own[second]).arg_true()[0])
    more = f" ({again.len():,} rows repeat an id)" if again.len() > 1 else ""
    refuse(
        table.name,
        f"item id {short(own[second])} was already given in {table.place(first)}{more}",
        "Keep one row for each item.",
        code="data-duplicate-item",
        place=table.place(second),
        column="item_id",
    )


def _as_text(table: Table, name: str) -> pl.Series:
    """A column as text with "" for nothing; unchanged when its type has no text form."""
    series = table.frame[name]
    if isinstance(series.dtype, pl.List):
        series = series.cast(pl.List(pl.String), strict=False).list.join(", ", ignore_nulls=True)
    elif series.dtype.is_nested() or series.dtype in (pl.Binary, pl.Object):
        return series
    return series.cast(pl.String, strict=False).fill_null("")


def looks_like_ids(column: pl.Series) -> bool:
    """Whether nearly every value is unique and a single word: codes, links, numbers of articles."""
    filled = column.filter(column.str.strip_chars() != "")
    if column.name.lower() in TEXT_NAMES or filled.len() < ID_ROWS:
        return False
    unique = filled.n_unique() / filled.len()
    one_word = 1 - int(filled.str.strip_chars().str.contains(r"\s").sum()) / filled.len()
    return unique >= ID_SHARE and one_word >= ID_SHARE


def joined(frame: pl.DataFrame) -> pl.Series:
    """Text columns as one sentence list: "title. categories. brand", without empty parts."""
    parts = [
        pl.col(name).str.replace_all(r"\s+", " ").str.strip_chars().str.strip_chars_end(". ")
        for name in frame.columns
    ]
    filled = [pl.when(part != "").then(part) for part in parts]
    return frame.select(pl.concat_str(filled, separator=". ", ignore_nulls=True).fill_null("")).to_series()


def _notes(
    table: Table, frame: pl.DataFrame, text_columns: tuple[str, ...], texts: pl.Series
) -> list[DataWarning]:
    """Columns that are not read as text, and items that have none."""
    notes = []
    for name in table.frame.columns:
        if name == "item_id" or name in text_columns:
            continue
        filled = table.frame.height - table.frame[name].null_count()
        if name in frame.columns:
            message, remedy = "holds ids rather than text: it is shown, but not read as text", ""
        elif name == "":
            message, remedy = "a column without a name is ignored", "Name it to use it."
        else:
            message = f"of type {table.frame.schema[name]}, which has no text form, is ignored"
            remedy = "Write it as text or as a list of texts."
        notes.append(DataWarning("not-text", table.name, filled, message, remedy, name))
    missing = (texts == "").arg_true()
    if missing.len():
        notes.append(
            DataWarning(
                "no-text",
                table.name,
                missing.len(),
                f"{missing.len():,} items have no text and are known by behaviour alone",
                "Give each item a title.",
                rows=table.numbers(missing),
            )
        )
    return notes


def _unknown_items(table: Table, items: Ids, own: pl.Series, file: str, extra: int) -> DataWarning:
    unknown = (~items.names.is_in(own.implode())).to_numpy()
    rows = np.flatnonzero(unknown[items.codes])
    lead = f"no item id of the interactions is in {file}: " if len(rows) == len(items.codes) else ""
    return DataWarning(
        "unknown-item",
        table.name,
        len(rows),
        f"{lead}{len(rows):,} rows name {extra:,} items that {file} lacks; they are kept, without text",
        f"Add the items to {file}, or check that both files write ids alike.",
        "item_id",
        table.numbers(rows),
        sample(items.names.filter(pl.Series(unknown))[:5].to_list()),
    )
