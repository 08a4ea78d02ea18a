"""Ranks and metrics against their definitions, written out."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score
from small_data import ROWS, Row, dataset_of

from pocketrec.errors import DataError
from pocketrec_export.data import load_dataset
from pocketrec_export.metrics import (
    Metrics,
    ndcg_gains,
    paired_bootstrap,
    pessimistic_rank,
    popularity_metrics,
    popularity_ranks,
)
from pocketrec_export.split import Part, leave_one_out


def rank_by_definition(scores: list[float], target: int, seen: list[int]) -> int:
    if target in seen:
        return len(scores) + 1
    return 1 + sum(
        1 for i, score in enumerate(scores) if i != target and i not in seen and not score < scores[target]
    )


@given(
    users=st.lists(
        st.tuples(
            st.lists(st.sampled_from([0.0, 1.0, 2.0, -math.inf, math.nan]), min_size=7, max_size=7),
            st.integers(0, 6),
            st.lists(st.integers(0, 6), max_size=9),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_rank_is_the_definition(users: list[tuple[list[float], int, list[int]]]) -> None:
    scores = np.array([s for s, _, _ in users], np.float32)
    seen = [np.array(items, np.int32) for _, _, items in users]
    ranks = pessimistic_rank(scores, np.array([t for _, t, _ in users]), seen)
    assert ranks.dtype == np.int64
    assert ranks.tolist() == [rank_by_definition(*user) for user in users]


def test_rank_by_hand() -> None:
    scores = np.array([[5, 4, 3, 2, 1]], np.float32)
    none = [np.array([], np.int32)]
    assert pessimistic_rank(scores, [2], none).tolist() == [3]
    assert pessimistic_rank(scores, [2], [np.array([0, 0, 4])]).tolist() == [2]
    assert pessimistic_rank(scores, [2], [np.array([2])]).tolist() == [6]
    assert pessimistic_rank(np.zeros((1, 5), np.float32), [2], none).tolist() == [5]
    assert pessimistic_rank(np.full((1, 5), np.nan, np.float32), [2], none).tolist() == [5]
    with pytest.raises(ValueError, match="1 rows of scores, but 2 targets"):
        pessimistic_rank(scores, [2, 3], none)


def test_metrics_by_hand() -> None:
    metrics = Metrics.from_ranks([1, 2, 10, 11], k=10)
    assert metrics.users == 4
    assert metrics.hr == 0.75
    assert metrics.ndcg == pytest.approx((1 + 1 / math.log2(3) + 1 / math.log2(11)) / 4)
    assert metrics.mrr == pytest.approx((1 + 1 / 2 + 1 / 10) / 4)
    assert list(metrics.to_dict()) == ["users", "hr@10", "ndcg@10", "mrr@10"]
    assert Metrics.from_ranks([11], k=20).to_dict()["hr@20"] == 1
    assert ndcg_gains([1, 3, 11]).tolist() == [1, 0.5, 0]
    with pytest.raises(DataError, match="no user"):
        Metrics.from_ranks([])
    with pytest.raises(DataError, match="rank 0"):
        Metrics.from_ranks([3, 0])


@given(seed=st.integers(0, 10_000), k=st.integers(1, 12))
def test_ndcg_agrees_with_scikit_learn(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.tile(np.arange(12.0), (6, 1)), axis=1).astype(np.float32)  # no ties
    targets = rng.integers(12, size=6)
    relevance = np.zeros_like(scores)
    relevance[np.arange(6), targets] = 1
    ranks = pessimistic_rank(scores, targets, [np.array([], np.int64)] * 6)
    assert Metrics.from_ranks(ranks, k).ndcg == pytest.approx(ndcg_score(relevance, scores, k=k) if k else 0)


@given(rows=ROWS)
def test_popularity_is_the_ranking_by_training_counts(
    rows: list[Row], tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = dataset_of(tmp_path_factory.mktemp("popularity"), rows)
    split = leave_one_out(data)
    parts: tuple[Part, Part] = ("validation", "test")
    for part in parts:
        users = split.users_for(part)
        scores = np.tile(split.train_counts.astype(np.float32), (len(users), 1))
        seen = [data.items[split.history(int(user), part)] for user in users]
        expected = pessimistic_rank(scores, split.target_items(part), seen)
        assert popularity_ranks(split, part).tolist() == expected.tolist()
        if len(users):
            assert popularity_metrics(data, split, part) == Metrics.from_ranks(expected)


def test_popularity_wants_the_split_of_its_data(tmp_path: Path) -> None:
    rows = [("a", "x", 1), ("a", "y", 2)]
    one, two = dataset_of(tmp_path / "one", rows), dataset_of(tmp_path / "two", rows)
    with pytest.raises(ValueError, match="another dataset"):
        popularity_metrics(one, leave_one_out(two), "test")


@pytest.mark.parametrize(("name", "ndcg"), [("ml-100k", 0.045)])
def test_popularity_on_research_data(shared_data: Callable[[str], Path], name: str, ndcg: float) -> None:
    data = load_dataset(shared_data(name))
    metrics = popularity_metrics(data, leave_one_out(data), "test")
    assert metrics.users == data.num_users
    assert metrics.ndcg == pytest.approx(ndcg, abs=0.003)


def test_bootstrap_finds_a_difference_and_is_seeded() -> None:
    rng = np.random.default_rng(0)
    theirs = rng.random(400)
    ours = theirs + 0.05 + rng.normal(0, 0.1, 400)
    found = paired_bootstrap(ours, theirs, seed=1)
    assert found.low < found.mean < found.high
    assert found.mean == pytest.approx(float((ours - theirs).mean()))
    assert found.decided
    # The interval of a mean is about 1.96 standard errors to each side.
    error = float((ours - theirs).std() / 20)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert found == paired_bootstrap(ours, theirs, seed=1)
    assert found != paired_bootstrap(ours, theirs, seed=2)
    opposite = paired_bootstrap(theirs, ours, seed=1)
    assert (opposite.low, opposite.high) == pytest.approx((-found.high, -found.low))


def test_bootstrap_leaves_a_draw_undecided() -> None:
    values = np.tile([0.0, 1.0], 100)
    found = paired_bootstrap(values, values[::-1])
    assert found.mean == 0
    assert not found.decided
    assert paired_bootstrap(values, values).high == 0
    with pytest.raises(ValueError, match="two equal lists"):
        paired_bootstrap([1.0], [1.0, 2.0])
