"""Whose file it is, which version it has, and how it gets to ours.

`application_id` tells our files from other people's, `user_version` counts the migrations that a file has
been through. A file of an earlier release is brought forward in one transaction when it is opened; one of a
later release, or of another program, is refused and left as it is.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from typing import Any

from pocketrec.history_errors import HistoryError, damaged

APPLICATION_ID = 0x706B7472  # "pktr"

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # AUTOINCREMENT: a sequence number is never used twice, also not after the newest event was forgotten.
        "CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, item_id TEXT NOT NULL,"
        " event TEXT NOT NULL, timestamp INTEGER)",
        "CREATE INDEX events_item ON events (item_id)",
    ),
    (
        "CREATE INDEX events_timestamp ON events (timestamp)",  # retention by age, with every record
        # `recording`: 0 when this person opted out. `deleted`, `erased`: how many deletions there were, and
        # up
        # to which of them nothing is left in the file; when they differ, an erasure is still to be done.
        "CREATE TABLE settings (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
        # What a release before this one deleted may still lie about.
        "INSERT INTO settings VALUES ('recording', 1), ('deleted', (SELECT count(*) > 0 FROM events)),"
        " ('erased', 0)",
    ),
)
"""Statements that lead from version i to version i + 1."""

VERSION = len(MIGRATIONS)


_FRAMEWORK = ("table", "android_metadata", "android_metadata", "CREATE TABLE android_metadata (locale TEXT)")
"""What Android's framework puts into every database that it opens."""


def check_owner(db: Any, path: str) -> None:
    """Refuse a file that is not ours to touch: another program's, a later release's, or one of ours with more
    in it than we made.

    A trigger, a view in the place of a table or a column with an expression would run with our statements,
    and keep what was deleted; so the schema has to be ours to the letter, before anything is written.

    Raises:
        HistoryError: `history-foreign`, `history-newer`, `history-corrupt` (something of ours is missing).
    """
    db.execute("BEGIN")  # one state: another process may be making the file just now
    try:
        application, version = pragma(db, "application_id"), pragma(db, "user_version")
        rows = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
    finally:
        if db.in_transaction:  # an error of the disk has ended it already
            db.execute("ROLLBACK")
    # An index without a statement is one that SQLite made for a key of a table.
    found = {row for row in rows if row[3] is not None or row[0] != "index"} - {_FRAMEWORK}
    if version < 0 or (application != APPLICATION_ID and (application or version or found)):
        raise HistoryError(
            f"{path} is a database of another program.",
            code="history-foreign",
            remedy="Choose another file for the history.",
        )
    if version > VERSION:
        raise HistoryError(
            f"{path} has version {version}; this release knows {VERSION}.",
            code="history-newer",
            remedy="Update pocketrec.",
        )
    ours = _schema(version)
    if ours - found:
        raise damaged(f"{path} lacks, or has another, {_names(ours - found)}")
    if found - ours:
        raise HistoryError(
            f"{path} holds what pocketrec never made: {_names(found - ours)}.",
            code="history-foreign",
            remedy="Somebody changed it; restore it from a backup, or choose another file for the history.",
        )


def _names(rows: Iterable[tuple[Any, ...]]) -> str:
    """Kind and name of a few; the names are a stranger's."""
    names = sorted(f"{row[0]!s:.20} {str(row[1])[:60]!r}" for row in rows)
    return ", ".join(names[:5])


@functools.cache
def _schema(version: int) -> frozenset[tuple[str, str, str, str]]:
    """What a file of this version has in `sqlite_master`: (type, name, table, statement)."""
    with closing(sqlite3.connect(":memory:")) as db:
        for statement in (statement for step in MIGRATIONS[:version] for statement in step):
            db.execute(statement)
        rows = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        return frozenset(rows.fetchall())


def migrate(db: Any) -> None:
    """Bring the file to `VERSION`, all or nothing; called inside a transaction that holds the write lock."""
    # Read here, under the lock: another process may have migrated meanwhile.
    for version in range(pragma(db, "user_version"), VERSION):
        for statement in MIGRATIONS[version]:
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {version + 1}")
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def setting(db: Any, name: str) -> int:
    """The value of a setting.

    Raises:
        HistoryError: `history-corrupt`, there is none.
    """
    row = db.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
    if row is None or not isinstance(row[0], int):
        raise damaged(f"its setting {name} is {row!r}")
    return row[0]


def pragma(db: Any, name: str) -> int:
    """The value of a pragma that is a number."""
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])
