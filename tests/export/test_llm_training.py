"""Training of the `llm` teacher: it learns what can be learnt, and a killed run ends as one left alone."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_worlds import CONFIGS, ITEMS, checkpoint, quick, walk
from safetensors.torch import load_file

from pocketrec_export import llm_training
from pocketrec_export.llm_checkpoint import load_decoder, open_checkpoint
from pocketrec_export.llm_config import LLMConfig
from pocketrec_export.llm_state import Progressed, best_directory
from pocketrec_export.llm_teacher import LLMTeacher, train_llm_teacher
from pocketrec_export.metrics import popularity_metrics
from pocketrec_export.model import Material
from pocketrec_export.teachers import held_out_metrics


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return walk(tmp_path_factory.mktemp("walk"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("llama") / "llama", "llama")


def outcome(teacher: LLMTeacher) -> dict[str, object]:
    """All of a training but how long it took."""
    told = asdict(teacher.training)
    for record in (told, *told["records"]):
        record.pop("seconds")
    return told


def best(work: Path) -> Path:
    (directory,) = work.glob("llm-*")
    training = Progressed.from_dict(json.loads((directory / "done.json").read_text()))
    assert not (directory / "state.pt").exists()
    return best_directory(directory, training)


@pytest.mark.parametrize("family", [f for f in CONFIGS if f != "gpt2"])
def test_adapters_learn_what_popularity_cannot_see(world: Material, tmp_path: Path, family: str) -> None:
    config = quick(checkpoint(tmp_path / family, family), epochs=4, learning_rate=3e-3)
    teacher = train_llm_teacher(world, config, tmp_path / "work", seed=0)
    figures = held_out_metrics(teacher, world.ranker.histories, world.split, "test", 50)
    assert figures.ndcg > 0.7
    assert figures.ndcg > 2 * popularity_metrics(world.dataset, world.split, "test").ndcg
    losses = [record.loss for record in teacher.training.records]
    assert losses[-1] < 0.8 * losses[0]

    before = load_decoder(open_checkpoint(config.checkpoint), torch.float32, seed=0).state_dict()
    after = teacher.encoder.decoder.get_base_model().state_dict()
    frozen = {name.replace(".base_layer", ""): value for name, value in after.items() if "lora_" not in name}
    assert frozen.keys() == before.keys()
    assert all(torch.equal(frozen[name], before[name]) for name in before)
    adapter = load_file(best(tmp_path / "work") / "adapter_model.safetensors")
    assert all("lora_" in name for name in adapter)
    assert all(value.abs().sum() > 0 for value in adapter.values())
    assert teacher.encoder.scale.item() != pytest.approx(1 / config.temperature, rel=1e-6)


class Killed(BaseException):
    """What no handler expects."""


def resumable(llama: Path, rank: int) -> LLMConfig:
    """Two epochs of four batches; a state after the third, the fourth, the sixth and the last."""
    return quick(llama, epochs=2, lora_rank=rank, lora_dropout=0.2, negatives=8, learning_rate=1e-3)


@pytest.fixture(scope="module")
def left_alone(
    world: Material, llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, LLMTeacher]:
    """By rank."""
    work = tmp_path_factory.mktemp("whole")
    return {rank: train_llm_teacher(world, resumable(llama, rank), work, seed=3) for rank in (0, 4)}


# Killed in its second, fourth, sixth and eighth batch; and with the first epoch's best weights written, but
# not the state that names them.
@pytest.mark.parametrize(
    ("rank", "deadly", "calls"),
    [
        (4, "contrastive_loss", 1),
        (0, "contrastive_loss", 3),
        (4, "contrastive_loss", 5),
        (4, "contrastive_loss", 7),
        (4, "save_state", 1),
    ],
)
def test_a_killed_run_ends_as_if_left_alone(
    world: Material,
    llama: Path,
    left_alone: dict[int, LLMTeacher],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rank: int,
    deadly: str,
    calls: int,
) -> None:
    real, done = getattr(llm_training, deadly), 0

    def until_killed(*arguments: Any) -> Any:
        nonlocal done
        done += 1
        if done > calls:
            raise Killed
        return real(*arguments)

    config = resumable(llama, rank)
    monkeypatch.setattr(llm_training, deadly, until_killed)
    with pytest.raises(Killed):
        train_llm_teacher(world, config, tmp_path, seed=3)
    monkeypatch.setattr(llm_training, deadly, real)
    resumed, whole = train_llm_teacher(world, config, tmp_path, seed=3), left_alone[rank]

    assert outcome(resumed) == outcome(whole)
    assert resumed.key == whole.key
    theirs = whole.encoder.state_dict()
    for name, value in resumed.encoder.state_dict().items():
        assert torch.equal(value, theirs[name]), name


def test_seed_and_options_decide_what_is_trained(world: Material, llama: Path, tmp_path: Path) -> None:
    def key(seed: int, **changes: object) -> str:
        return train_llm_teacher(world, quick(llama, epochs=1, **changes), tmp_path, seed=seed).key

    keys = [key(0), key(1), key(0, temperature=0.1)]
    assert len(set(keys)) == 3
    assert key(0) == keys[0]
    assert key(0, save_steps=100, read_tokens=500) == keys[0]
    assert len(list(tmp_path.glob("llm-*"))) == 3


def test_it_stops_early_and_keeps_the_best(world: Material, llama: Path, tmp_path: Path) -> None:
    config = quick(llama, epochs=30, patience=2, learning_rate=1e-12)
    teacher = train_llm_teacher(world, config, tmp_path, seed=0)
    training = teacher.training
    assert len(training.records) == training.best_epoch + 3
    assert training.stopped == "no better validation for 2 epochs"
    assert training.best_ndcg == max(record.ndcg for record in training.records)
    assert best(tmp_path).name == f"best-{training.best_epoch}"
    assert len(list(best(tmp_path).parent.glob("best-*"))) == 1
    kept = held_out_metrics(teacher, world.ranker.histories, world.split, "validation", 50)
    assert kept.ndcg == pytest.approx(training.best_ndcg, abs=1e-6)


def test_a_time_limit_stops_it_within_an_epoch_but_not_before_it_is_validated(
    world: Material, llama: Path, tmp_path: Path
) -> None:
    teacher = train_llm_teacher(world, quick(llama), tmp_path, seed=0, max_seconds=0.0)
    assert teacher.training.steps == 1
    assert len(teacher.training.records) == 1
    assert "time limit" in teacher.training.stopped


def test_a_trained_teacher_is_not_trained_again(
    world: Material, llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = quick(llama, epochs=1)
    first = train_llm_teacher(world, config, tmp_path, seed=0)
    with caplog.at_level(logging.INFO, "pocketrec_export"):
        again = train_llm_teacher(world, config, tmp_path, seed=0, max_seconds=0.0)
    assert "is trained already" in caplog.text
    assert again.training == first.training
    assert again.key == first.key


def test_from_scratch_it_learns_from_nothing_but_the_data(world: Material, tmp_path: Path) -> None:
    config = LLMConfig(
        history_items=6,
        scratch_width=64,
        scratch_layers=1,
        epochs=5,
        warmup_steps=5,
        averaging=0.9,
        batch=8,
        mixed_precision="no",
        learning_rate=3e-3,
    )
    teacher = train_llm_teacher(world, config, tmp_path, seed=0)
    assert teacher.items == ITEMS
    figures = held_out_metrics(teacher, world.ranker.histories, world.split, "test", 50)
    assert figures.ndcg > 2 * popularity_metrics(world.dataset, world.split, "test").ndcg
