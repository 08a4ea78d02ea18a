"""DuoKD: the laws of docs/duokd.md, and the whole of it against loops over plain numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from duokd_world import (
    CACHED,
    ITEMS,
    World,
    losses,
    make_world,
    may_be_negative,
    overrated,
    positive_weights,
    positives,
    rho,
    student_order,
    student_rank,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pocketrec.errors import DataError
from pocketrec_export import extraction as extracting
from pocketrec_export.config import DuoKDConfig
from pocketrec_export.duokd import DuoKDTerms, duokd_loss, negative_loss, positive_loss, reliability
from pocketrec_export.extraction import Extraction, Negatives
from pocketrec_export.known import KnownItems
from pocketrec_export.losses import next_item_loss
from pocketrec_export.student_ranks import student_ranks, top_by_blocks

SEEDS = st.integers(0, 2**32 - 1)
CONFIGS = st.builds(
    DuoKDConfig,
    top_k=st.integers(1, 3),
    negatives=st.integers(0, 12),
    student_top=st.integers(1, ITEMS),
    beta=st.floats(0.2, 5),
    beta_negative=st.floats(0.2, 3),
    gamma_position=st.sampled_from([0.0, 0.3]),
    gamma_confidence=st.sampled_from([0.0, 0.5]),
    gamma_overlap=st.sampled_from([0.0, 0.1]),
    epsilon=st.floats(0.01, 2),
    margin=st.floats(0, 1),
    margin_cap=st.floats(0, 3),
    guard=st.sampled_from([0.0, 0.3, 2.0]),
    lambda_positive=st.floats(0, 1),
    lambda_negative=st.floats(0, 1),
    reliability=st.booleans(),
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def extract(world: World, config: DuoKDConfig) -> Extraction:
    ranks = student_ranks(
        world.candidates, world.known, world.users, world.teacher.index, max(config.student_top, config.top_k)
    )
    return Extraction(world.candidates, world.teacher, world.known, world.users, ranks, config)


def loss_of(world: World, config: DuoKDConfig, seed: int = 0) -> DuoKDTerms:
    return duokd_loss(world.candidates, world.teacher, world.known, world.users, config, seeded(seed))


def chosen_items(world: World, negatives: Negatives, p: int) -> list[int]:
    return world.items_of(negatives.columns[p][negatives.mask[p]])


# The whole against the reference.


@given(seed=SEEDS, config=CONFIGS, complete=st.booleans())
def test_the_loss_is_that_of_the_reference(seed: int, config: DuoKDConfig, complete: bool) -> None:
    world = make_world(seed, complete)
    terms = loss_of(world, config, seed)
    negatives = extract(world, config).negatives(seeded(seed))
    assert terms.negatives.tolist() == negatives.mask.sum(1).tolist()
    total = 0.0
    for p in world.positions:
        positive, negative = losses(world, p, chosen_items(world, negatives, p), config)
        assert terms.positive[p].item() == pytest.approx(positive, rel=1e-4, abs=1e-5)
        assert terms.negative[p].item() == pytest.approx(negative, rel=1e-4, abs=1e-5)
        assert terms.reliability[p].item() == pytest.approx(rho(world, p, config))
        total += rho(world, p, config) * (
            config.lambda_positive * positive + config.lambda_negative * negative
        )
    assert terms.total.item() == pytest.approx(total / len(world.positions), rel=1e-4, abs=1e-5)


@given(seed=SEEDS, config=CONFIGS, complete=st.booleans())
def test_positives_and_their_weights(seed: int, config: DuoKDConfig, complete: bool) -> None:
    world = make_world(seed, complete)
    found = extract(world, config).positives()
    assert (found.weights[~found.mask] == 0).all()
    np.testing.assert_allclose(found.weights.sum(1), 1, rtol=1e-5)
    for p in world.positions:
        there = found.mask[p]
        assert found.items[p][there].tolist() == positives(world, p, config)
        np.testing.assert_allclose(
            found.weights[p][there], positive_weights(world, p, config), rtol=1e-4, atol=1e-6
        )
        assert found.items[p, 0] == world.target(p)
        # What is to come in the user's training events may be among them, what was before may not.
        assert not set(found.items[p][there][1:].tolist()) & world.had(p)


@given(seed=SEEDS, config=CONFIGS, complete=st.booleans())
def test_negatives_are_none_that_the_page_excludes(seed: int, config: DuoKDConfig, complete: bool) -> None:
    world = make_world(seed, complete)
    extraction = extract(world, config)
    negatives, found = extraction.negatives(seeded(seed)), extraction.positives()
    assert negatives.columns.shape == negatives.mask.shape == negatives.margins.shape
    assert (negatives.margins >= 0).all()
    overrated_at_most = min(-(-config.negatives // 2), config.student_top, len(world.scored))
    assert negatives.mask.shape[1] == overrated_at_most + config.negatives // 2
    for p in world.positions:
        chosen = chosen_items(world, negatives, p)
        assert len(chosen) == len(set(chosen)) <= config.negatives
        assert not set(chosen) & set(found.items[p][found.mask[p]].tolist())
        assert not set(chosen) & (world.trained(p) | {world.target(p)})
        assert all(may_be_negative(world, p, item, config) for item in chosen)
        assert set(chosen) <= overrated(world, p, config) | set(world.drawn)


@given(seed=SEEDS, config=CONFIGS, complete=st.booleans())
def test_all_overrated_items_are_taken_when_there_is_room(
    seed: int, config: DuoKDConfig, complete: bool
) -> None:
    config = config.model_copy(update={"negatives": 2 * ITEMS})
    world = make_world(seed, complete)
    negatives = extract(world, config).negatives(seeded(seed))
    width = min(config.student_top, len(world.scored), ITEMS)
    for p in world.positions:
        first = negatives.columns[p, :width][negatives.mask[p, :width]]
        assert set(world.items_of(first)) == overrated(world, p, config)


def test_items_of_validation_and_test_can_be_negatives() -> None:
    """They are unknown to training; to spare them would tell the student which they are."""
    config = DuoKDConfig(top_k=1, negatives=400)
    world = make_world(4)
    p = int(torch.nonzero(world.teacher.target_rank > 0)[0])
    negatives = extract(world, config).negatives(seeded(0))
    untouched = {i for i in range(ITEMS) if may_be_negative(world, p, i, config)}
    assert untouched
    assert set(chosen_items(world, negatives, p)) == untouched


@given(seed=SEEDS)
def test_the_target_is_no_negative_whatever_is_known(seed: int) -> None:
    world = make_world(seed)
    world.known = KnownItems.from_histories(np.zeros_like(world.offsets), [], ITEMS)
    negatives = extract(world, DuoKDConfig(top_k=1, negatives=100)).negatives(seeded(seed))
    assert all(world.target(p) not in chosen_items(world, negatives, p) for p in world.positions)


# The laws.

SCORES = st.floats(-30, 30, width=32)


@st.composite
def one_position(draw: st.DrawFn) -> dict[str, Tensor]:
    """Scores, weights, masks and margins of one position, as [1, …]."""
    width, m = draw(st.integers(1, 5)), draw(st.integers(0, 6))

    def floats(n: int, strategy: st.SearchStrategy[float]) -> Tensor:
        return torch.tensor(draw(st.lists(strategy, min_size=n, max_size=n))).reshape(1, n)

    mask = floats(width, st.booleans()).bool()
    mask[0, 0] = True
    weights = floats(width, st.floats(1 / 64, 1, width=32)) * mask
    return {
        "scores": floats(width, SCORES),
        "weights": weights / weights.sum(),
        "mask": mask,
        "negatives": floats(m, SCORES),
        "negative_mask": floats(m, st.booleans()).bool(),
        "margins": floats(m, st.floats(0, 2, width=32)),
    }


def both_losses(position: dict[str, Tensor], beta: float = 1.0) -> tuple[float, float]:
    values = dict(position)
    margins = values.pop("margins")
    target, negatives, mask = values["scores"][:, 0], values["negatives"], values["negative_mask"]
    return positive_loss(**values).item(), negative_loss(target, negatives, margins, mask, beta).item()


@given(position=one_position())
def test_the_target_alone_and_no_negatives_cost_nothing(position: dict[str, Tensor]) -> None:
    alone = position | {
        "mask": torch.arange(position["mask"].shape[1])[None] == 0,
        "weights": (torch.arange(position["mask"].shape[1])[None] == 0).float(),
        "negative_mask": torch.zeros_like(position["negative_mask"]),
    }
    assert both_losses(alone) == (0.0, 0.0)
    assert min(both_losses(position)) >= 0


def test_k_1_where_the_teacher_agrees_and_no_negatives_cost_nothing() -> None:
    config = DuoKDConfig(top_k=1, negatives=0)
    world = make_world(5)
    agreed = world.teacher.ids.clone()
    agreed[:, 0] = world.candidates.items[world.candidates.targets]
    agreed[:, 1:] = -1
    world.teacher = replace(world.teacher, ids=agreed, target_rank=torch.ones_like(agreed[:, 0]))
    terms = loss_of(world, config)
    assert (terms.positive == 0).all()
    assert (terms.negative == 0).all()
    assert terms.reliability.min() > 0
    assert terms.total == 0


@given(position=one_position(), more=st.floats(0, 20), beta=st.floats(0.1, 4), data=st.data())
def test_a_higher_negative_never_costs_less(
    position: dict[str, Tensor], more: float, beta: float, data: st.DataObject
) -> None:
    m = position["negatives"].shape[1]
    if m == 0:
        return
    raised = position["negatives"].clone()
    raised[0, data.draw(st.integers(0, m - 1))] += more
    before, after = both_losses(position, beta), both_losses(position | {"negatives": raised}, beta)
    assert all(b >= a - 1e-5 * (1 + abs(a)) for a, b in zip(before, after, strict=True))


@given(position=one_position())
def test_a_negative_pushes_down_and_a_target_up(position: dict[str, Tensor]) -> None:
    scores = position["scores"].clone().requires_grad_()
    negatives = position["negatives"].clone().requires_grad_()
    mask, taken = position["mask"], position["negative_mask"]
    loss = positive_loss(scores, position["weights"], mask, negatives, taken)
    loss = loss + negative_loss(scores[:, 0], negatives, position["margins"], taken, 1.0)
    loss.sum().backward()
    assert scores.grad is not None
    assert negatives.grad is not None
    assert (negatives.grad >= 0).all()
    assert scores.grad[0, 0] <= 1e-6
    assert (scores.grad[~mask] == 0).all()
    assert (negatives.grad[~taken] == 0).all()


@given(position=one_position(), data=st.data())
def test_the_order_of_negatives_changes_nothing(position: dict[str, Tensor], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(position["negatives"].shape[1])))
    moved = {name: position[name][:, order] for name in ("negatives", "negative_mask", "margins")}
    np.testing.assert_allclose(both_losses(position | moved), both_losses(position), rtol=1e-5, atol=1e-6)


@given(seed=SEEDS, config=CONFIGS)
def test_an_unreliable_teacher_leaves_plain_next_item_training(seed: int, config: DuoKDConfig) -> None:
    config = config.model_copy(update={"reliability": True})
    for silent in (True, False):
        world = make_world(seed, requires_grad=True)
        hopeless = 0 if silent else 2 * ITEMS  # no student ranks an item of ITEMS lower than half of that
        world.teacher = replace(
            world.teacher, target_rank=torch.full_like(world.teacher.target_rank, hopeless)
        )
        terms = loss_of(world, config)
        assert (terms.reliability == 0).all()
        assert terms.total == 0
        scores = world.candidates.scores
        plain = torch.autograd.grad(next_item_loss(world.candidates), scores)[0]
        both = torch.autograd.grad(next_item_loss(world.candidates) + terms.total, scores)[0]
        assert torch.equal(plain, both)


@given(seed=SEEDS, config=CONFIGS)
def test_without_the_negative_loss_it_is_weighted_rrd(seed: int, config: DuoKDConfig) -> None:
    config = config.model_copy(update={"lambda_negative": 0.0, "margin": 5.0})
    world = make_world(seed, requires_grad=True)
    terms = loss_of(world, config, seed)
    extraction = extract(world, config)
    negatives, found = extraction.negatives(seeded(seed)), extraction.positives()
    z = world.candidates.scores
    loss = torch.zeros(())
    for p in world.positions:
        members = world.candidates.columns(found.items[p][found.mask[p]])
        rest = z[p, negatives.columns[p][negatives.mask[p]]].exp().sum()
        for k, weight in enumerate(found.weights[p][found.mask[p]]):
            log_share = z[p, members[k]] - torch.log(z[p, members[k:]].exp().sum() + rest)
            loss = loss - terms.reliability[p] * weight * log_share
    loss = config.lambda_positive * loss / len(world.positions)
    assert terms.total.item() == pytest.approx(loss.item(), rel=1e-4, abs=1e-6)
    if config.lambda_positive > 0:
        here, there = (torch.autograd.grad(value, z)[0] for value in (terms.total, loss))
        np.testing.assert_allclose(here, there, rtol=1e-3, atol=1e-5)


@given(seed=SEEDS, config=CONFIGS, complete=st.booleans())
def test_the_same_generator_gives_the_same_loss(seed: int, config: DuoKDConfig, complete: bool) -> None:
    world = make_world(seed, complete)
    assert loss_of(world, config, 7).total == loss_of(world, config, 7).total


# The parts.

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


# Numbers.


@given(position=one_position(), scale=st.sampled_from([1.0, 1e3, 1e6, 1e12]))
def test_extreme_scores_have_finite_losses_and_gradients(position: dict[str, Tensor], scale: float) -> None:
    scores = (position["scores"] * scale).requires_grad_()
    negatives = (position["negatives"] * scale).requires_grad_()
    first = positive_loss(scores, position["weights"], position["mask"], negatives, position["negative_mask"])
    second = negative_loss(scores[:, 0], negatives, position["margins"], position["negative_mask"], 2.0)
    assert torch.isfinite(first).all()
    assert torch.isfinite(second).all()
    grads = torch.autograd.grad((first + second).sum(), [scores, negatives])
    assert all(torch.isfinite(grad).all() and grad.abs().max() <= 4 for grad in grads if grad.numel())


@pytest.mark.parametrize("scale", [0.0, 1e6])
def test_the_whole_loss_has_finite_gradients(scale: float) -> None:
    world = make_world(11, requires_grad=True)
    with torch.no_grad():
        world.candidates.scores.mul_(scale)
    total = loss_of(world, DuoKDConfig(top_k=3, negatives=8)).total
    assert total > 0
    assert torch.isfinite(torch.autograd.grad(total, world.candidates.scores)[0]).all()


@given(position=one_position())
def test_gradients_are_those_of_finite_differences(position: dict[str, Tensor]) -> None:
    double = {
        name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in position.items()
    }
    scores = (double["scores"] / 10).requires_grad_()
    negatives = (double["negatives"] / 10).requires_grad_()

    def both(scores: Tensor, negatives: Tensor) -> Tensor:
        taken = double["negative_mask"]
        first = positive_loss(scores, double["weights"], double["mask"], negatives, taken)
        return first + negative_loss(scores[:, 0], negatives, double["margins"], taken, 1.5)

    inputs = (scores, negatives) if negatives.numel() else (scores, negatives.detach())
    assert torch.autograd.gradcheck(both, inputs)


def test_learning_brings_the_students_list_into_the_teachers_order() -> None:
    world = make_world(21, requires_grad=True)
    config = DuoKDConfig(top_k=3, negatives=8, lambda_positive=1, lambda_negative=1, reliability=False)
    optimizer = torch.optim.Adam([world.candidates.scores], lr=0.1)
    for step in range(300):
        optimizer.zero_grad()
        loss_of(world, config, step).total.backward()
        optimizer.step()
    z = world.candidates.scores.detach()
    taught = [p for p in world.positions if world.teacher.target_rank[p] > 0]
    assert taught
    for p in taught:
        first = positives(world, p, config)
        others = [i for i in range(ITEMS) if may_be_negative(world, p, i, config)]
        values = z[p, first].tolist()
        assert values == sorted(values, reverse=True)
        assert max(z[p, others].tolist()) < values[-1]


# Misuse.


def test_lists_that_are_too_short_are_refused() -> None:
    with pytest.raises(DataError, match=f"duokd.top_k = {CACHED + 1}.*{CACHED} items") as caught:
        loss_of(make_world(0), DuoKDConfig(top_k=CACHED + 1))
    assert caught.value.code == "cache-short"


def test_lists_of_the_whole_catalogue_are_never_too_short() -> None:
    world = make_world(0)
    rest = torch.full((len(world.index), ITEMS - CACHED), -1)
    whole = torch.cat([world.teacher.ids, rest], 1)
    world.teacher = replace(world.teacher, ids=whole, log_probs=torch.zeros(whole.shape))
    terms = loss_of(world, DuoKDConfig(top_k=ITEMS + 5))
    assert (terms.negatives == 0).all()  # every item is among the teacher's first K or may be
    assert terms.positive.max() > 0


def test_a_teachers_item_that_was_not_scored_is_refused() -> None:
    world = make_world(8, complete=False)
    p = int(torch.nonzero(world.teacher.target_rank > 0)[0])
    absent = next(i for i in range(ITEMS) if i not in world.scored)
    assert absent not in world.had(p)
    world.teacher.ids[p, 0] = absent
    with pytest.raises(ValueError, match=f"item {absent} of a teacher's top list"):
        loss_of(world, DuoKDConfig(top_k=3))
