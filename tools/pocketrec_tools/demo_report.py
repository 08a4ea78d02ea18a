"""What `demo` found: the one table, the session without network, and what to type next."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pocketrec.output import human_bytes
from pocketrec_tools.demo_offline import Session


@dataclass(frozen=True)
class DemoRow:
    """One line of the table.

    Attributes:
        name: what ranked.
        users: how many test users the figures are about.
        hr, ndcg: HR@10 and NDCG@10.
        bytes: what it needs on disk; None where that says nothing.
        ms_per_list: median milliseconds of a ranked list; None where it was not measured.
    """

    name: str
    users: int
    hr: float
    ndcg: float
    bytes: int | None = None
    ms_per_list: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "users": self.users,
            "hr@10": self.hr,
            "ndcg@10": self.ndcg,
            "bytes": self.bytes,
            "ms_per_list": self.ms_per_list,
        }

    def cells(self) -> tuple[str, ...]:
        """For a terminal."""
        return (
            self.name,
            f"{self.users}",
            f"{self.hr:.4f}",
            f"{self.ndcg:.4f}",
            "" if self.bytes is None else human_bytes(self.bytes),
            "" if self.ms_per_list is None else f"{self.ms_per_list:.2f}",
        )


HEADERS = ("", "users", "HR@10", "NDCG@10", "size", "ms a list")


@dataclass(frozen=True)
class DemoReport:
    """What `demo` found.

    Attributes:
        out, data, bundle, checkpoint, history: what is where.
        seed, users, items: of the data.
        reused: the bundle of an earlier run was taken.
        rows: of the table.
        bundle_bytes: of the bundle with the graphs of all engines.
        person: events of a test user, as (item id, event, timestamp), that were recorded without network.
        next_item: (item id, title) of what that person did next, which was never trained on.
        session: what the device answered.
        titles: of the items in `person`.
        seconds: by step.
    """

    out: Path
    data: Path
    bundle: Path
    checkpoint: Path
    history: Path
    seed: int
    users: int
    items: int
    reused: bool
    rows: list[DemoRow]
    bundle_bytes: int
    person: list[tuple[str, str, int | None]]
    next_item: tuple[str, str]
    session: Session
    titles: dict[str, str]
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        paths = ("out", "data", "bundle", "checkpoint", "history")
        return {
            **{name: str(getattr(self, name)) for name in paths},
            "seed": self.seed,
            "users": self.users,
            "items": self.items,
            "reused": self.reused,
            "bundle_bytes": self.bundle_bytes,
            "table": [row.to_dict() for row in self.rows],
            "offline": {
                **asdict(self.session),
                "events": [list(event) for event in self.person],
                "next_item": self.next_item[0],
            },
            "seconds": self.seconds,
        }

    def remarks(self) -> Iterator[str]:
        """What a reader of the table has to know besides it."""
        fewer = [row for row in self.rows if row.users < self.rows[0].users]
        yield (
            f"Test targets of {self.rows[0].users:,} users: each one's last event, never trained on. "
            f"All {self.items:,} products are ranked, seen ones filtered, ties count against. One thread, "
            "medians."
        )
        for row in fewer:
            yield f"{row.name}: a sample of {row.users:,} users, as this engine is slow on purpose."
        yield (
            f"size: everything a device needs to rank; with the graphs of all engines the bundle has "
            f"{human_bytes(self.bundle_bytes)}."
        )

    def story(self) -> Iterator[str]:
        """The session without network, in lines."""
        session = self.session
        yield f"Without network: {session.guard} ({session.probe}); engine {session.engine}."
        before: set[str] = set()
        done = 0
        for listed in session.lists:
            for item, event, _ in self.person[done : listed.events]:
                yield f"  recorded: {event or 'event'} {self.titles[item]} [{item}]"
            done = listed.events
            kept = len(before & {item for item, _, _ in listed.items})
            new = f", {kept or 'none'} of them as before" if before else ""
            what = (
                "nothing known yet, the most popular" if listed.fallback else f"after {listed.events} events"
            )
            yield f"The {len(listed.items)} best, {what}{new}:"
            for rank, (item, title, _) in enumerate(listed.items, start=1):
                yield f"  {rank:2d}  {title} [{item}]"
            before = {item for item, _, _ in listed.items}
        item, title = self.next_item
        where = "in the last list" if item in before else "not in the last list"
        yield f"What this person did next: {title} [{item}], {where}."

    def next_steps(self) -> Iterator[str]:
        """What to type next, with this run's paths and an item that exists."""
        some = ",".join(item for item, _, _ in self.person[:2])
        yield "Next:"
        if shutil.which("pocketrec") is None:  # as after `make demo`
            yield f"  source {os.path.relpath(sys.prefix)}/bin/activate"
        yield f"  pocketrec rank {self.bundle} --items {some} -k 5"
        yield f"  pocketrec rank {self.bundle} --history {self.history}"
        yield f"  pocketrec evaluate {self.bundle} {self.data} --against {self.checkpoint}"
        yield f"  pocketrec inspect {self.bundle}"
        yield f"  pocketrec bench {self.bundle}"
        yield f"  pocketrec simulate --serve {self.bundle} {self.data}      # phones to press, in a browser"
        yield (
            "  pocketrec build YOUR_DATA --out YOUR_BUNDLE      # interactions.csv and items.csv, as in "
            + str(self.data)
        )
