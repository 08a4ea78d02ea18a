"""The history of one person, in SQLite: what was recorded is there after a crash, what was deleted is gone.

    with History("me.db", max_age_seconds=180 * 86400) as history:
        history.record("B004756YJA", "view")       # durable when it returns
        history.forget("B004756YJA")               # beyond recovery from the file and its log
        history.set_recording(False)               # this person opted out; remembered in the file

Order is the order of recording, whatever the clock did meanwhile: an event that was recorded while the clock
was wrong keeps its wrong time and its right place. How a file is kept is in `history_file`, its versions in
`history_schema`, encryption in `history_cipher`, the format of `export` in `history_lines`.

Opening never harms a file: one that is foreign, damaged or of a later release is refused and left as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pocketrec.errors import DataError
from pocketrec.events import Event, HistoryItem, as_events
from pocketrec.history_errors import HistoryError, damaged
from pocketrec.history_file import HistoryFile
from pocketrec.history_lines import read_lines, write_lines
from pocketrec.history_schema import setting

__all__ = ["MAX_EVENTS", "History", "HistoryError", "News"]

MAX_EVENTS = 10_000
"""Default retention by count: far more than any `length`, and a file of about a megabyte."""

_SLACK = 16
"""Retention trims a sixteenth at once: an erasure writes the whole file anew, too much for every event."""


@dataclass(frozen=True)
class News:
    """What `History.news` answers.

    Attributes:
        events: oldest first.
        whole: these are all there are, and not only those after the earlier answer.
        last, deletions: how far this answer goes; for the next one.
    """

    events: list[Event]
    whole: bool
    last: int
    deletions: int

    def without_events(self) -> News:
        """The place alone."""
        return replace(self, events=[])


class History:
    """The stored events of one person. Thread-safe; several processes may use one file.

    Within a process as between processes there is one writer at a time, and reads wait for nobody.

    Args:
        path: the file, made when absent; ":memory:" keeps the history in memory.
        max_events: never more than this many are stored. When there are more, the oldest go, a sixteenth of
            `max_events` at once (with fewer than 16, one at a time).
        max_age_seconds: no event older than this, by its timestamp and this machine's clock, is stored after
            an opening or a `record`; those that would follow within a sixteenth of the age go with it. Events
            without a time stay. None keeps all. A clock that jumps back keeps events longer; one that is far
            ahead makes them go, so that an app whose users set clocks should rather bound the count.
        create: False refuses a file that does not exist.
        key: 32 bytes that encrypt the file, from the system's key store (extra `encryption`); see
            `history_cipher`.
        clock: Unix seconds now; what a simulator replaces, whose phones live at the time of their events.

    Raises:
        HistoryError: see its codes.
    """

    def __init__(
        self,
        path: str | Path = ":memory:",
        *,
        max_events: int = MAX_EVENTS,
        max_age_seconds: int | None = None,
        create: bool = True,
        key: bytes | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if max_events < 1 or (max_age_seconds is not None and max_age_seconds < 1):
            raise HistoryError(
                f"max_events {max_events} and max_age_seconds {max_age_seconds} must be positive.",
                code="argument-invalid",
            )
        self.path = str(path)
        self.max_events = max_events
        self.max_age_seconds = max_age_seconds
        self._clock = clock
        self._file = HistoryFile(self.path, key, create)
        if max_age_seconds is not None:
            try:
                self._age()
            except BaseException:
                self._file.close()
                raise

    def record(self, item_id: str, event: str = "", timestamp: int | None = None) -> Event | None:
        """Append one event and return it; durable when this returns. No timestamp means now.

        None comes back, and nothing is stored, while recording is switched off.
        """
        made = Event(item_id, event, int(self._clock()) if timestamp is None else timestamp)
        return made if self.record_many([made]) else None

    def record_many(self, events: Iterable[HistoryItem]) -> int:
        """Append events, oldest first, all or none, durable when this returns; returns how many.

        A timestamp of None is stored as unknown. While recording is switched off, none is stored: 0 comes
        back.
        """
        made = as_events(events)
        rows = [(e.item_id, e.event, e.timestamp) for e in made]
        with self._file.writing() as db:
            # In the transaction: another process may have switched it off a moment ago.
            if not setting(db, "recording"):
                return 0
            db.executemany("INSERT INTO events (item_id, event, timestamp) VALUES (?, ?, ?)", rows)
            trimmed = self._trim(db)
        if trimmed:
            self._file.try_to_erase()
        return len(made)

    @property
    def recording(self) -> bool:
        """Whether events are recorded; False when this person opted out."""
        with self._file.reading() as db:
            return bool(setting(db, "recording"))

    def set_recording(self, on: bool) -> None:
        """Switch recording off or on, for every process and every later opening; what is stored stays.

        When this returns after switching off, nothing more is stored. To opt out and be forgotten, `clear`
        too.
        """
        with self._file.writing() as db:
            db.execute("UPDATE settings SET value = ? WHERE name = 'recording'", (int(bool(on)),))

    def events(self) -> list[Event]:
        """Every stored event, oldest first."""
        with self._file.reading() as db:
            rows = db.execute("SELECT item_id, event, timestamp FROM events ORDER BY seq").fetchall()
        try:
            return [Event(*row) for row in rows]
        except DataError as error:
            raise damaged(str(error)) from error

    def news(self, since: News | None = None) -> News:
        """The events stored after an earlier answer; all, when anything was deleted meanwhile or there is no
        earlier one. Costs what there is to read."""
        last, deletions = (0, -1) if since is None else (since.last, since.deletions)
        # One statement sees one state. A sequence number is never used twice, so what follows `last` is new.
        with self._file.reading() as db:
            rows = db.execute(
                "SELECT d.value, e.seq, e.item_id, e.event, e.timestamp FROM settings AS d"
                " LEFT JOIN events AS e ON e.seq > CASE WHEN d.value = ? THEN ? ELSE ? END"
                " WHERE d.name = 'deleted' ORDER BY e.seq",
                (deletions, last, -(2**63)),
            ).fetchall()
        try:
            events = [Event(*row[2:]) for row in rows if row[1] is not None]
        except DataError as error:
            raise damaged(str(error)) from error
        if not rows:
            raise damaged("it does not count its deletions")
        now, whole = int(rows[0][0]), rows[0][0] != deletions
        return News(events, whole, (rows[-1][1] or 0) if whole else (rows[-1][1] or last), now)

    def __len__(self) -> int:
        with self._file.reading() as db:
            return int(db.execute("SELECT count(*) FROM events").fetchone()[0])

    def forget(self, item_id: str) -> int:
        """Delete every event of an item; returns how many there were.

        When this returns, no reader sees them any more, in any process, after any crash. They are also gone
        from the bytes of the file and its log, unless `erasure_pending` says otherwise.
        """
        return self._delete("DELETE FROM events WHERE item_id = ?", (item_id,))

    def clear(self) -> int:
        """Delete everything, as `forget` does; returns how many events there were. `recording` stays."""
        return self._delete("DELETE FROM events", ())

    @property
    def erasure_pending(self) -> bool:
        """Whether bytes of deleted events may still be in the file or its log.

        A reader of another process that began before the deletion keeps them there, or a disk with no room to
        rebuild the file. The erasure is then done with a later write, at the close, or at the next opening.
        """
        return self._file.erasure_pending

    def erase(self) -> None:
        """Do an erasure that is pending now.

        Raises:
            HistoryError: `history-busy`, a reader of another process still sees what was deleted;
            `history-full`.
        """
        self._file.erase()

    def export(self, path: str | Path) -> int:
        """Write the history as JSON lines (`history_lines`), oldest first; returns how many.

        An existing file is replaced only when all is written. The file is not encrypted.
        """
        return write_lines(path, self.events())

    def import_lines(self, path: str | Path) -> int:
        """Append what `export` wrote, all or nothing; returns how many events were stored.

        Raises:
            HistoryError: `import-failed`, with the line that is wrong.
        """
        return self.record_many(read_lines(path))

    def close(self) -> None:
        """Close the file, after calls under way; anything but `close` is an error afterwards."""
        self._file.close()

    def __enter__(self) -> History:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _delete(self, statement: str, values: Sequence[str]) -> int:
        with self._file.writing() as db:
            count = int(db.execute(statement, values).rowcount)
            if count:
                self._file.deleted(db)
        if count:
            self._file.try_to_erase()
        return count

    def _trim(self, db: Any) -> int:
        """Apply retention; returns how many events went. Costs three look-ups when there is nothing to do."""
        trimmed = self._too_old(db)
        first, last = db.execute("SELECT min(seq), max(seq) FROM events").fetchone()
        if first is not None and last - first >= self.max_events:
            count = int(db.execute("SELECT count(*) FROM events").fetchone()[0])
            if count > self.max_events:
                keep = self.max_events - self.max_events // _SLACK
                border = "SELECT seq FROM events ORDER BY seq DESC LIMIT 1 OFFSET ?"
                trimmed += db.execute(f"DELETE FROM events WHERE seq <= ({border})", (keep,)).rowcount
        if trimmed:
            self._file.deleted(db)
        return trimmed

    def _too_old(self, db: Any) -> int:
        if self.max_age_seconds is None:
            return 0
        now = int(self._clock())
        oldest = db.execute("SELECT min(timestamp) FROM events").fetchone()[0]
        if not isinstance(oldest, int | None):
            raise damaged(f"a timestamp is {oldest!r}")
        if oldest is None or oldest >= now - self.max_age_seconds:
            return 0
        limit = now - self.max_age_seconds + self.max_age_seconds // _SLACK
        return int(db.execute("DELETE FROM events WHERE timestamp < ?", (limit,)).rowcount)

    def _age(self) -> None:
        """Retention by age at an opening: time passes while an app is not used."""
        with self._file.writing() as db:
            trimmed = self._too_old(db)
            if trimmed:
                self._file.deleted(db)
        if trimmed:
            self._file.try_to_erase()
