"""Mutated inputs of a stranger: each is refused with a typed error, or works.

    python -m pocketrec_tools.fuzz [--runs 10000] [--seed 0] [--processes 1] [--minutes M] [--record FILE]
    python -m pocketrec_tools.fuzz --page docs/benchmarks/fuzz.md --records FILE …
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from pocketrec_tools.fuzz_pool import LONGEST_SECONDS, ROOM_BYTES, Result, run_pool, work_folder
from pocketrec_tools.fuzz_targets import Targets
from pocketrec_tools.fuzz_world import make_world
from pocketrec_tools.machine import machine

MARK = "pocketrec_tools.fuzz"
_MOST_CODES = 6
_KEEP_SECONDS = 60.0

_PART = """\
**{inputs:,} inputs, {verdict}.** The slowest took {slowest:.2f} s of processor time; no process held more
than {peak} MiB, {warm} MiB of it after its first hundred inputs. {rate} inputs a second of processor time.

| mutated | inputs | ms each | taken | refused, by the most frequent codes |
|---|---|---|---|---|
{rows}

| run | inputs | commit | where |
|---|---|---|---|
{runs}
"""


def document(result: Result, seed: int, runs: int, seconds: float, made_by: str) -> dict[str, Any]:
    """What is kept of a run, for JSON; `made_by` is the commit whose code ran."""
    outcomes: dict[str, dict[str, int]] = {}
    for (target, what), count in sorted(result.counts.items()):
        outcomes.setdefault(target, {})[what] = count
    where = machine()
    return {
        "seed": seed,
        "runs": runs,
        "inputs": result.finished,
        "commit": made_by,
        "machine": f"{where['processor']}, {where['system']}, Python {where['python']}",
        "seconds": round(seconds, 1),
        "processor_seconds": {name: round(used, 2) for name, used in sorted(result.seconds.items())},
        "slowest": {"seconds": round(result.slowest[0], 3), "input": result.slowest[1]},
        "peak_bytes": result.peak_bytes,
        "warm_bytes": result.warm_bytes,
        "limits": {"room_bytes": ROOM_BYTES, "seconds": LONGEST_SECONDS},
        "children": result.children,
        "findings": {str(run): what for run, what in sorted(result.findings.items())},
        "outcomes": outcomes,
    }


def rows(outcomes: Mapping[str, Mapping[str, int]], seconds: Mapping[str, float]) -> list[str]:
    """The table of the page: a line for each target."""
    lines = []
    for target, counts in sorted(outcomes.items()):
        inputs = sum(counts.values())
        refused = Counter(
            {w.removeprefix("refused "): n for w, n in counts.items() if w.startswith("refused ")}
        )
        taken = {what.removeprefix("taken: "): n for what, n in counts.items() if what.startswith("taken")}
        words = ", ".join(f"{what} {n:,}" for what, n in sorted(taken.items())).replace("taken ", "")
        codes = ", ".join(f"`{code}` {n:,}" for code, n in refused.most_common(_MOST_CODES))
        rest = sum(refused.values()) - sum(n for _, n in refused.most_common(_MOST_CODES))
        others = f", others {rest:,}" if rest else ""
        each = 1000 * seconds[target] / inputs
        lines.append(f"| {target} | {inputs:,} | {each:.1f} | {words or 'none'} | {codes}{others} |")
    return lines


def part(documents: Sequence[Mapping[str, Any]]) -> str:
    """What the page says of these runs together."""
    outcomes: dict[str, Counter[str]] = {}
    seconds: Counter[str] = Counter()
    for one in documents:
        for target, counts in one["outcomes"].items():
            outcomes.setdefault(target, Counter()).update(counts)
        seconds.update(one["processor_seconds"])
    inputs, used = sum(one["inputs"] for one in documents), sum(seconds.values())
    broken = sum(len(one["findings"]) for one in documents)
    return _PART.format(
        inputs=inputs,
        verdict=f"{broken} broke a law" if broken else "no law was broken",
        slowest=max((one["slowest"]["seconds"] for one in documents), default=0.0),
        peak=max((one["peak_bytes"] for one in documents), default=0) >> 20,
        warm=max((one["warm_bytes"] for one in documents), default=0) >> 20,
        rate=round(inputs / used) if used else 0,
        rows="\n".join(rows(outcomes, seconds)),
        runs="\n".join(
            f"| `--seed {one['seed']} --runs {one['runs']}` | {one['inputs']:,} | {one['commit']} |"
            f" {one['machine']}; {one['seconds'] / 60:.0f} min |"
            for one in documents
        ),
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
    parser.add_argument("--record", type=Path, help="keep what was found here, every minute, as JSON")
    parser.add_argument(
        "--page", type=Path, help="write --records between the marks of this page; runs nothing"
    )
    parser.add_argument("--records", type=Path, nargs="+", default=[], help="records of runs, for --page")
    parser.add_argument("--replay", type=int, metavar="RUN", help="judge this one input")
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="where --replay puts it")
    given = parser.parse_args(arguments)
    if given.replay is not None:
        sys.stdout.write(replay(given.seed, given.replay, given.keep) + "\n")
        return
    if given.page is not None:
        write_part(given.page, part([json.loads(path.read_bytes()) for path in given.records]))
        return
    ended: list[int] = []
    start = time.monotonic()
    written = start
    made_by = commit()

    def end(number: int, _: FrameType | None) -> None:
        ended.append(number)

    def keep(result: Result) -> None:
        if given.record is not None:
            found = document(result, given.seed, given.runs, time.monotonic() - start, made_by)
            text = json.dumps(found, indent=1)
            given.record.write_text(text + "\n", encoding="utf-8")

    def stop(result: Result) -> bool:
        nonlocal written
        if time.monotonic() - written > _KEEP_SECONDS:
            keep(result)
            written = time.monotonic()
        return bool(ended)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    seconds = None if given.minutes is None else 60 * given.minutes
    result = run_pool(given.runs, given.seed, given.processes, seconds=seconds, stop=stop)
    keep(result)
    found = document(result, given.seed, given.runs, time.monotonic() - start, made_by)
    sys.stdout.write(json.dumps(found) + "\n")
    for run, what in sorted(result.findings.items()):
        sys.stderr.write(f"input {run} of seed {given.seed}: {what}; --replay {run}\n")
    sys.exit(bool(result.findings))


if __name__ == "__main__":
    main()
