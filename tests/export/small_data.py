"""Small data sets for tests, written as files and read like anybody's."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from hypothesis import strategies as st

from pocketrec_export.data import Dataset, load_dataset

Row = tuple[str, str, int]
HEAD = "user_id,item_id,timestamp\n"
GOOD = HEAD + "u1,i1,1300000001\nu1,i2,1300000002\nu1,i3,1300000003\n"
ITEMS = "item_id,title,brand\ni1,A tent,Oak\ni2,A stove,Elm\ni3,A lamp,\n"

Content = str | bytes | pl.DataFrame

ROWS = st.lists(
    st.tuples(st.sampled_from("abcde"), st.sampled_from("pqrstuvwxyz"), st.integers(0, 9)),
    min_size=1,
    max_size=40,
)
"""(user, item, timestamp), with ties, repeated items and users of every length."""


def dataset_of(directory: Path, rows: list[Row]) -> Dataset:
    """Write the rows as interactions.csv of a directory and load it."""
    lines = "".join(f"{user},{item},{time}\n" for user, item, time in rows)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "interactions.csv").write_text("user_id,item_id,timestamp\n" + lines)
    return load_dataset(directory)
