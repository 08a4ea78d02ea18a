"""From a sentence encoder's embeddings to rows: for rankers as they are, for the word table distilled.

A device makes the row of a new item out of word rows and nothing else: it has no encoder. So what the encoder
knows has to be in the word rows, and `encoder_start_rows` puts it there: the rows under which the TF-IDF
weighted sums of all item texts come as close as possible to the items' embeddings.
"""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from .text import TextFeatures, sample_items

log = logging.getLogger(__name__)

FLOOR = 0.3
"""Chosen on the validation parts of four data sets (docs/item-text.md): the best or nearly so on each."""

RIDGES = (0.1, 0.3, 1.0, 3.0)
"""Ridge weights to choose from, in squared TF-IDF weights: that many items' worth of doubt about a word."""

# A tenth of the items, and this many axes, decide between them.
_HELD_OUT, _AXES = 10, 32
_BLOCK = 1 << 14


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
    items, width = embeddings.shape
    total, second, count = np.zeros(width), np.zeros((width, width)), 0
    for first in range(0, items, _BLOCK):
        block = np.asarray(embeddings[first : first + _BLOCK], np.float64)
        count += int((block != 0).any(1).sum())
        total += block.sum(0)
        second += block.T @ block
    mean = total / max(count, 1)
    variance, axes = np.linalg.eigh(second / max(count, 1) - np.outer(mean, mean))
    variance, axes = np.maximum(variance[::-1], 0), axes[:, ::-1]
    there = variance > 1e-9 * max(float(variance.max(initial=0)), 1e-30)
    scale = np.where(there, (np.where(there, variance, 1) + floor * variance.mean()) ** -0.5, 0)
    out = np.zeros((items, width), np.float32)
    for first in range(0, items, _BLOCK):
        block = np.asarray(embeddings[first : first + _BLOCK], np.float64)
        out[first : first + _BLOCK] = ((block - mean) @ (axes * scale)) * (block != 0).any(1)[:, None]
    return out


def text_embeddings(embeddings: NDArray[np.float32], floor: float = FLOOR) -> NDArray[np.float32]:
    """Whitened rows of length 1 (or 0), float32 [items, d]: their dot products are cosines.

    They can stand wherever rows of `TextFeatures.weights` can, such as in `counting.nearest_texts`.
    """
    rows = whiten(embeddings, floor)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=rows, where=length > 0)


def encoder_start_rows(
    features: TextFeatures, embeddings: NDArray[np.float32], dim: int, seed: int = 0, floor: float = FLOOR
) -> NDArray[np.float32]:
    """Word rows float32 [vocab, dim] under which text rows approximate the encoder's embeddings.

    They minimise ‖F W − P‖² + λ ‖W‖² over items that have a text: F the TF-IDF weights, P the first `dim`
    axes of `text_embeddings`. λ is the one of `RIDGES` that fits items best which were left out. Where the
    encoder is narrower than `dim`, the rest are `TextFeatures.start_rows`, with a share of the squared length
    in proportion to the width. Item text rows have the same mean squared length as under `start_rows`.

    Args:
        embeddings: float32 [items, d] as the encoder gave them, in catalogue order; zeros without text.
        seed: draws the sample of a large catalogue and the items left out.
    """
    start = features.start_rows(dim, seed)
    some = sample_items(features.weights.shape[0], seed)
    weights = features.weights[some]
    texts = (np.diff(weights.indptr) > 0) & (np.asarray(embeddings[some]) != 0).any(1)
    if dim < 1 or embeddings.shape[1] == 0 or texts.sum() < 2:
        return start
    weights, goal = weights[texts], text_embeddings(np.asarray(embeddings[some]), floor)[texts, :dim]
    axes = goal.shape[1]
    size = float(((weights @ start) ** 2).sum()) / len(goal)
    rows = _ridge(weights, goal, _choose_ridge(weights, goal, seed))
    out = np.zeros_like(start)
    out[:, :axes] = _with_size(rows, weights, size * axes / dim)
    out[:, axes:] = _with_size(start[:, : dim - axes], weights, size * (dim - axes) / dim)
    return out


def _choose_ridge(weights: NDArray, goal: NDArray[np.float32], seed: int) -> float:
    """The ridge weight under which rows fitted to nine tenths of the items fit the others best."""
    held = np.random.default_rng(seed).permutation(len(goal)) < max(1, len(goal) // _HELD_OUT)
    few = goal[:, :_AXES]
    left: dict[float, float] = {}
    for ridge in RIDGES:
        rows = _ridge(weights[~held], few[~held], ridge)
        left[ridge] = float(((weights[held] @ rows - few[held]) ** 2).sum())
    best = min(left, key=left.__getitem__)
    explained = 1 - left[best] / max(float((few[held] ** 2).sum()), 1e-30)
    log.info("word rows hold %.0f %% of the encoder on items left out (ridge %g)", 100 * explained, best)
    return best


def _ridge(weights: NDArray, goal: NDArray[np.float32], ridge: float) -> NDArray[np.float32]:
    """float32 [vocab, axes], by conjugate gradients."""
    model = Ridge(alpha=ridge, fit_intercept=False, solver="sparse_cg", tol=1e-3, max_iter=200)
    rows = model.fit(weights, goal).coef_.astype(np.float32)
    return np.ascontiguousarray(rows.reshape(goal.shape[1], -1).T)


def _with_size(rows: NDArray[np.float32], weights: NDArray, size: float) -> NDArray[np.float32]:
    """The rows, scaled so that text rows have this mean squared length; zeros stay zeros."""
    found = float(((weights @ rows) ** 2).sum()) / weights.shape[0]
    return rows * np.float32(np.sqrt(size / found)) if found > 0 else rows
