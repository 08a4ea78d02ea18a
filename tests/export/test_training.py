"""Training: it learns what can be learnt, stops when it should, and a killed run ends as one that was left
alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pocketrec_export.batches import Histories
from pocketrec_export.config import BuildConfig, TrainingConfig
from pocketrec_export.data import load_dataset
from pocketrec_export.metrics import Metrics, popularity_metrics
from pocketrec_export.model import Material
from pocketrec_export.student import Shape, Student
from pocketrec_export.training import TrainingResult, train

SHAPE = Shape(dim=32, layers=1, heads=2, kv_heads=1, intermediate=64, vocab=100)


def settings(**changes: object) -> TrainingConfig:
    values = {"epochs": 3, "positions": 256, "warmup_steps": 5, "mixed_precision": "no", **changes}
    return TrainingConfig.model_validate(values)


def untrained(material: Material, seed: int = 0) -> Student:
    return material.model(
        SHAPE, length=8, seed=seed, kappa=2.0, recency_heads=4, input_dropout=0.1, hidden_dropout=0.1
    )


def run(
    material: Material, config: TrainingConfig, state: Path, seed: int = 0
) -> tuple[Student, TrainingResult]:
    model = untrained(material, seed)
    result = train(
        model, material.histories, material.ranker, config, seed=seed, state_file=state, label="test"
    )
    return model, result


@pytest.fixture(scope="module")
def circle(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Users who walk round a circle of 40 items, each from a place of their own: fully predictable, and flat
    in
    popularity."""
    directory = tmp_path_factory.mktemp("circle")
    lines = ["user_id,item_id,timestamp"]
    lines += [f"u{u},i{(u * 7 + t) % 40},{1_600_000_000 + t * 90}" for u in range(120) for t in range(12)]
    (directory / "interactions.csv").write_text("\n".join(lines) + "\n")
    return Material(load_dataset(directory), 100)


def test_it_learns_a_pattern_that_popularity_cannot_see(circle: Material, tmp_path: Path) -> None:
    model, result = run(
        circle, settings(epochs=25, learning_rate=5e-3, averaging=0.9, patience=25), tmp_path / "s"
    )
    figures = Metrics.from_ranks(circle.ranker.ranks(model, "test"))
    assert figures.ndcg > 0.9
    assert figures.ndcg > 3 * popularity_metrics(circle.dataset, circle.split, "test").ndcg
    assert result.epochs[-1].loss < result.epochs[0].loss


def test_sampled_negatives_learn_it_too(circle: Material, tmp_path: Path) -> None:
    config = settings(epochs=25, learning_rate=5e-3, averaging=0.9, patience=25, negatives=20)
    model, _ = run(circle, config, tmp_path / "s")
    assert Metrics.from_ranks(circle.ranker.ranks(model, "test")).hr > 0.9


def test_a_killed_run_ends_as_if_left_alone(circle: Material, tmp_path: Path) -> None:
    whole, _ = run(circle, settings(epochs=4), tmp_path / "whole")
    run(circle, settings(epochs=2), tmp_path / "parts")
    resumed, result = run(circle, settings(epochs=4), tmp_path / "parts")
    assert [r.epoch for r in result.epochs] == [0, 1, 2, 3]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_seeds_decide_everything(circle: Material, tmp_path: Path) -> None:
    a, _ = run(circle, settings(epochs=1), tmp_path / "a", seed=1)
    b, _ = run(circle, settings(epochs=1), tmp_path / "b", seed=1)
    c, _ = run(circle, settings(epochs=1), tmp_path / "c", seed=2)
    assert torch.equal(a.rows.behaviour, b.rows.behaviour)
    assert not torch.equal(a.rows.behaviour, c.rows.behaviour)


def test_it_stops_early_and_keeps_the_best(circle: Material, tmp_path: Path) -> None:
    # A learning rate of almost nothing: validation never gets better after the first epoch or so.
    config = settings(epochs=50, patience=2, learning_rate=1e-12)
    model, result = run(circle, config, tmp_path / "s")
    assert len(result.epochs) <= 5
    assert result.best_epoch == int(np.argmax([r.ndcg for r in result.epochs]))
    assert "2 epochs" in result.stopped
    kept = Metrics.from_ranks(circle.ranker.ranks(model, "validation")).ndcg
    assert kept == pytest.approx(result.best_ndcg)


def test_a_time_limit_stops_it_after_an_epoch(circle: Material, tmp_path: Path) -> None:
    model = untrained(circle)
    result = train(
        model,
        circle.histories,
        circle.ranker,
        settings(epochs=50),
        seed=0,
        state_file=tmp_path / "s",
        label="test",
        max_seconds=0.0,
    )
    assert len(result.epochs) == 1
    assert "time limit" in result.stopped


def test_held_out_events_are_not_in_the_training_histories(shop: Path, quick: BuildConfig) -> None:
    material = Material(load_dataset(shop), 500)
    histories: Histories = material.histories
    dataset, split = material.dataset, material.split
    for user in range(dataset.num_users):
        own = histories.items[histories.offsets[user] : histories.offsets[user + 1]]
        assert np.array_equal(own, dataset.items[split.train_slice(user)])
