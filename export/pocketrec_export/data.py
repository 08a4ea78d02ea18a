"""Reads a data directory (interactions, item texts) into arrays for training, evaluation and the bundle.

    dataset = load_dataset("my-shop/")      # interactions.csv[.gz] or .parquet, and optionally items.*
    print(dataset.report)                   # counts, and a warning for everything that was odd
    dataset.items[dataset.user_slice(0)]    # what the first user did, oldest first

* ids are text, always, and kept as they stand: "001" is not "1";
* the catalogue is items.csv in its order, then items that only interactions name, as they first appear;
* users come as they first appear, a user's events in time order, ties by row order in the file;
* a value that cannot be used is a `DataError` naming file, row, column and remedy; all else that is odd is
  kept and counted in the report.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pocketrec_export.data_catalogue import read_catalogue
from pocketrec_export.data_checks import (
    cold_items,
    duplicate_rows,
    event_types,
    ids,
    short_users,
    unused_columns,
    unused_files,
)
from pocketrec_export.data_files import SUFFIXES, find_table, read_table
from pocketrec_export.data_report import EARLIEST, DataReport, refuse
from pocketrec_export.data_time import MICROS, microseconds


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Interactions grouped by user, and the catalogue. Arrays are read-only.

    Args:
        user_ids: [users] in order of first appearance.
        item_ids: [items] in catalogue order; position is the item row everywhere else.
        events: event vocabulary; index 0 is "" (none or unknown), the others are sorted.
        offsets: int64 [users + 1]; user u has the events `offsets[u]:offsets[u + 1]` of the arrays below.
        items: int32 [events], item rows.
        timestamps: int64 [events], seconds (or positions, when that is what the data holds).
        event_ids: int16 [events], indices into `events`.
        texts: [items] text columns joined for an encoder, "" where there is none.
        columns: display columns of items.csv, each [items], "" where there is no value.
        report: counts and warnings.
    """

    user_ids: list[str]
    item_ids: list[str]
    events: list[str]
    offsets: NDArray[np.int64]
    items: NDArray[np.int32]
    timestamps: NDArray[np.int64]
    event_ids: NDArray[np.int16]
    texts: list[str]
    columns: dict[str, list[str]]
    report: DataReport

    def __post_init__(self) -> None:
        for array in (self.offsets, self.items, self.timestamps, self.event_ids):
            array.setflags(write=False)

    def __repr__(self) -> str:
        return f"Dataset({self.num_users:,} users, {self.num_items:,} items, {self.num_events:,} events)"

    @property
    def num_users(self) -> int:
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        return len(self.item_ids)

    @property
    def num_events(self) -> int:
        return len(self.items)

    @property
    def timed(self) -> bool:
        """Whether timestamps are times; False when they are mere positions, from which no gap can be told."""
        return self.num_events > 0 and int(self.timestamps.max()) >= EARLIEST

    def user_slice(self, user: int) -> slice:
        """Where the events of a user lie in `items`, `timestamps` and `event_ids`."""
        return slice(int(self.offsets[user]), int(self.offsets[user + 1]))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over ids, event vocabulary, arrays and texts: equal data, equal string, on any machine."""
        digest = hashlib.sha256()
        for names in (self.user_ids, self.item_ids, self.events, self.texts):
            digest.update(json.dumps(names).encode())
        for array, dtype in (
            (self.offsets, "<i8"),
            (self.items, "<i4"),
            (self.timestamps, "<i8"),
            (self.event_ids, "<i2"),
        ):
            digest.update(np.ascontiguousarray(array, dtype).data)
        return digest.hexdigest()


def load_dataset(path: str | Path) -> Dataset:
    """Read a data directory.

    Args:
        path: directory with `interactions` (`user_id,item_id,timestamp`, optionally `event`) and optionally
            `items` (`item_id`, then text columns), each as .csv, .csv.gz or .parquet.

    Raises:
        DataError: a file or value that cannot be used; the message names file, row, column and remedy.
    """
    directory = Path(path)
    if not directory.is_dir():
        what = "is a file, not a directory" if directory.exists() else "does not exist"
        refuse(
            str(path), what, "Give the directory that holds interactions.csv.", code="data-missing-directory"
        )
    source = find_table(directory, "interactions")
    if source is None:
        present = ", ".join(sorted(p.name for p in directory.iterdir())[:8]) or "nothing"
        refuse(
            str(path),
            f"there is no interactions{' or interactions'.join(SUFFIXES)}; found {present}",
            "Put a table with the columns user_id, item_id, timestamp there.",
            code="data-missing-file",
        )
    table = read_table(source, ("user_id", "item_id", "timestamp"), ("user_id", "item_id", "event"))
    warnings = table.warnings
    users, items = ids(table, "user_id", warnings), ids(table, "item_id", warnings)
    micros, converted = microseconds(table)
    events, event_ids = event_types(table)
    order = np.lexsort((micros, users.codes))  # stable: row order breaks ties
    warnings += converted + unused_columns(table) + duplicate_rows(table, order, users.codes, micros)
    catalogue = read_catalogue(directory, table, items)
    warnings += catalogue.warnings
    user_ids, item_ids = users.names, catalogue.item_ids
    place = items.names.cast(pl.Enum(item_ids)).to_physical().to_numpy().astype(np.int32)
    lengths = np.bincount(users.codes, minlength=user_ids.len())
    timestamps = micros[order]
    timestamps //= MICROS
    seen = np.bincount(items.codes, minlength=items.names.len())
    seen = np.bincount(place, seen, minlength=item_ids.len()).astype(np.int64)
    warnings += short_users(table, user_ids, lengths) + cold_items(catalogue.file, item_ids, seen)
    warnings += unused_files(directory)
    report = DataReport(
        path=str(path),
        users=user_ids.len(),
        items=item_ids.len(),
        events=len(order),
        interacted_items=int(np.count_nonzero(seen)),
        first_timestamp=int(timestamps.min()),
        last_timestamp=int(timestamps.max()),
        event_types=tuple(events[1:]),
        text_columns=catalogue.text_columns,
        other_columns=tuple(name for name in catalogue.columns if name not in catalogue.text_columns),
        warnings=tuple(warnings),
    )
    return Dataset(
        user_ids=user_ids.to_list(),
        item_ids=item_ids.to_list(),
        events=events,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=place[items.codes[order]],
        timestamps=timestamps,
        event_ids=event_ids[order],
        texts=catalogue.texts,
        columns=catalogue.columns,
        report=report,
    )
