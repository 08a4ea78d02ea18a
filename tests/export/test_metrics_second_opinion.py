"""HR@10, NDCG@10 and MRR@10 against ranx, and the rule for ties against cases worked out by hand.

ranx breaks ties in its own way, so what is compared has none; ties are the second half of this file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pocketrec_export.metrics import Metrics, pessimistic_rank
from support import require_package


@pytest.fixture(scope="module")
def ranx() -> ModuleType:
    """The library, without its compiler: that would take half a minute for these few users."""
    require_package("ranx")
    os.environ["NUMBA_DISABLE_JIT"] = "1"
    import ranx

    module: ModuleType = ranx
    return module


def by_ranx(
    ranx: ModuleType, scores: NDArray[np.float64], targets: NDArray[np.int64], seen: list[NDArray[np.int64]]
) -> dict[str, float]:
    """The three metrics as ranx has them, of lists without the items that were seen."""
    wanted = {str(user): {str(target): 1} for user, target in enumerate(targets)}
    lists = {
        str(user): {
            str(item): float(score) for item, score in enumerate(row) if item not in set(seen[user].tolist())
        }
        for user, row in enumerate(scores)
    }
    names = ["hit_rate@10", "ndcg@10", "mrr@10"]
    found = ranx.evaluate(ranx.Qrels(wanted), ranx.Run(lists), names)
    return {"hr@10": found[names[0]], "ndcg@10": found[names[1]], "mrr@10": found[names[2]]}


@pytest.mark.parametrize(("users", "items", "seed"), [(400, 60, 0), (250, 12, 1), (50, 500, 2)])
def test_equal_to_ranx_to_the_ninth_digit(ranx: ModuleType, users: int, items: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.tile(np.arange(items, dtype=np.float64), (users, 1)), axis=1)  # no ties
    targets = rng.integers(items, size=users)
    seen = [
        np.setdiff1d(rng.integers(items, size=rng.integers(0, items // 3)), [target]) for target in targets
    ]
    ours = Metrics.from_ranks(pessimistic_rank(scores, targets, seen)).to_dict()
    theirs = by_ranx(ranx, scores, targets, seen)
    assert 0 < theirs["hr@10"] < 1
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=1e-9), name


def test_a_filtered_target_is_a_miss_for_both(ranx: ModuleType) -> None:
    scores = np.tile(np.arange(12.0)[::-1], (2, 1))
    targets, seen = np.array([0, 0]), [np.array([0]), np.array([1])]
    ours = Metrics.from_ranks(pessimistic_rank(scores, targets, seen))
    theirs = by_ranx(ranx, scores, targets, seen)
    assert (ours.hr, ours.ndcg, ours.mrr) == (0.5, 0.5, 0.5)
    assert list(theirs.values()) == [0.5, 0.5, 0.5]


NONE: list[int] = []


@pytest.mark.parametrize(
    ("scores", "target", "seen", "rank"),
    [
        ([9, 9, 9, 9], 0, NONE, 4),  # everything ties: last
        ([9, 9, 5, 1], 1, NONE, 2),  # behind the one it ties with
        ([9, 9, 5, 1], 0, NONE, 2),  # whichever comes first in the catalogue
        ([9, 5, 5, 5], 2, NONE, 4),  # behind a better one and two ties
        ([9, 5, 5, 5], 2, [1], 3),  # a tie that was seen is filtered
        ([9, 5, 5, 5], 2, [0, 1, 3], 1),  # nobody is left
        ([9, 5, 5, 5], 0, [0], 5),  # the target itself was seen: a miss
        ([0, 0, 0, 0], 3, [0, 0, 0], 3),  # an item that was seen thrice is one item
    ],
)
def test_ties_by_hand(scores: list[int], target: int, seen: list[int], rank: int) -> None:
    found = pessimistic_rank(np.array([scores], np.float32), [target], [np.array(seen, np.int64)])
    assert found.tolist() == [rank]


def test_what_ties_cost() -> None:
    """Ten items that all score the same are no recommendation: HR@10 is 1, and the target comes last."""
    scores = np.zeros((2, 11), np.float32)
    seen = [np.array([0]), np.array([], np.int64)]  # ten candidates, and eleven
    metrics = Metrics.from_ranks(pessimistic_rank(scores, [5, 5], seen))
    assert metrics.hr == 0.5
    assert metrics.ndcg == pytest.approx(0.5 / np.log2(11))
    assert metrics.mrr == pytest.approx(0.05)


def breaking_ties(worst: bool) -> Callable[[NDArray[np.float32], int], NDArray[np.float32]]:
    """A function that turns scores with ties into scores without, against or for a target."""

    def broken(scores: NDArray[np.float32], target: int) -> NDArray[np.float32]:
        push = np.full(len(scores), 0.25 if worst else -0.25, np.float32)
        push[target] = 0
        return scores + push

    return broken


@given(
    scores=st.lists(st.integers(0, 3), min_size=2, max_size=15),
    data=st.data(),
)
def test_ties_rank_like_the_worst_order_of_equals(scores: list[int], data: st.DataObject) -> None:
    target = data.draw(st.integers(0, len(scores) - 1))
    row, none = np.array(scores, np.float32), [np.array([], np.int64)]
    with_ties = pessimistic_rank(row[None], [target], none)[0]
    worst = pessimistic_rank(breaking_ties(worst=True)(row, target)[None], [target], none)[0]
    best = pessimistic_rank(breaking_ties(worst=False)(row, target)[None], [target], none)[0]
    assert with_ties == worst
    assert worst - best == scores.count(scores[target]) - 1
