"""The parts of DuoKD, each by hand or against a definition: reliability, weights, draws, ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from duokd_cases import SEEDS, seeded
from duokd_world import (
    ITEMS,
    make_world,
    student_order,
    student_rank,
)
from hypothesis import given
from hypothesis import strategies as st

from pocketrec_export import extraction as extracting
from pocketrec_export.config import DuoKDConfig
from pocketrec_export.duokd import reliability
from pocketrec_export.student_ranks import student_ranks, top_by_blocks

RANKS = st.integers(1, 10_000)


@given(student=RANKS, teacher=RANKS)
def test_reliability(student: int, teacher: int) -> None:
    value = reliability(torch.tensor([student]), torch.tensor([teacher])).item()
    if student > teacher:
        assert 1 < value <= 2
        assert value == pytest.approx(min(1 + (student - teacher) / teacher, 2))
    else:
        assert 0 <= value <= 1
        assert value == pytest.approx(max(1 - (teacher - student) / student, 0))
    assert (value == 1) == (student == teacher)
    assert reliability(torch.tensor([student]), torch.tensor([0])).item() == 0


def test_reliability_by_hand() -> None:
    student = torch.tensor([1, 1, 1, 4, 4, 4, 4, 3000])
    teacher = torch.tensor([1, 2, 9, 4, 2, 3, 6, 1000])
    assert reliability(student, teacher).tolist() == pytest.approx([1, 0, 0, 1, 2, 4 / 3, 0.5, 2])


def test_weights_that_all_vanish_become_equal() -> None:
    config = DuoKDConfig(gamma_position=1, gamma_confidence=0, gamma_overlap=0, beta=0.1)
    rank = torch.tensor([[5000, 4000, 3000], [5000, 1, 2]])
    mask = torch.tensor([[True, False, True], [True, True, True]])
    none = torch.zeros_like(mask)
    weights = extracting.positive_weights(rank, torch.zeros(2, 3), none, mask, config)
    assert weights.flatten().tolist() == pytest.approx([0.5, 0, 0.5, 0, 1, 0], abs=1e-4)


def test_draws_are_in_proportion_to_their_weights() -> None:
    weights = torch.tensor([0.0, 1.0, 3.0, 6.0])
    places, there = extracting.draw(weights.expand(20_000, 4), 2, seeded(1))
    assert there.all()
    share = torch.bincount(places[:, 0], minlength=4) / len(places)
    assert share.tolist() == pytest.approx([0, 0.1, 0.3, 0.6], abs=0.015)
    # And the second among what the first left.
    after_last = places[places[:, 0] == 3, 1]
    assert (after_last == 2).float().mean().item() == pytest.approx(3 / 4, abs=0.015)
    assert (places[:, 0] != places[:, 1]).all()
    places, there = extracting.draw(weights[None], 9, seeded(1))
    assert sorted(places[there].tolist()) == [1, 2, 3]
    assert not extracting.draw(torch.zeros(2, 4), 3, seeded(1))[1].any()


def test_only_items_that_the_teacher_ranks_lower_are_overrated() -> None:
    student, teacher = torch.tensor([1, 5, 5, 9, 2]), torch.tensor([21, 5, 4, 40, 10])
    weights = extracting.overrated_weights(student, teacher, 0.1, 10)
    assert weights.tolist() == pytest.approx([float(np.tanh(2)), 0, 0, float(np.tanh(3.1)), 0])


def test_margins_and_near_ties() -> None:
    target, others = torch.tensor([-3.0]), torch.tensor([[-1.0, -3.0, -3.4, -5.0, -9.0]])
    config = DuoKDConfig(margin=0.5, margin_cap=4)
    assert extracting.margins(target, others, config).tolist()[0] == pytest.approx([0, 0, 0.2, 1, 2])
    listed = torch.tensor([[True, True, True, True, False]])
    assert extracting.near_ties(target, others, listed, 0.5).tolist() == [[True, True, True, False, False]]
    assert extracting.near_ties(target, others, listed, 0.0).tolist() == [[True, False, False, False, False]]
    unlisted = torch.zeros_like(listed)
    assert not extracting.near_ties(target, others, unlisted, 99.0).any()


@given(seed=SEEDS, top=st.integers(1, ITEMS), complete=st.booleans())
def test_the_students_ranks(seed: int, top: int, complete: bool) -> None:
    world = make_world(seed, complete)
    ranks = student_ranks(world.candidates, world.known, world.users, world.teacher.index, top)
    for p in world.positions:
        order = student_order(world, p)
        assert ranks.target_rank[p] == student_rank(world, p, world.target(p))
        assert world.items_of(ranks.columns[p][ranks.there[p]]) == order[:top]
        expected = [student_rank(world, p, item) for item in order[:top]]
        assert ranks.ranks[p][ranks.there[p]].tolist() == expected
        if complete:
            assert expected == list(range(1, len(expected) + 1))
            assert ranks.target_rank[p] == order.index(world.target(p)) + 1


@pytest.mark.parametrize("complete", [True, False])
def test_ranks_do_not_depend_on_how_many_scores_are_handled_at_once(
    monkeypatch: pytest.MonkeyPatch, complete: bool
) -> None:
    world = make_world(7, complete)
    arguments = (world.candidates, world.known, world.users, world.teacher.index, 5)
    whole = student_ranks(*arguments)
    monkeypatch.setattr("pocketrec_export.student_ranks._CHUNK", {"cpu": 2 * ITEMS + 1})
    assert len(world.index) % 2 == 1  # so that the last chunk is shorter
    parts = student_ranks(*arguments)
    for name in vars(whole):
        assert torch.equal(getattr(whole, name), getattr(parts, name)), name


def test_a_tie_counts_against_the_student() -> None:
    world = make_world(3)
    world.candidates.scores[:] = 1.0
    ranks = student_ranks(world.candidates, world.known, world.users, world.teacher.index, 3)
    assert ranks.target_rank.tolist() == [len(student_order(world, p)) for p in world.positions]


@given(seed=SEEDS, n=st.integers(1, 4), m=st.integers(1, 400), data=st.data())
def test_selection_by_blocks_is_selection(seed: int, n: int, m: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, min(m, 12)))
    scores = torch.randn(n, m, generator=seeded(seed)).round(decimals=1)
    scores[scores < -1.5] = -torch.inf
    best, columns = top_by_blocks(scores, k)
    assert torch.equal(best, torch.topk(scores, k).values)
    assert torch.equal(scores.gather(1, columns), best)
    assert all(len(set(row)) == k for row in columns.tolist())
