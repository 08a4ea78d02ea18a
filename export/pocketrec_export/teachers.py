"""What a teacher is: something that ranks the catalogue for histories; and how any teacher fills the cache.

    lists = teacher.lists(positions, k=100)     # its best items at each position, and where the target stands
    write_cache(teacher, histories, directory, k=100, length=50)

A teacher speaks once, through the cache; distillation reads nothing else. Teachers that score the whole
catalogue say so as `log_probs` and get their lists from `lists_from_log_probs`; one that only knows lists
makes them itself.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .batches import Histories
from .cache import CacheWriter
from .metrics import Metrics
from .progress import Progress
from .split import Part, Split

# Scores held at a time, in bytes.
CHUNK_BYTES = 256 << 20


@dataclass(frozen=True)
class Positions:
    """Where a teacher is asked: events of histories; what it is asked for is the item after each.

    Positions come in windows, so that a model reads a window once. Window w holds the events
    `start[w] … start[w] + size[w] − 1`; the first `skip[w]` of them are context, the others positions. Each
    position sees the events of its window up to itself, its own among them.

    Attributes:
        histories: whose events they are; every position has an event after it.
        start, size, skip: int64 [windows].
    """

    histories: Histories
    start: NDArray[np.int64]
    size: NDArray[np.int64]
    skip: NDArray[np.int64]

    @classmethod
    def all(cls, histories: Histories, length: int, newest: int = 0) -> Positions:
        """Every event that has a next one, once, each with at least half of `length` events of context where
        its history has them.

        Args:
            newest: only so many of each user's newest ones; 0 for all.
        """
        start, size, skip = histories.covering_windows(length)
        if newest:
            user = np.searchsorted(histories.offsets, start, side="right") - 1
            skip = np.maximum(skip, histories.offsets[user + 1] - 1 - newest - start)
        kept = skip < size
        return cls(histories, start[kept], size[kept], skip[kept])

    @classmethod
    def held_out(
        cls, histories: Histories, split: Split, part: Part, users: NDArray[np.integer], length: int
    ) -> Positions:
        """One position for each of `users`: the event before its target of this part.

        Args:
            histories: all events of the dataset, such as `FloatRanker.histories`.
        """
        end = np.array([split.target(int(user), part) for user in users], np.int64)
        size = np.minimum(end - split.dataset.offsets[users], length)
        return cls(histories, end - size, size, size - 1)

    def __len__(self) -> int:
        return int((self.size - self.skip).sum())

    def part(self, windows: slice) -> Positions:
        """The positions of some of the windows."""
        return Positions(self.histories, self.start[windows], self.size[windows], self.skip[windows])

    def chunks(self, at_most: int) -> list[slice]:
        """Cut the windows, in order, into runs of about `at_most` positions."""
        total = np.cumsum(self.size - self.skip)
        cuts = np.searchsorted(total, np.arange(at_most, total[-1] if len(total) else 0, at_most))
        bounds = np.unique(np.concatenate([[0], cuts + 1, [len(total)]]))
        return [slice(int(a), int(b)) for a, b in itertools.pairwise(bounds)]

    @cached_property
    def window(self) -> NDArray[np.int64]:
        """int64 [m]: the window of each position."""
        return np.repeat(np.arange(len(self.start)), self.size - self.skip)

    @cached_property
    def index(self) -> NDArray[np.int64]:
        """int64 [m]: the event of each position, window after window."""
        count = self.size - self.skip
        within = np.arange(len(self)) - np.repeat(np.cumsum(count) - count, count)
        return np.repeat(self.start + self.skip, count) + within

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """int64 [m]: the item that did come next."""
        return self.histories.items[self.index + 1].astype(np.int64)

    @cached_property
    def users(self) -> NDArray[np.int64]:
        """int64 [m]: whose history each position is of."""
        return np.searchsorted(self.histories.offsets, self.index, side="right") - 1

    def met(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(position, item), int64 [any] each: what the user had met by then; pairs may repeat."""
        begin = self.histories.offsets[self.users]
        lengths = self.index - begin + 1
        row = np.repeat(np.arange(len(lengths)), lengths)
        event = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return row, self.histories.items[np.repeat(begin, lengths) + event].astype(np.int64)


@dataclass(frozen=True)
class Lists:
    """A teacher's answers at m positions; the arguments of `CacheWriter.write`.

    Attributes:
        ids: int32 [m, K], best first, −1 past the end of a list.
        log_probs: float32 [m, K], not increasing; −inf where `ids` is −1.
        target_rank: int32 [m] from 1; 0 where the teacher has no opinion. A tie counts against the target.
        target_log_prob: float32 [m].
    """

    ids: NDArray[np.int32]
    log_probs: NDArray[np.float32]
    target_rank: NDArray[np.int32]
    target_log_prob: NDArray[np.float32]


class Teacher(Protocol):
    """Ranks the catalogue for histories.

    Attributes:
        name: what it is, for people and manifests.
        key: stands for all that its answers depend on; another key, another cache.
        items: size of the catalogue.
    """

    name: str
    key: str
    items: int

    def lists(self, positions: Positions, k: int) -> Lists:
        """Its `k` best items at each position. What the user has met is left out of lists and ranks, the true
        next item never is."""
        ...


class Ranker(Protocol):
    """Scores the whole catalogue; what an ensemble is made of."""

    name: str
    items: int

    def log_probs(self, positions: Positions) -> Tensor:
        """float32 [m, items]: finite log-probabilities, each row normalised over the catalogue."""
        ...


def lists_from_log_probs(log_probs: Tensor, positions: Positions, k: int) -> Lists:
    """Filter, normalise again and cut [m, items] to lists; overwrites `log_probs`."""
    device = log_probs.device
    targets = torch.from_numpy(positions.targets).to(device)[:, None]
    own = log_probs.gather(1, targets)
    row, item = positions.met()
    log_probs[torch.from_numpy(row).to(device), torch.from_numpy(item).to(device)] = -torch.inf
    log_probs.scatter_(1, targets, own)
    log_probs = torch.log_softmax(log_probs, 1)
    best = torch.topk(log_probs, min(k, log_probs.shape[1]), dim=1)
    target = log_probs.gather(1, targets)
    rank = (log_probs >= target).sum(1)  # the target counts itself: ranks start at 1
    return Lists(
        best.indices.cpu().numpy().astype(np.int32),
        best.values.cpu().numpy(),
        rank.cpu().numpy().astype(np.int32),
        target[:, 0].cpu().numpy(),
    )


@torch.no_grad()
def write_cache(
    teacher: Teacher, histories: Histories, directory: Path, k: int, length: int, newest: int = 0
) -> None:
    """Write the teacher's lists for every training event; goes on where a killed run stopped.

    Args:
        histories: the training events.
        directory: of the cache.
        k: length of the lists, cut to the size of the catalogue.
        length, newest: see `Positions.all`; events without a list teach nothing.
    """
    k = min(k, teacher.items)
    positions = Positions.all(histories, length, newest)
    chunks = positions.chunks(max(1, CHUNK_BYTES // (4 * teacher.items)))
    writer = CacheWriter.open(
        directory, n=len(histories.items), k=k, items=teacher.items, key=teacher.key, teacher=teacher.name
    )
    with Progress("teacher lists", total=len(chunks), done=writer.done) as progress:
        for chunk in range(writer.done, len(chunks)):
            part = positions.part(chunks[chunk])
            said = teacher.lists(part, k)
            writer.write(chunk, part.index, said.ids, said.log_probs, said.target_rank, said.target_log_prob)
            progress.advance()
    writer.finish()


@torch.no_grad()
def held_out_ranks(
    teacher: Teacher,
    histories: Histories,
    split: Split,
    part: Part,
    length: int,
    users: NDArray[np.integer] | None = None,
) -> NDArray[np.int64]:
    """Ranks of the targets of `users` (`split.users_for(part)` when None), int64 [users], in the protocol of
    `metrics`.

    A target that a list does not reach has the rank that the teacher gave it; one that the history holds, or
    about which the teacher has no opinion, ranks last.
    """
    users = split.users_for(part) if users is None else users
    positions = Positions.held_out(histories, split, part, users, length)
    out = []
    for windows in positions.chunks(max(1, CHUNK_BYTES // (4 * teacher.items))):
        chunk = positions.part(windows)
        rank = teacher.lists(chunk, min(100, teacher.items)).target_rank.astype(np.int64)
        row, item = chunk.met()
        rank[row[item == chunk.targets[row]]] = 0
        out.append(np.where(rank == 0, teacher.items + 1, rank))
    return np.concatenate(out) if out else np.zeros(0, np.int64)


def held_out_metrics(
    teacher: Teacher,
    histories: Histories,
    split: Split,
    part: Part,
    length: int,
    users: NDArray[np.integer] | None = None,
) -> Metrics:
    """How good the teacher itself is."""
    return Metrics.from_ranks(held_out_ranks(teacher, histories, split, part, length, users))
