"""The `scores` teacher: ready-made lists of a model we know nothing about, looked up by user and position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from .batches import Histories
from .known import KnownItems
from .score_report import ScoresReport
from .teachers import Lists, Positions

# Places of lists worked on at a time.
PLACES = 2_000_000
# A target that its list lacks stands at least this far behind the last item, in log-probability: further than
# float16, in which a cache keeps lists, can move that item.
STEP, SHARE = 0.01, 2**-9


@dataclass(frozen=True)
class ScoreLists:
    """Lists of items, best first, in CSR form, ordered by user, then by `after`.

    Attributes:
        user: int32 [lists], dataset users.
        after: int32 [lists]: made after that many events of the user; 0 is about the user as such.
        offsets: int64 [lists + 1].
        item: int32 [places], no item twice in a list.
        logit: float32 [places], 0 for the first of a list and never rising within one.
    """

    user: NDArray[np.int32]
    after: NDArray[np.int32]
    offsets: NDArray[np.int64]
    item: NDArray[np.int32]
    logit: NDArray[np.float32]

    @classmethod
    def from_sorted(
        cls,
        user: NDArray[np.int32],
        after: NDArray[np.int32],
        item: NDArray[np.int32],
        scores: NDArray[np.float64],
    ) -> ScoreLists:
        """From rows sorted by user, after and falling score."""
        new = np.ones(len(user), bool)
        new[1:] = (user[1:] != user[:-1]) | (after[1:] != after[:-1])
        start = np.flatnonzero(new)
        offsets = np.append(start, len(user)).astype(np.int64)
        # Only differences within a list count, and as such float32 can hold them.
        logit = (scores - np.repeat(scores[start], np.diff(offsets))).astype(np.float32)
        return cls(user[start], after[start], offsets, item, logit)

    @classmethod
    def joined(cls, parts: Sequence[ScoreLists]) -> ScoreLists:
        """One after the other."""
        user, after, item, logit = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("user", "after", "item", "logit")
        )
        lengths = np.concatenate([part.lengths for part in parts])
        return cls(user, after, np.append(0, np.cumsum(lengths)).astype(np.int64), item, logit)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 [lists], items of each."""
        return np.diff(self.offsets)

    @cached_property
    def keys(self) -> NDArray[np.int64]:
        """int64 [lists], ascending: user and `after` in one number."""
        return (self.user.astype(np.int64) << 32) | self.after

    def only(self, keep: NDArray[np.bool_]) -> ScoreLists:
        """The lists for which `keep` [lists] is True."""
        return self._taken(keep, np.repeat(keep, self.lengths))

    def cut(self, length: int) -> ScoreLists:
        """The first `length` places of each list."""
        place = np.arange(len(self.item)) - np.repeat(self.offsets[:-1], self.lengths)
        return self._taken(np.ones(len(self.user), bool), place < length)

    def find(self, users: NDArray[np.int64], seen: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 [m]: the list of each user who has seen so many events; that of the user as such where there
        is none, −1 where there is neither."""
        if not len(self.keys):
            return np.full(len(users), -1)
        found = np.full(len(users), -1)
        for after in (np.zeros_like(seen), seen):
            wanted = (users << 32) | after
            place = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
            found = np.where(self.keys[place] == wanted, place, found)
        return found

    def coverage(self, training: NDArray[np.int64]) -> tuple[int, NDArray[np.bool_]]:
        """How many training positions have a list, and which users have one for any of theirs, bool [users].

        Args:
            training: int64 [users], training events; the last of them is no training position.
        """
        positions = training - 1
        general = np.zeros(len(training), bool)
        general[self.user[self.after == 0]] = True
        own = np.bincount(
            self.user[(self.after > 0) & (self.after <= positions[self.user])], minlength=len(training)
        )
        covered = np.where(general, positions, own)
        return int(covered.sum()), covered > 0

    def spread(self) -> float:
        """The standard deviation of logits within lists, all lists together; 1 where nothing differs."""
        long = np.flatnonzero(self.lengths > 1)
        if not len(long):
            return 1.0
        logit = self.logit.astype(np.float64)
        total = np.add.reduceat(logit, self.offsets[:-1])
        squares = np.add.reduceat(logit**2, self.offsets[:-1])
        within = (squares - total**2 / self.lengths)[long].sum() / self.lengths[long].sum()
        return float(np.sqrt(within)) if within > 0 else 1.0

    def _taken(self, lists: NDArray[np.bool_], places: NDArray[np.bool_]) -> ScoreLists:
        kept = np.append(0, np.cumsum(places))[self.offsets]
        lengths = np.diff(kept)[lists]
        offsets = np.append(0, np.cumsum(lengths)).astype(np.int64)
        return ScoreLists(self.user[lists], self.after[lists], offsets, self.item[places], self.logit[places])


class ScoresTeacher:
    """Ready-made lists as a `Teacher`; `open_score_teacher` makes it.

    A position has the list made after as many events as it has seen, else the one about the user as such,
    else no opinion: target rank 0 and an empty list. Probabilities are over the items of a list that the user
    had not met by then. A target that a list lacks ranks behind it, and behind the k places that were asked
    for; its log-probability is a little below that of the last item.

    Attributes:
        name, key, items: see `Teacher`.
        report: what was used of the file.

    Args:
        scale: what the logits of `lists` are divided by; of ranks, their logarithms.
        by_rank: only the order counts: the item at place r has a probability in proportion to r^(−1/scale).
    """

    def __init__(
        self,
        name: str,
        key: str,
        items: int,
        lists: ScoreLists,
        scale: float,
        by_rank: bool,
        report: ScoresReport,
    ) -> None:
        self.name, self.key, self.items, self.report = name, key, items, report
        self._lists, self._scale, self._by_rank = lists, scale, by_rank
        self._known: tuple[Histories, KnownItems] | None = None

    def lists(self, positions: Positions, k: int) -> Lists:
        """See `Teacher.lists`."""
        histories = positions.histories
        if self._known is None or self._known[0] is not histories:
            known = KnownItems.from_histories(histories.offsets, histories.items, self.items)
            self._known = (histories, known)
        users, index, targets = positions.users, positions.index, positions.targets
        found = self._lists.find(users, index - histories.offsets[users] + 1)
        m = len(found)
        out = Lists(
            np.full((m, k), -1, np.int32),
            np.full((m, k), -np.inf, np.float32),
            np.zeros(m, np.int32),
            np.zeros(m, np.float32),
        )
        there = np.flatnonzero(found >= 0)
        longest = int(self._lists.lengths[found[there]].max(initial=1))
        for first in range(0, len(there), max(1, PLACES // longest)):
            rows = there[first : first + max(1, PLACES // longest)]
            self._fill(out, rows, found[rows], users[rows], index[rows], targets[rows], self._known[1])
        return out

    def _fill(
        self,
        out: Lists,
        rows: NDArray[np.int64],
        lists: NDArray[np.int64],
        users: NDArray[np.int64],
        index: NDArray[np.int64],
        targets: NDArray[np.int64],
        known: KnownItems,
    ) -> None:
        """Answer the positions `rows` of `out` from these lists."""
        k = out.ids.shape[1]
        start, lengths = self._lists.offsets[lists], self._lists.lengths[lists]
        column = np.arange(int(lengths.max()))
        there = column < lengths[:, None]
        place = np.where(there, start[:, None] + column, 0)
        ids = np.where(there, self._lists.item[place], -1).astype(np.int64)
        is_target = ids == targets[:, None]
        met = known.before(*(torch.from_numpy(a) for a in (users, ids, index))).numpy()
        keep = there & (is_target | ~met)
        order = np.argsort(~keep, axis=1, kind="stable")  # what is kept moves up, in its order
        keep, ids, is_target = (np.take_along_axis(a, order, 1) for a in (keep, ids, is_target))
        raw = np.take_along_axis(self._lists.logit[place], order, 1)
        log_probs = self._log_probs(raw, keep)
        length = keep.sum(1)
        any_left = length > 0
        listed = (is_target & keep).any(1)
        own = raw[np.arange(len(raw)), is_target.argmax(1)]
        rank = np.where(listed, (keep & (raw >= own[:, None])).sum(1), np.maximum(length, k) + 1)
        first, last = log_probs[:, 0], log_probs[np.arange(len(raw)), np.maximum(length, 1) - 1]
        step = np.maximum((first - last) / np.maximum(length - 1, 1), STEP + SHARE * np.abs(last))
        target = np.where(listed, log_probs[np.arange(len(raw)), is_target.argmax(1)], last - step)
        width = min(k, keep.shape[1])
        out.ids[rows, :width] = np.where(keep, ids, -1)[:, :width]
        out.log_probs[rows, :width] = np.where(keep, log_probs, -np.inf)[:, :width]
        out.target_rank[rows] = np.where(any_left, np.minimum(rank, self.items), 0)
        out.target_log_prob[rows] = np.where(any_left, target, 0.0)

    def _log_probs(self, raw: NDArray[np.float32], keep: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Log-probabilities [m, width] over what is kept, which stands in front; anything elsewhere."""
        if self._by_rank:
            logits = np.broadcast_to(-np.log(np.arange(1.0, raw.shape[1] + 1)) / self._scale, raw.shape)
        else:
            logits = raw / np.float64(self._scale)
        logits = logits - logits[:, :1]
        total = np.where(keep, np.exp(np.minimum(logits, 0.0)), 0.0).sum(1, keepdims=True)
        return logits - np.log(np.maximum(total, 1.0))
