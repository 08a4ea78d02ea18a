"""`pocketrec evaluate`: how well a bundle, run by the runtime, ranks events that were held out.

    report = evaluate("bundle/", "data/")           # the test target of every user
    report.metrics.ndcg, report.popularity.ndcg     # NDCG@10, and what popularity alone reaches

The artifact itself is judged: each history goes through `Recommender.scores`, and the target's rank is found
among the scores of the whole catalogue. docs/evaluation.md describes the protocol and what `--json` prints.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from pocketrec.output import note, print_json, print_table, show_progress
from pocketrec.recommender import Recommender
from pocketrec.verbs import AsJson, BundlePath
from pocketrec_export.metrics import Metrics, pessimistic_rank, popularity_ranks
from pocketrec_export.progress import Progress
from pocketrec_export.split import Part
from pocketrec_tools.evaluation_report import EvaluationReport, remarks
from pocketrec_tools.held_out import HeldOut
from pocketrec_tools.machine import engine_version
from pocketrec_tools.overlap import compare_with

K = 10
CHUNK_BYTES = 16 << 20
"""Scores held at a time; the ranks of so many users are found in one go."""

TIMED_USERS = 200
COMPARED_USERS = 1000


def evaluate(
    bundle: str | Path,
    data_dir: str | Path,
    *,
    split: Part = "test",
    users: int | None = None,
    engine: str | None = None,
    seed: int = 0,
    progress: bool = True,
    against: str | None = None,
) -> EvaluationReport:
    """Rank the held-out target of each user with the bundle, as a device would.

    Args:
        split: "test", each user's last event, or "validation", the one before it.
        users: at most so many, drawn by `seed`; None takes everybody who has a target.
        engine: which engine runs the graph; None takes the runtime's default.
        progress: show how far it is, on standard error.
        against: an engine whose lists are compared with those of `engine`, for at most 1,000 of the users; or
            the directory of the checkpoint that the bundle was made from: the student before quantisation.

    Raises:
        BundleError: the bundle is not sound.
        PocketrecError: `engine-unavailable`.
        DataError: the data cannot be read, has no target, or belongs to another catalogue
            (`catalogue-mismatch`).
    """
    began = time.monotonic()
    with Recommender.open(bundle, engine=engine) as recommender:
        manifest = recommender.bundle.manifest
        held_out = HeldOut.load(data_dir, recommender.bundle.catalogue, split, users, seed)
        with _bar(f"evaluating with {recommender.engine}", len(held_out.users), progress) as advance:
            answers = rank_targets(recommender, held_out, advance)
        compared = None
        if against is not None:
            sample = held_out.sample(COMPARED_USERS, seed)
            with _bar(f"comparing with {against}", len(sample.users), progress) as advance:
                compared = compare_with(recommender, bundle, against, sample, advance)
        chosen = np.isin(held_out.split.users_for(split), held_out.users, assume_unique=True)
        return EvaluationReport(
            bundle=str(bundle),
            bundle_id=manifest.bundle_id,
            name=manifest.name,
            precision=manifest.precision,
            bundle_bytes=sum(recommender.bundle.sizes.values()),
            data=held_out.dataset.report,
            engine=recommender.engine,
            engine_version=engine_version(recommender.engine),
            split=split,
            seed=seed,
            users=len(held_out.users),
            users_available=held_out.available,
            items=held_out.catalogue_items,
            metrics=Metrics.from_ranks(answers.ranks, K),
            popularity=Metrics.from_ranks(popularity_ranks(held_out.split, split)[chosen], K),
            ms_per_list=answers.ms_per_list,
            seconds=time.monotonic() - began,
            unknown_items=held_out.unknown_items,
            items_without_data=held_out.items_without_data,
            unknown_targets=answers.unknown_targets,
            repeated_targets=answers.repeated_targets,
            skipped_events=answers.skipped_events,
            fallback_users=answers.fallback_users,
            overlap=compared,
            ranks=answers.ranks,
        )


@dataclass(frozen=True)
class Answers:
    """What a recommender made of the users of a `HeldOut`; the fields are those of `EvaluationReport`."""

    ranks: NDArray[np.int64]
    ms_per_list: float
    unknown_targets: int
    repeated_targets: int
    skipped_events: int
    fallback_users: int


def rank_targets(
    recommender: Recommender, held_out: HeldOut, advance: Callable[[], None] = lambda: None
) -> Answers:
    """Rank each user's target among the whole catalogue; `advance` is called after each user."""
    users, items = held_out.users.tolist(), held_out.catalogue_items
    targets = np.array([held_out.target(user) for user in users], dtype=np.int64)
    ranks = np.full(len(users), items + 1, dtype=np.int64)
    skipped = fallback = repeated = 0
    chunk = max(1, CHUNK_BYTES // (4 * items))
    scores = np.empty((min(chunk, len(users)), items), dtype=np.float32)
    for first in range(0, len(users), chunk):
        part = users[first : first + chunk]
        for row, user in enumerate(part):
            answer = recommender.scores(held_out.history(user))
            scores[row] = answer
            skipped += answer.skipped
            fallback += answer.fallback
            advance()
        wanted = targets[first : first + chunk]
        seen = [held_out.seen(user) for user in part]
        repeated += sum(int((found == target).any()) for found, target in zip(seen, wanted, strict=True))
        found = pessimistic_rank(scores[: len(part)], np.maximum(wanted, 0), seen)
        ranks[first : first + chunk] = np.where(wanted >= 0, found, items + 1)
    return Answers(
        ranks=ranks,
        ms_per_list=_ms_per_list(recommender, held_out.sample(TIMED_USERS, 0)),
        unknown_targets=int(np.count_nonzero(targets < 0)),
        repeated_targets=repeated,
        skipped_events=skipped,
        fallback_users=fallback,
    )


def _ms_per_list(recommender: Recommender, held_out: HeldOut) -> float:
    taken = []
    for user in held_out.users.tolist():
        history = held_out.history(user)
        began = time.perf_counter()
        recommender.rank(history, K)
        taken.append(time.perf_counter() - began)
    return float(np.median(taken)) * 1e3


@contextmanager
def _bar(label: str, total: int, shown: bool) -> Iterator[Callable[[], None]]:
    """A progress bar as a function to call after each step; without `shown`, one that does nothing."""
    if not shown:
        yield lambda: None
        return
    with Progress(label, total) as bar:
        yield bar.advance


class SplitName(StrEnum):
    """The choices of `--split`."""

    test = "test"
    validation = "validation"


def cli_evaluate(
    bundle: BundlePath,
    data_dir: Annotated[
        Path,
        typer.Argument(
            metavar="DATA_DIR", help="The directory that the bundle was built from.", show_default=False
        ),
    ],
    split: Annotated[SplitName, typer.Option("--split", help="Which held-out events.")] = SplitName.test,
    users: Annotated[
        int | None,
        typer.Option("--users", metavar="N", help="At most so many, drawn by the seed; all when not given."),
    ] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", metavar="NAME", help="onnxruntime, executorch or numpy.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="NAME|DIR",
            help="An engine, or a checkpoint, to compare the ten best of 1,000 users with.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draws the users.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure how well a bundle ranks held-out events, run by the runtime."""
    show_progress()
    part: Part = "test" if split is SplitName.test else "validation"
    report = evaluate(bundle, data_dir, split=part, users=users, engine=engine, seed=seed, against=against)
    note(str(report.data))
    if as_json:
        print_json(report.to_dict())
        return
    print_table(
        (f"{report.users} users", f"HR@{K}", f"NDCG@{K}", f"MRR@{K}"),
        [
            (name, f"{m.hr:.4f}", f"{m.ndcg:.4f}", f"{m.mrr:.4f}")
            for name, m in (
                ("popularity", report.popularity),
                (f"{report.name}, {report.precision}", report.metrics),
            )
        ],
        right=(f"HR@{K}", f"NDCG@{K}", f"MRR@{K}"),
    )
    for line in remarks(report):
        typer.echo(line)
