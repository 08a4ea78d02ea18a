"""HR@k, NDCG@k and MRR@k over the full catalogue, in the protocol that every figure of this project follows.

* every item of the catalogue is a candidate, none is sampled;
* items of the history are filtered, the target is the only relevant item;
* ties count against the model: the target ranks behind every item that scores the same;
* a target that the history already holds cannot be recommended and is a miss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pocketrec.errors import DataError
from pocketrec_export.data import Dataset
from pocketrec_export.split import Part, Split

_USERS = 1 << 16
"""Users whose histories are sorted at a time."""


@dataclass(frozen=True)
class Metrics:
    """Means over users. With one relevant item, NDCG is 1 / log2(1 + rank) inside the first k, else 0."""

    users: int
    k: int
    hr: float
    ndcg: float
    mrr: float

    @classmethod
    def from_ranks(cls, ranks: ArrayLike, k: int = 10) -> Metrics:
        """Metrics of these ranks, int [users], counted from 1.

        Raises:
            DataError: no rank, or a rank below 1.
        """
        ranks = np.asarray(ranks)
        if ranks.size == 0:
            raise DataError(
                "no user has a target to rank.", remedy="Use data whose users have two events or more."
            )
        if int(ranks.min()) < 1:
            raise DataError(f"rank {int(ranks.min())} is below 1.", remedy="Count ranks from 1.")
        inside = ranks <= k
        reciprocal = np.where(inside, 1.0 / ranks, 0.0)
        return cls(
            ranks.size, k, float(inside.mean()), float(ndcg_gains(ranks, k).mean()), float(reciprocal.mean())
        )

    def to_dict(self) -> dict[str, float | int]:
        """{"users": …, "hr@10": …, "ndcg@10": …, "mrr@10": …}"""
        k = self.k
        return {"users": self.users, f"hr@{k}": self.hr, f"ndcg@{k}": self.ndcg, f"mrr@{k}": self.mrr}


def ndcg_gains(ranks: ArrayLike, k: int = 10) -> NDArray[np.float64]:
    """float64 [users]: what each rank adds to NDCG@k, 0 beyond k."""
    ranks = np.asarray(ranks)
    return np.where(ranks <= k, 1.0 / np.log2(1.0 + ranks), 0.0)


def pessimistic_rank(
    scores: NDArray[np.floating], targets: ArrayLike, seen: Sequence[NDArray[np.integer]]
) -> NDArray[np.int64]:
    """Rank of each user's target among all items the user has not seen.

    Args:
        scores: [B, items], higher is better. NaN counts as a score that beats the target.
        targets: int [B], item rows.
        seen: B arrays of item rows to filter; they may repeat items.

    Returns:
        int64 [B]: 1 + the number of other unseen items that score at least as much as the target; items + 1
        when the target itself is among the seen.
    """
    targets = np.asarray(targets, dtype=np.int64)
    users, items = scores.shape
    if len(targets) != users or len(seen) != users:
        raise ValueError(f"{users} rows of scores, but {len(targets)} targets and {len(seen)} seen lists")
    rows = np.arange(users)
    beaten = scores < scores[rows, targets][:, None]  # not `>=`: a NaN must not help
    rank = items - np.count_nonzero(beaten, axis=1)  # the target counts itself: that is the 1
    row, item = _unique_pairs(seen, items)
    rank -= np.bincount(row[~beaten[row, item]], minlength=users)
    rank[row[item == targets[row]]] = items + 1
    return rank.astype(np.int64)


def popularity_ranks(split: Split, part: Part) -> NDArray[np.int64]:
    """Ranks of the targets of `users_for(part)`, int64 [n], when items are ordered by their training events.

    The rule is that of `pessimistic_rank`, without a score for each user and item.
    """
    dataset, counts = split.dataset, split.train_counts
    users, targets = split.users_for(part), split.target_items(part)
    ascending = np.sort(counts)
    level = counts[targets]
    rank = len(counts) - np.searchsorted(ascending, level, side="left")
    for first in range(0, len(users), _USERS):
        some = slice(first, first + _USERS)
        histories = [dataset.items[split.history(int(user), part)] for user in users[some]]
        row, item = _unique_pairs(histories, len(counts))
        row += first
        rank -= np.bincount(row[counts[item] >= level[row]], minlength=len(users))
        rank[row[item == targets[row]]] = len(counts) + 1
    return rank.astype(np.int64)


def popularity_metrics(dataset: Dataset, split: Split, part: Part, k: int = 10) -> Metrics:
    """What recommending the most popular unseen items reaches: the floor of every comparison."""
    if split.dataset is not dataset:
        raise ValueError("the split belongs to another dataset")
    return Metrics.from_ranks(popularity_ranks(split, part), k)


@dataclass(frozen=True)
class Difference:
    """A paired difference of means, with the interval that the bootstrap over users gives it."""

    mean: float
    low: float
    high: float
    confidence: float
    users: int

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    ours: ArrayLike, theirs: ArrayLike, *, confidence: float = 0.95, samples: int = 2000, seed: int = 0
) -> Difference:
    """Mean of `ours - theirs` over the same users, with the percentile interval of drawing users anew.

    Args:
        ours, theirs: float [users], one figure for each user (such as `ndcg_gains`), in the same order.
        samples: bootstrap samples.
        seed: same seed, same interval.
    """
    difference = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    if difference.ndim != 1 or difference.size == 0 or np.shape(ours) != np.shape(theirs):
        raise ValueError(f"needs two equal lists of users, not {np.shape(ours)} and {np.shape(theirs)}")
    rng = np.random.default_rng(seed)
    users = difference.size
    means = np.empty(samples)
    for first in range(0, samples, 64):  # chunks keep the memory small
        drawn = rng.integers(users, size=(min(64, samples - first), users), dtype=np.int32)
        means[first : first + 64] = difference[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Difference(float(difference.mean()), float(low), float(high), confidence, users)


def _unique_pairs(
    lists: Sequence[NDArray[np.integer]], items: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(list, item) of every different item of every list, as two int64 arrays."""
    if not lists:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    row = np.repeat(np.arange(len(lists)), [len(part) for part in lists])
    pairs = np.sort(row * items + np.concatenate(lists).astype(np.int64))
    # Not np.unique, whose hash table is many times slower than sorting.
    pairs = pairs[np.append(True, pairs[1:] != pairs[:-1])[: len(pairs)]]
    return pairs // items, pairs % items
