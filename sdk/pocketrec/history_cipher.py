"""Encryption of a history at rest, by SQLCipher (the extra `encryption`), with a key that the app gives.

    key = secrets.token_bytes(32)                      # kept in the system's key store, never beside the file
    history = History("me.db", key=key)
    change_key("me.db", None, key)                     # a plain file becomes an encrypted one; and back
    change_key("me.db", key, new_key)

SQLCipher encrypts every page of the file and of the log with AES-256-CBC and authenticates it with
HMAC-SHA512. The key is used as it is, without derivation from a password: 32 random bytes. Android's
SQLCipher reads the same file. A key cannot be recovered: without it the history is gone.
"""

from __future__ import annotations

import importlib
import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from pocketrec.history_errors import HistoryError, damaged, sqlite_code, translated
from pocketrec.history_registry import claim, release

KEY_BYTES = 32
PARTIAL = ".rekey"
"""Ending of the file that a change of key writes."""

_PLAIN = b"SQLite format 3\x00"


def driver_for(key: bytes | None) -> Any:
    """The module that opens the file: Python's own for a plain one, SQLCipher's for an encrypted one.

    Raises:
        HistoryError: `history-key-invalid`, `history-encryption-missing`.
    """
    if key is None:
        return sqlite3
    if not isinstance(key, bytes) or len(key) != KEY_BYTES:
        raise HistoryError(
            f"a history's key is {KEY_BYTES} bytes.",  # says nothing of the key that was given
            code="history-key-invalid",
            remedy=f"Make one with secrets.token_bytes({KEY_BYTES}) and keep it in the system's key store.",
        )
    try:
        return importlib.import_module("sqlcipher3.dbapi2")
    except ModuleNotFoundError:
        raise HistoryError(
            "an encrypted history needs SQLCipher, which is not installed.",
            code="history-encryption-missing",
            remedy="pip install 'pocketrec[encryption]'",
        ) from None


def unlock(db: Any, key: bytes) -> None:
    """Give a fresh connection of SQLCipher its key, and try it."""
    db.execute("PRAGMA cipher_log_level = NONE")  # it would write on standard error
    db.execute(f"PRAGMA key = \"x'{key.hex()}'\"")
    db.execute("SELECT count(*) FROM sqlite_master").fetchone()


def refuse_plain(path: str) -> None:
    """Refuse a plain database where an encrypted one is expected: to write on would leave it plain."""
    try:
        with open(path, "rb") as file:
            plain = file.read(len(_PLAIN)) == _PLAIN
    except OSError:
        return  # opening it says what is wrong
    if plain:
        raise HistoryError(
            f"the history {path} is not encrypted, and a key was given.",
            code="history-not-encrypted",
            remedy="Encrypt it once with pocketrec.history_cipher.change_key(path, None, key).",
        )


def change_key(path: str | Path, key: bytes | None, new_key: bytes | None) -> None:
    """Encrypt a history, decrypt it, or give it another key: None stands for no encryption.

    The file is written anew beside the old one and takes its place in one step; the old one's bytes are then
    overwritten. After a crash the file is whole, with the old key or with the new one. Every other user must
    have closed it. On flash storage, overwriting is no proof that the old bytes are gone.

    Raises:
        HistoryError: `history-busy`, the file is open elsewhere; `history-missing`; `history-key-wrong`;
            `history-not-encrypted`; `history-full`, `history-io`; and others of opening it.
    """
    from pocketrec.history_file import HistoryFile

    if key is None and new_key is None:
        raise HistoryError("both keys are None.", code="history-key-invalid", remedy="Give one of them.")
    driver = driver_for(new_key if key is None else key)
    driver_for(new_key)
    name = os.fspath(path)
    HistoryFile(name, key, create=False).close()  # ours, of this version, nothing left to erase, log emptied
    claim(name)
    partial = f"{name}{PARTIAL}"
    try:
        discard(partial)
        _rewrite(driver, name, key, partial, new_key)
    except (sqlite3.Error, driver.Error) as error:
        raise translated(error, name, encrypted=key is not None) from error
    except UnicodeDecodeError as error:
        raise damaged(f"{name} holds a schema that is no text") from error
    except OSError as error:
        raise HistoryError(
            f"the history {name} cannot be written anew: {error.strerror}.",
            code="history-io",
            remedy="Check the disk; the history is as it was.",
        ) from error
    finally:
        discard(partial)
        release(name)


def _rewrite(driver: Any, path: str, key: bytes | None, partial: str, new_key: bytes | None) -> None:
    db = driver.connect(path, timeout=0, isolation_level=None)
    try:
        if key is not None:
            unlock(db, key)
        _take_alone(db, path)
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        _copy(driver, db, partial, new_key)
        # Held open until the connection is closed: closing it earlier would let go of SQLite's locks.
        with open(path, "r+b") as old:
            os.replace(partial, path)
            _sync_directory(path)
            _overwrite(old)
            db.close()
    finally:
        db.close()


def _take_alone(db: Any, path: str) -> None:
    """Leave WAL, which succeeds only when no other process has the file open, and keep everybody out."""
    try:
        db.execute("PRAGMA journal_mode = DELETE").fetchall()
        db.execute("BEGIN EXCLUSIVE")
        alone = db.execute("PRAGMA journal_mode").fetchone()[0] == "delete"  # nobody came in between
    except Exception as error:
        if sqlite_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise _in_use(path) from error
        raise
    if not alone:
        raise _in_use(path)


def _in_use(path: str) -> HistoryError:
    return HistoryError(
        f"the history {path} is in use by another process.",
        code="history-busy",
        remedy="Close it there; a change of key needs the file for itself.",
    )


def _copy(driver: Any, db: Any, partial: str, new_key: bytes | None) -> None:
    """Write every row into a new file with the new key, and on to the disk."""
    from pocketrec.history_schema import APPLICATION_ID, MIGRATIONS, VERSION

    new = driver.connect(partial, isolation_level=None)
    try:
        if new_key is not None:
            unlock(new, new_key)
        new.execute("PRAGMA synchronous = FULL")
        new.execute("PRAGMA temp_store = MEMORY")
        new.execute("BEGIN IMMEDIATE")
        for statement in (statement for step in MIGRATIONS for statement in step):
            new.execute(statement)
        for table in ("settings", "events", "sqlite_sequence"):
            new.execute(f"DELETE FROM {table}")
            rows = db.execute(f"SELECT * FROM {table}")
            marks = ", ".join("?" * len(rows.description))
            new.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        new.execute(f"PRAGMA user_version = {VERSION}")
        new.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        new.execute("COMMIT")
    finally:
        new.close()


def _overwrite(file: BinaryIO) -> None:
    """Zeros over the whole of an open file, on the disk."""
    size, block = os.fstat(file.fileno()).st_size, bytes(1 << 16)
    for offset in range(0, size, len(block)):
        file.write(block[: size - offset])
    file.flush()
    os.fsync(file.fileno())


def _sync_directory(path: str) -> None:
    with suppress(OSError):  # Windows cannot, and need not
        directory = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def discard(partial: str) -> None:
    """Remove what is left of a change of key that was killed."""
    for name in (partial, f"{partial}-journal"):
        with suppress(FileNotFoundError):
            os.unlink(name)
