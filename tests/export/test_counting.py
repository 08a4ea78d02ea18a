"""The rankers that count say what plain loops over events say, and never count a user's own step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from pocketrec_export.batches import Histories
from pocketrec_export.counting import (
    FLOOR,
    LOOK_AHEAD,
    ItemNeighbours,
    Pairs,
    SequentialRules,
    TextSimilarity,
    fit_counting,
    nearest_texts,
    normalised,
)
from pocketrec_export.teachers import Positions

ITEMS = 12


def histories_of(users: list[list[int]]) -> Histories:
    offsets = np.concatenate([[0], np.cumsum([len(u) for u in users])]).astype(np.int64)
    items = np.array([i for u in users for i in u], np.int32)
    zeros = np.zeros(len(items), np.int64)
    return Histories(offsets, items, zeros, zeros)


lists = st.lists(st.lists(st.integers(0, ITEMS - 1), min_size=2, max_size=9), min_size=2, max_size=6)


def rule_counts(users: list[list[int]], decay: float) -> np.ndarray:
    counts = np.zeros((ITEMS, ITEMS))
    for user in users:
        for p, left in enumerate(user):
            for step, right in enumerate(user[p + 1 : p + 1 + LOOK_AHEAD]):
                if left != right:
                    counts[left, right] += decay**step
    return counts


def expected_rules(users: list[list[int]], user: int, upto: int, decay: float) -> np.ndarray:
    """Counted on everybody else."""
    others = users[:user] + users[user + 1 :]
    counts = rule_counts(others, decay)
    times = np.bincount(np.array([i for u in others for i in u], int), minlength=ITEMS)
    sums = np.zeros(ITEMS)
    for lag, item in enumerate(reversed(users[user][: upto + 1])):
        sums += decay**lag * counts[item] / max(times[item], 1)
    return sums


@settings(deadline=None, max_examples=60)
@given(lists, st.sampled_from([0.5, 0.8]))
def test_rules_are_those_of_the_other_users(users: list[list[int]], decay: float) -> None:
    positions = Positions.all(histories_of(users), 4)
    said = SequentialRules(Pairs(positions.histories, ITEMS), decay).log_probs(positions)
    for row, (user, event) in enumerate(zip(positions.users, positions.index, strict=True)):
        upto = int(event - positions.histories.offsets[user])
        wanted = normalised(expected_rules(users, int(user), upto, decay)[None].astype(np.float32))[0]
        assert torch.allclose(said[row], wanted, atol=1e-3), (users, user, upto)


def expected_neighbours(
    users: list[list[int]], user: int, upto: int, decay: float, activity: float
) -> np.ndarray:
    weight = [len(set(u)) ** -activity for u in users]
    common, norm = np.zeros((ITEMS, ITEMS)), np.zeros(ITEMS)
    for other, items in enumerate(users):
        if other != user:
            for i in set(items):
                norm[i] += weight[other]
                for j in set(items) - {i}:
                    common[i, j] += weight[other]
    root = np.where(norm > 1e-6, 1 / np.sqrt(np.maximum(norm, 1e-6)), 0)
    sums = np.zeros(ITEMS)
    for lag, item in enumerate(reversed(users[user][: upto + 1])):
        sums += decay**lag * root[item] * common[item] * root
    return sums


@settings(deadline=None, max_examples=60)
@given(lists, st.sampled_from([0.0, 0.5, 1.0]))
def test_neighbours_are_those_of_the_other_users(users: list[list[int]], activity: float) -> None:
    positions = Positions.all(histories_of(users), 50)
    said = ItemNeighbours(Pairs(positions.histories, ITEMS), 0.7, activity).log_probs(positions)
    for row, (user, event) in enumerate(zip(positions.users, positions.index, strict=True)):
        upto = int(event - positions.histories.offsets[user])
        sums = expected_neighbours(users, int(user), upto, 0.7, activity)
        # An item's likeness to itself says nothing: what the history holds is filtered later.
        met = set(users[int(user)][: upto + 1])
        free = [i for i in range(ITEMS) if i not in met]
        got = torch.exp(said[row])[free].double()
        wanted = torch.from_numpy(sums[free])
        if float(wanted.sum()) > 1e-6:
            floor = FLOOR / ITEMS
            ratio = (got - floor) / float((got - floor).sum().clamp(min=1e-9))
            assert torch.allclose(ratio, wanted / wanted.sum(), atol=2e-3), (users, user, upto)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.floats(0, 1e6, width=32), min_size=5, max_size=5), min_size=1, max_size=4))
def test_log_probabilities_add_up_to_one_and_keep_the_order(rows: list[list[float]]) -> None:
    sums = np.array(rows, np.float32)
    said = normalised(sums)
    assert torch.allclose(torch.exp(said).sum(1), torch.ones(len(rows)), atol=1e-5)
    for row, values in zip(said, sums, strict=True):
        order = np.argsort(values, kind="stable")
        assert (np.diff(row.numpy()[order]) >= -1e-6).all()


def test_a_text_is_near_what_shares_its_words() -> None:
    rows = sparse.csr_matrix(np.array([[1, 0, 0], [0.8, 0.6, 0], [0, 0, 1], [0, 0, 0]], np.float32))
    similar = nearest_texts(rows)
    assert similar[0, 1] == pytest.approx(0.8)
    assert similar[0, 0] == 0
    positions = Positions.all(histories_of([[0, 2]]), 4)
    said = torch.exp(TextSimilarity(similar, 0.7).log_probs(positions))[0]
    assert said[1] > 0.9 * (1 - FLOOR)
    assert torch.allclose(said[[0, 2, 3]], torch.full((3,), FLOOR / 4))


def test_nearest_texts_are_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    whole = nearest_texts(rows).toarray()
    monkeypatch.setattr("pocketrec_export.counting.DENSE_BYTES", 4 * 40 * 7)
    assert np.allclose(nearest_texts(rows).toarray(), whole)
    cosines = np.maximum(rows @ rows.T, 0)
    np.fill_diagonal(cosines, 0)
    assert np.allclose(whole, cosines, atol=1e-6)


def test_settings_are_chosen_by_what_ranks_the_targets_best() -> None:
    """Users walk round a ring of items: rules know the way, and each family has one answer."""
    rng = np.random.default_rng(1)
    users = [[(start + i) % ITEMS for i in range(6)] for start in rng.integers(0, ITEMS, 60)]
    full = histories_of(users)
    train = histories_of([u[:-1] for u in users])
    ends = full.offsets[1:] - 1
    positions = Positions(full, full.offsets[:-1], ends - full.offsets[:-1], ends - full.offsets[:-1] - 1)
    chosen = fit_counting(Pairs(train, ITEMS), None, positions)
    assert [ranker.name for ranker in chosen] == ["rules", "neighbours"]
    said = chosen[0].log_probs(positions)
    seen = np.zeros((len(users), ITEMS), bool)
    seen[positions.met()] = True
    said = said.masked_fill(torch.from_numpy(seen), -torch.inf)
    assert (said.argmax(1).numpy() == positions.targets).mean() > 0.95


def test_large_sets_are_counted_on_some_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    users = [[i % ITEMS, (i + 1) % ITEMS, (i + 2) % ITEMS] for i in range(300)]
    monkeypatch.setattr("pocketrec_export.counting.PAIRS", 900)
    pairs = Pairs(histories_of(users), ITEMS, seed=3)
    counted = len(np.unique(pairs.event_users))
    assert 60 < counted < 140
    positions = Positions.all(histories_of(users), 4)
    said = SequentialRules(pairs, 0.5).log_probs(positions)
    assert torch.isfinite(said).all()
