"""The contrastive loss against its definition, and the correction of what is there by chance."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pocketrec_export.batches import Histories
from pocketrec_export.llm_loss import CandidateSampler, contrastive_loss, met_columns


def history(items: list[int]) -> Histories:
    none = np.zeros(len(items), np.int32)
    return Histories(np.array([0, len(items)]), np.array(items, np.int32), none, none)


def test_the_whole_catalogue_is_a_plain_softmax_over_what_was_not_met() -> None:
    items = [3, 1, 4, 1, 5]
    start, size = np.array([0]), np.array([4])
    candidates = CandidateSampler(np.ones(6, np.int64), negatives=100).draw(
        np.array(items[1:]), np.random.default_rng(0)
    )
    assert candidates.items.tolist() == list(range(6))
    scores = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    met = met_columns(history(items), start, size, candidates.items)
    loss = contrastive_loss(
        scores,
        torch.from_numpy(candidates.targets),
        torch.from_numpy(candidates.log_chance),
        (torch.from_numpy(met[0]), torch.from_numpy(met[1])),
    )
    expected = []
    for position, target in enumerate(items[1:]):
        left = [i for i in range(6) if i == target or i not in items[: position + 1]]
        expected.append(torch.logsumexp(scores[position, left], 0) - scores[position, target])
    assert torch.allclose(loss, torch.stack(expected).mean())


@given(st.lists(st.integers(0, 9), min_size=2, max_size=12), st.sets(st.integers(0, 9), min_size=1))
def test_what_was_met(items: list[int], some: set[int]) -> None:
    candidates = np.array(sorted(some))
    size = len(items) - 1
    cut = size // 2
    start, sizes = np.array([0, cut]), np.array([cut, size - cut])
    position, column = met_columns(history(items), start, sizes, candidates)
    found = {(int(p), int(candidates[c])) for p, c in zip(position, column, strict=True)}
    expected = set()
    for window in range(2):
        for nth in range(sizes[window]):
            seen = items[start[window] : start[window] + nth + 1]
            expected |= {(int(sizes[:window].sum()) + nth, i) for i in seen if i in some}
    assert found == expected


def test_the_sampled_sum_is_an_estimate_of_the_whole() -> None:
    """Over many batches, what stands for the other items adds up to what all of them would."""
    rng = np.random.default_rng(0)
    items, batch, target = 50, 12, 0
    counts = (1000 / np.arange(1, items + 1) ** 1.2).astype(np.int64) + 1
    sampler = CandidateSampler(counts, negatives=10)
    weights = np.exp(rng.normal(size=items))
    sums, plain = [], []
    for _ in range(3000):
        targets = np.append(rng.choice(items, batch - 1, p=counts / counts.sum()), target)
        drawn = sampler.draw(targets, rng)
        others = drawn.items != target
        sums.append((weights[drawn.items] / np.exp(drawn.log_chance))[others].sum())
        plain.append(weights[drawn.items][others].sum())
    whole = weights.sum() - weights[target]
    assert abs(np.mean(sums) / whole - 1) < 0.05
    assert np.mean(plain) / whole < 0.7


def test_draws_hold_every_target_at_its_column() -> None:
    sampler = CandidateSampler(np.arange(40), negatives=5)
    targets = np.array([39, 3, 3, 17])
    drawn = sampler.draw(targets, np.random.default_rng(1))
    assert drawn.items[drawn.targets].tolist() == targets.tolist()
    assert (np.diff(drawn.items) > 0).all()
    assert len(drawn.items) <= 8
    assert (drawn.log_chance <= 0).all()
