"""Overlap of ranked lists."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_data import tiny_rows, write_rows

from pocketrec import Recommender
from pocketrec.errors import DataError
from pocketrec_tools.held_out import HeldOut
from pocketrec_tools.overlap import Ranker, compare, compare_lists, overlap, overlap_shares
from tiny_bundle import write_tiny_bundle

LISTS = st.lists(st.integers(0, 20), unique=True, max_size=14)


def test_by_hand() -> None:
    ten = list(range(10))
    assert compare_lists([ten], [ten[::-1]]) == 1.0
    assert compare_lists([ten, ten], [ten, [*range(5), *range(20, 25)]]) == pytest.approx(0.75)
    assert compare_lists([[1, 2, 3]], [[3, 4]], k=10) == pytest.approx(1 / 3)
    assert compare_lists([[1, 2, 3]], [[1, 9, 2]], k=2) == pytest.approx(0.5)
    assert compare_lists([[]], [[]]) == 1.0
    assert compare_lists([[]], [[1]]) == 0.0


@given(a=LISTS, b=LISTS)
def test_laws(a: list[int], b: list[int]) -> None:
    share = overlap_shares([a], [b])[0]
    assert 0 <= share <= 1
    assert share == overlap_shares([b], [a])[0]
    assert (share == 1) == (set(a[:10]) == set(b[:10]))


def test_lists_must_pair() -> None:
    with pytest.raises(DataError, match="2 lists cannot be compared with 1"):
        compare_lists([[1], [2]], [[1]])
    with pytest.raises(DataError, match="0 lists"):
        compare_lists([], [])


def test_two_models_over_the_same_users(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data", tiny_rows())
    one = write_tiny_bundle(tmp_path / "one", seed=1)
    two = write_tiny_bundle(tmp_path / "two", seed=2)
    with Recommender.open(one, engine="numpy") as a, Recommender.open(two, engine="numpy") as b:
        held_out = HeldOut.load(data, a.bundle.catalogue, users=20)
        found = compare(("a", "b"), positions(a), positions(b), held_out)
        shares = []
        for user in held_out.users.tolist():
            history = held_out.history(user)
            left = {item.item_id for item in a.rank(history)}
            shares.append(len(left & {item.item_id for item in b.rank(history)}) / 10)
    assert found.users == 20
    assert found.mean == pytest.approx(sum(shares) / 20)
    assert 0 < found.mean < 1
    assert found.same_lists <= found.same_items < 1


def positions(recommender: Recommender) -> Ranker:
    return lambda history: [item.position for item in recommender.rank(history)]


def test_overlap_of_a_bundle_with_itself(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data", tiny_rows())
    found = overlap(write_tiny_bundle(tmp_path / "b"), data, "numpy", "numpy", users=5)
    assert (found.users, found.mean, found.same_lists) == (5, 1.0, 1.0)
    assert found.to_dict()["overlap@10"] == 1.0
