"""Where training meets the teacher's cache: lists for a batch, and the DuoKD loss on them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .cache import TeacherBatch, TeacherCache
from .config import DuoKDConfig
from .duokd import duokd_loss
from .kl import kl_loss
from .known import KnownItems
from .losses import Candidates


@dataclass(frozen=True)
class Lesson:
    """What the teacher says about the positions of one batch, and whose positions they are.

    Attributes:
        items: int64 [any], catalogue items that must take part in the batch: the heads of the teacher's
            lists.
    """

    teacher: TeacherBatch
    users: Tensor
    items: Tensor


class Distillation:
    """A finished teacher cache and the loss that learns from it."""

    def __init__(self, cache: TeacherCache, known: KnownItems, config: DuoKDConfig) -> None:
        self.cache, self.known, self.config = cache, known, config

    def lesson(self, batch: dict[str, Tensor]) -> Lesson:
        """Look up the valid positions of a packed batch, in the order in which `ScoreStep` scores them."""
        index = batch["index"][batch["segments"] > 0]
        teacher = self.cache.batch(index)
        return Lesson(teacher, self.known.users_of(index), teacher.items(self.config.top_k))

    def loss(self, candidates: Candidates, lesson: Lesson) -> Tensor:
        """ρ · (λp Lpos + λn Lneg), or λ · KL; the mean over the positions. Scalar."""
        if self.config.method == "kl":
            return self.config.lambda_kl * kl_loss(candidates, lesson.teacher, self.config.top_k)
        generator = torch.Generator(device=candidates.scores.device)
        # Follows the global seed, which training sets for each epoch.
        generator.manual_seed(int(torch.randint(0, 2**31 - 1, (1,))))
        return duokd_loss(candidates, lesson.teacher, self.known, lesson.users, self.config, generator).total
