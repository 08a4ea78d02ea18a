"""DuoKD: the laws of docs/duokd.md, and the whole of it against loops over plain numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from duokd_cases import CONFIGS, SEEDS, chosen_items, extract, loss_of, one_position, seeded
from duokd_world import (
    CACHED,
    ITEMS,
    losses,
    make_world,
    may_be_negative,
    overrated,
    positive_weights,
    positives,
    rho,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pocketrec.errors import DataError
from pocketrec_export.cache import TeacherBatch
from pocketrec_export.config import DuoKDConfig
from pocketrec_export.duokd import negative_loss, positive_loss
from pocketrec_export.kl import kl_loss
from pocketrec_export.known import KnownItems
from pocketrec_export.losses import next_item_loss

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
    config = DuoKDConfig(positives="ranking", top_k=1, negatives=0)
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
    config = config.model_copy(update={"positives": "ranking", "lambda_negative": 0.0, "margin": 5.0})
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


@given(seed=SEEDS, complete=st.booleans())
def test_lists_weighted_by_confidence_alone_are_the_divergence_from_the_teacher(
    seed: int, complete: bool
) -> None:
    config = DuoKDConfig(
        positives="list", top_k=3, gamma_position=0, gamma_confidence=1, gamma_overlap=0, lambda_negative=0
    )
    world = make_world(seed, complete)
    terms = loss_of(world, config, seed)
    alike = [p for p in world.positions if set(positives(world, p, config)) == set(world.teacher_list(p)[:3])]
    for p in alike:
        one = replace(
            world.candidates,
            scores=world.candidates.scores[p : p + 1],
            targets=world.candidates.targets[p : p + 1],
        )
        fields = ("index", "ids", "log_probs", "target_rank", "target_log_prob")
        lists = TeacherBatch(*(getattr(world.teacher, name)[p : p + 1] for name in fields))
        assert terms.positive[p].item() == pytest.approx(kl_loss(one, lists, 3).item(), rel=1e-4, abs=1e-5)


@given(seed=SEEDS, config=CONFIGS, complete=st.booleans())
def test_the_same_generator_gives_the_same_loss(seed: int, config: DuoKDConfig, complete: bool) -> None:
    world = make_world(seed, complete)
    assert loss_of(world, config, 7).total == loss_of(world, config, 7).total


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
    config = DuoKDConfig(
        positives="ranking", top_k=3, negatives=8, lambda_positive=1, lambda_negative=1, reliability=False
    )
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
