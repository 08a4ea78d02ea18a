"""Leave-one-out: each user's last event is the test target, the one before it the validation target.

    split = leave_one_out(dataset)
    for user in split.users_for("test"):
        dataset.items[split.history(user, "test")]     # everything before the target, oldest first
        dataset.items[split.target(user, "test")]      # what has to be ranked high

Everything is an index into the event arrays of the dataset; nothing is copied. A user's events, oldest first:

    events   training                      validation target   test target
    >= 3     all but the last two          last but one        last
    2        the first                     none                last
    1        the one                       none                none
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import DataError
from pocketrec_export.data import Dataset

Part = Literal["validation", "test"]


@dataclass(frozen=True, eq=False)
class Split:
    """The leave-one-out split of a dataset; make it with `leave_one_out`.

    Args:
        dataset: what is split.
        train_ends: int64 [users]; user u trains on the events `dataset.offsets[u]:train_ends[u]`.
    """

    dataset: Dataset
    train_ends: NDArray[np.int64]

    def train_offsets(self) -> NDArray[np.int64]:
        """int64 [users, 2]: first event and end of each user's training range, which is never empty."""
        return np.stack([self.dataset.offsets[:-1], self.train_ends], axis=1)

    def train_slice(self, user: int) -> slice:
        """The training events of a user."""
        return slice(int(self.dataset.offsets[user]), int(self.train_ends[user]))

    def users_for(self, part: Part) -> NDArray[np.int32]:
        """int32 [n], ascending: the users who have a target in this part."""
        return np.flatnonzero(np.diff(self.dataset.offsets) >= _events_wanted(part)).astype(np.int32)

    def some_users(self, part: Part, at_most: int, seed: int) -> NDArray[np.int32]:
        """int32 [<= at_most], ascending: `users_for(part)`, or a sample of them drawn by the seed."""
        users = self.users_for(part)
        if len(users) <= at_most:
            return users
        return np.sort(np.random.default_rng(seed).choice(users, at_most, replace=False))

    def history(self, user: int, part: Part) -> slice:
        """The events a model may see before it ranks this user's target: all that came before it."""
        return slice(int(self.dataset.offsets[user]), self.target(user, part))

    def target(self, user: int, part: Part) -> int:
        """Index of the target event; its item is `dataset.items[split.target(user, part)]`.

        Raises:
            DataError: when the user has none, see `users_for`.
        """
        wanted = _events_wanted(part)
        count = int(self.dataset.offsets[user + 1] - self.dataset.offsets[user])
        if count < wanted:
            raise DataError(
                f"user {self.dataset.user_ids[user]!r} has {count} events and no {part} target.",
                code="data-no-target",
                remedy=f"Take users from users_for({part!r}).",
            )
        return int(self.dataset.offsets[user + 1]) - (1 if part == "test" else 2)

    def targets(self, part: Part) -> NDArray[np.int64]:
        """int64 [n]: the target event of each user of `users_for(part)`."""
        return self.dataset.offsets[1:][self.users_for(part)] - (1 if part == "test" else 2)

    def target_items(self, part: Part) -> NDArray[np.int32]:
        """int32 [n]: the target item of each user of `users_for(part)`."""
        return self.dataset.items[self.targets(part)]

    @cached_property
    def train_mask(self) -> NDArray[np.bool_]:
        """bool [events]: which events are training events."""
        lengths = np.diff(self.dataset.offsets)
        mask = np.arange(self.dataset.num_events) < np.repeat(self.train_ends, lengths)
        mask.setflags(write=False)
        return mask

    def train_csr(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int16], NDArray[np.int64]]:
        """The training events, copied: offsets [users + 1], then items, event_ids, timestamps [events]."""
        dataset, mask = self.dataset, self.train_mask
        offsets = np.concatenate([[0], np.cumsum(self.train_ends - dataset.offsets[:-1])]).astype(np.int64)
        return offsets, dataset.items[mask], dataset.event_ids[mask], dataset.timestamps[mask]

    @cached_property
    def train_counts(self) -> NDArray[np.int64]:
        """int64 [items]: popularity, counted in training events only."""
        items = self.dataset.items[self.train_mask]
        counts = np.bincount(items, minlength=self.dataset.num_items).astype(np.int64)
        counts.setflags(write=False)
        return counts


def leave_one_out(dataset: Dataset) -> Split:
    """Split a dataset by the rule at the top of this module."""
    lengths = np.diff(dataset.offsets)
    held_out = np.clip(lengths - 1, 0, 2)
    ends = dataset.offsets[1:] - held_out
    ends.setflags(write=False)
    return Split(dataset, ends)


def _events_wanted(part: Part) -> int:
    """How many events a user needs to have a target in this part."""
    if part == "test":
        return 2
    if part == "validation":
        return 3
    raise DataError(
        f"there is no split {part!r}.", code="data-no-split", remedy='Ask for "validation" or "test".'
    )
