"""The trained `llm` teacher as a ranker, and what it writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from llm_worlds import ITEMS, checkpoint, quick, walk

from pocketrec.errors import DataError
from pocketrec_export import teachers
from pocketrec_export.cache import TeacherCache
from pocketrec_export.data import load_dataset
from pocketrec_export.llm_config import LLMConfig
from pocketrec_export.llm_teacher import LLMTeacher, train_llm_teacher
from pocketrec_export.model import Material
from pocketrec_export.teachers import Positions, held_out_metrics, write_cache

LENGTH, TOP = 8, 7


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return walk(tmp_path_factory.mktemp("walk"))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def config(work: Path) -> LLMConfig:
    return quick(checkpoint(work / "tiny-qwen3", "qwen3"), epochs=2, learning_rate=3e-3)


@pytest.fixture(scope="module")
def teacher(world: Material, config: LLMConfig, work: Path) -> LLMTeacher:
    return train_llm_teacher(world, config, work, seed=0)


def test_log_probs_are_those_of_the_last_items_alone(teacher: LLMTeacher, world: Material) -> None:
    """Windows longer than the model's history are cut; each position has at least half of it."""
    positions = Positions.all(world.histories, LENGTH)
    said = teacher.log_probs(positions)
    assert said.shape == (len(positions), ITEMS)
    assert said.dtype == torch.float32
    assert torch.allclose(said.exp().sum(1), torch.ones(len(positions)), atol=1e-5)
    index = int(positions.index[3])
    start = int(positions.start[positions.window[3]])
    tokens = teacher.prompts.histories(world.histories, np.array([start]), np.array([index - start + 1]))
    query = teacher.encoder.read(tokens)[-1]
    expected = torch.log_softmax(teacher.encoder.scale.detach() * teacher.rows @ query, 0)
    assert torch.allclose(said[3], expected, atol=1e-4)


def test_it_writes_the_cache_and_the_cache_says_what_it_said(
    teacher: LLMTeacher, world: Material, tmp_path: Path
) -> None:
    write_cache(teacher, world.histories, tmp_path / "cache", TOP, LENGTH)
    cache = TeacherCache.open(tmp_path / "cache", teacher.key)
    positions = Positions.all(world.histories, LENGTH)
    said = teacher.lists(positions, TOP)
    read = cache.batch(torch.from_numpy(positions.index))
    assert np.array_equal(read.ids.numpy(), said.ids)
    assert np.allclose(read.log_probs.numpy(), said.log_probs, atol=1e-2)  # float16 on disk
    assert np.array_equal(read.target_rank.numpy(), said.target_rank)
    for position in range(0, len(positions), 17):
        user, index = int(positions.users[position]), int(positions.index[position])
        met = set(world.histories.items[world.histories.offsets[user] : index + 1].tolist())
        listed = set(said.ids[position].tolist())
        assert not listed & (met - {int(positions.targets[position])})


def test_lists_do_not_depend_on_the_pieces_they_are_made_in(
    teacher: LLMTeacher, world: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    positions = Positions.all(world.histories, LENGTH)
    whole = teacher.lists(positions, TOP)
    monkeypatch.setattr("pocketrec_export.llm_teacher.CHUNK_BYTES", 4 * ITEMS * 11)
    pieces = teacher.lists(positions, TOP)
    assert np.array_equal(pieces.target_rank, whole.target_rank)
    assert np.allclose(pieces.log_probs, whole.log_probs, atol=1e-4)


def test_rows_are_kept_on_disk_by_the_weights_they_came_from(
    teacher: LLMTeacher, world: Material, config: LLMConfig, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = teacher.rows
    (file,) = work.glob("llm-*/rows-*.npy")
    assert np.array_equal(np.load(file), rows.numpy())
    again = train_llm_teacher(world, config, work, seed=0)
    monkeypatch.setattr("pocketrec_export.llm_teacher.item_rows", None)  # would fail if it read again
    assert torch.equal(again.rows, rows)
    assert again.name == "llm (tiny-qwen3)"
    assert again.key == teacher.key


def test_validation_while_training_is_the_protocol_of_every_figure(
    teacher: LLMTeacher, world: Material
) -> None:
    figures = held_out_metrics(teacher, world.ranker.histories, world.split, "validation", 50)
    assert teacher.training.best_ndcg == pytest.approx(figures.ndcg, abs=1e-9)


def test_an_item_that_nobody_has_seen_is_ranked_by_its_text(
    teacher: LLMTeacher, world: Material, config: LLMConfig, work: Path
) -> None:
    from pocketrec_export.llm_checkpoint import open_checkpoint
    from pocketrec_export.llm_encoder import item_rows
    from pocketrec_export.llm_prompts import Prompts

    tokenizer = open_checkpoint(config.checkpoint).tokenizer
    texts = [*world.dataset.texts, world.dataset.texts[4]]
    prompts = Prompts.make(texts, [str(i) for i in range(len(texts))], tokenizer, config)
    rows = item_rows(teacher.encoder, prompts, np.array([4, ITEMS]), 1000)
    assert torch.equal(rows[0], rows[1])
    assert torch.allclose(rows[0], teacher.rows[4], atol=1e-5)


def test_a_catalogue_without_texts_is_refused(config: LLMConfig, tmp_path: Path) -> None:
    lines = [f"u{u},i{(u + t) % 9},{t}" for u in range(5) for t in range(5)]
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(lines) + "\n")
    with pytest.raises(DataError, match="reads nothing else") as caught:
        train_llm_teacher(Material(load_dataset(tmp_path), 100), config, tmp_path, seed=0)
    assert caught.value.code == "data-no-text"


def test_it_is_a_teacher_and_a_ranker(teacher: LLMTeacher) -> None:
    told: teachers.Teacher = teacher
    ranks: teachers.Ranker = teacher
    assert told.items == ranks.items == ITEMS
