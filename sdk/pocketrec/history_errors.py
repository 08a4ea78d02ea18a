"""What can go wrong with a history file, and the words for it."""

from __future__ import annotations

import sqlite3

from pocketrec.errors import PocketrecError


class HistoryError(PocketrecError):
    """A history that cannot be used or written; nothing that was stored is harmed by it.

    Codes: `history-missing`, `history-foreign` (another program's database), `history-newer` (a later
    release's), `history-corrupt`, `history-unwritable` (directory, rights, read-only disk), `history-full`,
    `history-io`, `history-busy` (another process writes), `history-key-wrong`, `history-not-encrypted`,
    `history-key-invalid`, `history-encryption-missing`, `history-forked`, `history-invalid`, `export-failed`,
    `import-failed`, `closed`.
    """

    default_code = "history-invalid"


_ELSEWHERE = "Choose a file in a writable directory."
_LATER = "Another process holds it; try again."
_REASONS: dict[int, tuple[str, str]] = {
    sqlite3.SQLITE_NOTADB: (
        "history-corrupt",
        "It is damaged, no database, or encrypted: give its key, restore a backup or choose another file.",
    ),
    sqlite3.SQLITE_CORRUPT: ("history-corrupt", "Restore it from a backup, or start a new file."),
    sqlite3.SQLITE_CANTOPEN: ("history-unwritable", _ELSEWHERE),
    sqlite3.SQLITE_READONLY: ("history-unwritable", _ELSEWHERE),
    sqlite3.SQLITE_PERM: ("history-unwritable", _ELSEWHERE),
    sqlite3.SQLITE_FULL: ("history-full", "Free some space; nothing that was recorded before is lost."),
    sqlite3.SQLITE_IOERR: (
        "history-io",
        "Check the disk and its limits; nothing that was recorded before is lost.",
    ),
    sqlite3.SQLITE_BUSY: ("history-busy", _LATER),
    sqlite3.SQLITE_LOCKED: ("history-busy", _LATER),
}


def sqlite_code(error: Exception) -> int:
    """The primary result code of SQLite, 0 when the error has none."""
    return int(getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def translated(error: Exception, path: str, *, encrypted: bool = False) -> HistoryError:
    """SQLite's error in our words."""
    code = sqlite_code(error)
    if encrypted and code == sqlite3.SQLITE_NOTADB:
        return HistoryError(
            f"the history {path} does not open with this key.",
            code="history-key-wrong",
            remedy="Give the key it was made with; if that is it, the file is damaged or not ours.",
        )
    kind, remedy = _REASONS.get(code, ("history-invalid", "Choose another file for the history."))
    return HistoryError(f"the history {path} cannot be used: {error}.", code=kind, remedy=remedy)


def damaged(what: str) -> HistoryError:
    """SQLite reads the file, and what is in it is not what we wrote."""
    return HistoryError(
        f"the history is damaged: {what}.",
        code="history-corrupt",
        remedy="Restore it from a backup, or start a new file.",
    )


def closed() -> HistoryError:
    """The error of every call after `close`."""
    return HistoryError("the history is closed.", code="closed", remedy="Open it again.")
