"""How alike the lists of two engines, or two models, are."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from pocketrec.engines import ENGINE_NAMES
from pocketrec.errors import DataError
from pocketrec.recommender import Recommender
from pocketrec_export.split import Part
from pocketrec_tools.held_out import HeldOut, Triple

K = 10
Ranker: TypeAlias = "Callable[[list[Triple]], list[int]]"
"""The ten best catalogue positions for a history."""


@dataclass(frozen=True)
class Overlap:
    """Agreement of two rankers over the same users.

    Attributes:
        names: of the two engines; "float32" is the student before quantisation.
        users: how many lists of each were compared.
        mean: mean share of the ten best items that both lists hold, in any order.
        same_items, same_lists: share of users whose two lists hold the same items; in the same order, too.
    """

    names: tuple[str, str]
    users: int
    mean: float
    same_items: float
    same_lists: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "overlap@10": self.mean,
            "overlap": {
                "between": list(self.names),
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
    """Ask two engines of a bundle for the lists of the same held-out users, and compare them.

    Args:
        engine_b: an engine, or the directory of the checkpoint that the bundle was made from: the student in
            float32.

    Raises:
        BundleError, DataError: as `Recommender.open`, `HeldOut.load` and `FloatStudent` do.
    """
    with Recommender.open(bundle, engine=engine_a) as recommender:
        held_out = HeldOut.load(data_dir, recommender.bundle.catalogue, part, users, seed)
        return compare_with(recommender, bundle, engine_b, held_out)


def compare_with(
    recommender: Recommender,
    bundle: str | Path,
    against: str,
    held_out: HeldOut,
    advance: Callable[[], None] = lambda: None,
) -> Overlap:
    """`overlap` of an open recommender with an engine or a checkpoint; `advance` is called for each user."""
    ours = _ranker(recommender)
    if against not in ENGINE_NAMES and Path(against).is_dir():
        from pocketrec_tools.float_student import FloatStudent  # brings torch

        student = FloatStudent(against, recommender.bundle.catalogue)
        return compare((recommender.engine, "float32"), ours, student.top, held_out, advance)
    with Recommender.open(bundle, engine=against) as other:
        return compare((recommender.engine, other.engine), ours, _ranker(other), held_out, advance)


def compare(
    names: tuple[str, str],
    a: Ranker,
    b: Ranker,
    held_out: HeldOut,
    advance: Callable[[], None] = lambda: None,
) -> Overlap:
    """Ask two rankers for the ten best of every user of `held_out`."""
    lists_a, lists_b = [], []
    for user in held_out.users.tolist():
        history = held_out.history(user)
        lists_a.append(a(history))
        lists_b.append(b(history))
        advance()
    shares = overlap_shares(lists_a, lists_b)
    return Overlap(
        names=names,
        users=len(lists_a),
        mean=float(np.mean(shares)),
        same_items=float(np.mean([share == 1.0 for share in shares])),
        same_lists=float(np.mean([x == y for x, y in zip(lists_a, lists_b, strict=True)])),
    )


def _ranker(recommender: Recommender) -> Ranker:
    def ranker(history: list[Triple]) -> list[int]:
        return [item.position for item in recommender.rank(history, K)]

    return ranker
