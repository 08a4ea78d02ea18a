"""Training of large catalogues: rows are updated and averaged when they are named, a long epoch is saved and
cut within, and each comes out as it would have otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scale_worlds import ITEMS, circle, student_of, trained
from scale_worlds import settings as recipe
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pocketrec.errors import DataError
from pocketrec_export import training, training_state
from pocketrec_export.batches import Epoch
from pocketrec_export.losses import ScoreStep
from pocketrec_export.model import Material
from pocketrec_export.student import Student
from pocketrec_export.training_state import forget_training
from pocketrec_export.updates import MovingAverage, Updates


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return circle(tmp_path_factory.mktemp("circle"))


@pytest.fixture(scope="module")
def model(world: Material) -> Student:
    return student_of(world)


@settings(max_examples=25)
@given(
    st.lists(st.sets(st.integers(0, ITEMS - 1), min_size=1, max_size=4), min_size=1, max_size=30), st.data()
)
def test_rows_averaged_when_they_change_are_rows_averaged_always(
    model: Student, named: list[set[int]], data: st.DataObject
) -> None:
    decay = data.draw(st.sampled_from([0.0, 0.5, 0.99]))
    restart = data.draw(st.integers(0, len(named)))
    dense = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    lazy = MovingAverage(model, decay, lazy=True)
    for number, rows in enumerate(named):
        if number == restart:  # a killed run goes on from what it had kept, settled or not
            kept = lazy.state_dict()
            lazy = MovingAverage(model, decay, lazy=True)
            lazy.load_state_dict(kept)
        index = torch.tensor(sorted(rows))
        lazy.about_to_change(index)
        with torch.no_grad():
            model.rows.behaviour[index] += torch.randn(len(index), 32)
            model.recency += 0.01
        lazy.update(index)
        dense.update_parameters(model)
    lazy.settle()
    for name, value in dense.module.state_dict().items():
        assert torch.allclose(value, lazy.module.state_dict()[name], atol=1e-5), name


def test_a_dense_average_is_torchs_own(world: Material) -> None:
    model = student_of(world)
    theirs, ours = (
        AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9)),
        MovingAverage(model, 0.9, False),
    )
    for _ in range(5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter)
        theirs.update_parameters(model)
        ours.update(None)
    ours.settle()
    for name, value in theirs.module.state_dict().items():
        assert torch.equal(value, ours.module.state_dict()[name]), name


def test_where_every_batch_names_every_item_both_ways_are_one(world: Material, tmp_path: Path) -> None:
    config = recipe(negatives=400, positions=512)
    dense, first = trained(world, config, tmp_path / "dense", lazy=False)
    lazy, second = trained(world, config, tmp_path / "lazy", lazy=True)
    assert [r.loss for r in first.epochs] == pytest.approx([r.loss for r in second.epochs], rel=1e-4)
    for name, value in dense.items():
        assert torch.allclose(value, lazy[name], atol=2e-4), name


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_batch_leaves_the_rows_alone_that_it_does_not_name(world: Material, weight_decay: float) -> None:
    from accelerate import Accelerator

    model = student_of(world)
    step = ScoreStep(model, ITEMS, 3, 0.0)
    updates = Updates(step, Accelerator(), recipe(weight_decay=weight_decay), 0.9, lazy=True)
    before = model.rows.behaviour.detach().clone()
    batch, _ = Epoch(world.histories, 8, 1, None).batch(0)
    tensors = {name: torch.from_numpy(array) for name, array in vars(batch).items()}
    drawn = torch.tensor([5, 6, 6])
    candidates = updates.wrapped(tensors, drawn)
    updates.apply(candidates.scores.square().mean(), 0.01)
    changed = set((model.rows.behaviour != before).any(1).nonzero()[:, 0].tolist())
    assert changed == set(candidates.items.tolist())
    assert {5, 6} < changed < set(range(ITEMS))


def test_rows_named_now_and_then_are_learnt(world: Material, tmp_path: Path) -> None:
    config = recipe(epochs=12, patience=12, learning_rate=1e-2, negatives=10, positions=64)
    _, result = trained(world, config, tmp_path / "s", lazy=True)
    assert result.best_ndcg > 0.9


class Killed(Exception):
    pass


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("at", [4, 13])
def test_a_run_killed_within_an_epoch_ends_as_if_left_alone(
    world: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lazy: bool, at: int
) -> None:
    config = recipe(negatives=10, positions=128)
    whole, expected = trained(world, config, tmp_path / "whole", lazy=lazy)
    with monkeypatch.context() as patch:
        patch.setattr(training, "CHECK_BATCHES", 3)
        patch.setattr(training_state, "SAVE_SECONDS", 0.0)
        patch.setattr(training_state, "SHARE", 0.0)
        apply, calls = Updates.apply, []

        def killed(self: Updates, *arguments: object) -> None:
            calls.append(0)
            if len(calls) > at:
                raise Killed
            apply(self, *arguments)  # type: ignore[arg-type]

        patch.setattr(Updates, "apply", killed)
        with pytest.raises(Killed):
            trained(world, config, tmp_path / "parts", lazy=lazy)
    place = torch.load(tmp_path / "parts", weights_only=True)["place"]
    assert place["batch"] == at % 8 // 3 * 3  # of eight batches
    resumed, result = trained(world, config, tmp_path / "parts", lazy=lazy)
    assert [r.loss for r in result.epochs] == [r.loss for r in expected.epochs]
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_the_best_weights_lie_beside_the_state_until_it_is_forgotten(world: Material, tmp_path: Path) -> None:
    _, result = trained(world, recipe(epochs=3), tmp_path / "a.state")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.state", f"a.state.best-{result.best_epoch}"]
    (tmp_path / "ab.state").touch()
    (tmp_path / f"a.state.best-{result.best_epoch}").rename(tmp_path / "lost")
    with pytest.raises(DataError, match="best weights of the run"):
        trained(world, recipe(epochs=3), tmp_path / "a.state")
    forget_training(tmp_path / "a.state")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ab.state", "lost"]


def test_a_time_limit_ends_a_long_epoch_within(
    world: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECK_BATCHES", 2)
    monkeypatch.setattr(training, "GRACE_SECONDS", 0.0)
    _, result = trained(world, recipe(positions=128), tmp_path / "s", max_seconds=0.0)
    assert torch.load(tmp_path / "s", weights_only=True)["steps"] == 2
    assert [r.epoch for r in result.epochs] == [0]
    assert "time limit" in result.stopped


def test_the_state_of_another_number_of_processes_is_refused_within_an_epoch(
    world: Material, tmp_path: Path
) -> None:
    trained(world, recipe(epochs=1), tmp_path / "s")
    state = torch.load(tmp_path / "s", weights_only=True)
    state["processes"] = 2
    torch.save(state, tmp_path / "s")
    trained(world, recipe(epochs=2), tmp_path / "s")  # between epochs nothing depends on it
    state["place"] = {"batch": 3, "seconds": 1.0, "losses": [], "generators": ()}
    torch.save(state, tmp_path / "s")
    with pytest.raises(DataError, match="of 2 processes"):
        trained(world, recipe(epochs=2), tmp_path / "s")


def test_a_state_of_an_earlier_version_is_not_gone_on_from(world: Material, tmp_path: Path) -> None:
    torch.save({"records": []}, tmp_path / "s")
    _, result = trained(world, recipe(epochs=1), tmp_path / "s")
    assert len(result.epochs) == 1
