"""A data directory for the bundle of `tiny_bundle`, and the held-out lists of it, read without our reader."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from tiny_bundle import ITEMS, item_id

Row = tuple[str, str, int, str]
"""user, item, timestamp, event"""

ODD_ROWS: list[Row] = [
    ("one-event", item_id(1), 5, "view"),
    ("unknown-before", "not-in-the-bundle", 10, "view"),
    ("unknown-before", item_id(2), 11, "buy"),
    ("unknown-target", item_id(3), 12, "view"),
    ("unknown-target", "not-in-the-bundle", 13, "view"),
    ("again", item_id(4), 14, "view"),
    ("again", item_id(5), 15, "no such type"),
    ("again", item_id(4), 16, "view"),
    ("two", item_id(6), 17, ""),
    ("two", item_id(7), 17, ""),
]


def tiny_rows(users: int = 40, seed: int = 0) -> list[Row]:
    """Random shoppers with 1 to 14 events, then one user for every odd case."""
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for user in range(users):
        times = np.sort(rng.integers(1_600_000_000, 1_600_300_000, rng.integers(1, 15))) // 50 * 50
        for time in times.tolist():
            kind = ("", "view", "buy")[rng.integers(3)]
            rows.append((f"u{user}", item_id(int(rng.integers(ITEMS) * rng.random())), time, kind))
    return [*rows, *ODD_ROWS]


def write_rows(directory: Path, rows: list[Row]) -> Path:
    """interactions.csv of these rows."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "interactions.csv", "w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["user_id", "item_id", "timestamp", "event"])
        writer.writerows(rows)
    return directory


def held_out_by_hand(rows: list[Row], split: str) -> dict[str, tuple[list[tuple[str, str, int]], str]]:
    """user -> (history, target item) by the rule of the protocol, in plain Python."""
    found = {}
    for user in dict.fromkeys(row[0] for row in rows):
        own = sorted((row for row in rows if row[0] == user), key=lambda row: row[2])
        target = len(own) - (1 if split == "test" else 2)
        if target >= 1:
            found[user] = ([(item, kind, time) for _, item, time, kind in own[:target]], own[target][1])
    return found
