"""What `soak` kills: a history that records, forgets, clears, trims; a change of its key; an installation,
of a bundle and of a delta.

A victim carries a model of what has to be on the disk. Its steps are applied to the model when they were
acknowledged; the one that was under way may have happened or not, wholly.
"""

from __future__ import annotations

import importlib.util
import random
import re
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pocketrec.history import History
from pocketrec.history_cipher import change_key
from pocketrec.history_errors import HistoryError
from pocketrec_tools.soak_install import DeltaVictim, InstallVictim
from pocketrec_tools.soak_law import Broken, Say, Victim

_TOKEN = re.compile(rb"<\d+>")


class HistoryVictim:
    """A history and what is done to it.

    Args:
        weights: how often each of `record`, `batch`, `forget`, `clear` is done.
        max_events: its retention.
        key: of an encrypted one.
    """

    def __init__(
        self, name: str, weights: Mapping[str, int], max_events: int = 10_000, key: bytes | None = None
    ) -> None:
        self.name = name
        self._weights = dict(weights)
        self._max_events = max_events
        self._key = key

    def begin(self, folder: Path) -> None:
        self._file = folder / "me.db"
        self._model: list[str] = []
        self._next = 0

    def work(self, chance: random.Random, say: Say) -> None:
        history = self._open()
        names, weights = list(self._weights), list(self._weights.values())
        while True:
            step = self._step(chance.choices(names, weights)[0], chance)
            say(step)
            match step["step"]:
                case "record":
                    history.record(step["items"][0])
                case "batch":
                    history.record_many(step["items"])
                case "forget":
                    history.forget(step["items"][0])
                case "clear":
                    history.clear()
            self._apply(step)
            say({"step": "done"})

    def check(self, said: list[dict[str, Any]]) -> str:
        under_way = None
        for step in said:
            if "error" in step:
                raise Broken(f"it failed: {step['error']}")
            if step["step"] == "done":
                assert under_way is not None
                self._apply(under_way)
                under_way = None
            else:
                under_way = step
        before = list(self._model)
        if under_way is not None:
            self._apply(under_way)
        with self._open() as history:
            stored = [event.item_id for event in history.events()]
            if history.erasure_pending:
                raise Broken("an erasure is pending after the opening")
        if stored not in (before, self._model):
            raise Broken(
                f"{len(stored)} events are stored, not {len(before)} or {len(self._model)}: {said[-2:]}"
            )
        done = stored == self._model
        self._model = stored
        self._look_at_bytes()
        return f"{under_way['step']} {'done' if done else 'not done'}" if under_way else ""

    def _open(self) -> History:
        return History(self._file, max_events=self._max_events, key=self._key)

    def _step(self, name: str, chance: random.Random) -> dict[str, Any]:
        if name == "forget" and self._model:
            return {"step": "forget", "items": [chance.choice(self._model)]}
        if name == "clear":
            return {"step": "clear", "items": []}
        count = chance.randint(2, 6) if name == "batch" else 1
        items = [f"<{self._next + index}>{'x' * chance.randint(0, 60)}" for index in range(count)]
        return {"step": "batch" if name == "batch" else "record", "items": items}

    def _apply(self, step: Mapping[str, Any]) -> None:
        match step["step"]:
            case "forget":
                self._model = [item for item in self._model if item not in step["items"]]
            case "clear":
                self._model = []
            case _:
                self._next += len(step["items"])
                self._model = [*self._model, *step["items"]]
                if len(self._model) > self._max_events:
                    self._model = self._model[-(self._max_events - self._max_events // 16) :]

    def _look_at_bytes(self) -> None:
        raw = b"".join(path.read_bytes() for path in self._file.parent.iterdir())
        if self._key is not None:
            if b"<0>" in raw and b"xxxxxxxx" in raw:
                raise Broken("an encrypted file shows its items")
            return
        found, live = (
            set(_TOKEN.findall(raw)),
            {item.partition(">")[0].encode() + b">" for item in self._model},
        )
        if found != live:
            raise Broken(f"deleted and still in the bytes: {sorted(found - live)[:5]}")
        db = sqlite3.connect(self._file)
        try:
            if (said := db.execute("PRAGMA integrity_check").fetchone()) != ("ok",):
                raise Broken(f"integrity: {said}")
        finally:
            db.close()


class KeyVictim:
    """A history whose key is changed again and again: from none to one, to another, to none."""

    name = "change_key"

    def begin(self, folder: Path) -> None:
        self._file = folder / "me.db"
        self._keys = (None, bytes(range(32)), bytes(range(32, 64)))
        self._now = 0
        self._events = [f"<{number}>" for number in range(30)]
        with History(self._file) as history:
            history.record_many(self._events)

    def work(self, chance: random.Random, say: Say) -> None:
        while True:
            new = (self._now + chance.randint(1, 2)) % len(self._keys)
            say({"step": "change", "to": new})
            change_key(self._file, self._keys[self._now], self._keys[new])
            self._now = new
            say({"step": "done"})

    def check(self, said: list[dict[str, Any]]) -> str:
        before = self._now
        for step in said:
            if "error" in step:
                raise Broken(f"it failed: {step['error']}")
            if step["step"] == "change":
                before, self._now = self._now, step["to"]
        candidates = [self._now] if said and said[-1]["step"] == "done" else [self._now, before]
        for candidate in candidates:
            try:
                with History(self._file, key=self._keys[candidate], create=False) as history:
                    stored = [event.item_id for event in history.events()]
            except HistoryError as error:
                if error.code not in ("history-key-wrong", "history-not-encrypted", "history-corrupt"):
                    raise Broken(str(error)) from error
                continue
            if stored != self._events:
                raise Broken(f"{len(stored)} of {len(self._events)} events are left")
            # Leaving or entering WAL writes one page, the schema's, through a journal. One that was killed
            # before
            # its header was written rolls nothing back, and is used again or removed at the next change.
            names = {path.name for path in self._file.parent.iterdir()} - {"me.db", "me.db-journal"}
            if names:
                raise Broken(f"left over: {sorted(names)}")
            done = candidate == self._now
            self._now = candidate
            return f"change {'done' if done else 'not done'}"
        raise Broken("it opens with neither key")


def all_victims() -> list[Victim]:
    """Everything that can be killed here."""
    victims: list[Victim] = [
        HistoryVictim("record", {"record": 3, "batch": 1}),
        HistoryVictim("forget", {"record": 3, "batch": 1, "forget": 2}),
        HistoryVictim("clear", {"record": 6, "batch": 2, "clear": 1}),
        HistoryVictim("retention", {"record": 3, "batch": 1}, max_events=40),
    ]
    if importlib.util.find_spec("sqlcipher3"):
        everything = {"record": 6, "batch": 2, "forget": 2, "clear": 1}
        victims += [HistoryVictim("encrypted", everything, 60, bytes(range(32))), KeyVictim()]
    return [*victims, InstallVictim(), DeltaVictim()]
