"""Reading in pieces and by codes: what comes out is what a dictionary and a sort would give."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketrec.errors import DataError
from pocketrec_export import data_time
from pocketrec_export.data import load_dataset
from pocketrec_tools.scale_data import make_scale_data

Row = tuple[str, str, int, str]
NAMES = st.sampled_from(["a", "b", " a", "01", "1", "Ω", "user 3", "c" * 20])
ROWS = st.lists(
    st.tuples(
        NAMES,
        NAMES,
        st.sampled_from([0, 1, 2, 2, 1_600_000_000, 1_600_000_000_000]),  # the last are milliseconds
        st.sampled_from(["", "view", "buy", " buy"]),
    ),
    min_size=1,
    max_size=30,
)


def write(directory: Path, rows: list[Row], known: list[str], kind: str) -> Path:
    users, items, times, events = zip(*rows, strict=True)
    table = pl.DataFrame({"user_id": users, "item_id": items, "timestamp": times, "event": events})
    catalogue = pl.DataFrame(
        {"item_id": known, "title": known}, schema={"item_id": pl.String, "title": pl.String}
    )
    for name, frame in (("interactions", table), ("items", catalogue)):
        if frame.height and kind == "csv":
            frame.write_csv(directory / f"{name}.csv", quote_style="always")
        elif frame.height:
            frame.write_parquet(directory / f"{name}.parquet", row_group_size=4)
    return directory


@settings(max_examples=40)
@given(
    ROWS,
    st.lists(NAMES, unique=True, max_size=4),
    st.sampled_from(["csv", "parquet"]),
    st.sampled_from([2, 99]),
)
def test_a_data_set_is_what_dictionaries_and_a_sort_make_of_its_rows(
    rows: list[Row], known: list[str], kind: str, block: int
) -> None:
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_time, "BLOCK", block)
        dataset = load_dataset(write(Path(directory), rows, known, kind))
    users = list(dict.fromkeys(row[0] for row in rows))
    items = list(dict.fromkeys([*known, *(row[1] for row in rows)]))
    assert (dataset.user_ids, dataset.item_ids) == (users, items)
    seconds = {time: time // 1000 if time > 10**11 else time for *_, time, _ in rows}
    ordered = sorted(rows, key=lambda row: (users.index(row[0]), seconds[row[2]]))  # stable
    assert [items[i] for i in dataset.items] == [row[1] for row in ordered]
    assert dataset.timestamps.tolist() == [seconds[row[2]] for row in ordered]
    assert [dataset.events[e] for e in dataset.event_ids] == [row[3].strip() for row in ordered]
    assert np.diff(dataset.offsets).tolist() == [sum(row[0] == user for row in rows) for user in users]
    report = dataset.report
    assert report.count("duplicate-row") == len(rows) - len(set(rows))
    assert report.count("unknown-item") == (sum(row[1] not in known for row in rows) if known else 0)
    assert report.count("timestamp-unit") == sum(row[2] > 10**11 for row in rows)
    assert report.count("empty-event") == sum(row[3] == "" for row in rows)


def test_rows_that_warnings_quote_are_the_first_of_all_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_time, "BLOCK", 3)
    rows = [("u", f"i{n}", 1_600_000_000_000 if n in (1, 5, 6) else 1_600_000_000, "") for n in range(10)]
    report = load_dataset(write(tmp_path, rows, [], "parquet")).report
    (found,) = [w for w in report.warnings if w.kind == "timestamp-unit"]
    assert (found.count, found.rows) == (3, (2, 6, 7))


def test_a_bad_value_in_a_late_piece_is_named_by_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_time, "BLOCK", 3)
    lines = [f"u,i{n},{'soon' if n in (4, 8) else 1_600_000_000}" for n in range(10)]
    (tmp_path / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]))
    with pytest.raises(DataError, match=r"row 5 \(line 6\).*'soon' is not a time \(and 1 more rows\)"):
        load_dataset(tmp_path)


def test_the_synthetic_set_is_of_the_size_asked_for_and_follows_its_seed(tmp_path: Path) -> None:
    sizes = {"users": 50, "items": 2500, "events": 900}
    dataset = load_dataset(make_scale_data(tmp_path / "a", **sizes))
    assert (dataset.num_users, dataset.num_items, dataset.num_events) == (50, 2500, 900)
    assert int(np.diff(dataset.offsets).min()) >= 2
    assert dataset.report.text_columns == ("title", "categories", "brand")
    again = load_dataset(make_scale_data(tmp_path / "b", **sizes))
    other = load_dataset(make_scale_data(tmp_path / "c", **sizes, seed=1))
    assert dataset.fingerprint == again.fingerprint != other.fingerprint
    with pytest.raises(DataError, match="99 events of 50 users"):
        make_scale_data(tmp_path / "d", users=50, items=10, events=99)
