"""How the build side grows: synthetic sets of several sizes, each prepared and trained on in its own process.

    python -m pocketrec_tools.scale --users 1000000 --items 1000000 --events 50000000 --minutes 2

Times are processor seconds of one thread, so that a busy machine tells the same as a quiet one; memory is the
most that the process held, interpreter and libraries included. What a whole epoch takes is extrapolated from
the batches that were measured.

With `--data DIR` sets and what was measured of each stay there, so that the same command goes on after a
kill; take the JSON files away to measure again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from pocketrec.errors import DataError, PocketrecError
from pocketrec.output import note, print_json
from pocketrec_tools.machine import machine
from pocketrec_tools.processes import ONE_THREAD
from pocketrec_tools.scale_data import make_scale_data
from pocketrec_tools.scale_measure import VALIDATION_USERS, Job

PARTS = (500, 50, 10, 1)
"""Smaller sets are these parts of the whole one."""

FEWEST_ITEMS = 50_000
"""Of a smaller set, so that all of them are trained with sampled negatives."""

TRAINING_STAGES = ("training", "averages brought up to date", "state", "distilled batches")
END_STAGES = ("checkpoint", "bundle, int8")


@dataclass(frozen=True)
class ScaleResult:
    """Figures of each size, smallest first; `scale_measure.measure` says what they are."""

    machine: dict[str, str | int]
    seed: int
    sets: list[dict[str, Any]]


def run_scale(
    users: int, items: int, events: int, *, minutes: float, sizes: int, seed: int, data: Path
) -> ScaleResult:
    """Make the sets in `data` where they are not there yet, and measure each.

    Args:
        users, items, events: of the largest set.
        minutes: of training on each.
        sizes: how many, by `PARTS`.
        data: sets are taken from here and kept here, and so are the figures of each, for as many minutes.

    Raises:
        DataError: sizes that no set can have.
        PocketrecError: a process that failed.
    """
    if not 1 <= sizes <= len(PARTS):
        raise DataError(f"{sizes} sizes.", remedy=f"Ask for 1 to {len(PARTS)}.")
    found = []
    for part in PARTS[-sizes:]:
        some = {
            "users": max(1, users // part),
            "items": max(min(items, FEWEST_ITEMS), items // part),
            "events": events // part,
        }
        directory = data / f"{'-'.join(map(str, some.values()))}-{seed}"
        if not directory.exists():
            note(f"making {some['events']:,} events")
            partial = directory.with_suffix(".partial")
            make_scale_data(partial, **some, seed=seed)
            partial.rename(directory)
        file = data / f"{directory.name}.{minutes:g}.json"
        if not file.exists():
            note(
                f"measuring {some['events']:,} events of {some['users']:,} users and {some['items']:,} items"
            )
            with tempfile.TemporaryDirectory(dir=data) as work:
                job: Job = {"data": str(directory), "work": work, "minutes": minutes, "seed": seed}
                partial = file.with_suffix(".partial")
                partial.write_text(json.dumps(_measured(job)), encoding="utf-8")
                partial.rename(file)
        found.append(json.loads(file.read_text(encoding="utf-8")))
    return ScaleResult(machine(), seed, found)


def _measured(job: Job) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "pocketrec_tools.scale_measure"],
        input=json.dumps(job),
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | ONE_THREAD | {"POLARS_MAX_THREADS": "1"},
        check=False,
    )
    if done.returncode:
        raise PocketrecError(
            f"measuring {job['data']} ended with status {done.returncode}.",
            code="process-failed",
            remedy="Its own words are above; with too little memory, ask for fewer events.",
        )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def lines(result: ScaleResult) -> list[str]:
    """The table of a result, in Markdown: a column for each set."""
    columns = [_column(found) for found in result.sets]
    head = ["events", *(f"{found['events']:,}" for found in result.sets)]
    rows = [head, ["---"] * len(head)]
    rows += [[name, *(column[name] for column in columns)] for name in columns[0]]
    return [f"| {' | '.join(row)} |" for row in rows]


def _column(found: dict[str, Any]) -> dict[str, str]:
    stages, training = found["stages"], found["training"]

    def seconds(*names: str) -> float:
        return sum(stages[name]["processor_seconds"] for name in names)

    def peak(*names: str) -> str:
        return f"{max(stages[name]['peak_bytes'] for name in names) / 1e9:.1f} GB"

    (ranks,) = (name for name in stages if name.startswith("ranks of"))
    before = list(stages)[1 : list(stages).index("training")]
    batch, distilled = (
        found[name]["processor_seconds"] / found[name]["batches"] for name in ("training", "distilled")
    )
    listing = seconds("lists of a teacher") / found["listed"]
    validation = seconds(ranks) * 5000 / VALIDATION_USERS
    epoch = batch * found["batches"] + validation + seconds("state")
    return {
        "users": f"{found['users']:,}",
        "items": f"{found['items']:,}",
        "reading": f"{seconds('load'):.1f} s",
        "… for a million events": f"{seconds('load') / found['events'] * 1e6:.1f} s",
        "… at most": peak("load"),
        "tokenizer, TF-IDF, word rows": f"{seconds('tokenizer, TF-IDF', 'model, word rows'):.0f} s",
        "all before the first batch": f"{seconds(*before):.0f} s, {peak(*before)}",
        "batches measured": f"{training['batches']:,}",
        "a batch of 2,048 predictions": f"{1000 * batch:.0f} ms",
        "… rows that it changes": f"{training['rows']:,.0f}",
        "… with a teacher's lists": f"{1000 * distilled:.0f} ms",
        "predictions in a second": f"{training['positions'] / training['processor_seconds']:,.0f}",
        "training, at most": peak(*TRAINING_STAGES),
        "5,000 users ranked": f"{validation:.0f} s, {peak(ranks)}",
        "a saved state": f"{training['state_bytes'] / 1e9:.2f} GB, {seconds('state'):.1f} s",
        "an epoch, extrapolated": f"{epoch / 3600:.2f} h ({found['batches']:,} batches)",
        "a teacher's list": f"{1000 * listing:.1f} ms, {peak('lists of a teacher')}",
        "checkpoint and int8 bundle": f"{seconds(*END_STAGES):.0f} s, {peak(*END_STAGES)}",
        "bundle": f"{found['bundle_bytes'] / 1e6:,.0f} MB",
        "most memory": peak(*stages),
    }


def cli_scale(
    users: Annotated[int, typer.Option("--users", metavar="N", help="Of the largest set.")] = 1_000_000,
    items: Annotated[int, typer.Option("--items", metavar="N", help="Of the largest set.")] = 1_000_000,
    events: Annotated[int, typer.Option("--events", metavar="N", help="Of the largest set.")] = 50_000_000,
    minutes: Annotated[float, typer.Option("--minutes", help="Of training on each set.")] = 2.0,
    sizes: Annotated[int, typer.Option("--sizes", help="Sets: the largest, and parts of it.")] = 4,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of data and training.")] = 0,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Keep the sets here.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Measure how time and memory of the build side grow with the size of a data set."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = data or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        result = run_scale(users, items, events, minutes=minutes, sizes=sizes, seed=seed, data=folder)
    if as_json:
        print_json(asdict(result))
        return
    for line in lines(result):
        typer.echo(line)


if __name__ == "__main__":
    typer.run(cli_scale)
