"""The history of one person, in SQLite: what was recorded is there after a crash, what was deleted is gone.

* WAL with `synchronous=FULL`: a commit returns after its log is on the disk, so `record` is durable when it
  returns, also when the power fails. (`NORMAL`, the usual choice with WAL, may lose the last commits then.)
* `secure_delete=ON` overwrites what is deleted, and a deletion empties the log behind it.
* Order is the order of recording, whatever the clock did meanwhile.
* `application_id` tells our files from other people's, `user_version` drives migrations.

Opening never harms a file: one that is foreign, damaged or of a later release is refused and left as it is.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pocketrec.errors import PocketrecError
from pocketrec.events import Event, HistoryItem, as_events

APPLICATION_ID = 0x706B7472  # "pktr"
BUSY_SECONDS = 5.0
MAX_EVENTS = 10_000
"""Default retention by count: far more than any `length`, and a file of about a megabyte."""

_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # AUTOINCREMENT: a sequence number is never used twice, also not after the newest event was forgotten.
        "CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, item_id TEXT NOT NULL,"
        " event TEXT NOT NULL, timestamp INTEGER)",
        "CREATE INDEX events_item ON events (item_id)",
    ),
)
"""Statements that lead from version i to version i + 1."""


class HistoryError(PocketrecError):
    """A history file that cannot be used or written: missing, foreign, damaged, newer, locked, full,
    read-only."""

    default_code = "history-invalid"


class History:
    """The stored events of one person. Thread-safe; several processes may use one file.

    Args:
        path: the file, made when absent; ":memory:" keeps the history in memory.
        max_events: the oldest events beyond this many are deleted as new ones come.
        max_age_seconds: events older than this, by their timestamp and this machine's clock, are deleted as
            new ones come; None keeps them.
        create: False refuses a file that does not exist.

    Raises:
        HistoryError: `history-missing`, `history-foreign`, `history-corrupt`, `history-newer`,
            `history-unwritable`.
    """

    def __init__(
        self,
        path: str | Path = ":memory:",
        *,
        max_events: int = MAX_EVENTS,
        max_age_seconds: int | None = None,
        create: bool = True,
    ) -> None:
        if max_events < 1 or (max_age_seconds is not None and max_age_seconds < 1):
            raise HistoryError(
                f"max_events {max_events} and max_age_seconds {max_age_seconds} must be positive.",
                code="argument-invalid",
            )
        self.path = str(path)
        self.max_events = max_events
        self.max_age_seconds = max_age_seconds
        self._lock = threading.RLock()
        self._closed = False
        if self.path != ":memory:":
            _prepare_file(Path(self.path), create)
        with self._typed():
            self._db = sqlite3.connect(
                self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        try:
            with self._typed():
                self._check_owner()
                for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "foreign_keys=ON"):
                    self._db.execute(f"PRAGMA {pragma}").fetchall()
                self._migrate()
        except BaseException:
            self._db.close()
            raise

    def record(self, item_id: str, event: str = "", timestamp: int | None = None) -> Event:
        """Append one event and return it; durable when this returns. No timestamp means now."""
        made = Event(item_id, event, int(time.time()) if timestamp is None else timestamp)
        self.record_many([made])
        return made

    def record_many(self, events: Iterable[HistoryItem]) -> int:
        """Append events, oldest first, all or none; returns how many. A timestamp of None is stored as
        unknown."""
        made = as_events(events)
        rows = [(e.item_id, e.event, e.timestamp) for e in made]
        with self._transaction() as db:
            db.executemany("INSERT INTO events (item_id, event, timestamp) VALUES (?, ?, ?)", rows)
            deleted = self._retain(db)
        if deleted:
            self._empty_log()
        return len(made)

    def events(self) -> list[Event]:
        """Every stored event, oldest first."""
        with self._typed():
            rows = self._db.execute("SELECT item_id, event, timestamp FROM events ORDER BY seq").fetchall()
        return [Event(*row) for row in rows]

    def __len__(self) -> int:
        with self._typed():
            return int(self._db.execute("SELECT count(*) FROM events").fetchone()[0])

    def forget(self, item_id: str) -> int:
        """Delete every event of an item, beyond recovery from the file; returns how many there were."""
        return self._delete("DELETE FROM events WHERE item_id = ?", (item_id,))

    def clear(self) -> int:
        """Delete everything, beyond recovery from the file; returns how many events there were."""
        return self._delete("DELETE FROM events", ())

    def export(self, path: str | Path) -> int:
        """Write the history as JSON lines (`item_id`, `event`, `timestamp`), oldest first; returns how many.

        An existing file is replaced only when all is written.
        """
        events = self.events()
        target = Path(path)
        partial = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with open(partial, "w", encoding="utf-8") as out:
                for event in events:
                    line = {"item_id": event.item_id, "event": event.event, "timestamp": event.timestamp}
                    out.write(json.dumps(line, ensure_ascii=False) + "\n")
                out.flush()
                os.fsync(out.fileno())
            os.replace(partial, target)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise HistoryError(
                f"the history cannot be exported to {target}: {error.strerror}.",
                code="export-failed",
                remedy="Choose a file in a writable directory.",
            ) from None
        return len(events)

    def close(self) -> None:
        """Close the file; anything but `close` is an error afterwards."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._db.close()

    def __enter__(self) -> History:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _delete(self, statement: str, values: Sequence[str]) -> int:
        with self._transaction() as db:
            count = db.execute(statement, values).rowcount
        self._empty_log()
        return int(count)

    def _retain(self, db: sqlite3.Connection) -> int:
        """Apply retention; returns how many events went. Costs two index look-ups when there is nothing to
        do."""
        deleted = 0
        first, last = db.execute("SELECT min(seq), max(seq) FROM events").fetchone()
        if first is not None and last - first >= self.max_events:
            border = "SELECT seq FROM events ORDER BY seq DESC LIMIT 1 OFFSET ?"
            deleted += db.execute(f"DELETE FROM events WHERE seq <= ({border})", (self.max_events,)).rowcount
        if self.max_age_seconds is not None:
            oldest = int(time.time()) - self.max_age_seconds
            deleted += db.execute("DELETE FROM events WHERE timestamp < ?", (oldest,)).rowcount
        return deleted

    def _empty_log(self) -> None:
        """Move the log into the file and truncate it: it still holds the pages as they were before the
        deletion.

        A reader in another process may hold it open; then the next deletion, or the last close, empties it.
        """
        with self._lock, suppress(sqlite3.OperationalError):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _check_owner(self) -> None:
        application = self._pragma("application_id")
        version = self._pragma("user_version")
        tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application != APPLICATION_ID and (application or version or tables):
            raise HistoryError(
                f"{self.path} is a database of another program.",
                code="history-foreign",
                remedy="Choose another file for the history.",
            )
        if version > len(_MIGRATIONS):
            raise HistoryError(
                f"{self.path} has version {version}; this release knows {len(_MIGRATIONS)}.",
                code="history-newer",
                remedy="Update pocketrec.",
            )

    def _migrate(self) -> None:
        if self._pragma("user_version") == len(_MIGRATIONS):
            return
        with self._transaction() as db:
            # Read again inside the transaction: another process may have migrated meanwhile.
            for version in range(self._pragma("user_version"), len(_MIGRATIONS)):
                for statement in _MIGRATIONS[version]:
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {version + 1}")
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._typed():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _typed(self) -> Iterator[None]:
        """Hold the lock and turn SQLite's errors into ours."""
        with self._lock:
            if self._closed:
                raise HistoryError("the history is closed.", code="closed", remedy="Open it again.")
            try:
                yield
            except sqlite3.Error as error:
                raise _translate(error, self.path) from error


def _prepare_file(path: Path, create: bool) -> None:
    """Make an absent file readable by its owner only, before SQLite would make it with the usual rights."""
    if path.exists():
        if path.is_dir():
            raise HistoryError(f"{path} is a directory.", code="history-unwritable", remedy="Name a file.")
        return
    if not create:
        raise HistoryError(
            f"there is no history at {path}.", code="history-missing", remedy="Check the path."
        )
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise HistoryError(
            f"the history {path} cannot be made: {error.strerror}.",
            code="history-unwritable",
            remedy="Choose a file in a writable directory.",
        ) from None


def _translate(error: sqlite3.Error, path: str) -> HistoryError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    reasons: dict[int, tuple[str, str]] = {
        sqlite3.SQLITE_NOTADB: ("history-corrupt", "It is no database; choose another file."),
        sqlite3.SQLITE_CORRUPT: ("history-corrupt", "Restore it from a backup, or start a new file."),
        sqlite3.SQLITE_CANTOPEN: ("history-unwritable", "Choose a file in a writable directory."),
        sqlite3.SQLITE_READONLY: ("history-unwritable", "Choose a file in a writable directory."),
        sqlite3.SQLITE_PERM: ("history-unwritable", "Choose a file in a writable directory."),
        sqlite3.SQLITE_FULL: ("history-full", "Free some space; nothing that was recorded before is lost."),
        sqlite3.SQLITE_IOERR: ("history-io", "Check the disk; nothing that was recorded before is lost."),
        sqlite3.SQLITE_BUSY: ("history-busy", "Another process holds it; try again."),
        sqlite3.SQLITE_LOCKED: ("history-busy", "Another process holds it; try again."),
    }
    kind, remedy = reasons.get(code, ("history-invalid", "Choose another file for the history."))
    return HistoryError(f"the history {path} cannot be used: {error}.", code=kind, remedy=remedy)
