"""Mutated inputs of a stranger: each is refused with a typed error, or works.

    python -m pocketrec_tools.fuzz [--runs 10000] [--seed 0] [--processes 1] [--minutes M] [--page
    docs/benchmarks/fuzz.md]
    python -m pocketrec_tools.fuzz --replay RUN [--seed 0] [--keep DIR]

What is mutated, and the laws, are in `fuzz_targets`; how, in `fuzz_mutate` and `fuzz_zip`; the processes and
their limits, in `fuzz_pool`. An input follows from seed and number alone: `--replay` makes one again, keeps
its files, and lets what is raised through. There is no feedback from coverage here; that is `fuzz_coverage`.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: children are forked

import argparse
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from pocketrec_tools.fuzz_pool import LONGEST_SECONDS, ROOM_BYTES, Result, run_pool, work_folder
from pocketrec_tools.fuzz_targets import Targets
from pocketrec_tools.fuzz_world import make_world
from pocketrec_tools.machine import machine

MARK = "pocketrec_tools.fuzz"
_MOST_CODES = 6

_PART = """\
`make fuzz FUZZ="--runs {asked} --seed {seed} --processes {processes}"`, commit {commit}:
**{finished:,} inputs, {verdict}**. {machine}; {minutes} minutes,
{cpu} s of processor time, {rate} inputs a second of it. The slowest input took {slowest:.2f} s of
processor time (number {slowest_run}); no process held more than {peak} MiB, and {warm} MiB after its first
hundred inputs.

| mutated | inputs | ms each | taken | refused, by the most frequent codes |
|---|---|---|---|---|
{rows}
"""


def rows(result: Result) -> list[str]:
    """The table of the page."""
    lines = []
    targets = Counter[str]()
    for (target, _), count in result.counts.items():
        targets[target] += count
    for target, inputs in sorted(targets.items()):
        outcomes = Counter({what: n for (name, what), n in result.counts.items() if name == target})
        refused = Counter(
            {w.removeprefix("refused "): n for w, n in outcomes.items() if w.startswith("refused ")}
        )
        taken = {what.removeprefix("taken: "): n for what, n in outcomes.items() if what.startswith("taken")}
        words = ", ".join(f"{what} {n:,}" for what, n in sorted(taken.items())).replace("taken ", "")
        codes = ", ".join(f"`{code}` {n:,}" for code, n in refused.most_common(_MOST_CODES))
        rest = sum(refused.values()) - sum(n for _, n in refused.most_common(_MOST_CODES))
        each = 1000 * result.seconds[target] / inputs
        others = f", others {rest:,}" if rest else ""
        lines.append(f"| {target} | {inputs:,} | {each:.1f} | {words or 'none'} | {codes}{others} |")
    return lines


def part(result: Result, asked: int, seed: int, processes: int, seconds: float) -> str:
    """What the page says of this run."""
    where, cpu = machine(), sum(result.seconds.values())
    return _PART.format(
        asked=asked,
        seed=seed,
        processes=processes,
        commit=commit(),
        finished=result.finished,
        verdict="no law was broken" if not result.findings else f"{len(result.findings)} broke a law",
        machine=f"{where['processor']}, {where['system']}, Python {where['python']}",
        minutes=round(seconds / 60),
        cpu=round(cpu),
        rate=round(result.finished / cpu) if cpu else 0,
        slowest=result.slowest[0],
        slowest_run=result.slowest[1],
        peak=result.peak_bytes >> 20,
        warm=result.warm_bytes >> 20,
        rows="\n".join(rows(result)),
    )


def marks(name: str) -> tuple[str, str]:
    """What stands before and after that which the tool `name` writes into a page."""
    return f"<!-- made by {name}: begin -->", f"<!-- made by {name}: end -->"


def write_part(page: Path, made: str, name: str = MARK) -> None:
    """Put it between the two marks of the page."""
    begin, end = marks(name)
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n{made}{end}{after}", encoding="utf-8")


def commit() -> str:
    """The commit, and whether anything that matters here was changed since."""

    def git(*command: str) -> str:
        done = subprocess.run(["git", *command], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "sdk", "tools/pocketrec_tools")
    return (git("rev-parse", "--short=10", "HEAD") or "unknown") + (" and changes" if changed else "")


def replay(seed: int, run: int, keep: Path) -> str:
    """Judge one input again, here, and keep its files.

    Raises:
        Exception: what it raises.
    """
    with work_folder() as root:
        world = make_world(root)
        (root / "work").mkdir()
        targets = Targets(world, root / "work")
        case = targets.make(seed, run)
        case.save(keep / f"{seed}-{run}")
        try:
            return f"{case.target}: {targets.judge(case)}"
        finally:
            targets.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; status 1 when a law is broken."""
    parser = argparse.ArgumentParser(description="mutated inputs of a stranger")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--minutes", type=float, help="end after so long, wherever it is by then")
    parser.add_argument("--page", type=Path, help="write the table between the marks of this page")
    parser.add_argument("--replay", type=int, metavar="RUN", help="judge this one input")
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="where --replay puts it")
    given = parser.parse_args(arguments)
    if given.replay is not None:
        sys.stdout.write(replay(given.seed, given.replay, given.keep) + "\n")
        return
    ended: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        ended.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    start = time.monotonic()
    result = run_pool(
        given.runs, given.seed, given.processes,
        seconds=None if given.minutes is None else 60 * given.minutes, stop=lambda: bool(ended),
    )  # fmt: skip
    seconds = time.monotonic() - start
    sys.stdout.write(json.dumps(_document(result, given.seed, seconds)) + "\n")
    if given.page is not None:
        write_part(given.page, part(result, given.runs, given.seed, given.processes, seconds))
    for run, what in sorted(result.findings.items()):
        sys.stderr.write(f"input {run} of seed {given.seed}: {what}; --replay {run}\n")
    sys.exit(bool(result.findings))


def _document(result: Result, seed: int, seconds: float) -> dict[str, Any]:
    outcomes: dict[str, dict[str, int]] = {}
    for (target, what), count in sorted(result.counts.items()):
        outcomes.setdefault(target, {})[what] = count
    return {
        "inputs": result.finished,
        "seed": seed,
        "seconds": round(seconds, 1),
        "processor_seconds": round(sum(result.seconds.values()), 1),
        "slowest": {"seconds": round(result.slowest[0], 3), "input": result.slowest[1]},
        "peak_bytes": result.peak_bytes,
        "warm_bytes": result.warm_bytes,
        "limits": {"room_bytes": ROOM_BYTES, "seconds": LONGEST_SECONDS},
        "children": result.children,
        "findings": {str(run): what for run, what in sorted(result.findings.items())},
        "outcomes": outcomes,
    }


if __name__ == "__main__":
    main()
