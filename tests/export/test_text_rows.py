"""Whitening and its laws, and word rows that hold what an encoder knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from pocketrec_export.counting import nearest_texts
from pocketrec_export.data import load_dataset
from pocketrec_export.metrics import Metrics
from pocketrec_export.model import Material
from pocketrec_export.teachers import Positions
from pocketrec_export.text import TextFeatures
from pocketrec_export.text_rows import RIDGES, distil, encoder_start_rows, text_embeddings, whiten

SHAPES = st.tuples(st.integers(0, 2**16), st.integers(20, 60), st.integers(2, 6), st.integers(0, 5))


def some_embeddings(seed: int, items: int, width: int, blank: int) -> np.ndarray:
    """Crowded around one direction, as encoders have it; the last `blank` items have no text."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(items, width)) * np.geomspace(1, 0.1, width) + 2
    rows = rows @ np.linalg.qr(rng.normal(size=(width, width)))[0]
    rows[items - blank :] = 0
    return rows.astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(SHAPES)
def test_full_whitening_leaves_no_correlation(shape: tuple[int, int, int, int]) -> None:
    rows = whiten(some_embeddings(*shape), 0.0)
    texts = rows[: shape[1] - shape[3]].astype(np.float64)
    assert np.allclose(texts.mean(0), 0, atol=1e-3)
    assert np.allclose(texts.T @ texts / len(texts), np.eye(shape[2]), atol=1e-3)
    assert not rows[shape[1] - shape[3] :].any()


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.floats(0, 3), st.floats(0.01, 100), st.floats(-3, 3))
def test_similarities_do_not_depend_on_place_scale_or_direction(
    shape: tuple[int, int, int, int], floor: float, scale: float, shift: float
) -> None:
    rows = some_embeddings(*shape)
    turned = (rows @ np.linalg.qr(np.random.default_rng(9).normal(size=(shape[2],) * 2))[0]) * scale
    turned[(rows != 0).any(1)] += shift * scale
    one, other = text_embeddings(rows, floor), text_embeddings(turned.astype(np.float32), floor)
    assert np.allclose(one @ one.T, other @ other.T, atol=2e-2)
    lengths = np.linalg.norm(one, axis=1)
    assert (np.isclose(lengths, 1, atol=1e-4) | (lengths == 0)).all()


@settings(max_examples=25, deadline=None)
@given(SHAPES)
def test_a_large_floor_only_centres(shape: tuple[int, int, int, int]) -> None:
    rows = some_embeddings(*shape)
    there = (rows != 0).any(1)
    centred = (rows - rows[there].mean(0)) * there[:, None]
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    soft = text_embeddings(rows, 1e4)
    assert np.allclose(soft @ soft.T, centred @ centred.T, atol=2e-3)


def test_axes_without_variance_are_zero() -> None:
    rows = np.repeat(some_embeddings(0, 30, 3, 0), 2, axis=1)  # rank 3 in six columns
    flat = whiten(rows, 0.0)
    assert np.isfinite(flat).all()
    assert (np.abs(flat).max(0) > 0).tolist() == [True] * 3 + [False] * 3


@pytest.fixture(scope="module")
def features(shop: Path) -> TextFeatures:
    return Material(load_dataset(shop), 400).features


def linear(features: TextFeatures, width: int, noise: float) -> np.ndarray:
    """Embeddings that words nearly add up to, with a direction that all share."""
    rng = np.random.default_rng(4)
    words = rng.normal(size=(features.weights.shape[1], width))
    rows = features.weights @ words + 3
    return (rows + noise * rng.normal(size=rows.shape)).astype(np.float32)


def test_word_rows_hold_what_the_encoder_knows(features: TextFeatures) -> None:
    embeddings = linear(features, 24, 0.0)
    goal = text_embeddings(embeddings, 0.3)
    rows = encoder_start_rows(features, embeddings, 24, floor=0.3)
    assert rows.shape == (features.weights.shape[1], 24)
    assert rows.dtype == np.float32
    text = features.weights @ rows
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    start = features.weights @ features.start_rows(24, 0)
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    upper = np.triu_indices(len(goal), 1)
    told = [np.corrcoef((x @ x.T)[upper], (goal @ goal.T)[upper])[0, 1] for x in (text, start)]
    assert told[0] > 0.95 > told[1]


def test_the_ridge_is_the_minimum(features: TextFeatures) -> None:
    embeddings = linear(features, 6, 0.5)
    floor = 0.7
    goal = whiten(embeddings, floor)
    found = encoder_start_rows(features, embeddings, 6, floor=floor)
    dense = features.weights.toarray().astype(np.float64)
    alike = []
    for ridge in RIDGES:
        exact = np.linalg.solve(dense.T @ dense + ridge * np.eye(dense.shape[1]), dense.T @ goal)
        alike.append((exact * found).sum() / np.linalg.norm(exact) / np.linalg.norm(found))
    assert max(alike) > 0.9999  # one of them, up to its size: whitening before and after is the same


def test_the_floor_is_chosen_by_what_ranks_best(shop: Path) -> None:
    material = Material(load_dataset(shop), 400)
    features, split = material.features, material.split
    # One axis of large variance that says nothing, and small ones that say everything.
    rng = np.random.default_rng(0)
    says = features.weights @ rng.normal(size=(features.weights.shape[1], 12))
    noise = features.weights @ rng.normal(size=(features.weights.shape[1], 1)) * 30
    words = distil(features, np.concatenate([says, noise], 1).astype(np.float32), 13)
    users = split.users_for("validation")
    positions = Positions.held_out(material.ranker.histories, split, "validation", users, 20)
    assert words.choose_floor(features, positions, (0.01, 1e6)) == 0.01
    assert words.choose_floor(features, positions, (1e6,)) == 1e6
    # The same figures by the ranker's definition, in a loop.
    ranks = []
    rows = features.weights @ words.start_rows(0.01)
    for user in users:
        items = material.dataset.items
        history = items[split.history(int(user), "validation")]
        target = int(items[split.target(int(user), "validation")])
        scores = rows @ sum(0.7**lag * rows[item] for lag, item in enumerate(history[-20:][::-1]))
        others = set(range(len(rows))) - set(history.tolist()) - {target}
        ranks.append(1 + sum(scores[item] >= scores[target] for item in others))
    assert Metrics.from_ranks(ranks).ndcg == pytest.approx(words.ndcg(features, positions, 0.01), abs=2e-3)


@pytest.mark.parametrize("dim", [4, 12, 20])
def test_rows_have_the_size_of_the_usual_start(features: TextFeatures, dim: int) -> None:
    rows = encoder_start_rows(features, linear(features, 12, 0.3), dim)
    usual = features.weights @ features.start_rows(dim, 0)
    text = features.weights @ rows
    assert rows.shape[1] == dim
    assert (text**2).sum() == pytest.approx((usual**2).sum(), rel=1e-3)
    if dim > 12:  # the encoder is narrower: the rest is the usual start, by share of the width
        assert (text[:, 12:] ** 2).sum() == pytest.approx((usual**2).sum() * (dim - 12) / dim, rel=1e-3)
        rest = features.start_rows(dim, 0)[:, : dim - 12]
        ratio = np.linalg.norm(rows[:, 12:]) / np.linalg.norm(rest)
        assert np.allclose(rows[:, 12:], ratio * rest, atol=1e-5)


def test_without_text_the_usual_start_is_left(features: TextFeatures) -> None:
    items, vocab = features.weights.shape
    nothing = TextFeatures(sparse.csr_matrix((items, vocab), dtype=np.float32), features.idf)
    for embeddings in (np.zeros((items, 0), np.float32), np.zeros((items, 5), np.float32)):
        assert np.array_equal(encoder_start_rows(features, embeddings, 8), features.start_rows(8, 0))
    assert not encoder_start_rows(nothing, linear(features, 5, 0.1), 8).any()


def test_embeddings_stand_where_tf_idf_does(features: TextFeatures) -> None:
    rows = text_embeddings(linear(features, 24, 0.2))
    similar = nearest_texts(rows)
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, 0)
    assert similar.shape == cosines.shape
    assert similar.max() == pytest.approx(float(cosines.max()), abs=1e-5)
