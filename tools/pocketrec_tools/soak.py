"""`kill -9` at random moments, many times, and a look at what is left each time.

    python -m pocketrec_tools.soak [--kills 1000] [--seed 0] [--only record,clear] [--out
    docs/benchmarks/soak.md]

A victim (`soak_victims`) works in a process of its own and says, over a pipe, what it is about to do and when
it was acknowledged. It is killed after a random time, also while it opens. Then the victim's law is checked:
what was acknowledged is there, once; what was under way is there wholly or not at all; what was deleted is in
no byte.

A kill leaves the page cache of the system alone. It shows that every order of writes is recoverable, not that
the disk keeps its word when the power fails; for that, each commit is followed by an fsync.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pocketrec_tools.machine import machine
from pocketrec_tools.soak_law import Broken, Victim

LONGEST_SECONDS = 0.04
"""A victim lives for a random part of this: a quarter of them counted from the start, to be killed while they
open;
the others from the first step that was acknowledged, however slow the machine is. A victim whose steps take
longer says so in `longest`."""

KILLS_A_FOLDER = 25
"""Then the victim begins anew: making files is killed, too."""


_PAGE = """\
# Killed and looked at

`make soak`: {kills} times `kill -9` at a random moment, seed {seed}, {seconds} s ({machine}).

No law was broken: what was acknowledged is there, in order, none twice; what was under way is there wholly or
not at all; every file opens and passes SQLite's integrity check; no byte of a deleted event is left after the
next opening; a change of key left the old key or the new one, and every event; the live bundle is the old
one or the new one, every byte of it, and gives that one's list to the bit.

| killed in | kills | while opening | steps acknowledged | steps under way, and what became of them |
|---|---|---|---|---|
{rows}

A victim lives for up to {longest} ms (`install` and `delta`: one and a half times what an installation
takes), a quarter of them counted from its start, the others from the first step that was acknowledged. It
goes on with what the killed one left; after {folder} kills it begins in an empty folder. `retention` keeps 40
events, `encrypted` does everything with a key, `delta` goes from catalogue to catalogue by deltas, and back
by a whole bundle. A kill does not test the disk: that a commit outlives a power failure rests on
`synchronous=FULL` and on the disk's word ([privacy](../privacy.md)).
"""


@dataclass
class Count:
    """What happened to one victim.

    Attributes:
        kills: so many. acknowledged: steps that were, in all. opening: kills before the first step was begun.
        under_way: kills in the middle of a step, by what became of it.
    """

    victim: str
    kills: int = 0
    acknowledged: int = 0
    opening: int = 0
    under_way: dict[str, int] | None = None


def soak(victims: Sequence[Victim], kills: int, seed: int = 0) -> list[Count]:
    """Kill the victims in turn, `kills` times in all.

    Raises:
        Broken: with the seed and the number of the kill, and the folder, which stays.
    """
    chance = random.Random(seed)
    counts = {victim.name: Count(victim.name, under_way={}) for victim in victims}
    folders: dict[str, Path] = {}
    for number in range(kills):
        victim = victims[number % len(victims)]
        count = counts[victim.name]
        if count.kills % KILLS_A_FOLDER == 0:
            _remove(folders.pop(victim.name, None))
            folders[victim.name] = Path(tempfile.mkdtemp(prefix=f"soak-{victim.name}-"))
            victim.begin(folders[victim.name])
        early, after = chance.random() < 0.25, chance.random() * getattr(victim, "longest", LONGEST_SECONDS)
        said = _kill(victim, random.Random(chance.random()), early, after)
        try:
            found = victim.check(said)
        except Broken as error:
            raise Broken(
                f"kill {number} of seed {seed}, {victim.name}, in {folders[victim.name]}: {error}"
            ) from error
        _note(count, said, found)
    for folder in folders.values():
        _remove(folder)
    return [counts[victim.name] for victim in victims]


def _kill(victim: Victim, chance: random.Random, early: bool, after: float) -> list[dict[str, Any]]:
    """Let it work for `after` seconds, from its start or its first answer; what it said until then."""
    receive, send = os.pipe()
    pid = os.fork()
    if not pid:
        _work(victim, chance, send)
    os.close(send)
    with open(receive, "rb") as pipe:
        lines: list[bytes] = []
        while not early and (line := pipe.readline()):
            lines.append(line)
            early = json.loads(line)["step"] in ("done", "error")
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
        lines += pipe.readlines()
    status = os.waitpid(pid, 0)[1]
    if not os.WIFSIGNALED(status):
        raise Broken(f"{victim.name} ended by itself: {lines[-1:]!r}")
    return [json.loads(line) for line in lines]


def _work(victim: Victim, chance: random.Random, pipe: int) -> None:
    """The child: never returns."""
    try:
        # One write of less than PIPE_BUF bytes: it is in the pipe wholly or not at all.
        victim.work(chance, lambda step: void(os.write(pipe, json.dumps(step).encode() + b"\n")))
    except BaseException as error:
        os.write(pipe, json.dumps({"step": "error", "error": repr(error)[:2000]}).encode() + b"\n")
    finally:
        os._exit(1)


def void(_: object) -> None:
    """Nothing."""


def _note(count: Count, said: list[dict[str, Any]], found: str) -> None:
    count.kills += 1
    count.acknowledged += sum(step["step"] == "done" for step in said)
    if not said:
        count.opening += 1
    elif said[-1]["step"] != "done":
        assert count.under_way is not None
        count.under_way[found] = count.under_way.get(found, 0) + 1


def _remove(folder: Path | None) -> None:
    if folder is not None:
        shutil.rmtree(folder)


def page(counts: Sequence[Count], seed: int, seconds: float) -> str:
    """The counts as a page of the documentation."""
    kills = sum(count.kills for count in counts)
    rows = [
        f"| {c.victim} | {c.kills} | {c.opening} | {c.acknowledged} | {_words(c.under_way)} |" for c in counts
    ]
    where = machine()
    return _PAGE.format(
        kills=kills,
        seed=seed,
        seconds=round(seconds),
        machine=f"{where['processor']}, {where['system']}, Python {where['python']}",
        rows="\n".join(rows),
        longest=round(LONGEST_SECONDS * 1000),
        folder=KILLS_A_FOLDER,
    )


def _words(under_way: dict[str, int] | None) -> str:
    return ", ".join(f"{number} {what}" for what, number in sorted((under_way or {}).items()))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; status 1 when a law was broken."""
    from pocketrec_tools.soak_victims import all_victims

    parser = argparse.ArgumentParser(description="kill -9 at random moments")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="names of victims, with commas")
    parser.add_argument("--out", type=Path, help="write the page here")
    given = parser.parse_args(arguments)
    victims = [v for v in all_victims() if not given.only or v.name in given.only.split(",")]
    start = time.monotonic()
    try:
        counts = soak(victims, given.kills, given.seed)
    except Broken as error:
        sys.stderr.write(f"broken: {error}\n")
        sys.exit(1)
    seconds = time.monotonic() - start
    sys.stdout.write(json.dumps({"seed": given.seed, "counts": [asdict(count) for count in counts]}) + "\n")
    if given.out is not None:
        given.out.write_text(page(counts, given.seed, seconds), encoding="utf-8")


if __name__ == "__main__":
    main()
