"""The plain divergence: its value by hand, and its least value at the teacher's own probabilities."""

from __future__ import annotations

import pytest
import torch

from pocketrec_export.cache import TeacherBatch
from pocketrec_export.kl import kl_loss
from pocketrec_export.losses import Candidates


def teacher(ids: list[list[int]], log_probs: list[list[float]]) -> TeacherBatch:
    count = len(ids)
    return TeacherBatch(
        torch.arange(count),
        torch.tensor(ids),
        torch.tensor(log_probs),
        torch.ones(count, dtype=torch.int64),
        torch.zeros(count),
    )


def candidates(scores: torch.Tensor, items: list[int] | None = None) -> Candidates:
    chosen = torch.arange(scores.shape[1]) if items is None else torch.tensor(items)
    zeros = torch.zeros(len(scores), dtype=torch.int64)
    return Candidates(chosen, scores, zeros, torch.arange(scores.shape[1]), complete=items is None)


def test_the_value_by_hand() -> None:
    scores = torch.tensor([[1.0, 2.0, 0.5, -1.0]])
    said = teacher([[2, 0, -1]], [[-0.5, -1.5, 0.0]])
    share = torch.softmax(torch.tensor([-0.5, -1.5]), 0)
    wanted = torch.logsumexp(scores[0], 0) - (share * scores[0, [2, 0]]).sum()
    assert float(kl_loss(candidates(scores), said, 3)) == pytest.approx(float(wanted), abs=1e-6)
    assert float(kl_loss(candidates(scores), said, 1)) == pytest.approx(
        float(torch.logsumexp(scores[0], 0) - 0.5), abs=1e-6
    )


def test_part_of_the_catalogue_gives_the_same_when_it_holds_the_list() -> None:
    scores = torch.randn(3, 5)
    items = [1, 4, 6, 7, 9]
    said = teacher([[4, 9], [1, 7], [6, -1]], [[-0.1, -2.0], [-1.0, -1.0], [-0.3, 0.0]])
    inner = teacher([[1, 4], [0, 3], [2, -1]], [[-0.1, -2.0], [-1.0, -1.0], [-0.3, 0.0]])
    assert float(kl_loss(candidates(scores, items), said, 2)) == pytest.approx(
        float(kl_loss(candidates(scores), inner, 2))
    )


def test_it_is_least_where_the_student_says_what_the_teacher_says() -> None:
    log_probs = torch.log_softmax(torch.randn(1, 6), 1)
    order = torch.argsort(log_probs, descending=True)
    said = teacher(order.tolist(), log_probs.gather(1, order).tolist())
    best = float(kl_loss(candidates(log_probs), said, 6))
    for _ in range(20):
        assert float(kl_loss(candidates(log_probs + 0.3 * torch.randn(1, 6)), said, 6)) >= best - 1e-6


def test_no_list_teaches_nothing() -> None:
    scores = torch.randn(2, 4, requires_grad=True)
    loss = kl_loss(candidates(scores), teacher([[-1, -1], [2, 1]], [[0.0, 0.0], [-0.1, -2.0]]), 2)
    loss.backward()
    assert scores.grad is not None
    assert not scores.grad[0].any()
    assert scores.grad[1].any()
