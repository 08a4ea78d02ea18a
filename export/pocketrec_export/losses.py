"""The floor: next-item training by full or sampled softmax, and the step that accelerate wraps.

Sampled softmax draws its negatives uniformly and once for the batch; `docs/training.md` says when it is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .student import Student


@dataclass
class Candidates:
    """Scores of a batch against the part of the catalogue that takes part in it.

    Attributes:
        items: int64 [S] ascending catalogue positions; the whole catalogue when `complete`.
        scores: float32 [P, S].
        targets: int64 [P], columns of the true next items.
        negatives: int64 [M] columns drawn as negatives; every column when `complete`.
    """

    items: Tensor
    scores: Tensor
    targets: Tensor
    negatives: Tensor
    complete: bool

    def columns(self, items: Tensor) -> Tensor:
        """Columns of catalogue positions that are known to take part."""
        return items if self.complete else torch.searchsorted(self.items, items)


def next_item_loss(candidates: Candidates) -> Tensor:
    """Mean cross-entropy of the true item against the whole catalogue or the drawn negatives. Scalar."""
    if candidates.complete:
        return F.cross_entropy(candidates.scores, candidates.targets)
    positive = candidates.scores.gather(1, candidates.targets[:, None])
    negative = candidates.scores[:, candidates.negatives]
    # A negative that happens to be the target is no negative.
    negative = negative.masked_fill(candidates.negatives[None] == candidates.targets[:, None], -torch.inf)
    return (torch.logsumexp(torch.cat([positive, negative], 1), 1) - positive[:, 0]).mean()


class ScoreStep(nn.Module):
    """From a packed batch to `Candidates`; a module with a `forward`, as distributed training needs one.

    Args:
        student: the model; its parameters are this module's.
        items: size of the catalogue.
        negatives: uniform negatives for the batch; 0 scores the whole catalogue.
        behaviour_dropout: see `ItemRows`.
    """

    def __init__(self, student: Student, items: int, negatives: int, behaviour_dropout: float) -> None:
        super().__init__()
        self.student = student
        self.items, self.negatives, self.behaviour_dropout = items, negatives, behaviour_dropout

    def forward(self, batch: dict[str, Tensor], drawn: Tensor, extra: Tensor | None = None) -> Candidates:
        """
        Args:
            batch: the arrays of `batches.Batch` as int64 tensors [B, T].
            drawn: int64 [M], uniform negatives (ignored with the full softmax).
            extra: int64 [any], more items that must take part, such as a teacher's lists.
        """
        valid = batch["segments"] > 0
        targets = batch["targets"][valid]
        if self.negatives == 0:
            items = torch.arange(self.items, device=targets.device)
            rows = self.student.rows(items, self.behaviour_dropout)
            inputs, negatives = batch["items"], items
        else:
            parts = [batch["items"].flatten(), targets, drawn, *([] if extra is None else [extra.flatten()])]
            items = torch.unique(torch.cat(parts))
            rows = self.student.rows(items, self.behaviour_dropout)
            inputs = torch.searchsorted(items, batch["items"])
            targets, negatives = torch.searchsorted(items, targets), torch.searchsorted(items, drawn)
        queries = self.student.queries(rows[inputs], batch["events"], batch["gaps"], batch["segments"])[valid]
        scores = (queries @ rows.T).float()
        return Candidates(items, scores, targets, negatives, complete=self.negatives == 0)
