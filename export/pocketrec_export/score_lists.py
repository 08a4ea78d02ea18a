"""Lists of items, best first, by user and by how many events the user had when they were made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


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
    def from_rows(
        cls,
        user: NDArray[np.int32],
        after: NDArray[np.int32],
        item: NDArray[np.int32],
        score: NDArray[np.float64],
    ) -> tuple[ScoreLists, int]:
        """The lists of these rows in any order, and how many rows repeat a (user, after, item).

        The highest score of a pair counts; of equal scores the item first in the catalogue comes first.
        """
        order = np.lexsort((item, after, user))
        user, after, item, score = user[order], after[order], item[order], score[order]
        new_list = (np.diff(user, prepend=-1) != 0) | (np.diff(after, prepend=-1) != 0)
        new = np.flatnonzero(new_list | (np.diff(item, prepend=-1) != 0))
        repeated = len(user) - len(new)
        if repeated:
            score = np.maximum.reduceat(score, new)
            user, after, item, new_list = user[new], after[new], item[new], new_list[new]
        order = np.lexsort((-score, np.cumsum(new_list)))  # stable: items stay in order
        start = np.flatnonzero(new_list)
        offsets = np.append(start, len(user)).astype(np.int64)
        score = score[order]
        # Only differences within a list count, and as such float32 can hold them.
        logit = (score - np.repeat(score[start], np.diff(offsets))).astype(np.float32)
        return cls(user[start], after[start], offsets, item[order], logit), repeated

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
