"""The contrastive loss of the `llm` teacher: a softmax over the targets of a batch and uniform negatives.

A candidate that is there by chance counts as often as it stands for others: its term in the softmax is
divided by the probability that the batch holds it (Horvitz and Thompson, 1952), so that the sum is an
estimate of the one over the whole catalogue, and popular items, which are in most batches, are not pushed
down for it. That is the purpose of the corrections of Yi et al. (RecSys 2019) for negatives from the batch;
a mixture with uniform ones is due to Yang et al. (WWW 2020 companion).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .batches import Histories
from .llm_prompts import ranges


@dataclass(frozen=True)
class Candidates:
    """The part of the catalogue that a batch is scored against.

    Attributes:
        items: int64 [n], ascending.
        log_chance: float32 [n], log of the probability that the batch holds the item.
        targets: int64 [m], columns of the true next items.
    """

    items: NDArray[np.int64]
    log_chance: NDArray[np.float32]
    targets: NDArray[np.int64]


class CandidateSampler:
    """Draws candidates.

    Args:
        counts: int64 [items], how often each item is a target in training.
        negatives: uniform draws beside the targets, with replacement; the whole catalogue takes part where it
            is no larger.
    """

    def __init__(self, counts: NDArray[np.integer], negatives: int) -> None:
        self.share = counts / max(1, int(counts.sum()))
        self.items = len(counts)
        self.negatives = negatives

    def draw(self, targets: NDArray[np.integer], rng: np.random.Generator) -> Candidates:
        """Candidates for a batch with these targets, int [m]."""
        if self.negatives >= self.items:
            everything = np.arange(self.items)
            return Candidates(everything, np.zeros(self.items, np.float32), targets.astype(np.int64))
        drawn = rng.integers(0, self.items, self.negatives)
        items = np.unique(np.concatenate([targets, drawn]).astype(np.int64))
        # Whoever is there as a target only is in no batch of other targets: its share says how likely.
        absent = len(targets) * np.log1p(-np.minimum(self.share[items], 1 - 1e-9))
        absent += self.negatives * np.log1p(-1 / self.items)
        chance = np.log(np.maximum(-np.expm1(absent), 1e-12)).astype(np.float32)
        return Candidates(items, chance, np.searchsorted(items, targets))


def met_columns(
    histories: Histories, start: NDArray[np.int64], size: NDArray[np.int64], items: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(position, column), int64 [any] each: which of `items`, ascending, a window holds up to each of its
    positions."""
    index = ranges(start, size)
    length = index - np.repeat(start, size) + 1
    position = np.repeat(np.arange(len(index)), length)
    met = histories.items[ranges(np.repeat(start, size), length)]
    column = np.minimum(np.searchsorted(items, met), len(items) - 1)
    there = items[column] == met
    return position[there], column[there]


def contrastive_loss(
    scores: Tensor, targets: Tensor, log_chance: Tensor, met: tuple[Tensor, Tensor]
) -> Tensor:
    """Mean cross-entropy of the true next items, scalar.

    Args:
        scores: float32 [m, n].
        targets: int64 [m], columns. A target is certain to be there, whatever its chance as a negative.
        log_chance: float32 [n], see `Candidates`.
        met: see `met_columns`. What a user has met is no negative: it is filtered when recommendations are
            made, and a text that resembles the ones just read would be the hardest of all to push down.
    """
    others = (scores - log_chance).index_put(met, scores.new_tensor(-float("inf")))
    own = scores.gather(1, targets[:, None])
    return F.cross_entropy(others.scatter(1, targets[:, None], own), targets)
