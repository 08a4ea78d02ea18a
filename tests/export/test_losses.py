"""Next-item training: the full softmax is the definition, the sampled one agrees where it must."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pocketrec_export.batches import Epoch
from pocketrec_export.data import load_dataset
from pocketrec_export.losses import Candidates, ScoreStep, next_item_loss
from pocketrec_export.model import Material
from pocketrec_export.student import Shape, Student

SHAPE = Shape(dim=32, layers=1, heads=2, kv_heads=1, intermediate=64, vocab=300)


@pytest.fixture(scope="module")
def material(shop: Path) -> Material:
    return Material(load_dataset(shop), 300)


@pytest.fixture(scope="module")
def student(material: Material) -> Student:
    model = material.model(
        SHAPE, length=8, seed=0, kappa=2.0, recency_heads=4, input_dropout=0.0, hidden_dropout=0.0
    )
    return model.eval()


def first_batch(material: Material) -> dict[str, torch.Tensor]:
    batch, _ = Epoch(material.histories, 8, 64, np.random.default_rng(0)).batch(0)
    return {name: torch.from_numpy(array) for name, array in vars(batch).items()}


def test_every_item_once_as_a_negative_is_the_full_softmax() -> None:
    torch.manual_seed(0)
    scores, targets = torch.randn(5, 20), torch.tensor([0, 3, 3, 19, 7])
    every = torch.arange(20)
    full = next_item_loss(Candidates(every, scores, targets, every, complete=True))
    sampled = next_item_loss(Candidates(every, scores, targets, every, complete=False))
    assert torch.allclose(full, sampled, atol=1e-6)


def test_a_target_drawn_as_its_own_negative_changes_nothing() -> None:
    scores, items = torch.randn(1, 6), torch.arange(6)
    without = next_item_loss(
        Candidates(items, scores, torch.tensor([2]), torch.tensor([1, 4]), complete=False)
    )
    with_it = next_item_loss(
        Candidates(items, scores, torch.tensor([2]), torch.tensor([1, 2, 4]), complete=False)
    )
    assert torch.equal(without, with_it)


def test_sampled_scores_are_those_of_the_whole_catalogue(student: Student, material: Material) -> None:
    batch, items = first_batch(material), material.dataset.num_items
    drawn = torch.tensor([5, 9, 9, 30])
    with torch.no_grad():
        whole = ScoreStep(student, items, 0, 0.0)(batch, drawn)
        part = ScoreStep(student, items, 4, 0.0)(batch, drawn, extra=torch.tensor([[77, 5]]))
    assert whole.complete
    assert not part.complete
    assert torch.allclose(part.scores, whole.scores[:, part.items], atol=1e-4)
    assert torch.equal(part.items[part.targets], whole.targets)
    assert torch.equal(part.items[part.negatives], drawn)
    assert {5, 9, 30, 77} <= set(part.items.tolist())
    assert torch.equal(part.columns(torch.tensor([77])), torch.searchsorted(part.items, torch.tensor([77])))


def test_targets_are_the_next_events(student: Student, material: Material) -> None:
    batch = first_batch(material)
    with torch.no_grad():
        whole = ScoreStep(student, material.dataset.num_items, 0, 0.0)(
            batch, torch.zeros(1, dtype=torch.int64)
        )
    index = batch["index"][batch["segments"] > 0]
    assert np.array_equal(whole.targets.numpy(), material.histories.items[index.numpy() + 1])
