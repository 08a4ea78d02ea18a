"""The file under a history: its connections, transactions and durability, and making deleted things vanish.

* One connection writes, under a lock; reads have connections of their own. In WAL they see the last commit
  and wait neither for the writer nor for each other, and the writer does not wait for them.
* `synchronous=FULL`: a commit returns after its log is on the disk, so what was acknowledged is there, also
  when the power fails. `NORMAL`, the usual choice with WAL, keeps the file sound but may lose the last
  commits then; it would save one fsync a commit. `fullfsync` asks Apple's disks to mean it.
* `secure_delete` overwrites what is deleted, yet B-tree pages that were rebalanced keep old copies of cells
  in their unused part, and the log keeps pages as they were. `erase` rebuilds the file (VACUUM) and empties
  the log; nothing of what was deleted is left in either then.
* Scratch data stays in memory (`temp_store`): nothing leaks through temporary files.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pocketrec.history_cipher import PARTIAL, discard, driver_for, refuse_plain, unlock
from pocketrec.history_errors import HistoryError, closed, damaged, translated
from pocketrec.history_registry import register, unregister
from pocketrec.history_schema import VERSION, check_owner, migrate, pragma, setting

BUSY_SECONDS = 5.0
"""How long a write waits for another process before it is `history-busy`."""

ERASE_SECONDS = 0.25
"""How long an erasure waits for readers in other processes before it is put off."""

RETRY_SECONDS = 5.0
"""An erasure that was put off is tried again with the first write after so long."""

_IDLE_READERS = 4
_SMALLEST = 512
_PRAGMAS = (
    "temp_store=MEMORY",
    "journal_mode=WAL",
    "synchronous=FULL",
    "fullfsync=ON",
    "checkpoint_fullfsync=ON",
    "secure_delete=ON",
)


class HistoryFile:
    """An open file of ours, migrated. Thread-safe; other processes may have it open too.

    Args:
        path: the file, made when absent, for its owner only; ":memory:" has no file.
        key: 32 bytes; the file is encrypted with it. None: it is not encrypted.
        create: False refuses a file that does not exist.

    Raises:
        HistoryError: see its codes.
    """

    def __init__(self, path: str, key: bytes | None, create: bool) -> None:
        self.path = path
        self.in_memory = path == ":memory:"
        self._key = key
        self._driver = driver_for(key)
        self._write_lock = threading.RLock()
        self._gate = threading.Condition()
        self._reading = 0
        self._idle: list[Any] = []
        self._closed = False
        self._pid = os.getpid()
        self._vacuumed = -1  # deletions that a rebuild of ours has been through
        self._pending = False
        self._tried = 0.0
        if not self.in_memory:
            _prepare(Path(path), create)
            if key is not None:
                refuse_plain(path)
            register(path)
        try:
            with self._typed():
                self._writer = self._connect()
                try:
                    check_owner(self._writer, path)
                    self._set_up(self._writer)
                    if pragma(self._writer, "user_version") != VERSION:
                        with self._committing():
                            migrate(self._writer)
                    self._pending = self.erasure_pending
                except BaseException:
                    self._writer.close()
                    raise
        except BaseException:
            if not self.in_memory:
                unregister(path)
            raise
        if self._pending:
            self.try_to_erase()

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """A connection that sees the last commit; for one statement."""
        if self.in_memory:
            with self._write_lock, self._typed():
                self._check_open()
                yield self._writer
            return
        with self._gate:
            self._check_open()
            self._reading += 1
            reader = self._idle.pop() if self._idle else None
        try:
            with self._typed():
                if reader is None:
                    reader = self._connect()
                    reader.execute("PRAGMA query_only=ON")
                yield reader
        finally:
            with self._gate:
                self._reading -= 1
                if reader is not None and (self._closed or len(self._idle) >= _IDLE_READERS):
                    reader.close()
                elif reader is not None:
                    self._idle.append(reader)
                self._gate.notify_all()

    @contextmanager
    def writing(self) -> Iterator[Any]:
        """A transaction: committed and durable when the block ends, rolled back when it raises."""
        with self._write_lock:
            with self._gate:
                self._check_open()
            with self._typed(), self._committing():
                yield self._writer
            if self._pending and time.monotonic() - self._tried > RETRY_SECONDS:
                self.try_to_erase()

    def deleted(self, db: Any) -> None:
        """Note, in the transaction that deletes, that something is to be erased: a kill cannot lose it."""
        db.execute("UPDATE settings SET value = value + 1 WHERE name = 'deleted'")

    @property
    def erasure_pending(self) -> bool:
        """Whether deleted data may still be in the file or its log."""
        if self.in_memory:
            return False
        with self.reading() as db:
            return setting(db, "deleted") > setting(db, "erased")

    def erase(self) -> None:
        """Leave nothing of what was deleted in the file and its log.

        Raises:
            HistoryError: `history-busy` while a reader of another process still looks at what was deleted;
                `history-full` when there is no room for the rebuilt file; and the others of a write.
        """
        if self.in_memory:
            return
        with self._write_lock:
            with self._gate:
                self._check_open()
            self._tried = time.monotonic()
            with self._typed():
                try:
                    self._writer.execute(f"PRAGMA busy_timeout = {int(ERASE_SECONDS * 1000)}")
                    self._erase(self._writer)
                finally:
                    self._writer.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")

    def try_to_erase(self) -> None:
        """`erase`, or have it tried again later: with a later write, at the close, at the next opening."""
        with self._write_lock:
            self._pending = True
            with suppress(HistoryError):
                self.erase()

    def close(self) -> None:
        """Wait for reads and writes under way, then close. May be called twice."""
        with self._write_lock:
            with self._gate:
                if self._closed:
                    return
                if self._pid != os.getpid():  # the file is our parent's
                    self._closed = True
                    return
            if self._pending:
                self.try_to_erase()
            with self._gate:
                self._closed = True
                self._gate.wait_for(lambda: self._reading == 0)
                for reader in self._idle:
                    reader.close()
                self._idle.clear()
            self._writer.close()
            if not self.in_memory:
                unregister(self.path)

    def _erase(self, db: Any) -> None:
        deletions = setting(db, "deleted")
        if deletions > self._vacuumed:
            db.execute("VACUUM")
            self._vacuumed = deletions
        busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise HistoryError(
                f"deleted events of {self.path} are still seen by a reader of another process.",
                code="history-busy",
                remedy="End that reader, then call erase again; the next opening tries, too.",
            )
        with self._committing():
            db.execute(
                "UPDATE settings SET value = max(value, ?) WHERE name = 'erased'",
                (deletions,),
            )
        self._pending = setting(db, "deleted") > deletions

    def _connect(self) -> Any:
        db = self._driver.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            if self._key is not None:
                unlock(db, self._key)
            db.execute("PRAGMA trusted_schema=OFF")  # nothing in the file calls functions of the app
        except BaseException:
            db.close()
            raise
        return db

    def _set_up(self, db: Any) -> None:
        if not self.in_memory:
            discard(f"{self.path}{PARTIAL}")  # whoever changes a key keeps us from getting here
        for name in _PRAGMAS:
            said = db.execute(f"PRAGMA {name}").fetchall()
            if name == "journal_mode=WAL" and said[0][0] != "wal" and not self.in_memory:
                raise HistoryError(
                    f"the history {self.path} cannot have a write-ahead log.",
                    code="history-unwritable",
                    remedy="Choose a local disk; network file systems have no shared memory.",
                )

    def _check_open(self) -> None:
        if self._closed:
            raise closed()
        if self._pid != os.getpid():
            raise HistoryError(
                f"the history {self.path} was opened before this process was forked.",
                code="history-forked",
                remedy="Open it again in this process: SQLite's locks do not survive a fork.",
            )

    @contextmanager
    def _committing(self) -> Iterator[None]:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._writer.execute("COMMIT")
        except BaseException:
            with suppress(self._driver.Error):
                self._writer.execute("ROLLBACK")
            raise

    @contextmanager
    def _typed(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, self._driver.Error) as error:
            raise translated(error, self.path, encrypted=self._key is not None) from error
        except (
            UnicodeDecodeError
        ) as error:  # SQLite quotes a damaged schema, and Python cannot read the quote
            raise damaged(f"{self.path} holds a schema that is no text") from error


def _prepare(path: Path, create: bool) -> None:
    """Make an absent file readable by its owner only, before SQLite would make it with the usual rights."""
    if path.exists():
        if path.is_dir():
            raise HistoryError(f"{path} is a directory.", code="history-unwritable", remedy="Name a file.")
        # SQLite takes a file of less than its smallest page for an empty one, and would write over it.
        if 0 < path.stat().st_size < _SMALLEST and not path.with_name(f"{path.name}-journal").exists():
            raise HistoryError(
                f"{path} is too short for a history.",
                code="history-corrupt",
                remedy="It is no database; choose another file.",
            )
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
