"""The built-in teacher's lists are what a plain loop over users finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pocketrec_export.cache import TeacherCache
from pocketrec_export.config import TeacherConfig
from pocketrec_export.data import load_dataset
from pocketrec_export.model import Material
from pocketrec_export.student import Student
from pocketrec_export.teacher import teacher_shape, write_cache

LENGTH, TOP = 8, 12


@pytest.fixture(scope="module")
def teacher(shop: Path) -> tuple[Student, Material]:
    material = Material(load_dataset(shop), 300)
    shape = teacher_shape(TeacherConfig(dim=32, layers=1, heads=2), 300)
    model = material.model(
        shape, length=LENGTH, seed=0, kappa=2.0, recency_heads=4, input_dropout=0.3, hidden_dropout=0.3
    )
    return model.eval(), material


def expected(model: Student, material: Material, event: int, context: int) -> torch.Tensor:
    """Log-probabilities of the item after `event`, from `context` events, by definition."""
    hist = material.histories
    begin = int(hist.offsets[np.searchsorted(hist.offsets, event, side="right") - 1])
    part = slice(event + 1 - context, event + 1)
    items = torch.from_numpy(hist.items[part].astype(np.int64))[None]
    events, gaps = (torch.from_numpy(a[part])[None] for a in (hist.events, hist.gaps))
    with torch.no_grad():
        rows = model.rows(torch.arange(material.dataset.num_items))
        scores = (model.queries(rows[items], events, gaps, torch.ones_like(items))[0, -1] @ rows.T).float()
    met = set(hist.items[begin : event + 1].tolist()) - {int(hist.items[event + 1])}
    scores[sorted(met)] = -torch.inf
    return torch.log_softmax(scores, 0)


def test_lists_ranks_and_probabilities(teacher: tuple[Student, Material], tmp_path: Path) -> None:
    model, material = teacher
    hist = material.histories
    write_cache(model, hist, tmp_path / "cache", TOP, "key")
    cache = TeacherCache.open(tmp_path / "cache", "key")
    start, size, skip = hist.covering_windows(LENGTH)
    checked = 0
    for s, n, k in list(zip(start.tolist(), size.tolist(), skip.tolist(), strict=True))[::7]:
        for i in range(k, n):
            event = s + i
            said = cache.batch(torch.tensor([event]))
            truth = expected(model, material, event, i + 1)
            best = torch.topk(truth, TOP)
            assert torch.allclose(said.log_probs[0], best.values, atol=2e-2)  # float16 on disk
            assert torch.allclose(truth[said.ids[0]], best.values, atol=1e-4)
            target = truth[int(hist.items[event + 1])]
            assert float(said.target_log_prob[0]) == pytest.approx(float(target), abs=1e-4)
            assert abs(int(said.target_rank[0]) - (int((truth > target).sum()) + 1)) <= 1
            checked += 1
    assert checked > 50


def test_lists_hold_nothing_that_the_user_had(teacher: tuple[Student, Material], tmp_path: Path) -> None:
    model, material = teacher
    hist = material.histories
    write_cache(model, hist, tmp_path / "cache", TOP, "key")
    cache = TeacherCache.open(tmp_path / "cache", "key")
    for user in range(0, len(hist.offsets) - 1, 11):
        begin, end = int(hist.offsets[user]), int(hist.offsets[user + 1])
        for event in range(begin, end - 1):
            listed = set(cache.batch(torch.tensor([event])).ids[0].tolist())
            met = set(hist.items[begin : event + 1].tolist()) - {int(hist.items[event + 1])}
            assert not listed & met
