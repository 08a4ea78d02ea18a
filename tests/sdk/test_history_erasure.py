"""What was deleted is nowhere in the bytes of any file, however it went and whoever was reading."""

from __future__ import annotations

import random
import sqlite3
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from history_files import bytes_on_disk, refused
from pocketrec.history import History


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), limit=st.sampled_from([7, 60, 10_000]))
def test_random_histories_leave_nothing_behind(seed: int, limit: int) -> None:
    """Ids of many lengths split and merge pages, where copies of deleted rows would be left behind."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "me.db"
        with History(file, max_events=limit) as history:
            made = 0
            for _ in range(chance.randint(1, 4)):
                batch = [f"<{number}>" + "x" * chance.randint(0, 200) for number in range(made, made + 100)]
                made += len(batch)
                history.record_many(batch)
                for item in chance.sample(batch, 5):
                    history.forget(item)
            assert not history.erasure_pending
            left = {event.item_id.split(">")[0] for event in history.events()}
            assert len(left) <= limit
            raw = bytes_on_disk(file)
        for data in (raw, bytes_on_disk(file)):  # while it is open, and closed
            for number in range(made):
                assert (b"<%d>" % number in data) == (f"<{number}" in left)


def test_a_reader_elsewhere_puts_the_erasure_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketrec.history_file.ERASE_SECONDS", 0.01)
    monkeypatch.setattr("pocketrec.history_file.RETRY_SECONDS", 0.0)
    file = tmp_path / "me.db"
    with History(file) as history:
        history.record_many(["public", "private-thing"])
        reader = sqlite3.connect(file, isolation_level=None)
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM events").fetchone() == (2,)
        assert history.forget("private-thing") == 1  # does not wait, does not fail
        assert [event.item_id for event in history.events()] == ["public"]
        assert history.erasure_pending
        assert refused(history.erase) == "history-busy"
        assert b"private-thing" in bytes_on_disk(file)  # the reader still sees it
        history.record("while it is read")
        assert history.erasure_pending
        reader.execute("COMMIT")
        reader.close()
        history.record("afterwards")  # the next write makes up for it
        assert not history.erasure_pending
        assert b"private-thing" not in bytes_on_disk(file)
        assert [event.item_id for event in history.events()] == ["public", "while it is read", "afterwards"]


@pytest.mark.parametrize("ending", ["close", "reopen"])
def test_a_pending_erasure_is_done_at_the_end_or_the_next_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr("pocketrec.history_file.ERASE_SECONDS", 0.01)
    file = tmp_path / "me.db"
    history = History(file)
    history.record_many(["public", "private-thing"])
    reader = sqlite3.connect(file, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM events").fetchone()
    history.clear()
    if ending == "close":
        reader.close()
        history.close()
    else:
        history.close()  # in vain: it is still read
        assert b"private-thing" in bytes_on_disk(file)
        reader.close()
        History(file).close()
    assert b"private-thing" not in bytes_on_disk(file)


def test_what_an_earlier_release_left_behind_is_erased(tmp_path: Path) -> None:
    """Version 1 relied on `secure_delete` alone."""
    file = tmp_path / "me.db"
    db = sqlite3.connect(file, isolation_level=None)
    db.executescript((Path(__file__).parent / "history_v1.sql").read_text("utf-8"))
    db.execute("PRAGMA secure_delete = OFF")
    db.execute("INSERT INTO events (item_id, event) VALUES ('left-behind-here', '')")
    db.execute("DELETE FROM events WHERE item_id = 'left-behind-here'")
    db.close()
    assert b"left-behind-here" in bytes_on_disk(file)
    History(file).close()
    assert b"left-behind-here" not in bytes_on_disk(file)


def test_retention_by_age_at_an_opening(tmp_path: Path) -> None:
    file, now = tmp_path / "me.db", int(time.time())
    with History(file) as history:
        history.record_many([("too-old-by-far", "", now - 2000), ("young", "", now)])
    with History(file, max_age_seconds=1000) as history:
        assert [event.item_id for event in history.events()] == ["young"]
    assert b"too-old-by-far" not in bytes_on_disk(file)


def test_retention_takes_a_sixteenth_at_once() -> None:
    with History(max_events=160) as history:
        history.record_many([str(number) for number in range(160)])
        assert len(history) == 160
        history.record("160")
        assert [event.item_id for event in history.events()] == [str(number) for number in range(11, 161)]


def test_the_clock_may_jump() -> None:
    """Order is that of recording; a jump back deletes nothing and loses nothing."""
    clock = [1_700_000_000.0]
    with History(max_age_seconds=1000, clock=lambda: clock[0]) as history:
        history.record("first")
        clock[0] -= 10 * 365 * 86400
        history.record("second")
        clock[0] += 10 * 365 * 86400 + 5
        history.record("third")  # the one that was recorded ten years ago, says the clock, is too old
        assert [event.item_id for event in history.events()] == ["first", "third"]
    clock[0] = 1_700_000_000.0
    with History(clock=lambda: clock[0]) as history:
        for name, step in (("a", 0), ("b", -500), ("c", -(10**9)), ("d", 10**9)):
            clock[0] += step
            history.record(name)
        assert [event.item_id for event in history.events()] == ["a", "b", "c", "d"]
        assert [event.timestamp for event in history.events()][1] == 1_699_999_500


def test_opting_out_is_remembered(tmp_path: Path) -> None:
    file = tmp_path / "me.db"
    with History(file) as history, History(file) as elsewhere:
        assert history.recording
        history.record("before")
        history.set_recording(False)
        assert not elsewhere.recording
        assert elsewhere.record("meanwhile") is None
        assert history.record_many(["meanwhile", "too"]) == 0
        assert history.clear() == 1
    with History(file) as history:
        assert not history.recording
        assert history.record("later") is None
        assert history.events() == []
        history.set_recording(True)
        assert history.record("again") is not None
        assert [event.item_id for event in history.events()] == ["again"]
    assert b"meanwhile" not in bytes_on_disk(file)
