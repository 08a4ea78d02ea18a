"""Rankers that only count: sequential rules, item neighbours, text similarity. None of them is trained.

Each sums, over the newest events of a history, what the event's item says about every other item; an event's
say falls by `decay` with every step back.

* Sequential rules (Kamehkhosh, Jannach, Ludewig 2017): how often the other item came within the next few
  events, `decay` less for every event between.
* Item neighbours (Sarwar et al. 2001): the cosine of the two items' users; a user counts the less the more
  items they have.
* Text similarity: the cosine of the two texts.

At a training position the user's own events are taken out of the counts. Otherwise the very step that is to
be predicted would be among what predicts it, and the more so the rarer the items are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from .batches import Histories
from .metrics import Metrics
from .teachers import Positions, Ranker, lists_from_log_probs

# Events of a history that have a say, and events that a rule reaches ahead.
LOOK_BACK, LOOK_AHEAD = 30, 10
# Share of a ranker's probability that is spread evenly over the catalogue, so that no item has none.
FLOOR = 0.1
# Pairs of events that are counted at most; larger sets are counted on a sample of their users.
PAIRS = 400_000_000
# Nearest texts of an item that are kept, and the bytes that a table of all pairs of items may take.
NEAREST, DENSE_BYTES = 300, 256 << 20
TEXT_DECAYS = (0.5, 0.7, 0.9)


def normalised(sums: NDArray[np.float32], floor: float = FLOOR) -> Tensor:
    """Log-probabilities float32 [m, items] of sums [m, items]; a row without any becomes uniform."""
    values = torch.from_numpy(np.ascontiguousarray(sums, np.float32)).clamp_(min=0)
    total = values.sum(1, keepdim=True)
    share = torch.where(total > 0, 1 - floor, 0.0)
    values.mul_(share / total.clamp(min=1e-30)).add_((1 - share) / values.shape[1])
    return values.log_()


@dataclass(frozen=True)
class Recent:
    """The newest events of each position's history, as the rows of a sparse matrix.

    Attributes:
        indptr: int64 [m + 1].
        events: int64 [any], newest first.
        say: float32 [any].
    """

    indptr: NDArray[np.int64]
    events: NDArray[np.int64]
    say: NDArray[np.float32]

    @classmethod
    def of(cls, positions: Positions, decay: float) -> Recent:
        """At most `LOOK_BACK` events of each history, however long the windows are."""
        begin = positions.histories.offsets[positions.users]
        lengths = np.minimum(positions.index - begin + 1, LOOK_BACK)
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        lag = np.arange(indptr[-1]) - np.repeat(indptr[:-1], lengths)
        return cls(indptr, np.repeat(positions.index, lengths) - lag, (decay**lag).astype(np.float32))

    def matrix(self, say: NDArray[np.float32], columns: NDArray[np.int64], width: int) -> sparse.csr_matrix:
        """CSR float32 [m, width] of one `say` and one column for each event."""
        return sparse.csr_matrix((say, columns, self.indptr), shape=(len(self.indptr) - 1, width))


def _table(counts: sparse.csr_matrix) -> sparse.csr_matrix | NDArray[np.float32]:
    """Dense where that is quicker to add up and small enough."""
    items = counts.shape[1]
    if counts.nnz > 0.03 * items * items and 4 * items * items <= DENSE_BYTES:
        return counts.toarray()
    return counts


def _sums(say: sparse.csr_matrix, table: sparse.csr_matrix | NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [m, items]: the product, dense."""
    product = say @ table
    return np.asarray(product.toarray() if sparse.issparse(product) else product, np.float32)


class Pairs:
    """The distinct (user, item) pairs of the training events that are counted.

    Args:
        histories: the training events.
        items: size of the catalogue.
        seed: draws the users that are counted when there are too many.
    """

    def __init__(self, histories: Histories, items: int, seed: int = 0) -> None:
        self.items = items
        offsets = histories.offsets
        lengths = np.diff(offsets)
        share = min(1.0, PAIRS / max(int((lengths * np.minimum(lengths, 500)).sum()), 1))
        users = len(lengths)
        kept = np.random.default_rng(seed).random(users) < share if share < 1 else np.ones(users, bool)
        mask = np.repeat(kept, lengths)
        self.event_items = histories.items[mask].astype(np.int64)
        self.event_users = np.repeat(np.arange(users), lengths)[mask]
        self.keys, self.event_pair = np.unique(
            self.event_users * items + self.event_items, return_inverse=True
        )
        self.starts = np.searchsorted(self.keys, np.arange(users + 1) * items)

    def find(self, users: NDArray[np.int64], items: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray]:
        """Where the pairs are, int64, and whether they are there at all, bool; both of any shape."""
        wanted = users * self.items + items
        place = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return place, self.keys[place] == wanted

    def of_users(self, users: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(row, item), int64 [any] each: every item of `users[row]`."""
        lengths = self.starts[users + 1] - self.starts[users]
        row = np.repeat(np.arange(len(users)), lengths)
        pair = np.arange(len(row)) + np.repeat(self.starts[users] - (np.cumsum(lengths) - lengths), lengths)
        return row, self.keys[pair] - users[row] * self.items


class SequentialRules:
    """See the module's page; scores are sums of P(item soon after | item of the history).

    Args:
        decay: of an event's say with every step back, and of a rule's with every event between.
    """

    name = "rules"

    def __init__(self, pairs: Pairs, decay: float) -> None:
        self.items, self.decay, self._pairs = pairs.items, decay, pairs
        users, items, width = pairs.event_users, pairs.event_items, len(pairs.keys)
        source, target, value = [], [], []
        for step in range(1, min(LOOK_AHEAD, len(users) - 1) + 1):
            first = np.flatnonzero((users[:-step] == users[step:]) & (items[:-step] != items[step:]))
            source.append(pairs.event_pair[first])
            target.append(items[first + step])
            value.append(np.full(len(first), decay ** (step - 1), np.float32))
        # A row for each (user, item): a user's own part of the rules, so that it can be taken out again.
        self._own = sparse.csr_matrix(
            (np.concatenate(value), (np.concatenate(source), np.concatenate(target))),
            shape=(width, self.items),
        )
        members = sparse.csr_matrix(
            (np.ones(width, np.float32), (pairs.keys % self.items, np.arange(width))),
            shape=(self.items, width),
        )
        self._rules = _table((members @ self._own).tocsr())
        self._count = np.bincount(items, minlength=self.items)
        self._own_count = np.bincount(pairs.event_pair, minlength=width)

    def log_probs(self, positions: Positions) -> Tensor:
        """float32 [m, items]."""
        recent = Recent.of(positions, self.decay)
        items = positions.histories.items[recent.events].astype(np.int64)
        users = np.repeat(positions.users, np.diff(recent.indptr))
        place, there = self._pairs.find(users, items)
        others = self._count[items] - np.where(there, self._own_count[place], 0)
        say = (recent.say / np.maximum(others, 1)).astype(np.float32)
        sums = _sums(recent.matrix(say, items, self.items), self._rules)
        own = (recent.matrix(say * there, place, len(self._pairs.keys)) @ self._own).tocoo()
        sums[own.row, own.col] -= own.data
        return normalised(sums)


class ItemNeighbours:
    """See the module's page.

    Args:
        decay: of an event's say with every step back.
        activity: a user with n items counts n ** -activity.
    """

    name = "neighbours"

    def __init__(self, pairs: Pairs, decay: float, activity: float) -> None:
        self.items, self.decay, self._pairs = pairs.items, decay, pairs
        owned = np.diff(pairs.starts)
        users = np.repeat(np.arange(len(owned)), owned)
        weight = np.maximum(owned, 1).astype(np.float32) ** -activity
        matrix = sparse.csr_matrix(
            (np.ones(len(users), np.float32), (users, pairs.keys % self.items)),
            shape=(len(owned), self.items),
        )
        weighted = sparse.diags(weight) @ matrix
        self._weight = weight
        common = (matrix.T @ weighted).tocsr()
        common.setdiag(0)
        self._common = _table(common)
        self._norm = np.asarray(weighted.sum(0), np.float32).ravel()

    def log_probs(self, positions: Positions) -> Tensor:
        """float32 [m, items]."""
        recent = Recent.of(positions, self.decay)
        items = positions.histories.items[recent.events].astype(np.int64)
        lengths = np.diff(recent.indptr)
        own_weight = self._weight[positions.users]
        _, there = self._pairs.find(np.repeat(positions.users, lengths), items)
        norm = self._norm[items] - np.repeat(own_weight, lengths) * there
        say = (recent.say * _inverse_root(norm)).astype(np.float32)
        sums = _sums(recent.matrix(say, items, self.items), self._common)
        factor = _inverse_root(self._norm)
        # The items of the user: without what the user's own history adds to their counts.
        row, item = self._pairs.of_users(positions.users)
        own = np.bincount(np.repeat(np.arange(len(lengths)), lengths), say * there, len(lengths))
        corrected = sums[row, item] - own_weight[row] * own[row].astype(np.float32)
        norm = self._norm[item] - own_weight[row]
        sums *= factor[None]
        sums[row, item] = np.maximum(corrected, 0) * _inverse_root(norm)
        return normalised(sums)


class TextSimilarity:
    """See the module's page; of each item the `NEAREST` others count.

    Args:
        similar: CSR float32 [items, items], see `nearest_texts`.
        decay: of an event's say with every step back.
        name: of the ranker; there may be one for words and one for a sentence encoder.
    """

    def __init__(self, similar: sparse.csr_matrix, decay: float, name: str = "text") -> None:
        self.items, self.decay, self.name, self._similar = similar.shape[0], decay, name, similar

    def log_probs(self, positions: Positions) -> Tensor:
        """float32 [m, items]."""
        recent = Recent.of(positions, self.decay)
        items = positions.histories.items[recent.events].astype(np.int64)
        return normalised(_sums(recent.matrix(recent.say, items, self.items), self._similar))


def nearest_texts(rows: sparse.csr_matrix | NDArray[np.float32]) -> sparse.csr_matrix:
    """CSR float32 [items, items]: positive cosines of each item with its `NEAREST` others.

    Args:
        rows: [items, width], dense or CSR, each of length 1 or 0: TF-IDF weights, a sentence encoder's rows.
    """
    items = rows.shape[0]
    count = min(NEAREST, items - 1)
    step = max(1, DENSE_BYTES // (4 * items))
    parts = []
    for first in range(0, items, step):
        product: Any = rows[first : first + step] @ rows.T
        cosines = np.asarray(product.toarray() if sparse.issparse(product) else product, np.float32)
        own = np.arange(len(cosines))
        cosines[own, first + own] = 0
        best = torch.topk(torch.from_numpy(cosines), count, dim=1)
        values = best.values.clamp(min=0).numpy()
        indptr = np.arange(len(cosines) + 1) * count
        parts.append(
            sparse.csr_matrix(
                (values.ravel(), best.indices.numpy().ravel(), indptr), shape=(len(cosines), items)
            )
        )
    similar = sparse.vstack(parts).tocsr()
    similar.eliminate_zeros()
    return similar


def _inverse_root(norm: NDArray[np.float32]) -> NDArray[np.float32]:
    """norm ** -1/2; 0 where nobody else is left."""
    return np.where(norm > 1e-6, 1 / np.sqrt(np.maximum(norm, 1e-6)), 0).astype(np.float32)


def fit_counting(
    pairs: Pairs,
    texts: sparse.csr_matrix | NDArray[np.float32] | None,
    positions: Positions,
    sentences: Sequence[NDArray[np.float32]] = (),
) -> list[SequentialRules | ItemNeighbours | TextSimilarity]:
    """The three, each with the settings that rank the targets of `positions` best; without texts, two.

    Args:
        texts: see `nearest_texts`.
        positions: of the validation part.
        sentences: item rows of a sentence encoder, whitened in different ways: with any, the best of them is
            one more ranker, `sentences`.
    """
    families: list[list[SequentialRules | ItemNeighbours | TextSimilarity]] = [
        [SequentialRules(pairs, decay) for decay in (0.4, 0.6, 0.8)],
        [ItemNeighbours(pairs, decay, activity) for decay in (0.7, 0.9) for activity in (0.5, 1.0)],
    ]
    if texts is not None and texts.shape[1]:
        similar = nearest_texts(texts)
        if similar.nnz:
            families.append([TextSimilarity(similar, decay) for decay in TEXT_DECAYS])
    if sentences:
        nearest = [nearest_texts(rows) for rows in sentences]
        families.append(
            [TextSimilarity(some, decay, "sentences") for some in nearest for decay in TEXT_DECAYS]
        )
    return [max(family, key=lambda ranker: _ndcg(ranker, positions)) for family in families]


def _ndcg(ranker: Ranker, positions: Positions) -> float:
    ranks = []
    for windows in positions.chunks(max(1, DENSE_BYTES // (4 * ranker.items))):
        part = positions.part(windows)
        ranks.append(lists_from_log_probs(ranker.log_probs(part), part, 1).target_rank)
    return Metrics.from_ranks(np.concatenate(ranks)).ndcg
