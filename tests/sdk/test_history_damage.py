"""Damaged files: whatever is in the bytes, the answer is a history or a typed error, nothing else."""

from __future__ import annotations

import secrets
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from history_files import refused
from pocketrec.history import History, HistoryError
from pocketrec.history_schema import APPLICATION_ID, VERSION
from support import not_applicable, require_package

TYPED = {
    "history-corrupt", "history-foreign", "history-newer", "history-invalid", "history-io",
    "history-key-wrong", "history-not-encrypted", "history-unwritable",
    "history-full",  # SQLite's word for a sequence number that has no successor
}  # fmt: skip


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a history and its log, as a killed process leaves them."""
    folder = tmp_path_factory.mktemp("intact")
    with History(folder / "me.db") as history:
        history.record_many([f"item-{number}-" + "x" * (number % 50) for number in range(300)])
        history.forget("item-7-xxxxxxx")
        history.record_many(["in the log", "too"])
        killed = folder / "killed"
        killed.mkdir()
        for path in folder.glob("me.db*"):
            shutil.copy(path, killed)
    assert (killed / "me.db-wal").stat().st_size
    return killed


def use(file: Path, key: bytes | None = None) -> None:
    """Everything one does with a history."""
    with History(file, key=key, max_events=250, max_age_seconds=10**9) as history:
        history.events()
        history.record("new", "view", 5)
        history.forget("item-8-xxxxxxxx")
        history.export(file.with_name("out.jsonl"))
        history.set_recording(False)
        history.erase()


change = st.tuples(st.sampled_from(["flip", "zero", "fill", "cut"]), st.floats(0, 1), st.integers(1, 600))


@settings(max_examples=120)
@given(
    which=st.sampled_from(["me.db", "me.db-wal", "me.db-shm"]),
    changes=st.lists(change, min_size=1, max_size=4),
)
def test_damage_is_a_typed_error_or_none(
    intact: Path, tmp_path_factory: pytest.TempPathFactory, which: str, changes: list[tuple[str, float, int]]
) -> None:
    folder = Path(shutil.copytree(intact, tmp_path_factory.mktemp("damaged") / "copy"))
    raw = bytearray((folder / which).read_bytes())
    for how, where, size in changes:
        start = int(where * max(0, len(raw) - 1))
        if how == "cut":
            del raw[start:]
        elif how == "flip" and raw:
            raw[start] ^= 1 << (size % 8)
        else:
            raw[start : start + size] = (b"\0" if how == "zero" else b"\xa5") * len(raw[start : start + size])
    (folder / which).write_bytes(raw)
    try:
        use(folder / "me.db")
    except HistoryError as error:
        assert error.code in TYPED  # noqa: PT017
        assert error.remedy  # noqa: PT017


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM settings",
        "DROP TABLE settings",
        "DROP TABLE events",
        "UPDATE events SET item_id = ''",
        "UPDATE events SET item_id = x'ff00'",
        "UPDATE events SET item_id = CAST(x'ff41' AS TEXT)",
        "UPDATE events SET timestamp = 'yesterday'",
        "UPDATE settings SET value = 'x'",
    ],
)
def test_rows_that_are_none(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "me.db"
    with History(file) as history:
        history.record_many(["a", "b"])
    db = sqlite3.connect(file)
    db.execute(damage)
    db.commit()
    db.close()
    assert refused(lambda: use(file)) in ("history-corrupt", "history-invalid")


@pytest.mark.parametrize("size", [0, 1, 15, 16, 99, 100, 511, 512, 4096])
@pytest.mark.parametrize("start", [b"", b"SQLite format 3\0"])
def test_files_that_are_no_database(tmp_path: Path, size: int, start: bytes) -> None:
    """An empty file is a new history; everything else is refused and stays as it is."""
    file, content = tmp_path / "me.db", start.ljust(size, b"\1")[:size]
    file.write_bytes(content)
    if size:
        assert refused(lambda: use(file)) in TYPED
        assert file.read_bytes() == content
    else:
        use(file)


def test_an_encrypted_file_that_is_damaged(tmp_path: Path) -> None:
    require_package("sqlcipher3", "pip install 'pocketrec[encryption]'")
    key, file = secrets.token_bytes(32), tmp_path / "me.db"
    with History(file, key=key) as history:
        history.record_many([str(number) for number in range(500)])
    raw = file.read_bytes()
    for place in range(10, len(raw), 1013):
        file.write_bytes(raw[:place] + bytes([raw[place] ^ 4]) + raw[place + 1 :])
        assert refused(lambda: use(file, key)) in ("history-corrupt", "history-key-wrong")
    file.write_bytes(raw)
    use(file, key)


def test_a_file_of_this_version_is_not_migrated_again(tmp_path: Path) -> None:
    file = tmp_path / "me.db"
    History(file).close()
    before = file.read_bytes()
    History(file).close()
    assert file.read_bytes() == before
    assert sqlite3.connect(file).execute("PRAGMA user_version").fetchone() == (VERSION,)


def test_a_schema_that_is_no_text(tmp_path: Path) -> None:
    """SQLite's message quotes it, and Python fails at the message; found by the fuzzer."""
    file = tmp_path / "me.db"
    History(file).close()
    raw = file.read_bytes()
    harmed = raw.replace(b"ON events (item_id)", b"\x98N events (item_id)")
    assert harmed != raw
    file.write_bytes(harmed)
    with pytest.raises(HistoryError) as caught:
        History(file)
    assert caught.value.code == "history-corrupt"
    assert file.read_bytes() == harmed


SURPLUS = [
    "CREATE TRIGGER keep AFTER INSERT ON events BEGIN INSERT INTO kept VALUES (new.item_id); END",
    "CREATE TRIGGER events AFTER DELETE ON events BEGIN SELECT raise(IGNORE); END",
    "CREATE TABLE kept (item_id TEXT)",
    "CREATE VIEW seen AS SELECT * FROM events",
    "CREATE INDEX other ON events (event)",
    "CREATE UNIQUE INDEX other ON events (lower(item_id))",
    "CREATE VIRTUAL TABLE words USING fts5(item_id)",
    "CREATE TABLE android_metadata (locale TEXT DEFAULT 'en')",
    "ALTER TABLE events ADD COLUMN copy TEXT AS (hex(item_id))",
]


@pytest.mark.parametrize("statement", SURPLUS)
@pytest.mark.parametrize("version", [1, VERSION])
def test_what_we_never_made_is_not_run(tmp_path: Path, statement: str, version: int) -> None:
    """A trigger would run with our statements, and keep what is forgotten. Nothing is written before this."""
    file = tmp_path / "me.db"
    with closing(sqlite3.connect(file)) as db:
        db.executescript(Path(__file__).with_name("history_v1.sql").read_text("utf-8"))
    if version > 1:
        with History(file) as history:
            history.record("mine")
    with closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA journal_mode=DELETE").fetchall()
        try:
            db.execute("CREATE TABLE kept (item_id TEXT)")
            db.execute("DROP TABLE kept" if "keep" not in statement else "SELECT 1")
            db.execute(statement)
        except sqlite3.OperationalError as error:
            not_applicable(f"this SQLite: {error}")
        db.commit()
    before = file.read_bytes()
    assert refused(lambda: History(file)) in ("history-foreign", "history-corrupt")
    assert file.read_bytes() == before
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("SELECT count(*) FROM events").fetchone()[0] >= 3


def test_what_androids_framework_adds_is_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "me.db"
    with closing(sqlite3.connect(file)) as db:
        db.execute("CREATE TABLE android_metadata (locale TEXT)")
    with History(file) as history:
        history.record("a")
    use(file)


@pytest.mark.parametrize("version", [-1, -3, -(2**31)])
def test_a_version_below_zero(tmp_path: Path, version: int) -> None:
    file = tmp_path / "me.db"
    with closing(sqlite3.connect(file)) as db:
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {version}")
    assert refused(lambda: History(file)) == "history-foreign"
