"""Bad input: each error names file, place, column, value and remedy."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from small_data import GOOD, HEAD, ITEMS, Content

from pocketrec.errors import DataError
from pocketrec_export.data import load_dataset

BAD: dict[str, tuple[dict[str, Content | None], list[str]]] = {
    # case: (files, what the message must hold: file, place, column, value, remedy)
    "no interactions": (
        {"interactions": None},
        ["no interactions.csv", "items.csv", "user_id, item_id, timestamp"],
    ),
    "two interactions": (
        {"interactions_parquet": pl.DataFrame({"user_id": ["u"]})},
        ["interactions.csv and interactions.parquet", "Keep one"],
    ),
    "csv and gz items": ({"items_csv_gz": ITEMS}, ["items.csv and items.csv.gz", "Keep one"]),
    "empty file": ({"interactions": ""}, ["interactions.csv", "empty", "header"]),
    "empty gz": (
        {"interactions": None, "interactions_csv_gz": ""},
        ["interactions.csv.gz", "empty", "header"],
    ),
    "header only": ({"interactions": HEAD}, ["interactions.csv", "no row", "below the header"]),
    "items header only": ({"items": "item_id,title\n"}, ["items.csv", "no row"]),
    "blank rows only": ({"interactions": HEAD + "\n,,\n"}, ["interactions.csv", "every row is blank"]),
    "missing column": (
        {"interactions": "user,item_id,time\nu,i,1\n"},
        ["interactions.csv", "'user_id', 'timestamp' is missing", "'user', 'item_id', 'time'", "first line"],
    ),
    "semicolons": (
        {"interactions": GOOD.replace(",", ";")},
        ["interactions.csv", "'user_id;item_id;timestamp'", "separated by commas"],
    ),
    "items without id": (
        {"items": "id,title\ni1,x\n"},
        ["items.csv", "'item_id' is missing", "'id', 'title'"],
    ),
    "column twice": (
        {"interactions": "user_id,item_id,item_id,timestamp\nu,i,j,1\n"},
        ["interactions.csv", "line 1", "'item_id' is there more than once", "Keep one"],
    ),
    "text in a timestamp": (
        {"interactions": GOOD + "u1,i4,yesterday\nu1,i4,soon\n"},
        [
            "interactions.csv",
            "row 4 (line 5)",
            "'timestamp'",
            "'yesterday'",
            "1 more rows",
            "seconds since 1970",
        ],
    ),
    "text in a timestamp below a cell of two lines": (
        {"interactions": HEAD + 'u1,"i\n4",1\nu1,i4,never\n'},
        ["interactions.csv", "row 2 (line 4)", "'timestamp'", "'never'"],
    ),
    "empty timestamp": (
        {"interactions": GOOD + "u1,i4,\n"},
        ["interactions.csv", "row 4 (line 5)", "'timestamp'", "is empty", "seconds since 1970"],
    ),
    "nan timestamp": (
        {"interactions": GOOD + "u1,i4,NaN\n"},
        ["row 4 (line 5)", "'timestamp'", "'NaN'", "seconds"],
    ),
    "infinite timestamp": (
        {"interactions": GOOD + "u1,i4,inf\n"},
        ["row 4 (line 5)", "'timestamp'", "'inf'"],
    ),
    "huge timestamp": ({"interactions": GOOD + "u1,i4,1e30\n"}, ["row 4 (line 5)", "'timestamp'", "'1e30'"]),
    "number among dates": (
        {"interactions": HEAD + "u,i,2020-01-02\nu,i,1300000000\nu,i,2020-01-03\n"},
        ["row 2 (line 3)", "'timestamp'", "'1300000000'", "ISO dates in the whole column"],
    ),
    "impossible date": (
        {"interactions": HEAD + "u,i,2020-01-02\nu,i,2020-02-31\n"},
        ["row 2 (line 3)", "'timestamp'", "'2020-02-31'"],
    ),
    "null time in parquet": (
        {
            "interactions": None,
            "interactions_parquet": pl.DataFrame(
                {"user_id": ["u"] * 2, "item_id": ["i"] * 2, "timestamp": [1.5, None]}
            ),
        },
        ["interactions.parquet", "row 2", "'timestamp'", "is empty"],
    ),
    "nan in parquet": (
        {
            "interactions": None,
            "interactions_parquet": pl.DataFrame(
                {"user_id": ["u"], "item_id": ["i"], "timestamp": [float("nan")]}
            ),
        },
        ["interactions.parquet", "row 1", "'timestamp'", "nan"],
    ),
    "truth as time": (
        {
            "interactions": None,
            "interactions_parquet": pl.DataFrame({"user_id": ["u"], "item_id": ["i"], "timestamp": [True]}),
        },
        ["interactions.parquet", "'timestamp'", "Boolean", "seconds"],
    ),
    "float ids": (
        {
            "interactions": None,
            "interactions_parquet": pl.DataFrame({"user_id": [1.0], "item_id": ["i"], "timestamp": [1]}),
        },
        ["interactions.parquet", "'user_id'", "Float64", "whole numbers"],
    ),
    "broken utf-8": (
        {"interactions": GOOD.encode() + b"u1,caf\xe9,1300000004\n"},
        ["interactions.csv", "row 4 (line 5)", "'item_id'", "byte 83", "e9", "UTF-8", "Save"],
    ),
    "broken utf-8 in a header": (
        {"interactions": b"user_id,item_id,timestamp,caf\xe9\nu,i,1,x\n"},
        ["interactions.csv", "header, cell 4 (line 1)", "byte 29", "UTF-8"],
    ),
    "broken utf-8 in a cell of two lines": (
        {"items": b'item_id,title\ni1,"a,\nb"\ni2,"c,\n\xff"\n'},
        ["items.csv", "row 2 (line 5)", "'title'", "byte 31", "UTF-8"],
    ),
    "utf-16": (
        {"interactions": GOOD.encode("utf-16")},
        ["interactions.csv", "line 1", "byte 0", "Save the file as UTF-8"],
    ),
    "duplicate item": (
        {"items": ITEMS + "i2,Again,Elm\ni1,Again,Oak\n"},
        ["items.csv", "row 4 (line 5)", "'item_id'", "'i2'", "row 2 (line 3)", "2 rows", "Keep one row"],
    ),
    "empty user id": (
        {"interactions": GOOD + ",i4,1300000004\n"},
        ["interactions.csv", "row 4 (line 5)", "'user_id'", "is empty", "Give every row an id"],
    ),
    "blank item id": (
        {"interactions": GOOD + "u1, ,1300000004\n"},
        ["row 4 (line 5)", "'item_id'", "is empty"],
    ),
    "empty item id": ({"items": ITEMS + ",x,y\n"}, ["items.csv", "row 4 (line 5)", "'item_id'", "is empty"]),
    "long row": (
        {"interactions": GOOD + "u1,i4,1300000004,9\n"},
        [
            "interactions.csv",
            "row 4 (line 5)",
            "4 cells where the header has 3",
            "as many cells as the header",
        ],
    ),
    "short row": (
        {"interactions": GOOD + "u1,i4\n"},
        ["row 4 (line 5)", "2 cells where the header has 3", "u1,i4"],
    ),
    "short row of items": ({"items": ITEMS + "i4,x\n"}, ["items.csv", "row 4 (line 5)", "2 cells"]),
    "open quote": (
        {"items": ITEMS + 'i4,"x,y\ni5,x,y\n'},
        ["items.csv", "row 4 (line 5)", "quoting", "Close every quote"],
    ),
    "text behind a quote": ({"items": ITEMS + 'i4,"x"y,z\n'}, ["items.csv", "row 4 (line 5)", "quoting"]),
    "bare CR": ({"interactions": GOOD.replace("\n", "\r")}, ["interactions.csv", "CR", "LF or CRLF"]),
    "gzip named csv": (
        {"interactions": gzip.compress(GOOD.encode())},
        ["interactions.csv", "gzip", ".csv.gz"],
    ),
    "not parquet": (
        {"interactions": None, "interactions_parquet": b"PAR1nonsense"},
        ["interactions.parquet", "parquet", "Write the file again"],
    ),
    "too many event types": (
        {
            "interactions": "user_id,item_id,timestamp,event\n"
            + "".join(f"u,i,{n},e{n}\n" for n in range(32_767))
        },
        ["interactions.csv", "'event'", "32,767", "view, cart, buy"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_names_file_place_column_value_and_remedy(write: Callable[..., Path], case: str) -> None:
    files, wanted = BAD[case]
    directory = write(**{"items": ITEMS, **files})
    with pytest.raises(DataError) as caught:
        load_dataset(directory)
    for words in wanted:
        assert words in str(caught.value)
    assert caught.value.code.startswith("data-")
    assert caught.value.remedy
    assert caught.value.remedy in str(caught.value)


@pytest.mark.parametrize("cut", [1, 20, -9, -1])
def test_truncated_gzip(write: Callable[..., Path], tmp_path: Path, cut: int) -> None:
    directory = write(None, ITEMS)
    (directory / "interactions.csv.gz").write_bytes(gzip.compress(GOOD.encode())[:cut])
    with pytest.raises(
        DataError, match=r"interactions\.csv\.gz: the gzip data is damaged or cut off .* again"
    ):
        load_dataset(tmp_path)


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: does not exist.* Give the directory"):
        load_dataset(tmp_path / "nowhere")
    (tmp_path / "interactions.csv").write_text(GOOD)
    with pytest.raises(DataError, match="is a file"):
        load_dataset(tmp_path / "interactions.csv")
