"""What a history costs: plain and encrypted, in one run, in turns.

    python -m pocketrec_tools.history_cost [--events 10000] [--rounds 5]

Medians over the rounds, in milliseconds; the bytes of the file. The times of what writes are those of the
disk.
"""

from __future__ import annotations

import argparse
import json
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pocketrec.history import History
from pocketrec.history_cipher import change_key
from pocketrec_tools.machine import machine

_RECORDS = 200


def measure(folder: Path, key: bytes | None, events: int) -> dict[str, float]:
    """One round: a new file, `events` events, every operation once (a record: the mean of 200)."""
    file, found = folder / "me.db", dict[str, float]()

    def timed(name: str, call: Callable[[], object], times: int = 1) -> None:
        start = time.perf_counter()
        for _ in range(times):
            call()
        found[name] = (time.perf_counter() - start) * 1e3 / times

    opened: list[History] = []
    timed("create", lambda: opened.append(History(file, key=key, max_events=2 * events)))
    with opened[0] as history:
        history.record_many([(f"B{number:09d}", "view", 1_700_000_000 + number) for number in range(events)])
        timed("record", lambda: history.record("B000000000", "view"), _RECORDS)
        timed("events", history.events)
        timed("forget", lambda: history.forget("B000000001"))
    found["bytes"] = file.stat().st_size
    timed("open", lambda: opened.append(History(file, key=key)))
    opened[1].close()
    if key is not None:
        timed("change_key", lambda: change_key(file, key, secrets.token_bytes(32)))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="what a history costs")
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(arguments)
    rounds: dict[str, list[dict[str, float]]] = {"plain": [], "encrypted": []}
    for _ in range(given.rounds):
        for name, kept in rounds.items():
            with tempfile.TemporaryDirectory() as folder:
                key = secrets.token_bytes(32) if name == "encrypted" else None
                kept.append(measure(Path(folder), key, given.events))
    medians = {
        name: {what: round(statistics.median(one[what] for one in kept), 3) for what in kept[0]}
        for name, kept in rounds.items()
        if kept
    }
    sys.stdout.write(json.dumps({"events": given.events, "machine": machine(), **medians}, indent=1) + "\n")


if __name__ == "__main__":
    main()
