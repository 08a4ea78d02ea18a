"""The gate: a bundle is measured as its runtime runs it, and held to the budget that was asked for.

What a budget says is a promise about the artifact, so it is measured on the artifact: bytes of all its files,
NDCG@10 of the default engine on validation users against the float32 student on the same ones, median
milliseconds of a ranked list, one thread, on the machine that builds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pocketrec.errors import PocketrecError
from pocketrec.recommender import Recommender

from .golden_requests import golden_requests
from .metrics import Metrics, pessimistic_rank
from .options import Budget
from .precision_quality import Judge

WARM_UP, TIMED = 10, 100
CHUNK_BYTES = 16 << 20


@dataclass(frozen=True)
class Attempt:
    """One way to make the bundle, and what came of it.

    Attributes:
        label: what was tried, such as "int8".
        bytes: all files; None where it was not made.
        ndcg: NDCG@10 on validation users; None without data.
        loss: part of the float32 student's NDCG@10 that is gone; negative where it gained.
        ms: median of a ranked list.
        measured: on the bundle, by its runtime; else simulated, with estimated bytes.
        missed: the limits that it went beyond.
    """

    label: str
    bytes: int | None = None
    ndcg: float | None = None
    loss: float | None = None
    ms: float | None = None
    measured: bool = False
    missed: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class BudgetError(PocketrecError):
    """Nothing that was tried keeps to the budget; `budget-missed`.

    Args:
        attempts: what was tried, in order.
    """

    default_code = "budget-missed"

    def __init__(self, budget: Budget, attempts: Sequence[Attempt]) -> None:
        self.attempts = tuple(attempts)
        super().__init__(
            f"no bundle that was tried keeps to the budget ({budget}):\n{attempts_table(attempts)}\n",
            remedy="Allow more, or choose another --precision (search finds mixes), --width, --low-rank or "
            "--size.",
        )


def measure(directory: Path, judge: Judge | None) -> dict[str, Any]:
    """What the runtime makes of a bundle, with the first of its engines that runs here.

    Returns:
        "engine", "ms"; with a judge also "ndcg@10" and "users".
    """
    with Recommender.open(directory) as recommender:
        found: dict[str, Any] = {"engine": recommender.engine, "ms": _milliseconds(recommender)}
        if judge is not None:
            ranks = _ranks(recommender, judge)
            found |= {"ndcg@10": Metrics.from_ranks(ranks).ndcg, "users": len(ranks)}
    return found


def attempt(
    label: str, size: int, measured: dict[str, Any], reference: float | None, budget: Budget
) -> Attempt:
    """Hold what was measured against the budget.

    Args:
        measured: by `measure`.
        reference: NDCG@10 of the float32 student on the same users.
    """
    ndcg = measured.get("ndcg@10")
    loss = lost(ndcg, reference)
    missed = []
    if budget.max_bytes is not None and size > budget.max_bytes:
        missed.append("bytes")
    if budget.max_ndcg_loss is not None and (loss is None or loss > budget.max_ndcg_loss):
        missed.append("ndcg")
    if budget.max_ms is not None and measured["ms"] > budget.max_ms:
        missed.append("ms")
    return Attempt(label, size, ndcg, loss, measured["ms"], True, tuple(missed))


def lost(ndcg: float | None, reference: float | None) -> float | None:
    """The part of `reference` that is gone; nothing is lost of a reference of 0."""
    if ndcg is None or reference is None:
        return None
    return 1 - ndcg / reference if reference > 0 else 0.0


def attempts_table(attempts: Sequence[Attempt]) -> str:
    """The attempts as a Markdown table."""
    lines = [
        "| tried | bytes | NDCG@10 | lost | ms a list | beyond |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for each in attempts:
        how = "" if each.measured else " (simulated)"
        cells = (
            each.label + how,
            "" if each.bytes is None else f"{each.bytes:,}",
            "" if each.ndcg is None else f"{each.ndcg:.4f}",
            "" if each.loss is None else f"{each.loss:.2%}",
            "" if each.ms is None else f"{each.ms:.2f}",
            ", ".join(each.missed),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _milliseconds(recommender: Recommender) -> float:
    catalogue, manifest = recommender.bundle.catalogue, recommender.bundle.manifest
    ids = [catalogue.item_id(position) for position in range(catalogue.n)]
    requests = golden_requests(ids, catalogue.prior, manifest.events, manifest.graph.length)
    histories = [list(request.history) for request in requests if len(request.history) > 1]
    taken = []
    for turn in range(WARM_UP + TIMED):
        history = histories[turn % len(histories)]
        began = time.perf_counter()
        recommender.rank(history, 10)
        taken.append(time.perf_counter() - began)
    return float(np.median(taken[WARM_UP:])) * 1e3


def _ranks(recommender: Recommender, judge: Judge) -> np.ndarray:
    data, catalogue = judge.dataset, recommender.bundle.catalogue
    chunk = max(1, CHUNK_BYTES // (4 * catalogue.n))
    found: list[np.ndarray] = []
    for first in range(0, len(judge.user_rows), chunk):
        scores = []
        for user in judge.user_rows[first : first + chunk]:
            where = judge.split.history(int(user), "validation")
            history = [
                (data.item_ids[item], data.events[event], time_)
                for item, event, time_ in zip(
                    data.items[where].tolist(),
                    data.event_ids[where].tolist(),
                    data.timestamps[where].tolist(),
                    strict=True,
                )
            ]
            scores.append(np.asarray(recommender.scores(history)))
        part = slice(first, first + len(scores))
        found.append(pessimistic_rank(np.stack(scores), judge.targets[part], judge.seen[part]))
    return np.concatenate(found)
