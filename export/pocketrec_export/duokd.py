"""DuoKD: dual distillation with positive–negative extraction (docs/duokd.md has formulas, sources and laws).

* What is learnt from is chosen in `extraction`; the student's own ranks come from `student_ranks`, what a
  user had from `known`, what the teacher said from `cache`. Here are the losses.
* The next-item loss is not part of it and never scaled: training adds `DuoKDTerms.total` to it.
* The cost beside scoring the candidates: two passes over the scores and two short selections per position.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .cache import TeacherBatch
from .config import DuoKDConfig
from .extraction import Extraction
from .known import KnownItems
from .losses import Candidates
from .student_ranks import student_ranks

__all__ = [
    "DuoKDTerms", "KnownItems", "TeacherBatch", "duokd_loss", "negative_loss", "positive_loss", "reliability",
]  # fmt: skip

# Stands for log 0 where −inf would make the gradient of a sum without terms NaN.
_NOTHING = -1e30


@dataclass(frozen=True)
class DuoKDTerms:
    """The parts of the loss. All but `total` are detached, float32 [P].

    Attributes:
        total: scalar, the mean over positions of ρ · (λ_positive · positive + λ_negative · negative).
        positive, negative: the two losses, not yet scaled.
        reliability: ρ; 0 where the teacher says nothing.
        negatives: |N| in fact found.
    """

    total: Tensor
    positive: Tensor
    negative: Tensor
    reliability: Tensor
    negatives: Tensor


def reliability(student_rank: Tensor, teacher_rank: Tensor) -> Tensor:
    """ρ in [0, 2]: 1 where both rank the true next item alike, towards 2 where the teacher does better.

    clip(1 + (r_S − r_T) / max(r_T, 1), 0, 2) if r_S > r_T, else clip(1 − (r_T − r_S) / max(r_S, 1), 0, 2).

    Args:
        student_rank, teacher_rank: [P], ranks from 1; a teacher's rank of 0 says nothing and makes ρ = 0.
    """
    gap = (student_rank - teacher_rank).float()
    better = torch.where(student_rank > teacher_rank, teacher_rank, student_rank).clamp(min=1)
    return (1 + gap / better).clamp(0, 2) * (teacher_rank > 0)


def positive_loss(
    scores: Tensor, weights: Tensor, mask: Tensor, negatives: Tensor, negative_mask: Tensor
) -> Tensor:
    """Weighted RRD: −Σ_k w_k [z_k − log(Σ_{i at or after k} e^{z_i} + Σ_n e^{z_n})].

    Args:
        scores, weights, mask: [P, W], positives in order; weights are 0 outside the mask.
        negatives, negative_mask: [P, m].

    Returns:
        [P], >= 0; exactly 0 for one positive and no negative.
    """
    z = scores.masked_fill(~mask, _NOTHING)
    rest = torch.cat(
        [negatives.masked_fill(~negative_mask, _NOTHING), torch.full_like(z[:, :1], _NOTHING)], 1
    )
    # Only differences count: near 0 they keep their digits.
    top = torch.cat([z, rest], 1).detach().amax(1, keepdim=True)
    z, rest = z - top, rest - top
    backwards = torch.cat([torch.logsumexp(rest, 1, keepdim=True), z.flip(1)], 1)
    suffix = torch.logcumsumexp(backwards, 1)[:, 1:].flip(1)
    return (weights * (suffix - z).masked_fill(~mask, 0)).sum(1)


def list_loss(scores: Tensor, weights: Tensor, mask: Tensor, log_total: Tensor) -> Tensor:
    """Listwise cross-entropy: −Σ_k w_k [z_k − log Σ_{i in the candidates} e^{z_i}].

    Args:
        scores, weights, mask: [P, W], positives; weights are 0 outside the mask and add up to 1.
        log_total: [P], logarithm of the sum over all candidates.

    Returns:
        [P], >= 0.
    """
    return log_total - (weights * scores.masked_fill(~mask, 0)).sum(1)


def negative_loss(target: Tensor, negatives: Tensor, margins: Tensor, mask: Tensor, beta: float) -> Tensor:
    """log(1 + Σ_n exp(β (z_n − z_target + m_n))), S-DPO's form without a reference model.

    Args:
        target: [P]; negatives, margins, mask: [P, m].

    Returns:
        [P], >= 0; exactly 0 without negatives.
    """
    excess = F.pad((beta * (negatives - target[:, None] + margins)).masked_fill(~mask, _NOTHING), (1, 0))
    # Taken off first: where it is large, shares would be those of rounded sums.
    top = excess.detach().amax(1, keepdim=True)
    return torch.logsumexp(excess - top, 1) + top[:, 0]


def duokd_loss(
    candidates: Candidates,
    teacher: TeacherBatch,
    known: KnownItems,
    users: Tensor,
    config: DuoKDConfig,
    generator: torch.Generator,
) -> DuoKDTerms:
    """The distillation loss of P positions.

    Args:
        candidates: the student's scores; `teacher.items(config.top_k)` take part in them.
        teacher: lists of the same positions in the same order.
        known: what each user had in training, on the device of the scores.
        users: int64 [P].
        generator: draws the negatives; the same state gives the same negatives.

    Raises:
        DataError: `cache-short`, see `Extraction`.
        ValueError: an item of the teacher's top K takes no part in the candidates.
    """
    top = max(config.student_top, config.top_k)
    student = student_ranks(candidates, known, users, teacher.index, top)
    with torch.no_grad():
        extraction = Extraction(candidates, teacher, known, users, student, config)
        positives = extraction.positives()
        negatives = extraction.negatives(generator)
        columns = _columns(candidates, positives.items, positives.mask)
        rho = reliability(student.target_rank, teacher.target_rank)
        if not config.reliability:
            rho = (teacher.target_rank > 0).float()
    # One gather for both losses: its gradient is as large as the scores.
    z = candidates.scores.gather(1, torch.cat([columns, negatives.columns], 1))
    width = columns.shape[1]
    if config.positives == "list":
        log_total = torch.logsumexp(candidates.scores, 1)
        positive = list_loss(z[:, :width], positives.weights, positives.mask, log_total)
    else:
        positive = positive_loss(
            z[:, :width], positives.weights, positives.mask, z[:, width:], negatives.mask
        )
    negative = negative_loss(z[:, 0], z[:, width:], negatives.margins, negatives.mask, config.beta_negative)
    total = (rho * (config.lambda_positive * positive + config.lambda_negative * negative)).mean()
    return DuoKDTerms(total, positive.detach(), negative.detach(), rho, negatives.mask.sum(1).float())


def _columns(candidates: Candidates, items: Tensor, mask: Tensor) -> Tensor:
    """Columns of positives [P, W], any where the mask is False."""
    columns = candidates.columns(items.clamp(min=0)).clamp(max=len(candidates.items) - 1)
    if not candidates.complete:
        missing = mask & (candidates.items[columns] != items)
        if bool(missing.any()):
            raise ValueError(
                f"item {int(items[missing][0])} of a teacher's top list takes no part in the candidates"
            )
    return columns
