"""Whose file it is, which version it has, and how it gets to ours.

`application_id` tells our files from other people's, `user_version` counts the migrations that a file has
been through. A file of an earlier release is brought forward in one transaction when it is opened; one of a
later release, or of another program, is refused and left as it is.
"""

from __future__ import annotations

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


def check_owner(db: Any, path: str) -> None:
    """Refuse a file that is not ours to touch.

    Raises:
        HistoryError: `history-foreign`, `history-newer`.
    """
    application, version = pragma(db, "application_id"), pragma(db, "user_version")
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application != APPLICATION_ID and (application or version or tables):
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
