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

# Items of each ranker's head that take part in fitting, items drawn from all others, and factors that a
# weight is tried at.
HEAD, TAIL = 100, 200
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
        log_probs: float32 [rankers, users, candidates]; the target is the first candidate, the heads of all
            rankers follow, then items drawn uniformly from the rest.
        log_count: float32 [users, candidates]: log of how many items a candidate stands for; 0 for the target
            and the heads, −inf at padding.
    """

    log_probs: NDArray[np.float32]
    log_count: NDArray[np.float32]

    def blend(self, weights: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
        """float64 [users, candidates]."""
        return np.tensordot(np.asarray(weights, np.float64), self.log_probs, 1)

    def loss(self, weights: Sequence[float] | NDArray[np.float64]) -> float:
        """Mean negative log-likelihood of the targets; the sum over the catalogue is estimated."""
        blended = self.blend(weights)
        return float((logsumexp(blended + self.log_count, axis=1) - blended[:, 0]).mean())

    def metrics(self, weights: Sequence[float] | NDArray[np.float64]) -> Metrics:
        """Of the blend; ties count against the target."""
        heads = self.log_probs.shape[2] - TAIL
        blended = self.blend(weights)[:, :heads]
        beaten = (blended >= blended[:, :1]) & (self.log_count[:, :heads] > -np.inf)
        return Metrics.from_ranks(beaten.sum(1))


@torch.no_grad()
def gather_evidence(rankers: Sequence[Ranker], positions: Positions, seed: int = 0) -> Evidence:
    """Ask every ranker about every position, and keep the heads of all and some of the rest.

    What a user had met is no candidate; users whose target is among that are left out.

    Args:
        seed: draws the rest.
    """
    chunks: list[NDArray[np.float32]] = []
    items, width = rankers[0].items, HEAD * len(rankers) + 1
    generator = torch.Generator().manual_seed(seed)
    for windows in positions.chunks(max(1, CHUNK_BYTES // (4 * items * (len(rankers) + 1)))):
        part = positions.part(windows)
        said = [ranker.log_probs(part).cpu() for ranker in rankers]
        row, item = (torch.from_numpy(a) for a in part.met())
        targets = torch.from_numpy(part.targets)
        heads = [targets[:, None]]
        met = torch.zeros(len(part), items, dtype=torch.bool)
        met[row, item] = True
        for scores in said:
            masked = scores.masked_fill(met, -torch.inf).scatter_(1, targets[:, None], -torch.inf)
            best = torch.topk(masked, min(HEAD, items), dim=1)
            heads.append(best.indices.masked_fill(best.values == -torch.inf, -1))
        head = torch.nn.functional.pad(torch.cat(heads, 1), (0, width), value=-1)[:, :width]
        tail = torch.randint(items, (len(part), TAIL), generator=generator)
        candidates = torch.cat([head, tail.masked_fill(met.gather(1, tail), -1)], 1)
        # A candidate that stands further left already, and padding, do not count.
        ordered, order = torch.sort(candidates, dim=1, stable=True)
        again = torch.zeros_like(candidates, dtype=torch.bool)
        again.scatter_(1, order[:, 1:], ordered[:, 1:] == ordered[:, :-1])
        there = ~again & (candidates >= 0)
        inside, drawn = there[:, :width].sum(1), there[:, width:].sum(1)
        count = there.float()
        count[:, width:] *= ((items - met.sum(1) - inside).clamp(min=0) / drawn.clamp(min=1))[:, None]
        usable = torch.ones(len(part), dtype=torch.bool)
        usable[row[item == targets[row]]] = False
        picked = [scores.gather(1, candidates.clamp(min=0)) for scores in said]
        chunks.append(torch.stack([*picked, count.log()])[:, usable].numpy())
    merged = np.concatenate(chunks, axis=1)
    return Evidence(merged[:-1], merged[-1])


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
