"""Held-out events of a data directory, seen from a bundle: what the runtime is asked, and what was right.

The split is the one that `build` makes of the same directory, `leave_one_out(load_dataset(directory))`, so no
target was ever trained on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketrec.catalogue import Catalogue
from pocketrec.errors import DataError
from pocketrec_export.data import Dataset, load_dataset
from pocketrec_export.split import Part, Split, leave_one_out

Triple = tuple[str, str, int | None]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Users with a target, and where their items are in the bundle's catalogue; make it with `load`.

    Attributes:
        split, part: the leave-one-out split of the data, and which target of it is meant.
        users: int32 [n], ascending rows of the dataset: who is asked about.
        available: users who have a target in this part, sampled or not.
        positions: int64 [items of the data], catalogue positions; −1 where the catalogue lacks the item.
        catalogue_items: number of items in the catalogue.
    """

    split: Split
    part: Part
    users: NDArray[np.int32]
    available: int
    positions: NDArray[np.int64]
    catalogue_items: int

    @classmethod
    def load(
        cls,
        data_dir: str | Path,
        catalogue: Catalogue,
        part: Part = "test",
        users: int | None = None,
        seed: int = 0,
    ) -> HeldOut:
        """Read and split the data, and look its items up in the catalogue.

        Args:
            users: at most so many, drawn without replacement by `seed`; None takes all.

        Raises:
            DataError: the data cannot be read; `data-no-target`, `users-invalid`; `catalogue-mismatch` when
                the catalogue lacks more than half of the items that the data has interactions with.
        """
        if users is not None and users < 1:
            raise DataError(
                f"{users} users cannot be evaluated.", code="users-invalid", remedy="Ask for 1 or more."
            )
        split = leave_one_out(load_dataset(data_dir))
        positions = catalogue.positions(split.dataset.item_ids)
        _check_fit(str(data_dir), split.dataset, positions, catalogue)
        found = split.users_for(part)
        if not len(found):
            wanted = 2 if part == "test" else 3
            raise DataError(
                f"{data_dir}: no user has a {part} target.",
                code="data-no-target",
                remedy=f"At least one user needs {wanted} events or more.",
            )
        everybody = cls(split, part, found, len(found), positions, catalogue.n)
        return everybody if users is None else everybody.sample(users, seed)

    def sample(self, users: int, seed: int) -> HeldOut:
        """At most so many of the users, drawn without replacement."""
        if users >= len(self.users):
            return self
        drawn = np.random.default_rng(seed).choice(self.users, users, replace=False)
        return replace(self, users=np.sort(drawn))

    @property
    def dataset(self) -> Dataset:
        """The data as it was read."""
        return self.split.dataset

    def history(self, user: int) -> list[Triple]:
        """What the runtime is asked with: every event before the target, oldest first, as the data has it."""
        data, where = self.dataset, self.split.history(user, self.part)
        ids, types = data.item_ids, data.events
        return [
            (ids[item], types[event], time)
            for item, event, time in zip(
                data.items[where].tolist(),
                data.event_ids[where].tolist(),
                data.timestamps[where].tolist(),
                strict=True,
            )
        ]

    def seen(self, user: int) -> NDArray[np.int64]:
        """int64: catalogue positions of the items of the history, as far as the catalogue has them."""
        found = self.positions[self.dataset.items[self.split.history(user, self.part)]]
        return found[found >= 0]

    def target(self, user: int) -> int:
        """Catalogue position of the target, −1 when the catalogue lacks it."""
        return int(self.positions[self.dataset.items[self.split.target(user, self.part)]])

    @property
    def unknown_items(self) -> int:
        """Items of the data that the catalogue lacks."""
        return int(np.count_nonzero(self.positions < 0))

    @property
    def items_without_data(self) -> int:
        """Items of the catalogue that the data does not know."""
        return self.catalogue_items - (len(self.positions) - self.unknown_items)


def _check_fit(where: str, data: Dataset, positions: NDArray[np.int64], catalogue: Catalogue) -> None:
    used = np.unique(data.items)
    unknown = used[positions[used] < 0]
    if 2 * len(unknown) > len(used):
        examples = ", ".join(repr(data.item_ids[item]) for item in unknown[:3].tolist())
        raise DataError(
            f"{where}: the bundle's catalogue lacks {len(unknown)} of the {len(used)} items that people "
            f"interacted with, such as {examples}; it has {catalogue.n} items, such as "
            f"{catalogue.item_id(0)!r}.",
            code="catalogue-mismatch",
            remedy="Give the data directory that the bundle was built from.",
        )
