"""What each user is known to have had in training, for whole batches at once.

Only training events are here, so the held-out events of validation and test stay as unknown to a loss as any
other item: leaving them out of the negatives would tell the model where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pocketrec.errors import DataError

from .batches import BLOCK


@dataclass(frozen=True)
class KnownItems:
    """The distinct (user, item) pairs of the training events.

    Attributes:
        items: size of the catalogue.
        offsets: int64 [users + 1], events of each user.
        keys: int64 [pairs + 1], user · items + item, ascending; a last one larger than all ends every search.
        first: int32 [pairs + 1] (int64 beyond 2 G events), the event in which the user first met the item.
        starts: int64 [users + 1], pairs of each user.
    """

    items: int
    offsets: Tensor
    keys: Tensor
    first: Tensor
    starts: Tensor

    @classmethod
    def from_histories(cls, offsets: ArrayLike, items: ArrayLike, n_items: int) -> KnownItems:
        """From training events in CSR form: `offsets` int [users + 1], `items` int [events].

        Raises:
            DataError: an item outside the catalogue of `n_items`.
        """
        bounds, item = np.asarray(offsets, np.int64), np.asarray(items)
        if not len(item):
            item = item.astype(np.int64)  # an empty list is one of floats
        if len(item) and not 0 <= int(item.min()) <= int(item.max()) < n_items:
            raise DataError(
                f"training items {int(item.min())} … {int(item.max())} of a catalogue of {n_items}.",
                remedy="The events are of another catalogue: read the data again.",
            )
        users = len(bounds) - 1
        number = np.int32 if len(item) < np.iinfo(np.int32).max else np.int64
        keys, first = [np.zeros(0, np.int64)], [np.zeros(0, number)]
        # Events are in the order of users, so what is sorted block by block is sorted.
        cuts = np.unique(np.searchsorted(bounds, [*range(0, len(item), BLOCK), len(item)], side="left"))
        for low, high in pairwise([0, *cuts.tolist(), users]):
            part = slice(int(bounds[low]), int(bounds[high]))
            owner = np.repeat(np.arange(low, high, dtype=np.int64), np.diff(bounds[low : high + 1]))
            key, index = np.unique(owner * n_items + item[part], return_index=True)
            keys.append(key)
            first.append((index + part.start).astype(number))
        keys.append(np.array([np.iinfo(np.int64).max]))
        first.append(np.array([np.iinfo(number).max], number))
        key = np.concatenate(keys)
        starts = np.searchsorted(key, np.arange(users + 1, dtype=np.int64) * n_items)
        arrays = bounds, key, np.concatenate(first), starts.astype(np.int64)
        return cls(n_items, *(torch.from_numpy(array) for array in arrays))

    def to(self, device: torch.device | str) -> KnownItems:
        """The same on another device."""
        tensors = (self.offsets, self.keys, self.first, self.starts)
        return KnownItems(self.items, *(tensor.to(device) for tensor in tensors))

    def users_of(self, index: Tensor) -> Tensor:
        """The users of events `index`, int64 of any shape."""
        return torch.searchsorted(self.offsets, index, right=True) - 1

    def contains(self, users: Tensor, items: Tensor) -> Tensor:
        """bool [P, m]: whether user p has item [p, m] in training, at any time. Items −1 never count."""
        return self._find(users, items)[1]

    def before(self, users: Tensor, items: Tensor, index: Tensor) -> Tensor:
        """bool [P, m]: whether user p met item [p, m] in event `index[p]` or earlier."""
        place, there = self._find(users, items)
        return there & (self.first[place] <= index[:, None])

    def pairs_before(self, users: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """(position, item), int64 [any] each: distinct items user p met in event `index[p]` or earlier."""
        start = self.starts[users]
        lengths = self.starts[users + 1] - start
        position = torch.repeat_interleave(torch.arange(len(users), device=users.device), lengths)
        shift = start - (torch.cumsum(lengths, 0) - lengths)
        pair = torch.arange(len(position), device=users.device) + shift[position]
        met = self.first[pair] <= index[position]
        position, pair = position[met], pair[met]
        return position, self.keys[pair] - users[position] * self.items

    def _find(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        wanted = users[:, None] * self.items + items
        place = torch.searchsorted(self.keys, wanted)
        return place, (self.keys[place] == wanted) & (items >= 0)
