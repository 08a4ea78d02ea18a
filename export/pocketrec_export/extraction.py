"""Positive–negative extraction of DuoKD: which items a position learns from (docs/duokd.md).

Everything here is a choice, made without gradients: items, masks, weights and margins, all [P, …].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pocketrec.errors import DataError

from .cache import TeacherBatch
from .config import DuoKDConfig
from .known import KnownItems
from .losses import Candidates
from .student_ranks import StudentRanks


class TeacherLists:
    """Looks items up in the teacher's lists.

    An item that a list does not name has a rank beyond its K places and, as an upper bound, the
    log-probability of its last item.
    """

    def __init__(self, teacher: TeacherBatch) -> None:
        self._sorted, self._order = torch.sort(teacher.ids, dim=1)
        self._teacher = teacher
        length = (teacher.ids >= 0).sum(1, keepdim=True)
        self._last = teacher.log_probs.gather(1, (length - 1).clamp(min=0))

    def find(self, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of items int64 [P, m]: rank int64, log-probability float32, and whether the list has it, bool."""
        k = self._teacher.ids.shape[1]
        place = torch.searchsorted(self._sorted, items.contiguous()).clamp(max=k - 1)
        listed = (self._sorted.gather(1, place) == items) & (items >= 0)
        order = self._order.gather(1, place)
        rank = torch.where(listed, order + 1, k + 1)
        return rank, torch.where(listed, self._teacher.log_probs.gather(1, order), self._last), listed


@dataclass(frozen=True)
class Positives:
    """P(s): the true next item first, then the teacher's order. All [P, 1 + K].

    Attributes:
        items: int64; anything where `mask` is False.
        mask: bool; the first column is always True.
        weights: float32, 0 outside the mask, each row adds up to 1.
    """

    items: Tensor
    mask: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Negatives:
    """N(s), a set: over-rated items first, then uniform ones. All [P, |N|].

    Attributes:
        columns: int64, columns of the candidates; anything where `mask` is False.
        mask: bool.
        margins: float32 >= 0.
    """

    columns: Tensor
    mask: Tensor
    margins: Tensor


def positive_weights(
    rank: Tensor, log_prob: Tensor, in_student_top: Tensor, mask: Tensor, config: DuoKDConfig
) -> Tensor:
    """w ∝ γ_position · exp(−rank/β) + γ_confidence · confidence + γ_overlap · [in the student's top-K].

    The confidence of an item is the teacher's probability of it among the positives.

    Args:
        rank: int64 [P, W], teacher's ranks from 1.
        log_prob: float [P, W], the teacher's.
        in_student_top, mask: bool [P, W]; every row of the mask holds a True.

    Returns:
        float [P, W], rows adding up to 1; equal weights where all would be 0.
    """
    confidence = torch.softmax(log_prob.masked_fill(~mask, -torch.inf), 1)
    weights = (
        config.gamma_position * torch.exp(-rank / config.beta)
        + config.gamma_confidence * confidence
        + config.gamma_overlap * in_student_top
    ) * mask
    total = weights.sum(1, keepdim=True)
    degenerate = total < torch.finfo(total.dtype).tiny
    equal = mask / mask.sum(1, keepdim=True)
    return torch.where(degenerate, equal, weights / total.masked_fill(degenerate, 1))


def overrated_weights(student_rank: Tensor, teacher_rank: Tensor, epsilon: float, top_k: int) -> Tensor:
    """tanh(ε · max(r_T − r_S, 0)) where r_T > K, else 0: how sure it is that the student overrates it."""
    gap = (teacher_rank - student_rank).clamp(min=0)
    return torch.tanh(epsilon * gap) * (teacher_rank > top_k)


def draw(weights: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw `count` places of each row without replacement, each in proportion to its weight among those left.

    Args:
        weights: float [P, M] >= 0; a place of weight 0 is never drawn.

    Returns:
        places int64 [P, min(count, M)], and a bool mask: False where a row has run out of places.
    """
    uniform = torch.rand(weights.shape, generator=generator, device=generator.device).to(weights.device)
    # The largest log w + Gumbel noise are such a draw; log(0) = −inf keeps weight 0 out.
    key = torch.log(weights) - torch.log(-torch.log(uniform.clamp(min=torch.finfo(uniform.dtype).tiny)))
    best, places = torch.topk(key, min(count, weights.shape[1]))
    return places, best > -torch.inf


def margins(target_log_prob: Tensor, log_prob: Tensor, config: DuoKDConfig) -> Tensor:
    """margin · clip(t(i*) − t(n), 0, cap): float [P] and [P, m] to [P, m]."""
    return config.margin * (target_log_prob[:, None] - log_prob).clamp(0, config.margin_cap)


def near_ties(target_log_prob: Tensor, log_prob: Tensor, listed: Tensor, guard: float) -> Tensor:
    """Items that the teacher puts above the target or less than δ below it: perhaps as right as the target.

    Only items that are in the list can be: of the others the teacher has said that K items are better.
    """
    return listed & (log_prob > target_log_prob[:, None] - guard)


class Extraction:
    """Extracts P(s) and N(s) at P positions.

    Args:
        users: int64 [P]; the events themselves are in `teacher.index`.

    Raises:
        DataError: `cache-short` when the teacher's lists are shorter than `config.top_k`.
    """

    def __init__(
        self,
        candidates: Candidates,
        teacher: TeacherBatch,
        known: KnownItems,
        users: Tensor,
        student: StudentRanks,
        config: DuoKDConfig,
    ) -> None:
        if teacher.ids.shape[1] < min(config.top_k, known.items):
            raise DataError(
                f"duokd.top_k = {config.top_k}, but the cached lists hold {teacher.ids.shape[1]} items.",
                code="cache-short",
                remedy="Lower duokd.top_k, or write the cache with a larger teacher.top_k.",
            )
        self._candidates, self._teacher, self._known, self._users = candidates, teacher, known, users
        self._student, self._config = student, config
        self._lists = TeacherLists(teacher)
        self.targets = candidates.items[candidates.targets]
        _, listed_log_prob, listed = self._lists.find(self.targets[:, None])
        # The list's own value where there is one: it has been rounded as its neighbours have.
        self.target_log_prob = torch.where(listed, listed_log_prob, teacher.target_log_prob[:, None])[:, 0]

    def positives(self) -> Positives:
        """The true next item and the teacher's first K, without it and without what the user had before."""
        teacher, config, targets = self._teacher, self._config, self.targets[:, None]
        top = teacher.ids[:, : config.top_k]
        had = self._known.before(self._users, top, teacher.index)
        items = torch.cat([targets, top], 1)
        mask = torch.cat(
            [torch.ones_like(targets, dtype=torch.bool), (top >= 0) & (top != targets) & ~had], 1
        )
        places = torch.arange(1, top.shape[1] + 1, device=top.device).expand_as(top)
        rank = torch.cat([teacher.target_rank[:, None], places], 1)
        log_prob = torch.cat([self.target_log_prob[:, None], teacher.log_probs[:, : config.top_k]], 1)
        in_top = self._student.there & (self._student.ranks <= config.top_k)
        liked = self._candidates.items[self._student.columns].masked_fill(~in_top, -1)[:, : config.top_k]
        overlap = (items[:, :, None] == liked[:, None, :]).any(2)
        return Positives(items, mask, positive_weights(rank, log_prob, overlap, mask, config))

    def negatives(self, generator: torch.Generator) -> Negatives:
        """Half over-rated items, half uniform ones; fewer where there are not enough."""
        config, student, candidates = self._config, self._student, self._candidates
        overrated, uniform = config.negatives - config.negatives // 2, config.negatives // 2
        liked = slice(0, config.student_top)
        columns, ranks = student.columns[:, liked], student.ranks[:, liked]
        allowed, teacher_rank, _ = self._judge(columns)
        weights = overrated_weights(ranks, teacher_rank, config.epsilon, config.top_k)
        places, drawn = draw(weights * (allowed & student.there[:, liked]), overrated, generator)
        pool = candidates.negatives
        shape = (len(columns), uniform if len(pool) else 0)
        random = torch.randint(len(pool) or 1, shape, generator=generator, device=generator.device)
        # A uniform draw may repeat itself or an over-rated item; the first of each stays.
        columns = torch.cat([columns.gather(1, places), pool[random.to(pool.device)]], 1)
        allowed, _, log_prob = self._judge(columns)
        mask = torch.cat([drawn, torch.ones(shape, dtype=torch.bool, device=drawn.device)], 1) & allowed
        same = (columns[:, :, None] == columns[:, None, :]) & mask[:, None, :]
        mask &= ~same.tril(-1).any(2)
        return Negatives(columns, mask, margins(self.target_log_prob, log_prob, config))

    def _judge(self, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of candidates [P, m]: whether they may be negatives, the teacher's rank and log-probability.

        A negative is no item of the user's training events, not the true next item, not among the teacher's
        first K, and not a near tie. Held-out events are unknown here by design: see `known`.
        """
        items = self._candidates.items[columns]
        rank, log_prob, listed = self._lists.find(items)
        allowed = (rank > self._config.top_k) & (items != self.targets[:, None])
        allowed &= ~self._known.contains(self._users, items)
        allowed &= ~near_ties(self.target_log_prob, log_prob, listed, self._config.guard)
        return allowed, rank, log_prob
