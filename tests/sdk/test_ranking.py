"""The exact top-k against sorting everything."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pocketrec.ranking import best_allowed, distinct, member, top_k

# Few distinct values, so that ties straddle the border of the partition; both zeros, which are equal.
scores_lists = st.lists(st.sampled_from([-2.0, -1.0, -0.0, 0.0, 0.5, 3.0]), max_size=60)


def by_definition(scores: list[float], k: int, banned: set[int]) -> list[int]:
    allowed = [index for index in range(len(scores)) if index not in banned]
    return sorted(allowed, key=lambda index: (-scores[index], index))[:k]


@given(scores=scores_lists, k=st.integers(1, 70), times=st.sampled_from([1, 30]))
def test_top_k_is_the_head_of_the_sorted_list(scores: list[float], k: int, times: int) -> None:
    scores = scores * times  # few are sorted, many are parted
    got = top_k(np.array(scores, dtype=np.float32), k)
    assert got.tolist() == by_definition(scores, k, set())


@given(scores=scores_lists, k=st.integers(1, 70), data=st.data())
def test_banned_indices_leave_the_rest_in_order(scores: list[float], k: int, data: st.DataObject) -> None:
    banned = data.draw(st.sets(st.integers(0, len(scores) - 1))) if scores else set()
    got = best_allowed(np.array(scores, dtype=np.float32), k, np.array(sorted(banned), dtype=np.intp))
    assert got.tolist() == by_definition(scores, k, banned)


@given(seed=st.integers(0, 2**32 - 1), n=st.sampled_from([1, 60, 511, 512, 513, 1500]), k=st.integers(1, 50))
def test_distinct_scores_too(seed: int, n: int, k: int) -> None:
    scores = np.random.default_rng(seed).normal(size=n).astype(np.float32)
    assert top_k(scores, k).tolist() == by_definition(scores.tolist(), k, set())


@given(values=st.lists(st.integers(0, 30), max_size=40), others=st.lists(st.integers(0, 30), max_size=40))
def test_sets_of_positions(values: list[int], others: list[int]) -> None:
    rising = distinct(np.array(values, dtype=np.int64))
    assert rising.tolist() == sorted(set(values))
    assert member(np.array(others, dtype=np.intp), rising).tolist() == [other in values for other in others]
