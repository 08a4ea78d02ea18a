"""Positions cover every event once, and lists and ranks are what a plain loop over users finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pocketrec_export.batches import Histories
from pocketrec_export.cache import TeacherCache
from pocketrec_export.data import load_dataset
from pocketrec_export.ensemble import Ensemble
from pocketrec_export.metrics import Metrics
from pocketrec_export.model import Material
from pocketrec_export.sequence import SequenceRanker
from pocketrec_export.student import SIZES, Student
from pocketrec_export.teachers import Positions, held_out_metrics, write_cache

LENGTH, TOP = 8, 12


def histories_of(lengths: list[int]) -> Histories:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    zeros = np.zeros(int(offsets[-1]), np.int64)
    return Histories(offsets, np.arange(len(zeros), dtype=np.int32), zeros, zeros)


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6).filter(lambda sizes: max(sizes) > 1),
    st.integers(2, 9),
    st.integers(1, 20),
)
def test_positions_are_every_event_with_a_next_one(lengths: list[int], length: int, chunk: int) -> None:
    histories = histories_of(lengths)
    positions = Positions.all(histories, length)
    last = set((histories.offsets[1:] - 1).tolist())
    assert sorted(positions.index.tolist()) == [e for e in range(len(histories.items)) if e not in last]
    assert (positions.targets == positions.index + 1).all()
    begin = histories.offsets[positions.users]
    context = positions.index - positions.start[positions.window] + 1
    assert (context >= np.minimum(positions.index - begin + 1, (length + 1) // 2)).all()
    assert (context <= length).all()
    parts = [positions.part(windows) for windows in positions.chunks(chunk)]
    assert np.concatenate([part.index for part in parts]).tolist() == positions.index.tolist()
    assert all(0 < len(part) < chunk + length for part in parts)


@settings(deadline=None)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=6), st.integers(2, 9), st.integers(1, 30))
def test_the_newest_positions_of_each_user(lengths: list[int], length: int, newest: int) -> None:
    positions = Positions.all(histories_of(lengths), length, newest)
    for user, size in enumerate(lengths):
        end = int(positions.histories.offsets[user + 1]) - 1
        wanted = list(range(end - min(newest, size - 1), end))
        assert sorted(positions.index[positions.users == user].tolist()) == wanted


@pytest.fixture(scope="module")
def trained(shop: Path) -> tuple[Student, Material]:
    """A model with the weights it starts with: any will do."""
    material = Material(load_dataset(shop), 300)
    model = material.model(
        SIZES["tiny"],
        length=LENGTH,
        seed=0,
        kappa=2.0,
        recency_heads=4,
        input_dropout=0.3,
        hidden_dropout=0.3,
    )
    return model.eval(), material


def one_by_one(model: Student, histories: Histories, event: int, context: int) -> Tensor:
    """Log-probabilities of the item after `event`, from `context` events."""
    part = slice(event + 1 - context, event + 1)
    items = torch.from_numpy(histories.items[part].astype(np.int64))[None]
    events, gaps = (torch.from_numpy(a[part])[None] for a in (histories.events, histories.gaps))
    with torch.no_grad():
        rows = model.rows(torch.arange(len(model.rows.gate)))
        query = model.queries(rows[items], events, gaps, torch.ones_like(items))[0, -1]
        return torch.log_softmax(query @ rows.T, 0)


def test_a_sequence_model_ranks_every_position_from_its_own_window(trained: tuple[Student, Material]) -> None:
    model, material = trained
    positions = Positions.all(material.histories, LENGTH)
    said = SequenceRanker(model, "model").log_probs(positions)
    context = positions.index - positions.start[positions.window] + 1
    for row in range(0, len(positions), 13):
        truth = one_by_one(model, material.histories, int(positions.index[row]), int(context[row]))
        assert torch.allclose(said[row], truth, atol=1e-4)


def test_the_cache_holds_what_the_teacher_says(trained: tuple[Student, Material], tmp_path: Path) -> None:
    model, material = trained
    histories = material.histories
    ranker = SequenceRanker(model, "model")
    write_cache(Ensemble([ranker], [1.0], "key"), histories, tmp_path / "cache", TOP, LENGTH)
    cache = TeacherCache.open(tmp_path / "cache", "key")
    positions = Positions.all(histories, LENGTH)
    truth = ranker.log_probs(positions)
    for row in range(0, len(positions), 17):
        event, target = int(positions.index[row]), int(positions.targets[row])
        begin = int(histories.offsets[positions.users[row]])
        met = set(histories.items[begin : event + 1].tolist()) - {target}
        scores = truth[row].clone()
        scores[sorted(met)] = -torch.inf
        scores = torch.log_softmax(scores, 0)
        said = cache.batch(torch.tensor([event]))
        assert not met & set(said.ids[0].tolist())
        assert torch.allclose(said.log_probs[0], torch.topk(scores, TOP).values, atol=2e-2)  # float16 on disk
        assert torch.allclose(scores[said.ids[0]], torch.topk(scores, TOP).values, atol=1e-4)
        assert float(said.target_log_prob[0]) == pytest.approx(float(scores[target]), abs=1e-4)
        assert int(said.target_rank[0]) == int((scores >= scores[target]).sum())


def test_a_teacher_is_measured_as_a_student_is(trained: tuple[Student, Material]) -> None:
    model, material = trained
    teacher = Ensemble([SequenceRanker(model, "model")], [1.0])
    histories = material.ranker.histories
    for part in ("validation", "test"):
        figures = held_out_metrics(teacher, histories, material.split, part, LENGTH)
        assert figures == Metrics.from_ranks(material.ranker.ranks(model, part))
