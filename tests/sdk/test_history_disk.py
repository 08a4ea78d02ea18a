"""Disks that are full or read-only, files of former versions, several processes: nothing is lost."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from history_files import child, refused
from pocketrec.events import Event
from pocketrec.history import History
from pocketrec.history_schema import MIGRATIONS, VERSION
from support import not_applicable

FORMER = {1: Path(__file__).parent / "history_v1.sql"}
"""What each former version wrote; a new migration brings a new entry."""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may go into, as pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def items(file: Path) -> list[str]:
    with History(file, create=False) as history:
        return [event.item_id for event in history.events()]


def sound(file: Path) -> bool:
    db = sqlite3.connect(file)
    try:
        return bool(db.execute("PRAGMA integrity_check").fetchone() == ("ok",))
    finally:
        db.close()


def test_there_is_a_file_of_every_former_version() -> None:
    assert sorted(FORMER) == list(range(1, VERSION))
    assert len(MIGRATIONS) == VERSION


@pytest.mark.parametrize("version", FORMER)
def test_a_file_of_a_former_version_is_brought_forward(tmp_path: Path, version: int) -> None:
    file = tmp_path / "me.db"
    db = sqlite3.connect(file)
    db.executescript(FORMER[version].read_text("utf-8"))
    db.close()
    with History(file) as history:
        assert history.events() == [
            Event("a", "view", 1_700_000_000),
            Event("b", "", None),
            Event("ü", "buy", 1_700_000_100),
        ]
        assert history.recording
        history.record("c", "view", 7)
    db = sqlite3.connect(file)
    assert db.execute("PRAGMA user_version").fetchone() == (VERSION,)
    assert db.execute("SELECT max(seq) FROM events").fetchone() == (5,)  # none is used twice
    db.close()
    assert sound(file)


def test_a_migration_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "me.db"
    db = sqlite3.connect(file)
    db.executescript(FORMER[1].read_text("utf-8"))
    db.close()
    with monkeypatch.context() as patch:
        broken = (MIGRATIONS[0], (*MIGRATIONS[1], "INSERT INTO no_such_table VALUES (1)"))
        patch.setattr("pocketrec.history_schema.MIGRATIONS", broken)
        assert refused(lambda: History(file)) == "history-invalid"
    db = sqlite3.connect(file)
    assert db.execute("PRAGMA user_version").fetchone() == (1,)
    db.close()
    assert items(file) == ["a", "b", "ü"]


UNTIL_FULL = """
import resource, sys
from pocketrec.history import History, HistoryError
history = History(sys.argv[1], max_events=10**6)
if sys.argv[2] == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
number = 0
try:
    while number < 5000:
        history.record(f"item-{number}-" + "x" * 300)
        number += 1
except HistoryError as error:
    print(number, error.code, len(history), flush=True)
    try:
        history.clear()
    except HistoryError as error:
        print(error.code, len(history), flush=True)
    else:
        print("cleared", len(history), flush=True)
"""


def ran_full(file: Path, how: str, prefix: tuple[str, ...] = ()) -> tuple[int, str, int, str, int]:
    done = subprocess.run(
        [*prefix, sys.executable, "-c", UNTIL_FULL, str(file), how],
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    first, second = done.stdout.splitlines()[-2:]
    acknowledged, code, stored = first.split()
    after, left = second.split()
    return int(acknowledged), code, int(stored), after, int(left)


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    if os.name == "nt":
        not_applicable("RLIMIT_FSIZE is of POSIX")
    file = tmp_path / "me.db"
    acknowledged, code, stored, after, left = ran_full(file, "limit")
    assert code in ("history-io", "history-full")
    assert stored == acknowledged > 0
    assert (after, left) in (("history-io", stored), ("history-full", stored), ("cleared", 0))
    assert len(items(file)) == left
    assert sound(file)


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """A disk of 300 kB in a mount namespace of its own; what is on it is copied off before it goes."""
    unshare = shutil.which("unshare")
    mount = f"mount -t tmpfs -o size=300k none {tmp_path}"
    if not unshare or subprocess.run([unshare, "-rm", "sh", "-c", mount], check=False).returncode:
        not_applicable("this system gives no mount namespaces")
    with tempfile.TemporaryDirectory() as outside:
        script = f'{mount} && "$@"; status=$?; cp {tmp_path}/me.db* {outside}/; exit $status'
        prefix = (str(unshare), "-rm", "sh", "-c", script, "sh")
        acknowledged, code, stored, after, left = ran_full(tmp_path / "me.db", "disk", prefix)
        assert code == "history-full"
        assert stored == acknowledged > 0
        assert (after, left) in (("history-full", stored), ("cleared", 0))
        assert len(items(Path(outside) / "me.db")) == left
        assert sound(Path(outside) / "me.db")


def test_room_again_after_full(tmp_path: Path) -> None:
    """`max_page_count` stands for the disk: full, then not; the same history goes on."""
    with History(tmp_path / "me.db") as history:
        history.record("first")
        writer = history._file._writer
        pages = writer.execute("PRAGMA page_count").fetchone()[0]
        writer.execute(f"PRAGMA max_page_count = {pages}")
        many = [f"item-{number}" + "x" * 400 for number in range(50)]
        assert refused(lambda: history.record_many(many)) == "history-full"
        assert [event.item_id for event in history.events()] == ["first"]
        writer.execute("PRAGMA max_page_count = 100000")
        history.record("second")
        assert [event.item_id for event in history.events()] == ["first", "second"]


TRY_TO_WRITE = """
import os, sys
from pocketrec.history import History, HistoryError
if os.geteuid() == 0:  # who may write everywhere
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    with History(sys.argv[1]) as history:
        history.record("new")
except HistoryError as error:
    print(error.code, flush=True)
"""


@pytest.mark.parametrize("present", [True, False])
def test_a_folder_one_may_not_write(open_folder: Path, present: bool) -> None:
    if os.name == "nt":
        not_applicable("Windows has no such rights")
    file = open_folder / "me.db"
    if present:
        with History(file) as history:
            history.record("old")
        file.chmod(0o444)
    open_folder.chmod(0o555)
    try:
        with child(TRY_TO_WRITE, file) as process:
            said, _ = process.communicate()
    finally:
        open_folder.chmod(0o755)
    assert said == "history-unwritable\n"
    assert [path.name for path in open_folder.iterdir()] == (["me.db"] if present else [])
    if present:
        assert items(file) == ["old"]


def _record_from(file: str, name: str, count: int) -> None:
    with History(file) as history:
        for number in range(count):
            history.record(f"{name}-{number}")


def test_processes_record_into_one_file_from_the_start(tmp_path: Path) -> None:
    """They make it, bring it to its version and write at the same time."""
    file, names = tmp_path / "me.db", ["a", "b", "c", "d"]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_record_from, args=(str(file), name, 25)) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    stored = items(file)
    assert len(stored) == 100
    for name in names:
        assert [item for item in stored if item[0] == name] == [f"{name}-{number}" for number in range(25)]


def test_a_history_does_not_survive_a_fork(tmp_path: Path) -> None:
    """SQLite's locks do not; a child that used it could damage the file."""
    if not hasattr(os, "fork"):
        not_applicable("there is no fork")
    history = History(tmp_path / "me.db")
    history.record("a")
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if refused(lambda: history.record("b")) == "history-forked":
                history.close()
                status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    history.record("c")
    assert [event.item_id for event in history.events()] == ["a", "c"]
    history.close()


def test_reads_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    file = tmp_path / "me.db"
    with History(file) as history:
        history.record("a")
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        other.execute("INSERT INTO events (item_id, event) VALUES ('not yet', '')")
        assert [event.item_id for event in history.events()] == ["a"]
        other.execute("COMMIT")
        other.close()
        assert [event.item_id for event in history.events()] == ["a", "not yet"]
