"""A short load, and that a lost event would be seen."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from pocketrec import History
from pocketrec_tools.load import FLAT_BYTES, Load, _lost, load, page
from tiny_bundle import write_tiny_bundle


def test_a_short_load(tmp_path: Path) -> None:
    made = load(write_tiny_bundle(tmp_path / "bundle"), tmp_path / "me.db", threads=4, seconds=1.5)
    assert made.errors == []
    assert made.lost == 0
    assert made.recorded > 20
    assert made.ranked >= made.recorded
    text = page(made)
    assert f"| lists | {made.ranked} |" in text


ALL = ["0:0", "1:0", "0:1", "1:1", "0:2"]


@pytest.mark.parametrize(
    ("deleted", "stored", "recorded", "lost"),
    [
        ([], ALL, [3, 2], False),
        ([1], ALL, [3, 2], True),  # the oldest, with room for it
        ([3], ALL, [3, 2], True),
        ([5], ALL, [3, 2], True),
        ([], ALL, [3, 3], True),  # acknowledged, never stored
        ([], ALL, [4, 1], True),
        ([], [*ALL, "0:2"], [3, 2], True),  # twice
        ([], ["0:1", "0:0"], [2], True),  # in another order
    ],
)
def test_what_is_lost_is_seen(
    tmp_path: Path, deleted: list[int], stored: list[str], recorded: list[int], lost: bool
) -> None:
    file = tmp_path / "me.db"
    with History(file) as history:
        history.record_many([("a", event, 1) for event in stored])
    db = sqlite3.connect(file)
    db.executemany("DELETE FROM events WHERE seq = ?", [(seq,) for seq in deleted])
    db.commit()
    db.close()
    assert (_lost(file, recorded) > 0) == lost


def test_what_made_room_is_not_lost(tmp_path: Path) -> None:
    with History(tmp_path / "me.db") as history:
        history.record_many([("a", f"0:{number}", 1) for number in range(9_000)])
        history.record_many([("a", f"0:{number}", 1) for number in range(9_000, 12_000)])
        assert len(history) < 10_000
    assert _lost(tmp_path / "me.db", [12_000]) == 0
    assert _lost(tmp_path / "me.db", [12_001]) > 0


def test_growing_memory_is_seen() -> None:
    flat = [(float(second), 100 << 20) for second in range(40)]
    grows = [(float(second), (100 << 20) + second * FLAT_BYTES // 10) for second in range(40)]
    assert Load("b", 1, 40, memory=flat).ok
    assert not Load("b", 1, 40, memory=grows).ok
