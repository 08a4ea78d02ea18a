"""The default teacher: unlike rankers, blended in the log domain with weights fitted on validation.

log p(i | s) = Σ_m a_m · log p_m(i | s) − log Z, a logarithmic opinion pool (Genest and Zidek 1986). Rankers
that err in unlike ways add up to more than the best of them.

The weights maximise the likelihood of the validation targets, which is concave in them; then, one weight
after another, NDCG@10, which is what counts; then all are scaled together to the best likelihood again, so
that the probabilities mean what they say.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import logsumexp
from torch import Tensor

from .metrics import Metrics
from .teachers import CHUNK_BYTES, Lists, Positions, Ranker, lists_from_log_probs

log = logging.getLogger(__name__)

# Items of each ranker's head that take part in fitting, and factors that a weight is tried at.
HEAD = 100
FACTORS = (0.0, 0.5, 0.7, 0.85, 1.2, 1.5, 2.0)


class Ensemble:
    """A blend; itself a ranker, and a teacher.

    Args:
        rankers: its members.
        weights: one for each, >= 0, not all 0; members with weight 0 are never asked.
        key: see `teachers.Teacher`.
    """

    def __init__(self, rankers: Sequence[Ranker], weights: Sequence[float], key: str = "") -> None:
        if len(rankers) != len(weights) or not any(weights) or min(weights) < 0:
            raise ValueError(f"{len(rankers)} rankers, weights {list(weights)}")
        self.rankers, self.weights, self.key = list(rankers), [float(w) for w in weights], key
        self.items = rankers[0].items
        self.name = " + ".join(f"{w:.3g} {r.name}" for r, w in zip(rankers, weights, strict=True) if w > 0)

    def log_probs(self, positions: Positions) -> Tensor:
        """float32 [m, items]."""
        total: Tensor | None = None
        for ranker, weight in zip(self.rankers, self.weights, strict=True):
            if weight > 0:
                part = ranker.log_probs(positions).mul_(weight)
                total = part if total is None else total.add_(part.to(total.device))
        assert total is not None
        return torch.log_softmax(total, 1)

    def lists(self, positions: Positions, k: int) -> Lists:
        """See `teachers.Teacher`."""
        return lists_from_log_probs(self.log_probs(positions), positions, k)


@dataclass(frozen=True)
class Evidence:
    """What each ranker says about the items that matter for fitting.

    Attributes:
        log_probs: float32 [rankers, users, candidates]; the target is the first candidate.
        there: bool [users, candidates]; padding is False.
    """

    log_probs: NDArray[np.float32]
    there: NDArray[np.bool_]

    def blend(self, weights: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
        """float64 [users, candidates], −inf at padding."""
        blended = np.tensordot(np.asarray(weights, np.float64), self.log_probs, 1)
        return np.where(self.there, blended, -np.inf)

    def loss(self, weights: Sequence[float] | NDArray[np.float64]) -> float:
        """Mean negative log-likelihood of the targets among the candidates."""
        blended = self.blend(weights)
        return float((logsumexp(blended, axis=1) - blended[:, 0]).mean())

    def metrics(self, weights: Sequence[float] | NDArray[np.float64]) -> Metrics:
        """Of the blend; ties count against the target."""
        blended = self.blend(weights)
        return Metrics.from_ranks((blended >= blended[:, :1]).sum(1))


@torch.no_grad()
def gather_evidence(rankers: Sequence[Ranker], positions: Positions) -> Evidence:
    """Ask every ranker about every position, and keep the heads of all.

    What a user had met is no candidate; users whose target is among that are left out.
    """
    chunks: list[NDArray[np.float32]] = []
    width = HEAD * len(rankers) + 1
    for windows in positions.chunks(max(1, CHUNK_BYTES // (4 * rankers[0].items * (len(rankers) + 1)))):
        part = positions.part(windows)
        said = [ranker.log_probs(part).cpu() for ranker in rankers]
        row, item = (torch.from_numpy(a) for a in part.met())
        targets = torch.from_numpy(part.targets)
        heads = [targets[:, None]]
        for scores in said:
            masked = scores.clone()
            masked[row, item] = -torch.inf
            masked.scatter_(1, targets[:, None], -torch.inf)
            best = torch.topk(masked, min(HEAD, scores.shape[1]), dim=1)
            heads.append(best.indices.masked_fill(best.values == -torch.inf, -1))
        candidates = torch.cat(heads, 1)
        # A candidate that stands further left already, and padding, do not count.
        ordered, order = torch.sort(candidates, dim=1, stable=True)
        again = torch.zeros_like(candidates, dtype=torch.bool)
        again.scatter_(1, order[:, 1:], ordered[:, 1:] == ordered[:, :-1])
        there = ~again & (candidates >= 0)
        usable = torch.ones(len(part), dtype=torch.bool)
        usable[row[item == targets[row]]] = False
        picked = [scores.gather(1, candidates.clamp(min=0)) for scores in said]
        block = torch.stack([*picked, there.float()])[:, usable]
        chunks.append(torch.nn.functional.pad(block, (0, width - block.shape[2])).numpy())
    merged = np.concatenate(chunks, axis=1)
    return Evidence(merged[:-1], merged[-1] > 0)


def fit_weights(evidence: Evidence) -> NDArray[np.float64]:
    """Weights float64 [rankers], >= 0; see the module's page."""
    count = len(evidence.log_probs)
    start = np.full(count, 1.0 / count)
    found = minimize(
        evidence.loss, start, method="L-BFGS-B", bounds=[(0.0, 10.0)] * count, options={"maxiter": 60}
    )
    weights = found.x if found.x.any() else start
    best = evidence.metrics(weights).ndcg
    for _ in range(3):
        before = best
        for member in range(count):
            for factor in FACTORS:
                tried = weights.copy()
                # A weight that the likelihood left at 0 is tried as a small one.
                tried[member] = (weights[member] or weights.max() / 10) * factor
                if tried.any() and (ndcg := evidence.metrics(tried).ndcg) > best:
                    best, weights = ndcg, tried
        if best == before:
            break
    scale = minimize_scalar(lambda s: evidence.loss(weights * s), bounds=(0.05, 5.0), method="bounded").x
    return weights * float(scale)
