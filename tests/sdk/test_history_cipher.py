"""Encryption at rest, by the real SQLCipher: what is in the bytes, keys that are wrong, changes of key."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from history_files import bytes_on_disk, child, refused
from pocketrec.events import Event
from pocketrec.history import History
from pocketrec.history_cipher import change_key
from support import require_package

KEY, OTHER = secrets.token_bytes(32), secrets.token_bytes(32)
EVENTS = [Event("a-private-item", "view", 1_700_000_000), Event("another", "buy", None)]


HOLD = """
import sys
from pocketrec import History
history = History(sys.argv[1])
print(len(history), flush=True)
input()
"""


@pytest.fixture(autouse=True)
def sqlcipher() -> None:
    require_package("sqlcipher3", "pip install 'pocketrec[encryption]'")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "me.db"


def stored(file: Path, key: bytes | None) -> list[Event]:
    with History(file, key=key, create=False) as history:
        return history.events()


def test_nothing_can_be_read_without_the_key(file: Path) -> None:
    with History(file, key=KEY) as history:
        history.record_many(EVENTS)
        raw = bytes_on_disk(file)
    for data in (raw, bytes_on_disk(file)):
        for plain in (b"a-private-item", b"another", b"events", b"SQLite format", KEY, KEY.hex().encode()):
            assert plain not in data
    assert stored(file, KEY) == EVENTS
    before = file.read_bytes()
    assert refused(lambda: History(file, key=OTHER)) == "history-key-wrong"
    assert refused(lambda: History(file)) == "history-corrupt"
    assert file.read_bytes() == before


def test_an_encrypted_history_does_all_that_a_plain_one_does(file: Path) -> None:
    with History(file, key=KEY, max_events=20) as history:
        history.record_many([f"item-{number}" for number in range(20)])
        assert history.forget("item-3") == 1
        history.set_recording(False)
        assert history.record("no") is None
        history.set_recording(True)
        history.record_many(["x", "y", "z"])
        assert not history.erasure_pending
    assert [event.item_id for event in stored(file, KEY)][-3:] == ["x", "y", "z"]
    assert len(stored(file, KEY)) == 19  # 22 are more than 20: down to 20 less a sixteenth


@pytest.mark.parametrize("key", [b"", b"short", bytes(31), bytes(33), "a" * 32])
def test_keys_of_another_size_are_refused_and_not_shown(file: Path, key: bytes) -> None:
    assert refused(lambda: History(file, key=key)) == "history-key-invalid"
    assert not file.exists()


def test_a_plain_file_is_not_written_on_with_a_key(file: Path) -> None:
    with History(file) as history:
        history.record_many(EVENTS)
    assert refused(lambda: History(file, key=KEY)) == "history-not-encrypted"
    assert stored(file, None) == EVENTS


def test_a_changed_bit_is_found(file: Path) -> None:
    with History(file, key=KEY) as history:
        history.record_many(EVENTS)
    raw = bytearray(file.read_bytes())
    raw[4096 + 1000] ^= 1
    file.write_bytes(raw)
    assert refused(lambda: stored(file, KEY)) == "history-corrupt"


@pytest.mark.parametrize(
    ("old", "new"), [(None, KEY), (KEY, None), (KEY, OTHER)], ids=["encrypt", "decrypt", "change"]
)
def test_changing_the_key(file: Path, old: bytes | None, new: bytes | None) -> None:
    with History(file, key=old) as history:
        history.record_many([*EVENTS, "forgotten-thing"])
        history.forget("forgotten-thing")
        history.set_recording(False)
    with open(file, "rb") as old_file:
        change_key(file, old, new)
        assert not old_file.read().strip(b"\0")  # the old bytes are overwritten, not only unlinked
    assert stored(file, new) == EVENTS
    assert (b"a-private-item" in bytes_on_disk(file)) == (new is None)
    with History(file, key=new) as history:
        assert not history.recording
        history.set_recording(True)
        history.record("next")
        assert len(history) == 3
    if old is not None:
        assert refused(lambda: History(file, key=old)) in ("history-key-wrong", "history-not-encrypted")
    assert [path.name for path in file.parent.iterdir()] == ["me.db"]


def test_a_change_of_key_needs_the_file_for_itself(file: Path) -> None:
    with History(file) as history:
        history.record_many(EVENTS)
        assert refused(lambda: change_key(file, None, KEY)) == "history-busy"  # in this process
    with child(HOLD, file) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "2\n"
        assert refused(lambda: change_key(file, None, KEY)) == "history-busy"  # in another one
        assert stored(file, None) == EVENTS
        other.communicate("\n")
    change_key(file, None, KEY)
    assert stored(file, KEY) == EVENTS


def test_a_change_of_key_that_cannot_be_is_no_harm(file: Path) -> None:
    with History(file, key=KEY) as history:
        history.record_many(EVENTS)
    assert refused(lambda: change_key(file, OTHER, KEY)) == "history-key-wrong"
    assert refused(lambda: change_key(file, None, OTHER)) == "history-corrupt"
    assert refused(lambda: change_key(file, KEY, b"short")) == "history-key-invalid"
    assert refused(lambda: change_key(file, None, None)) == "history-key-invalid"
    assert refused(lambda: change_key(file.with_name("none"), KEY, OTHER)) == "history-missing"
    assert stored(file, KEY) == EVENTS


def test_what_a_killed_change_of_key_left_is_removed(file: Path) -> None:
    with History(file) as history:
        history.record_many(EVENTS)
    left = file.with_name("me.db.rekey")
    left.write_bytes(b"a copy that was not finished")
    assert stored(file, None) == EVENTS
    assert not left.exists()


WITHOUT_ROOM = """
import resource, sys
from pocketrec.history import HistoryError
from pocketrec.history_cipher import change_key
import sqlcipher3.dbapi2
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    change_key(sys.argv[1], None, bytes(32))
except HistoryError as error:
    print(error.code, flush=True)
"""


def test_a_change_of_key_without_room_leaves_all_as_it_was(file: Path) -> None:
    items = [f"item-{number}" for number in range(3000)]
    with History(file) as history:
        history.record_many(items)
    with child(WITHOUT_ROOM, file) as process:
        said, _ = process.communicate()
    assert said in ("history-io\n", "history-full\n")
    assert [event.item_id for event in stored(file, None)] == items
    assert [path.name for path in file.parent.iterdir()] == ["me.db"]
