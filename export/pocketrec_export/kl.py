"""Plain distillation, to compare DuoKD with: the divergence from the teacher's list.

Cross-entropy of the student's softmax over the candidates with the teacher's probabilities over the head of
its list, renormalised (Hinton, Vinyals, Dean 2015, arXiv 1503.02531, at temperature 1): no extraction, no
reliability, no ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .cache import TeacherBatch
from .losses import Candidates


def kl_loss(candidates: Candidates, teacher: TeacherBatch, top_k: int) -> Tensor:
    """Mean over the positions, scalar; positions without a list count as 0.

    Args:
        top_k: items of the lists that teach; they take part in the candidates.
    """
    ids, log_probs = teacher.ids[:, :top_k], teacher.log_probs[:, :top_k]
    there = ids >= 0
    share = torch.softmax(log_probs.masked_fill(~there, -1e30), 1) * there
    columns = candidates.columns(ids.clamp(min=0)).clamp(max=len(candidates.items) - 1)
    taught = (share * candidates.scores.gather(1, columns)).sum(1)
    return ((torch.logsumexp(candidates.scores, 1) - taught) * there[:, 0]).mean()
