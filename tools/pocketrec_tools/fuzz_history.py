"""Mutations of a history file: bytes, and what a stranger with SQLite would put into it."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing, suppress

from pocketrec_tools.fuzz_mutate import mutate_bytes

_FORMAT = slice(18, 20)  # of the header: 1 for a rollback journal, 2 for a log
_NUMBERS = (0, 1, 2, 3, -1, -3, 2**31 - 1, 2**63 - 1, -(2**63))
_TIMES = ("BEFORE INSERT", "AFTER INSERT", "BEFORE DELETE", "AFTER DELETE", "AFTER UPDATE")
_BODIES = (
    "SELECT raise(IGNORE)",
    "SELECT raise(ABORT, 'no')",
    "DELETE FROM events",
    "INSERT INTO events (item_id, event) VALUES ('theirs', '')",
    "INSERT INTO kept SELECT item_id FROM events",
    "UPDATE settings SET value = 0",
)
_STATEMENTS = (
    "CREATE TABLE kept (item_id TEXT)",
    "CREATE TABLE android_metadata (locale TEXT)",
    "CREATE VIEW seen AS SELECT * FROM events",
    "CREATE UNIQUE INDEX once ON events (event)",
    "CREATE INDEX by_length ON events (length(item_id))",
    "ALTER TABLE events RENAME TO theirs; CREATE VIEW events AS SELECT * FROM theirs",
    "ALTER TABLE settings RENAME TO theirs; CREATE VIEW settings AS SELECT 'recording' AS name, 1 AS value",
    "ALTER TABLE events ADD COLUMN more TEXT DEFAULT 'x'",
    "ALTER TABLE events DROP COLUMN event",
    "DROP INDEX events_item",
    "DROP TABLE settings",
    "DELETE FROM settings WHERE name = 'erased'",
    "UPDATE settings SET value = 'x'",
    "UPDATE events SET timestamp = 'never'",
    "UPDATE events SET item_id = zeroblob(9)",
    "DELETE FROM sqlite_sequence",
    "ANALYZE",
    "PRAGMA auto_vacuum = FULL; VACUUM",
    "PRAGMA page_size = 512; VACUUM",
)


def mutate_history(raw: bytes, chance: random.Random) -> bytes:
    """A history file with bytes changed or, two times in five, with one to three statements run on it."""
    if chance.random() < 0.6:
        return mutate_bytes(raw, chance)
    plain = bytearray(raw)
    plain[_FORMAT] = b"\1\1"  # a log cannot be in memory
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.deserialize(bytes(plain))
        for _ in range(chance.randint(1, 3)):
            with suppress(sqlite3.Error):  # after another one it may make no sense
                db.executescript(_statement(chance))
        made = bytearray(db.serialize())
    made[_FORMAT] = raw[_FORMAT]
    return bytes(made)


def _statement(chance: random.Random) -> str:
    match chance.randrange(6):
        case 0:
            when, table = chance.choice(_TIMES), chance.choice(("events", "settings"))
            name, body = f"t{chance.randrange(9)}", chance.choice(_BODIES)
            return f"CREATE TRIGGER {name} {when} ON {table} BEGIN {body}; END"
        case 1:
            name = chance.choice(("user_version", "application_id"))
            return f"PRAGMA {name} = {chance.choice(_NUMBERS)}"
        case 2:
            return f"UPDATE settings SET value = {chance.choice(_NUMBERS)}"
        case 3:
            return f"UPDATE sqlite_sequence SET seq = {chance.choice(_NUMBERS)}"
        case 4:
            old, new = chance.choice((("TEXT", "BLOB"), ("NOT NULL", ""), (")", ", CHECK (seq < 25))")))
            edit = f"UPDATE sqlite_master SET sql = replace(sql, '{old}', '{new}')"
            return f"PRAGMA writable_schema = ON; {edit}; PRAGMA writable_schema = OFF"
        case _:
            return chance.choice(_STATEMENTS)
