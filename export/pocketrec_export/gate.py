"""The gate: a bundle is measured as its runtime runs it, and held to the budget that was asked for.

What a budget says is a promise about the artifact, so it is measured on the artifact: bytes of all its files,
NDCG@10 of the default engine on validation users against the float32 student on the same ones, median
milliseconds of a ranked list, one thread, on the machine that builds.

The runtime ranks one history at a time. With more users than `precision_quality.SAMPLE` it ranks that many,
and all of them are ranked from the bundle's files in batches (`bundle_ranks`); where the two differ for more
than a few of the sample, the runtime ranks them all.

A limit on NDCG@10 is kept to if the loss that was measured is within it. The paired interval of the loss is
told beside it, and whether it leaves the limit open.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import PocketrecError
from pocketrec.recommender import Recommender

from .bundle_ranks import bundle_ranks
from .golden_requests import golden_requests
from .metrics import Metrics, ndcg_gains, paired_bootstrap, pessimistic_rank
from .options import Budget
from .precision_quality import Judge

log = logging.getLogger(__name__)

WARM_UP, TIMED = 10, 100
CHUNK_BYTES = 16 << 20
SAME = 0.98
"""Part of the sample whose NDCG@10 has to be the same from the runtime and in batches; single integers on a
rounding border change a few."""


@dataclass(frozen=True)
class Loss:
    """The part of the float32 student's NDCG@10 that is gone; negative where there is more of it.

    Attributes:
        low, high: paired 95 % interval, from drawing users anew.
        users: how many were asked.
        everyone: there is nobody else to ask.
    """

    part: float
    low: float
    high: float
    users: int
    everyone: bool = False

    @classmethod
    def of(cls, ranks: NDArray[np.int64], reference: NDArray[np.int64], everyone: bool = False) -> Loss:
        """Of the ranks int64 [users] that targets have against those that the float32 student gives them;
        nothing is lost of a reference of 0."""
        whole = ndcg_gains(reference)
        lost, of = paired_bootstrap(whole, ndcg_gains(ranks)), float(whole.mean()) or 1.0
        return cls(lost.mean / of, lost.low / of, lost.high / of, lost.users, everyone)

    def leaves_open(self, limit: float) -> bool:
        """Whether these users cannot tell if the limit is kept to."""
        return self.low < limit < self.high

    def __str__(self) -> str:
        return f"{self.part:.2%} ({self.low:.2%} … {self.high:.2%})"


@dataclass(frozen=True)
class Attempt:
    """One way to make the bundle, and what came of it.

    Attributes:
        label: what was tried, such as "int8".
        bytes: all files; None where it was not made.
        ndcg: NDCG@10 on validation users; None without data.
        loss: against the float32 student; None without data.
        ms: median of a ranked list.
        measured: on the bundle, by its runtime; else simulated, with estimated bytes.
        missed: the limits that it went beyond.
    """

    label: str
    bytes: int | None = None
    ndcg: float | None = None
    loss: Loss | None = None
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
        open_ones = [told for each in attempts if "ndcg" in each.missed and (told := doubt(each, budget))]
        super().__init__(
            f"no bundle that was tried keeps to the budget ({budget}):\n{attempts_table(attempts)}\n"
            + "".join(f"{told}\n" for told in open_ones),
            remedy="Allow more, or choose another --precision (search finds mixes), --width, --low-rank or "
            "--size.",
        )


def measure(directory: Path, judge: Judge | None, reference: NDArray[np.int64] | None) -> dict[str, Any]:
    """What the runtime makes of a bundle, with the first of its engines that runs here.

    Args:
        reference: int64 [users], the ranks that the float32 student gives the judge's targets.

    Returns:
        "engine", "ms"; with a judge also "ndcg@10", "loss", "users", and how many of them the runtime ranked
        itself, "run".
    """
    with Recommender.open(directory) as recommender:
        found: dict[str, Any] = {"engine": recommender.engine, "ms": _milliseconds(recommender)}
        if judge is not None:
            ranks, run = _all_ranks(recommender, judge)
            found |= {"ndcg@10": Metrics.from_ranks(ranks).ndcg, "users": len(ranks), "run": run}
            if reference is not None:
                found["loss"] = Loss.of(ranks, reference, judge.everyone)
    return found


def attempt(label: str, size: int, measured: dict[str, Any], budget: Budget) -> Attempt:
    """Hold what was measured against the budget.

    Args:
        measured: by `measure`.
    """
    loss: Loss | None = measured.get("loss")
    missed = []
    if budget.max_bytes is not None and size > budget.max_bytes:
        missed.append("bytes")
    if budget.max_ndcg_loss is not None and (loss is None or loss.part > budget.max_ndcg_loss):
        missed.append("ndcg")
    if budget.max_ms is not None and measured["ms"] > budget.max_ms:
        missed.append("ms")
    return Attempt(label, size, measured.get("ndcg@10"), loss, measured["ms"], True, tuple(missed))


def doubt(tried: Attempt, budget: Budget) -> str | None:
    """A sentence for when the users that were asked cannot tell if the limit on NDCG@10 is kept to."""
    loss, limit = tried.loss, budget.max_ndcg_loss
    if loss is None or limit is None or not loss.leaves_open(limit):
        return None
    can = "These are all there are; a larger limit can."
    if not loss.everyone:
        can = "More users (compression.validation_users, 0 for all) or a larger limit can."
    return f"{loss.users:,} users cannot tell {limit:.2%}: {tried.label} loses {loss} of NDCG@10. {can}"


def attempts_table(attempts: Sequence[Attempt]) -> str:
    """The attempts as a Markdown table."""
    lines = [
        "| tried | bytes | NDCG@10 | lost (95 %) | ms a list | beyond |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for each in attempts:
        how = "" if each.measured else " (simulated)"
        cells = (
            each.label + how,
            "" if each.bytes is None else f"{each.bytes:,}",
            "" if each.ndcg is None else f"{each.ndcg:.4f}",
            "" if each.loss is None else str(each.loss),
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


def _all_ranks(recommender: Recommender, judge: Judge) -> tuple[NDArray[np.int64], int]:
    """Ranks of the judge's users, int64 [users], and how many of them the runtime gave."""
    everyone, sample = np.arange(len(judge.user_rows)), judge.sample
    ran = _ranks(recommender, judge, sample)
    if len(sample) == len(everyone):
        return ran, len(ran)
    ranks = bundle_ranks(recommender.bundle, judge.prefixes, judge.targets, judge.seen)
    same = float(np.mean(ndcg_gains(ran) == ndcg_gains(ranks[sample])))
    if same < SAME:
        log.warning(
            "%s ranks only %.1f %% of %d users as batches do; it ranks all %d, which takes longer",
            recommender.engine,
            100 * same,
            len(sample),
            len(everyone),
        )
        return _ranks(recommender, judge, everyone), len(everyone)
    ranks[sample] = ran
    return ranks, len(sample)


def _ranks(recommender: Recommender, judge: Judge, users: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ranks from the runtime, int64 [n]; users are indices of the judge's."""
    data, catalogue = judge.dataset, recommender.bundle.catalogue
    chunk = max(1, CHUNK_BYTES // (4 * catalogue.n))
    found: list[np.ndarray] = []
    for first in range(0, len(users), chunk):
        some, scores = users[first : first + chunk], []
        for user in judge.user_rows[some]:
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
        seen = [judge.seen[user] for user in some]
        found.append(pessimistic_rank(np.stack(scores), judge.targets[some], seen))
    return np.concatenate(found)
