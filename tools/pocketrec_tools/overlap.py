"""How alike the lists of two engines, or two models, are."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pocketrec.errors import DataError
from pocketrec.recommender import Recommender
from pocketrec_export.split import Part
from pocketrec_tools.held_out import HeldOut

K = 10


@dataclass(frozen=True)
class Overlap:
    """Agreement of two engines over the same users.

    Attributes:
        engines: their names.
        users: how many lists of each were compared.
        mean: mean share of the ten best items that both lists hold, in any order.
        same_items, same_lists: share of users whose two lists hold the same items; in the same order, too.
    """

    engines: tuple[str, str]
    users: int
    mean: float
    same_items: float
    same_lists: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "overlap@10": self.mean,
            "overlap": {
                "engines": list(self.engines),
                "users": self.users,
                "same_items": self.same_items,
                "same_lists": self.same_lists,
            },
        }


def overlap_shares(
    rankings_a: Sequence[Sequence[Hashable]], rankings_b: Sequence[Sequence[Hashable]], k: int = K
) -> list[float]:
    """For each pair of ranked lists, best first: the share of their first k items that both hold.

    Of lists shorter than k the longer one is the measure; two empty lists are alike (1.0).

    Raises:
        DataError: not as many lists on one side as on the other, or none.
    """
    if len(rankings_a) != len(rankings_b) or not len(rankings_a):
        raise DataError(
            f"{len(rankings_a)} lists cannot be compared with {len(rankings_b)}.",
            code="lists-invalid",
            remedy="Give one list for each user on both sides.",
        )
    shares = []
    for a, b in zip(rankings_a, rankings_b, strict=True):
        first, second = set(a[:k]), set(b[:k])
        size = max(len(first), len(second))
        shares.append(len(first & second) / size if size else 1.0)
    return shares


def compare_lists(
    rankings_a: Sequence[Sequence[Hashable]], rankings_b: Sequence[Sequence[Hashable]], k: int = K
) -> float:
    """Mean of `overlap_shares`: 1.0 when every pair of lists has the same k best items, in any order."""
    return float(np.mean(overlap_shares(rankings_a, rankings_b, k)))


def overlap(
    bundle: str | Path,
    data_dir: str | Path,
    engine_a: str,
    engine_b: str,
    users: int | None = 1000,
    seed: int = 0,
    part: Part = "test",
) -> Overlap:
    """Ask both engines of a bundle for the lists of the same held-out users and compare them.

    Raises:
        BundleError, DataError: as `Recommender.open` and `HeldOut.load` do.
    """
    with Recommender.open(bundle, engine=engine_a) as a, Recommender.open(bundle, engine=engine_b) as b:
        return compare_engines(a, b, HeldOut.load(data_dir, a.bundle.catalogue, part, users, seed))


def compare_engines(
    a: Recommender, b: Recommender, held_out: HeldOut, advance: Callable[[], None] = lambda: None
) -> Overlap:
    """`overlap` of two open recommenders of one bundle; `advance` is called after each user."""
    lists_a, lists_b = [], []
    for user in held_out.users.tolist():
        history = held_out.history(user)
        lists_a.append([item.position for item in a.rank(history, K)])
        lists_b.append([item.position for item in b.rank(history, K)])
        advance()
    shares = overlap_shares(lists_a, lists_b)
    return Overlap(
        engines=(a.engine, b.engine),
        users=len(lists_a),
        mean=float(np.mean(shares)),
        same_items=float(np.mean([share == 1.0 for share in shares])),
        same_lists=float(np.mean([x == y for x, y in zip(lists_a, lists_b, strict=True)])),
    )
