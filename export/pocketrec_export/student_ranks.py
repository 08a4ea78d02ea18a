"""The student's own opinion while it trains: its top items and the rank of the true next item.

Items that the user had before are filtered, as they are for the teacher, or the two ranks could not be
compared. With the whole catalogue scored, ranks are exact. With a part of it they are estimates: the scored
part holds M uniform draws from the catalogue of I items, so an item that u of these beat is expected behind
I/M · u others; and it is certainly behind every scored item that beats it. The estimate is the larger one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .known import KnownItems
from .losses import Candidates

# Scores handled at once: few enough to stay in the processor's cache.
_CHUNK = {"cpu": 1 << 20}
_CHUNK_ELSEWHERE = 1 << 27


@dataclass(frozen=True)
class StudentRanks:
    """
    Attributes:
        columns: int64 [P, M], columns of the candidates the student likes best, best first.
        ranks: int64 [P, M], their ranks from 1; exact or estimated.
        there: bool [P, M]; False past the last item that is not filtered.
        target_rank: int64 [P] from 1; a tie counts against the student.
    """

    columns: Tensor
    ranks: Tensor
    there: Tensor
    target_rank: Tensor


@torch.no_grad()
def student_ranks(
    candidates: Candidates, known: KnownItems, users: Tensor, index: Tensor, top: int
) -> StudentRanks:
    """What the student ranks first and where it ranks the target, at each of P positions.

    Args:
        users, index: int64 [P], user and input event of each position.
        top: M; fewer when fewer items are scored.
    """
    scores, targets = candidates.scores.detach(), candidates.targets
    rows, columns = scores.shape
    drawn = torch.bincount(candidates.negatives, minlength=columns).to(scores.dtype)
    scale = known.items / max(len(candidates.negatives), 1)
    chunk = max(1, _CHUNK.get(scores.device.type, _CHUNK_ELSEWHERE) // columns)
    work = scores.new_empty(2, min(chunk, rows), columns)  # the same memory for every chunk
    parts: list[tuple[Tensor, ...]] = []
    for start in range(0, rows, chunk):
        part = slice(start, start + chunk)
        own = targets[part, None]
        score = work[0, : len(own)].copy_(scores[part])
        target_score = score.gather(1, own)
        position, column = _filtered(candidates, known, users[part], index[part])
        score[position, column] = -torch.inf
        score.scatter_(1, own, target_score)
        best, place = top_by_blocks(score, min(top, columns))
        not_below = torch.ge(score, target_score, out=work[1, : len(own)])  # 0 and 1, ready to be added up
        above = not_below.sum(1) - 1
        among_drawn = above if candidates.complete else not_below @ drawn - drawn[own[:, 0]]
        parts.append((place, best > -torch.inf, above, among_drawn))
    place, there, above, among_drawn = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    hits = drawn[place] * there
    before = torch.cumsum(hits, 1) - hits
    order = torch.arange(place.shape[1], device=place.device)
    ranks = 1 + torch.maximum(order.expand_as(before), (scale * before).round().long())
    target_rank = 1 + torch.maximum(above, (scale * among_drawn).round()).long()
    return StudentRanks(place, ranks, there, target_rank)


def _filtered(
    candidates: Candidates, known: KnownItems, users: Tensor, index: Tensor
) -> tuple[Tensor, Tensor]:
    """(position, column) of every scored item that the user had before."""
    position, items = known.pairs_before(users, index)
    if candidates.complete:
        return position, items
    column = candidates.columns(items).clamp(max=len(candidates.items) - 1)
    scored = candidates.items[column] == items
    return position[scored], column[scored]


def top_by_blocks(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`torch.topk(scores, k)` of float [n, m], several times quicker for wide rows and few of them wanted.

    The k best lie in the k blocks with the best maxima, so two short selections replace a long one.
    """
    width = scores.shape[1]
    size = int((width / max(k, 1)) ** 0.5)  # makes both selections about as long
    if size < 3:
        return torch.topk(scores, k)
    blocks = width // size
    # Block b holds columns b, b + blocks, b + 2 · blocks, …: maxima then run along the rows.
    maxima = scores[:, : size * blocks].unflatten(1, (size, blocks)).amax(1)
    chosen = torch.topk(maxima, k, sorted=False).indices
    stride = torch.arange(0, size * blocks, blocks, device=scores.device)
    rest = torch.arange(size * blocks, width, device=scores.device)
    columns = torch.cat([(chosen[:, :, None] + stride).flatten(1), rest.expand(len(scores), -1)], 1)
    best, place = torch.topk(scores.gather(1, columns), k)
    return best, columns.gather(1, place)
