"""The data directory: what is read, in what order, and what is warned of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_data import GOOD, HEAD, ITEMS

from pocketrec_export.data import Dataset, load_dataset


def events_of(dataset: Dataset, user: str) -> list[str]:
    return [dataset.item_ids[i] for i in dataset.items[dataset.user_slice(dataset.user_ids.index(user))]]


def test_reads_users_items_and_texts(write: Callable[..., Path]) -> None:
    dataset = load_dataset(write(GOOD + "u0,i2,1300000000\nu0,i9,1300000009\n", ITEMS))
    assert dataset.user_ids == ["u1", "u0"]
    assert dataset.item_ids == ["i1", "i2", "i3", "i9"]
    assert dataset.offsets.tolist() == [0, 3, 5]
    assert dataset.items.tolist() == [0, 1, 2, 1, 3]
    assert dataset.timestamps.tolist() == [1300000001, 1300000002, 1300000003, 1300000000, 1300000009]
    assert dataset.events == [""]
    assert dataset.event_ids.tolist() == [0] * 5
    assert dataset.texts == ["A tent. Oak", "A stove. Elm", "A lamp", ""]
    assert dataset.columns == {
        "title": ["A tent", "A stove", "A lamp", ""],
        "brand": ["Oak", "Elm", "", ""],
    }
    dtypes = [a.dtype for a in (dataset.offsets, dataset.items, dataset.timestamps, dataset.event_ids)]
    assert dtypes == [np.int64, np.int32, np.int64, np.int16]
    assert dataset.timed
    with pytest.raises(ValueError, match="read-only"):
        dataset.items[0] = 1


def test_time_orders_events_and_row_order_breaks_ties(write: Callable[..., Path]) -> None:
    rows = "a,x,1300000005\nb,x,1300000001\na,z,1300000002\na,y,1300000005\na,w,1300000005\nb,w,1300000001\n"
    dataset = load_dataset(write(HEAD + rows))
    assert events_of(dataset, "a") == ["z", "x", "y", "w"]
    assert events_of(dataset, "b") == ["x", "w"]


def test_ids_stay_text(write: Callable[..., Path]) -> None:
    dataset = load_dataset(write(HEAD + "001,1e3,1\n1,1000,2\n01,NA,3\nnull,é,4\n"))
    assert dataset.user_ids == ["001", "1", "01", "null"]
    assert dataset.item_ids == ["1e3", "1000", "NA", "é"]


def test_events_get_a_sorted_vocabulary(write: Callable[..., Path]) -> None:
    rows = "u,a,1,view\nu,b,2,cart\nu,c,3,\nu,d,4,buy\n"
    dataset = load_dataset(write("user_id,item_id,timestamp,event\n" + rows))
    assert dataset.events == ["", "buy", "cart", "view"]
    assert [dataset.events[e] for e in dataset.event_ids] == ["view", "cart", "", "buy"]
    assert dataset.report.event_types == ("buy", "cart", "view")
    assert dataset.report.count("empty-event") == 1


def test_gzip_byte_order_mark_crlf_and_quotes(write: Callable[..., Path]) -> None:
    text = '\ufeffuser_id,item_id,timestamp\r\nu,"a,b",1\r\nu,"say ""hi""",2\r\nu,"two\r\nlines",3\r\n'
    dataset = load_dataset(write(None, interactions_csv_gz=text))
    assert dataset.item_ids == ["a,b", 'say "hi"', "two\r\nlines"]


def test_parquet_equals_csv(write: Callable[..., Path], tmp_path: Path) -> None:
    expected = load_dataset(write(GOOD, ITEMS)).fingerprint
    for name in ("interactions", "items"):
        pl.read_csv(tmp_path / f"{name}.csv").write_parquet(tmp_path / f"{name}.parquet")
        (tmp_path / f"{name}.csv").unlink()
    assert load_dataset(tmp_path).fingerprint == expected


def test_parquet_types(write: Callable[..., Path]) -> None:
    interactions = pl.DataFrame(
        {
            "user_id": [7, 7],
            "item_id": pl.Series(["a", "b"], dtype=pl.Categorical),
            "timestamp": pl.Series([1_300_000_000_500, 1_300_000_000_400]).cast(pl.Datetime("ms")),
        }
    )
    items = pl.DataFrame({"item_id": ["a", "b"], "tags": [["x", "y"], []], "vector": [{"v": 1}, {"v": 2}]})
    dataset = load_dataset(write(None, interactions_parquet=interactions, items_parquet=items))
    assert dataset.user_ids == ["7"]
    assert events_of(dataset, "7") == ["b", "a"]
    assert dataset.timestamps.tolist() == [1_300_000_000] * 2
    assert dataset.texts == ["x, y", ""]
    assert [w.column for w in dataset.report.warnings if w.kind == "not-text"] == ["vector"]


def test_quote_marks_in_unquoted_cells_are_text(write: Callable[..., Path]) -> None:
    items = 'item_id,title\ni1,19" rack\ni2,"a ""b"" c"\ni3,plain\n'
    dataset = load_dataset(write(GOOD, items))
    assert dataset.columns["title"] == ['19" rack', 'a "b" c', "plain"]
    assert dataset.report.count("loose-quotes") == 1


def test_columns_of_ids_are_shown_but_no_text(write: Callable[..., Path]) -> None:
    rows = "".join(f"i{n},Thing {n},B{n:07},{n % 3},https://shop/{n}\n" for n in range(40))
    dataset = load_dataset(write(GOOD, "item_id,title,asin,shelf,link\n" + rows))
    assert dataset.report.text_columns == ("title", "shelf")
    assert dataset.report.other_columns == ("asin", "link")
    assert dataset.texts[4] == "Thing 4. 1"
    assert dataset.columns["asin"][4] == "B0000004"
    assert {w.column for w in dataset.report.warnings if w.kind == "not-text"} == {"asin", "link"}


def test_single_word_titles_are_text(write: Callable[..., Path]) -> None:
    rows = "".join(f"i{n},Word{n}\n" for n in range(40))
    assert load_dataset(write(GOOD, "item_id,title\n" + rows)).texts[:2] == ["Word0", "Word1"]


@pytest.mark.parametrize(
    ("values", "seconds", "kind"),
    [
        (["1300000002", "1300000001"], [1300000001, 1300000002], ""),
        (["1300000001.75", " 1300000001.5"], [1300000001, 1300000001], ""),
        (["1300000002500", "1300000001000"], [1300000001, 1300000002], "timestamp-unit"),
        (["1300000002000000", "1300000001"], [1300000001, 1300000002], "timestamp-unit"),
        (["1300000002000000000", "1300000001999999999"], [1300000001, 1300000002], "timestamp-unit"),
        (["2011-03-13", "2011-03-12"], [1299888000, 1299974400], "timestamp-date"),
        (["2011-03-13T07:06:42Z", "2011-03-13 07:06:41"], [1300000001, 1300000002], "timestamp-date"),
        (
            ["2011-03-13T09:06:42.5+02:00", "2011-03-13 02:36:41-0430"],
            [1300000001, 1300000002],
            "timestamp-date",
        ),
        (["1", "0"], [0, 1], "timestamp-position"),
        (["-5.5", "-1300000000"], [-1300000000, -6], "timestamp-position"),
    ],
)
def test_timestamps(write: Callable[..., Path], values: list[str], seconds: list[int], kind: str) -> None:
    """The second row is the earlier one in every case, and sorts first."""
    dataset = load_dataset(write(HEAD + f"u,late,{values[0]}\nu,early,{values[1]}\n"))
    assert events_of(dataset, "u") == ["early", "late"]
    assert dataset.timestamps.tolist() == seconds
    assert {w.kind for w in dataset.report.warnings if w.kind.startswith("timestamp")} == ({kind} - {""})
    assert dataset.timed == (kind != "timestamp-position")


def test_warnings_count_what_is_odd(write: Callable[..., Path]) -> None:
    text = (
        "user_id,item_id,timestamp,rating,shop\n"
        "a,i1,1300000001,5,x\n"
        "a,i9,1300000002,5,x\n"
        "a,i9,1300000002,5,x\n"
        "\n"
        "b,i8,1300000003,5,x\n"
        " c,i1,1300000004,5,x\n"
        " c,i1,1300000005,5,x\n"
    )
    report = load_dataset(write(text, ITEMS, kg_csv="head,tail\n")).report
    found = {w.kind: w for w in report.warnings}
    counts = {kind: w.count for kind, w in found.items()}
    assert counts == {
        "blank-row": 1,
        "padded-id": 2,
        "unused-rating": 6,
        "unused-column": 6,
        "duplicate-row": 1,
        "unknown-item": 3,
        "one-event-user": 1,
        "two-event-user": 1,
        "cold-item": 2,
        "unused-file": 1,
    }
    assert found["unknown-item"].rows == (2, 3, 5)
    assert found["unknown-item"].values == ("i9", "i8")
    assert found["duplicate-row"].rows == (3,)
    assert found["blank-row"].rows == (4,)
    assert found["padded-id"].rows == (6, 7)
    assert found["one-event-user"].values == ("b",)
    assert found["cold-item"].values == ("i2", "i3")
    for warning in report.warnings:
        assert str(warning) in str(report)
        assert str(warning).startswith(warning.file)
        assert warning.column in str(warning)
    assert (report.users, report.items, report.events, report.interacted_items) == (3, 5, 6, 3)
    assert report.to_dict()["warnings"][0]["kind"] == "blank-row"


def test_items_without_text_and_a_missing_items_file_are_said(write: Callable[..., Path]) -> None:
    assert load_dataset(write(GOOD)).report.count("no-items-file") == 1
    assert load_dataset(write(GOOD, "item_id,title\ni1,x\ni2,\ni3, \n")).report.count("no-text") == 2


def test_ids_of_two_worlds_are_said_plainly(write: Callable[..., Path]) -> None:
    report = load_dataset(write(GOOD, "item_id,title\n1,x\n")).report
    assert "no item id of the interactions is in items.csv" in str(report)


def test_fingerprint_sees_every_part_and_nothing_else(write: Callable[..., Path]) -> None:
    first = load_dataset(write(GOOD, ITEMS))
    assert load_dataset(write(GOOD, ITEMS)).fingerprint == first.fingerprint
    assert len(first.fingerprint) == 64
    changed = {
        load_dataset(write(interactions, items)).fingerprint
        for interactions, items in [
            (GOOD.replace("u1", "u2"), ITEMS),
            (GOOD.replace("1300000003", "1300000004"), ITEMS),
            (GOOD.replace("i3,", "i2,"), ITEMS),
            (GOOD, ITEMS.replace("lamp", "lantern")),
            (GOOD.replace("\n", ",view\n").replace("timestamp,view", "timestamp,event"), ITEMS),
        ]
    }
    assert len(changed) == 5
    assert first.fingerprint not in changed


@given(
    rows=st.lists(
        st.tuples(st.sampled_from("abcde"), st.sampled_from("vwxyz"), st.integers(0, 5)),
        min_size=1,
        max_size=30,
    ),
    data=st.data(),
)
def test_row_order_between_users_only_renumbers(
    rows: list[tuple[str, str, int]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Shuffling users among each other keeps every history; so does sorting by time where no times tie."""
    users = data.draw(st.permutations(sorted({user for user, _, _ in rows})))
    shuffled = sorted(rows, key=lambda row: users.index(row[0]))
    histories = []
    for table in (rows, shuffled):
        directory = tmp_path_factory.mktemp("rows")
        text = HEAD + "".join(f"{user},{item},{time}\n" for user, item, time in table)
        (directory / "interactions.csv").write_text(text)
        dataset = load_dataset(directory)
        assert sorted(dataset.item_ids) == sorted({item for _, item, _ in rows})
        histories.append({user: events_of(dataset, user) for user in dataset.user_ids})
    assert histories[0] == histories[1]
    for user, history in histories[0].items():
        assert history == [
            item for _, item, _ in sorted((r for r in rows if r[0] == user), key=lambda row: row[2])
        ]


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("ml-100k", (943, 1682, 100_000)),
        ("amazon-beauty", (22_363, 12_101, 198_502)),
        ("lastfm", (1220, 4606, 52_925)),
    ],
)
def test_research_data(shared_data: Callable[[str], Path], name: str, counts: tuple[int, int, int]) -> None:
    dataset = load_dataset(shared_data(name))
    assert (dataset.num_users, dataset.num_items, dataset.num_events) == counts
    assert all(dataset.texts)
    assert "asin" not in dataset.report.text_columns
