"""Many threads rank and record with one `Recommender`, for minutes: no error, no lost event, memory flat.

    python -m pocketrec_tools.load BUNDLE [--threads 16] [--seconds 600] [--out docs/benchmarks/load.md]

Every thread records an event that names the thread and its number, ranks a list for a history of its own
whose answer is known from before, and now and then ranks the stored history, is stopped by a deadline that
has passed or cancels. In the end the file is read by itself: the last sequence number is the number of
acknowledged events, and what retention left of each thread's is its newest, without a gap. Memory is looked
at every second.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from pocketrec import History, Ranking, Recommender, StoppedError
from pocketrec.history import MAX_EVENTS
from pocketrec_tools.machine import machine

_STORED_EVERY = 20
_STOPPED_EVERY = 50
FLAT_BYTES = 16 << 20
"""Memory is flat when the last quarter's median is no more than this above that of the second quarter."""


@dataclass
class Load:
    """What happened.

    Attributes:
        recorded, ranked, stopped: calls that came back as they should.
        errors: what did not; the first words of each.
        lost: events that were acknowledged and are not there.
        memory: (seconds, bytes of the process) over time.
        busy: the system's load average before the start, 0 where it has none.
    """

    bundle: str
    threads: int
    seconds: float
    recorded: int = 0
    ranked: int = 0
    stopped: int = 0
    errors: list[str] = field(default_factory=list)
    lost: int = 0
    memory: list[tuple[float, int]] = field(default_factory=list)
    busy: float = 0.0

    @property
    def growth(self) -> int:
        """Bytes by which the last quarter's memory is above the second quarter's, by their medians."""
        quarter = len(self.memory) // 4
        if not quarter:
            return 0
        values = [size for _, size in self.memory]
        return int(statistics.median(values[-quarter:]) - statistics.median(values[quarter : 2 * quarter]))

    @property
    def ok(self) -> bool:
        """No error, no lost event, memory flat."""
        return not self.errors and not self.lost and self.growth <= FLAT_BYTES


class _Worker(threading.Thread):
    def __init__(self, number: int, shared: Recommender, until: float, seed: int) -> None:
        super().__init__(name=f"load-{number}", daemon=True)
        self.number, self.shared, self.until = number, shared, until
        self.chance = random.Random(f"{seed}-{number}")
        catalogue = self.shared.bundle.catalogue
        rows = len(catalogue.prior)
        self.items = [catalogue.item_id(self.chance.randrange(rows)) for _ in range(50)]
        self.own = self.items[: self.chance.randint(1, 20)]
        self.want = shared.rank(self.own)
        self.recorded = self.ranked = self.stopped = 0
        self.errors: list[str] = []

    def run(self) -> None:
        turn = 0
        while time.monotonic() < self.until and len(self.errors) < 10:
            turn += 1
            try:
                self._turn(turn)
            except Exception as error:
                self.errors.append(f"{type(error).__name__}: {str(error)[:200]}")

    def _turn(self, turn: int) -> None:
        # The event's type is free text: it says which of the acknowledged ones this is.
        self.shared.record(self.chance.choice(self.items), f"{self.number}:{self.recorded}")
        self.recorded += 1
        if self.shared.rank(self.own) != self.want:
            raise AssertionError("another list for the same history")
        self.ranked += 1
        if turn % _STORED_EVERY == self.number % _STORED_EVERY:
            self._look(self.shared.recommend(filter_seen=False))
        if turn % _STOPPED_EVERY == 0:
            cancelled = threading.Event()
            cancelled.set()
            for how in ({"deadline": 0.0}, {"cancel": cancelled}):
                try:
                    self.shared.recommend(**how)
                except StoppedError:
                    self.stopped += 1
                else:
                    raise AssertionError("a call that had to stop did not")

    def _look(self, ranking: Ranking) -> None:
        scores = [item.score for item in ranking]
        if not scores or scores != sorted(scores, reverse=True) or ranking.skipped:
            raise AssertionError(f"a list that is none: {scores}, {ranking.skipped} skipped")
        self.ranked += 1


def load(bundle: str | Path, history: Path, threads: int = 16, seconds: float = 600, seed: int = 0) -> Load:
    """Do it. `history` is a file that does not exist yet."""
    made = Load(
        Path(bundle).name, threads, seconds, busy=os.getloadavg()[0] if hasattr(os, "getloadavg") else 0
    )
    process, start = psutil.Process(), time.monotonic()
    with Recommender.open(bundle, History(history)) as shared:
        workers = [_Worker(number, shared, start + seconds, seed) for number in range(threads)]
        before = shared.calls
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            made.memory.append((round(time.monotonic() - start, 1), process.memory_info().rss))
            time.sleep(min(1.0, seconds / 40))
        calls = shared.calls
    for worker in workers:
        made.recorded += worker.recorded
        made.ranked += worker.ranked
        made.stopped += worker.stopped
        made.errors += worker.errors
    done = (calls.finished - before.finished, calls.stopped, calls.active)
    if not made.errors and done != (made.recorded + made.ranked, made.stopped, 0):
        made.errors.append(f"the recommender counted {done}, the threads {made.recorded + made.ranked}")
    made.lost = _lost(history, [worker.recorded for worker in workers])
    return made


def _lost(history: Path, recorded: Sequence[int]) -> int:
    """Acknowledged events that neither are in the file, in order, nor made room there for newer ones.

    Retention deletes from the old end only: what is stored is an unbroken run of sequence numbers up to the
    last.
    """
    total = sum(recorded)
    db = sqlite3.connect(history)
    try:
        rows = db.execute("SELECT seq, event FROM events ORDER BY seq").fetchall()
    finally:
        db.close()
    kept = min(total, MAX_EVENTS - MAX_EVENTS // 16)
    first = min(rows[0][0], total - kept + 1) if rows else total - kept + 1
    lost = len(set(range(first, total + 1)) ^ {seq for seq, _ in rows})
    stored = [tuple(map(int, event.split(":"))) for _, event in rows]
    for thread, count in enumerate(recorded):
        own = [number for worker, number in stored if worker == thread]
        lost += own != list(range(count - len(own), count))
    return lost


def page(made: Load) -> str:
    """The figures as a page of the documentation."""
    where = machine()
    step = max(1, len(made.memory) // 12)
    memory = "\n".join(f"| {at:.0f} | {size / 1e6:.1f} |" for at, size in made.memory[::step])
    return _PAGE.format(
        **{key: value for key, value in asdict(made).items() if key not in ("memory", "errors")},
        errors=len(made.errors),
        machine=f"{where['processor']}, {where['cores']} cores, {where['system']}, Python {where['python']}",
        verdict="No error, no lost event, memory flat." if made.ok else "**Not as it should be.**",
        growth=made.growth / 1e6,
        memory=memory,
    )


_PAGE = """\
# Many threads, one recommender

`make load`: {threads} threads rank and record for {seconds:.0f} s with one `Recommender` and one history
file, the bundle `{bundle}` ({machine}). {verdict}

| | |
|---|---|
| events recorded and acknowledged | {recorded} |
| lists | {ranked} |
| calls stopped by a deadline or by cancelling | {stopped} |
| errors, lists that differ from the one made alone | {errors} |
| acknowledged events that are lost | {lost} |
| memory, last quarter less second quarter, medians | {growth:+.1f} MB |

Lists and events are made by threads of one process that share the interpreter's lock: the counts say how much
was tested, not how fast a list is ([timings](README.md)). The system's load average before the start was
{busy:.1f}: where that is more than a few tenths, other work took its share.

| second | memory, MB |
|---|---|
{memory}

What memory grows by in the first minutes is glibc's: each thread allocates from an arena of its own.
`MALLOC_ARENA_MAX=1` before the command takes that away.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; status 1 when something was not as it should be."""
    parser = argparse.ArgumentParser(description="many threads, one recommender")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the page here")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        made = load(given.bundle, Path(folder) / "me.db", given.threads, given.seconds, given.seed)
    said: dict[str, Any] = {"ok": made.ok, "growth": made.growth, **asdict(made)}
    sys.stdout.write(json.dumps(said) + "\n")
    if given.out is not None:
        given.out.write_text(page(made), encoding="utf-8")
    if not made.ok:
        sys.exit(1)


if __name__ == "__main__":
    main()
