"""The stored history: order, retention, deletion beyond recovery, and files that are not ours."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from history_files import bytes_on_disk
from pocketrec.errors import DataError
from pocketrec.events import Event
from pocketrec.history import History, HistoryError
from support import not_applicable


def test_events_come_back_in_the_order_they_were_recorded(tmp_path: Path) -> None:
    file = tmp_path / "me.db"
    given = [Event("a", "view", 500), Event("b", "buy", 100), Event("a", "", None), Event("ü\n\x00", "x", -5)]
    with History(file) as history:
        assert history.record("a", "view", 500) == given[0]
        assert history.record_many([("b", "buy", 100), Event("a"), given[3]]) == 3
    with History(file) as history:
        assert history.events() == given
        assert len(history) == 4


def test_record_many_is_all_or_nothing() -> None:
    with History() as history:
        with pytest.raises(DataError):
            history.record_many(["a", "b", ""])
        assert history.events() == []


@given(counts=st.lists(st.integers(0, 7), max_size=8), limit=st.integers(1, 9))
def test_retention_by_count_keeps_the_newest(counts: list[int], limit: int) -> None:
    recorded: list[str] = []
    with History(max_events=limit) as history:
        for count in counts:
            batch = [f"i{len(recorded) + index}" for index in range(count)]
            recorded += batch
            history.record_many(batch)
        assert [event.item_id for event in history.events()] == recorded[-limit:]


def test_retention_by_count_also_with_holes() -> None:
    with History(max_events=3) as history:
        history.record_many(["a", "b", "c"])
        history.forget("b")
        history.record_many(["d", "e"])
        assert [event.item_id for event in history.events()] == ["c", "d", "e"]
        history.clear()
        history.record("f")
        assert [event.item_id for event in history.events()] == ["f"]


def test_retention_by_age() -> None:
    now = int(time.time())
    with History(max_age_seconds=1000) as history:
        history.record_many([("old", "", now - 2000), ("unknown", "", None), ("young", "", now - 10)])
        history.record("new")
        assert [event.item_id for event in history.events()] == ["unknown", "young", "new"]


def test_retention_by_age_follows_the_clock_given() -> None:
    now = 1_000_000.0
    with History(max_age_seconds=1600, clock=lambda: now) as history:
        made = history.record("first")
        assert made is not None
        assert made.timestamp == 1_000_000
        now += 1000
        history.record("second")
        assert len(history) == 2
        now += 1000
        history.record("third")
        assert [event.item_id for event in history.events()] == ["second", "third"]


@pytest.mark.parametrize("delete", ["forget", "clear", "retention"])
def test_what_was_deleted_is_not_in_the_file(tmp_path: Path, delete: str) -> None:
    file = tmp_path / "me.db"
    with History(file, max_events=40) as history:
        history.record_many([f"public-{i}" for i in range(20)])
        history.record_many(["something-private-" + "x" * 40] * 20)
        assert b"something-private" in bytes_on_disk(file)
        if delete == "forget":
            assert history.forget("something-private-" + "x" * 40) == 20
        elif delete == "clear":
            assert history.clear() == 40
        else:
            history.record_many([f"later-{i}" for i in range(40)])
        assert b"something-private" not in bytes_on_disk(file)  # while it is open, with its log
    assert b"something-private" not in bytes_on_disk(file)


def test_export_is_json_lines(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("what was there before")
    with History() as history:
        history.record_many([("ä", "view", 5), "b"])
        assert history.export(out) == 2
        lines = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
        assert lines == [
            {"item_id": "ä", "event": "view", "timestamp": 5},
            {"item_id": "b", "event": "", "timestamp": None},
        ]
        with pytest.raises(HistoryError) as caught:
            history.export(tmp_path / "no such directory" / "out.jsonl")
        assert caught.value.code == "export-failed"
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_only_the_owner_may_read_the_file(tmp_path: Path) -> None:
    if os.name == "nt":
        not_applicable("Windows has no such rights")
    with History(tmp_path / "me.db") as history:
        history.record("a")
        modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o600}


def refusal(file: Path, *, create: bool = True) -> str:
    with pytest.raises(HistoryError) as caught:
        History(file, create=create)
    assert str(file) in str(caught.value)
    assert caught.value.remedy
    return caught.value.code


def test_files_that_are_not_ours_are_left_as_they_are(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE events (mine TEXT)")
    db.close()
    text = tmp_path / "text.db"
    text.write_text("no database at all, but long enough to be one if it wanted to " * 20)
    newer = tmp_path / "newer.db"
    History(newer).close()
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    before = {path: path.read_bytes() for path in (foreign, text, newer)}
    assert refusal(foreign) == "history-foreign"
    assert refusal(text) == "history-corrupt"
    assert refusal(newer) == "history-newer"
    assert {path: path.read_bytes() for path in before} == before


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "me.db"
    with History(file, max_events=10**6) as history:
        history.record_many([f"item-{i}" for i in range(5000)])
    raw = bytearray(file.read_bytes())
    raw[4096:-4096] = bytes(random.Random(0).randbytes(len(raw) - 8192))
    file.write_bytes(raw)
    with pytest.raises(HistoryError) as caught, History(file) as history:
        history.events()
    assert caught.value.code == "history-corrupt"


def test_places_where_no_history_can_be(tmp_path: Path) -> None:
    assert refusal(tmp_path) == "history-unwritable"
    assert refusal(tmp_path / "absent" / "me.db") == "history-unwritable"
    assert refusal(tmp_path / "me.db", create=False) == "history-missing"
    assert not (tmp_path / "me.db").exists()


def test_a_locked_file_is_an_error_and_then_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pocketrec.history_file.BUSY_SECONDS", 0.05)
    file = tmp_path / "me.db"
    with History(file) as history:
        history.record("a")
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(HistoryError) as caught:
            history.record("b")
        assert caught.value.code == "history-busy"
        other.execute("ROLLBACK")
        other.close()
        history.record("c")
        assert [event.item_id for event in history.events()] == ["a", "c"]


def test_a_closed_history_says_so() -> None:
    history = History()
    history.close()
    history.close()
    with pytest.raises(HistoryError) as caught:
        history.record("a")
    assert caught.value.code == "closed"


def test_threads_share_one_history(tmp_path: Path) -> None:
    with History(tmp_path / "me.db") as history:
        threads = [
            threading.Thread(target=lambda n=n: [history.record(f"{n}-{i}") for i in range(20)])
            for n in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stored = [event.item_id for event in history.events()]
    assert sorted(stored) == sorted(f"{n}-{i}" for n in range(6) for i in range(20))
    for n in range(6):  # each thread's own order is kept
        assert [item for item in stored if item.startswith(f"{n}-")] == [f"{n}-{i}" for i in range(20)]


RECORD_FOR_EVER = """
import sys
from pocketrec.history import History
history = History(sys.argv[1], max_events=10**6)
number = int(sys.argv[2])
while True:
    history.record(f"item-{number}", "view", number)
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
    number += 1
"""


def test_every_acknowledged_event_survives_a_kill(tmp_path: Path) -> None:
    """A child records and prints what was acknowledged; it is killed at a random moment, several times
    over."""
    if os.name == "nt":
        not_applicable("SIGKILL is of POSIX")
    file = tmp_path / "me.db"
    chance = random.Random(7)
    acknowledged = 0
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", RECORD_FOR_EVER, str(file), str(acknowledged)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(chance.randint(5, 40))]
        time.sleep(chance.random() * 0.01)
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
        child.wait()
        child.stdout.close()
        last = max(int(line) for line in lines if line.endswith("\n"))
        with History(file) as history:
            stored = [event.timestamp for event in history.events()]
        # All that was acknowledged, in order, none twice; at most the one under way beyond it.
        assert stored in (list(range(last + 1)), list(range(last + 2)))
        acknowledged = len(stored)
