"""From a sentence encoder's embeddings to rows: for rankers as they are, for the word table distilled.

    rows = text_embeddings(embeddings, floor)                   # a ranker's: dot products are cosines
    words = distil(features, embeddings, dim, seed)             # what the encoder knows, as word rows
    start = words.start_rows(words.choose_floor(features, positions))

A device makes the row of a new item out of word rows and nothing else: it has no encoder. So what the
encoder knows has to be in the word rows: those under which the TF-IDF weighted sums of all item texts come as
close as possible to the items' embeddings.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from .counting import Recent
from .metrics import Metrics
from .teachers import CHUNK_BYTES, Positions, lists_from_log_probs
from .text import TextFeatures, sample_items

log = logging.getLogger(__name__)

FLOOR = 1.0
"""Where nothing chooses: no more than a tenth below the best on the validation parts of four data sets, which
is between 0.1 and 30 (docs/item-text.md)."""

FLOORS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""To choose from."""

RIDGES = (0.1, 0.3, 1.0, 3.0)
"""Ridge weights to choose from, in squared TF-IDF weights: that many items' worth of doubt about a word."""

DECAY = 0.7
"""Say of an event beside the one after it, while a floor is chosen."""

# A tenth of the items, and this many axes, decide between ridge weights.
_HELD_OUT, _AXES = 10, 32
_BLOCK = 1 << 14


@dataclass(frozen=True)
class Axes:
    """Where embeddings lie: float64 mean [d], principal axes [d, d] in columns, falling variances [d] along
    these. A row of zeros is an item without text and has no say.
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    variance: NDArray[np.float64]

    @classmethod
    def of(cls, embeddings: NDArray[np.float32]) -> Axes:
        """Of float [items, d], read in blocks."""
        width = embeddings.shape[1]
        total, second, count = np.zeros(width), np.zeros((width, width)), 0
        for first in range(0, len(embeddings), _BLOCK):
            block = np.asarray(embeddings[first : first + _BLOCK], np.float64)
            count += int((block != 0).any(1).sum())
            total += block.sum(0)
            second += block.T @ block
        mean = total / max(count, 1)
        variance, axes = np.linalg.eigh(second / max(count, 1) - np.outer(mean, mean))
        return cls(mean, axes[:, ::-1], np.maximum(variance[::-1], 0))

    def scale(self, floor: float) -> NDArray[np.float64]:
        """float64 [d]: 1 / √(λ + floor · mean λ) of each axis, 0 on axes without variance."""
        there = self.variance > 1e-9 * max(float(self.variance.max(initial=0)), 1e-30)
        mean = self.variance.sum() / max(len(self.variance), 1)
        return np.where(there, (np.where(there, self.variance, 1) + floor * mean) ** -0.5, 0)

    def turned(self, embeddings: NDArray[np.float32], scale: NDArray[np.float64]) -> NDArray[np.float32]:
        """float32 [items, d]: centred, along the axes, scaled; zeros stay zeros."""
        out = np.zeros(embeddings.shape, np.float32)
        for first in range(0, len(embeddings), _BLOCK):
            block = np.asarray(embeddings[first : first + _BLOCK], np.float64)
            out[first : first + _BLOCK] = ((block - self.mean) @ (self.axes * scale)) * (block != 0).any(1)[
                :, None
            ]
        return out


def whiten(embeddings: NDArray[np.float32], floor: float = FLOOR) -> NDArray[np.float32]:
    """Centre, turn to principal axes and bring these to nearly equal variance.

    Sentence encoders crowd their embeddings into a few directions that nearly all texts share; similarities
    become telling when these count no more than others (Su, Cao, Liu, Ou 2021, arXiv 2103.15316; for
    sequential recommendation Zhang, Zhou, Zeng, Shen 2024, arXiv 2402.10602, who relax it too). Axis j is
    divided by √(λ_j + floor · mean λ): `floor` 0 is full whitening, a large one only centres.

    Args:
        embeddings: [items, d]; a row of zeros is an item without text, has no say and stays zero.
        floor: >= 0, in mean variances.

    Returns:
        float32 [items, d], axes by falling variance; 0 on axes without any.
    """
    axes = Axes.of(embeddings)
    return axes.turned(embeddings, axes.scale(floor))


def text_embeddings(embeddings: NDArray[np.float32], floor: float = FLOOR) -> NDArray[np.float32]:
    """Whitened rows of length 1 (or 0), float32 [items, d]: their dot products are cosines.

    They can stand wherever rows of `TextFeatures.weights` can, such as in `counting.nearest_texts`.
    """
    rows = whiten(embeddings, floor)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=rows, where=length > 0)


@dataclass(frozen=True)
class DistilledWords:
    """Word rows that hold an encoder, before whitening is decided; `distil` makes them.

    Attributes:
        words: float32 [vocab, axes]: under them text rows approximate embeddings along their first axes.
        axes: where the embeddings lie.
        squares: float64 [axes], mean squares of text rows along each axis.
        size: mean squared length that text rows are to have along these axes.
        rest: float32 [vocab, dim − axes], finished rows for the width that the encoder does not fill.
    """

    words: NDArray[np.float32]
    axes: Axes
    squares: NDArray[np.float64]
    size: float
    rest: NDArray[np.float32]

    def start_rows(self, floor: float = FLOOR) -> NDArray[np.float32]:
        """Word rows float32 [vocab, dim], whitened with this floor."""
        return np.concatenate([self.words * self._scale(floor), self.rest], 1)

    def choose_floor(
        self, features: TextFeatures, positions: Positions, floors: Sequence[float] = FLOORS
    ) -> float:
        """The floor under which text rows alone rank the targets of `positions` best, by NDCG@10.

        Nothing is trained: an item scores the sum of its dot products with the history's newest items, each
        `DECAY` times less than the one after it.

        Args:
            positions: of the validation part; a few thousand are enough.
        """
        found = [self.ndcg(features, positions, floor) for floor in floors]
        log.info(
            "item texts alone, validation NDCG@10 by floor of whitening: %s",
            ", ".join(f"{floor:g}: {ndcg:.4f}" for floor, ndcg in zip(floors, found, strict=True)),
        )
        return floors[int(np.argmax(found))]

    def ndcg(self, features: TextFeatures, positions: Positions, floor: float) -> float:
        """NDCG@10 of the ranker that `choose_floor` tries."""
        rows, ranks = features.weights @ self.start_rows(floor), [np.zeros(0, np.int32)]
        for windows in positions.chunks(max(1, CHUNK_BYTES // (4 * len(rows)))):
            part = positions.part(windows)
            recent = Recent.of(part, DECAY)
            history = part.histories.items[recent.events].astype(np.int64)
            scores = (recent.matrix(recent.say, history, len(rows)) @ rows) @ rows.T
            ranks.append(lists_from_log_probs(torch.from_numpy(scores), part, 1).target_rank)
        return Metrics.from_ranks(np.concatenate(ranks)).ndcg

    def _scale(self, floor: float) -> NDArray[np.float32]:
        scale = self.axes.scale(floor)[: self.words.shape[1]]
        found = float((self.squares * scale**2).sum())
        return (scale * np.sqrt(self.size / found) if found > 0 else scale).astype(np.float32)


def distil(
    features: TextFeatures, embeddings: NDArray[np.float32], dim: int, seed: int = 0
) -> DistilledWords:
    """Put what a sentence encoder knows of the items into word rows.

    The rows W minimise ‖F W − P‖² + λ ‖W‖² over items that have a text: F the TF-IDF weights, P the
    embeddings, centred, along their first `dim` principal axes. λ is the one of `RIDGES` that fits items best
    which were left out. Where the encoder is narrower than `dim`, the rest are `TextFeatures.start_rows`,
    with a share of the squared length in proportion to the width. Text rows have the mean squared length that
    they have under `TextFeatures.start_rows`.

    Args:
        embeddings: float32 [items, d] as the encoder gave them, in catalogue order; zeros without text.
        seed: draws the sample of a large catalogue and the items left out.
    """
    start = features.start_rows(dim, seed)
    some = sample_items(features.weights.shape[0], seed)
    weights, known = features.weights[some], np.asarray(embeddings[some])
    texts = (np.diff(weights.indptr) > 0) & (known != 0).any(1)
    axes = Axes.of(known[texts])
    if texts.sum() < 2 or not axes.variance.any():
        return DistilledWords(start[:, :0], axes, np.zeros(0), 0.0, start)
    weights, known = weights[texts], known[texts]
    goal = axes.turned(known, np.full(len(axes.mean), axes.variance.sum() ** -0.5))[:, :dim]
    width = goal.shape[1]
    words = ridge_rows(weights, goal, choose_ridge(weights, goal, axes.scale(FLOOR)[:width], seed))
    size, rest = _mean_squares(weights, start).sum(), start[:, : dim - width]
    found = _mean_squares(weights, rest).sum()
    if found > 0:
        rest = rest * np.float32(np.sqrt(size * (dim - width) / dim / found))
    return DistilledWords(words, axes, _mean_squares(weights, words), float(size * width / dim), rest)


def encoder_start_rows(
    features: TextFeatures, embeddings: NDArray[np.float32], dim: int, seed: int = 0, floor: float = FLOOR
) -> NDArray[np.float32]:
    """Word rows float32 [vocab, dim] that stand where `TextFeatures.start_rows` does; see `distil`."""
    return distil(features, embeddings, dim, seed).start_rows(floor)


def choose_ridge(weights: Any, goal: NDArray[np.float32], scale: NDArray[np.float64], seed: int) -> float:
    """The ridge weight under which rows fitted to nine tenths of the items fit the others best."""
    held = np.random.default_rng(seed).permutation(len(goal)) < max(1, len(goal) // _HELD_OUT)
    some = slice(None, None, max(1, goal.shape[1] // _AXES))
    few = np.ascontiguousarray((goal * scale)[:, some], np.float32)
    left: dict[float, float] = {}
    for ridge in RIDGES:
        rows = ridge_rows(weights[~held], few[~held], ridge)
        left[ridge] = float(((weights[held] @ rows - few[held]) ** 2).sum())
    best = min(left, key=left.__getitem__)
    explained = 1 - left[best] / max(float((few[held] ** 2).sum()), 1e-30)
    log.info("word rows hold %.0f %% of the encoder on items left out (ridge %g)", 100 * explained, best)
    return best


def ridge_rows(weights: Any, goal: NDArray[np.floating], ridge: float) -> NDArray[np.float32]:
    """float32 [vocab, axes], by conjugate gradients; weights CSR [items, vocab], goal [items, axes]."""
    model = Ridge(alpha=ridge, fit_intercept=False, solver="sparse_cg", tol=1e-3, max_iter=200)
    rows = model.fit(weights, goal).coef_.astype(np.float32)
    return np.ascontiguousarray(rows.reshape(goal.shape[1], -1).T)


def _mean_squares(weights: Any, rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """float64 [width], of the text rows along each column."""
    return ((weights @ rows) ** 2).mean(0, dtype=np.float64)
