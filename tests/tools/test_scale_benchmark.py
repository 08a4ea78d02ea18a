"""The scale benchmark: everything is measured, adds up, and stands in the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pocketrec.errors import DataError
from pocketrec_export.data import load_dataset
from pocketrec_tools.scale import ScaleResult, lines, run_scale
from pocketrec_tools.scale_data import make_scale_data
from pocketrec_tools.scale_measure import measure
from pocketrec_tools.scale_training import DISTILLED


def test_a_small_set_is_measured_from_reading_to_the_bundle(tmp_path: Path) -> None:
    data = make_scale_data(tmp_path / "data", users=60, items=300, events=3000)
    (tmp_path / "work").mkdir()
    found = measure({"data": str(data), "work": str(tmp_path / "work"), "minutes": 0.0, "seed": 0})
    assert (found["users"], found["items"], found["events"]) == (60, 300, 3000)
    # Two events of each user are held out, and the first of the others has none before it.
    lengths = np.diff(load_dataset(data).offsets)
    assert found["positions"] == int(np.maximum(lengths - 3, 0).sum())
    assert found["batches"] == 2
    training = found["training"]
    assert training["batches"] == 1
    assert 0 < training["rows"] <= 300
    assert training["positions"] <= 2048 + 50
    for name, stage in found["stages"].items():
        assert stage["seconds"] >= 0, name
        assert stage["peak_bytes"] > 50e6, name
    table = lines(ScaleResult({}, 0, [found, found]))
    assert table[0] == "| events | 3,000 | 3,000 |"
    assert len({line.count("|") for line in table}) == 1
    assert found["distilled"]["batches"] == DISTILLED
    assert found["listed"] >= 128
    assert not list((tmp_path / "work").glob("lists*"))


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    """Two sets are measured already; nothing is made or run for either."""
    for users, items, events in ((6, 60, 600), (60, 60, 6000)):
        (tmp_path / f"{users}-{items}-{events}-3").mkdir()
        (tmp_path / f"{users}-{items}-{events}-3.0.5.json").write_text(f'{{"events": {events}}}')
    result = run_scale(60, 60, 6000, minutes=0.5, sizes=2, seed=3, data=tmp_path)
    assert [found["events"] for found in result.sets] == [600, 6000]
    assert len(list(tmp_path.iterdir())) == 4


def test_sizes_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="5 sizes"):
        run_scale(10, 10, 100, minutes=0, sizes=5, seed=0, data=tmp_path)
    with pytest.raises(DataError, match="15 events of 10 users"):
        run_scale(10, 10, 15, minutes=0, sizes=1, seed=0, data=tmp_path)
