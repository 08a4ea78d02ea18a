"""`make bench-quality`: trains, evaluates and compares on real data, and writes docs/benchmarks/quality.md.

    python -m pocketrec_tools.quality ml-100k path/to/shop --arms none,duokd --seeds 0,1,2

Every run leaves a record (`quality_records`); one that is there is not made again, so a killed benchmark goes
on where it was. A run that fails is reported, the others go on, and the exit status is 1.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from pocketrec.errors import DataError, PocketrecError
from pocketrec.output import note, show_progress
from pocketrec_tools.quality_cold import ARM as COLD
from pocketrec_tools.quality_cold import run_cold
from pocketrec_tools.quality_intervals import update_intervals
from pocketrec_tools.quality_peers import PEERS, find_peer, peer_settings, run_peer, seeded
from pocketrec_tools.quality_records import SOURCES, QualityData, Record, Store
from pocketrec_tools.quality_report import Expected, write_page
from pocketrec_tools.quality_runs import ARMS, OURS, Recipe, find_arm, run_arm

log = logging.getLogger(__name__)

NAMES = ("amazon-beauty", "ml-1m", "ml-100k", "lastfm", "amazon-instruments-reviews")
FOLDER = Path(os.environ.get("POCKETREC_SHARED_DATA") or SOURCES.parent / "shared" / "data")


@dataclass(frozen=True)
class Plan:
    """What is to be measured on each data set.

    Args:
        runs: arms, peers and seeds.
        recipe: of our builds.
        peer_minutes: after which a peer that is trained is not given another epoch.
        redo: make records again that are there.
    """

    runs: Expected = field(default_factory=Expected)
    recipe: Recipe = field(default_factory=Recipe)
    peer_minutes: float = 240.0
    redo: bool = False


@dataclass
class Outcome:
    """What `run_quality` did: names of runs made, found, and failed with the reason."""

    made: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One run that is wanted.

    Args:
        settings: what its record says of them.
        make: makes the record.
        quick: takes moments, so it is made again where its ranks are missing, for the intervals.
    """

    arm: str
    seed: int
    settings: Callable[[], dict[str, Any]]
    make: Callable[[], Record]
    quick: bool = False


def run_quality(paths: Sequence[Path], plan: Plan, store: Store, page: Path | None) -> Outcome:
    """Make the records that are missing, then the intervals and the page.

    Args:
        paths: data directories.
        page: where the page goes; None writes none.

    Raises:
        DataError: an arm or peer that does not exist, data that cannot be read; before anything is run.
    """
    for arm in plan.runs.arms:
        find_arm(arm)
    for peer in plan.runs.peers:
        find_peer(peer)
    datasets = [QualityData.load(path) for path in paths]
    outcome = Outcome()
    for data in datasets:
        for job in jobs(data, plan, store):
            _run(data, job, plan, store, outcome)
        update_intervals(store, data.name, OURS, PEERS)
        if page is not None:
            write_page(store, page, plan.runs.complete(), [data.name for data in datasets])
    return outcome


def jobs(data: QualityData, plan: Plan, store: Store) -> Iterator[Job]:
    """Every run of the plan, the quick ones first, then seed by seed: the arms of a seed share a teacher."""
    runs, recipe = plan.runs, plan.recipe

    def peer(name: str, seed: int) -> Job:
        return Job(
            name,
            seed,
            lambda: peer_settings(data, name),
            lambda: run_peer(data, name, seed, plan.peer_minutes, store),
            not seeded(name),
        )

    def ours(name: str, seed: int) -> Job:
        return Job(
            name,
            seed,
            lambda: recipe.settings(find_arm(name)),
            lambda: run_arm(data, name, seed, recipe, store),
        )

    def cold(seed: int) -> Job:
        return Job(
            COLD,
            seed,
            lambda: recipe.settings(find_arm(OURS)),
            lambda: run_cold(data, seed, recipe, store),
        )

    yield from (peer(name, runs.peer_seeds[0]) for name in runs.peers if not seeded(name))
    yield from (ours(name, seed) for seed in runs.seeds for name in runs.arms)
    yield from (peer(name, seed) for seed in runs.peer_seeds for name in runs.peers if seeded(name))
    yield from (cold(seed) for seed in runs.cold_seeds)


def _run(data: QualityData, job: Job, plan: Plan, store: Store, outcome: Outcome) -> None:
    name = f"{data.name} {job.arm} {job.seed}"
    try:
        there = store.find(data.name, job.arm, job.seed)
        if there is not None and not plan.redo:
            same = there.data == data.figures and there.settings == job.settings()
            if same and not (job.quick and store.ranks(there) is None):
                outcome.found.append(name)
                return
            log.info("%s is made again: %s", name, "its ranks are not here" if same else "it was another run")
        log.info("%s", name)
        record = job.make()
    except Exception as error:  # one run that fails must not cost the others
        outcome.failed[name] = str(error)
        note(f"{name} failed: {error}")
        if not isinstance(error, PocketrecError):
            log.exception("%s", name)
        return
    outcome.made.append(name)
    log.info("%s: NDCG@10 %.4f, %.1f minutes", name, record.test["ndcg@10"], record.minutes)


def find_data(name: str, folder: Path = FOLDER) -> Path:
    """A data directory by its path, or by its name in `folder`.

    Raises:
        DataError: neither is there.
    """
    for path in (Path(name), folder / name):
        if path.is_dir():
            return path
    raise DataError(
        f"there is no data directory {name!r}, and none of that name in {folder}.",
        code="data-missing-directory",
        remedy="Give its path, or name the folder of the data sets in POCKETREC_SHARED_DATA.",
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in _names(text))
    except ValueError:
        raise DataError(
            f"{text!r} is no list of seeds.", code="seeds-invalid", remedy="Give numbers such as 0,1,2."
        ) from None


app = typer.Typer(add_completion=False)


@app.command()
def cli_quality(
    data: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DATA]...", help=f"Directories or names.  [{' '.join(NAMES)}]"),
    ] = None,
    arms: Annotated[str, typer.Option("--arms", help="Of ours; '' for none.")] = ",".join(ARMS),
    peers: Annotated[str, typer.Option("--peers", help="Of others; '' for none.")] = ",".join(PEERS),
    seeds: Annotated[str, typer.Option("--seeds", help="Of our arms.")] = "0,1,2",
    peer_seeds: Annotated[str, typer.Option("--peer-seeds", help="Of peers that are trained.")] = "0",
    cold_seeds: Annotated[str, typer.Option("--cold-seeds", help="Of held-out items; '' for none.")] = "0",
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE.toml", help="A recipe for every arm.")
    ] = None,
    max_minutes: Annotated[float | None, typer.Option("--max-minutes", help="Of each build of ours.")] = None,
    peer_minutes: Annotated[float, typer.Option("--peer-minutes", help="Of training each peer.")] = 240.0,
    results: Annotated[Path, typer.Option("--results", help="Where the records are kept.")] = Path(
        "docs/benchmarks/quality"
    ),
    work: Annotated[Path, typer.Option("--work", help="Where everything else goes.")] = Path("runs/quality"),
    page: Annotated[Path, typer.Option("--page", help="The page.")] = Path("docs/benchmarks/quality.md"),
    redo: Annotated[bool, typer.Option("--redo", help="Measure again what was measured.")] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Only the page, from the records.")
    ] = False,
) -> None:
    """Measure quality: our arms, the peers, cold items; and write the page."""
    show_progress()
    wanted = Expected(
        _names(arms), _names(peers), _numbers(seeds), _numbers(peer_seeds) or (0,), _numbers(cold_seeds)
    )
    store = Store(results, work)
    if report_only:
        # Records come and go by hand, too: an interval of one that is gone would still be on the page.
        for name in sorted({record.data.name for record in store.records()}):
            update_intervals(store, name, OURS, PEERS)
        write_page(store, page, wanted.complete(), data or ())
        note(f"{page} is written.")
        return
    paths = [find_data(name) for name in (data or NAMES)]
    plan = Plan(wanted, Recipe(config, max_minutes), peer_minutes, redo)
    outcome = run_quality(paths, plan, store, page)
    note(
        f"{len(outcome.made)} runs made, {len(outcome.found)} were there, {len(outcome.failed)} failed. "
        f"{page} is written."
    )
    if outcome.failed:
        raise typer.Exit(1)


def main() -> None:
    """The command line; status 1 when a run failed, 2 for bad input."""
    try:
        app()
    except PocketrecError as error:
        note(f"error: {error}")
        sys.exit(2)


if __name__ == "__main__":
    main()
