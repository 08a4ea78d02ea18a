"""Figures of single lists, found while they are made: how diverse, how new, how popular, how calibrated.

All are judged by one yardstick, the first bundle of a run: its rows, its training counts, its categories. So
lists of different bundles compare. Items that it lacks are left out of these four figures.

* diversity: 1 − the mean cosine of the rows of each two items of the list (Smyth & McClave 2001; Ziegler et
  al. 2005);
* novelty: the mean of −log2 p(i), bits, p(i) the share of the item in the training events, one added to each
  count so that no item is infinitely new (Zhou et al. 2010; Vargas & Castells 2011);
* popular: the share of slots that show one of the tenth of the catalogue with the most training events;
* calibration: the Kullback–Leibler divergence KL(p ‖ q̃), nats, of the categories p of the person's events
  from those of the list, q̃ = 0.99 q + 0.01 p (Steck 2018). 0 is best. None before the first event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocketrec.bundle import Bundle
from pocketrec.errors import DataError
from pocketrec_tools.simulate_policies import categories, cosines

SMOOTH = 0.01
HEAD = 0.1
COLUMNS = ("categories", "category")
"""Display columns that hold categories, when none is named."""


@dataclass(frozen=True)
class Yardstick:
    """What lists are judged by; places are those of the run's list of items.

    Attributes:
        bundle: the first one of the run. Its items come first in the run's list, so that a place below
            `len(novelty)` is a catalogue position of it.
        novelty: float64 [n], bits.
        popular: bool [n], whether an item is of the head.
        categories: [n] of the values in the column; None when there is no such column.
    """

    bundle: Bundle
    novelty: NDArray[np.float64]
    popular: NDArray[np.bool_]
    categories: list[tuple[str, ...]] | None

    @classmethod
    def of(cls, bundle: Bundle, column: str | None) -> Yardstick:
        """The yardstick that a bundle is.

        Raises:
            DataError: `argument-invalid`, the bundle has no such column.
        """
        catalogue = bundle.catalogue
        seen = np.asarray(catalogue.seen, np.float64)
        named = (
            next((name for name in COLUMNS if name in catalogue.columns), None) if column is None else column
        )
        if column is not None and column not in catalogue.columns:
            raise DataError(
                f"the bundle has no display column {column!r}.",
                code="argument-invalid",
                remedy=f"It has {', '.join(catalogue.columns) or 'none'}.",
            )
        values = None
        if named is not None:
            values = [categories(catalogue.text(named, position)) for position in range(catalogue.n)]
        return cls(
            bundle,
            -np.log2((seen + 1) / (seen.sum() + catalogue.n)),
            head(seen) if len(seen) else seen > 0,
            values,
        )

    def figures(self, lists: Sequence[list[int]]) -> dict[str, list[float | None]]:
        """`diversity`, `novelty` and `popular` of each list of places; None where no item of it counts."""
        out: dict[str, list[float | None]] = {"diversity": [], "novelty": [], "popular": []}
        for places in lists:
            own = np.array([place for place in places if place < len(self.novelty)], dtype=np.intp)
            out["novelty"].append(float(self.novelty[own].mean()) if len(own) else None)
            out["popular"].append(float(self.popular[own].mean()) if len(own) else None)
            out["diversity"].append(self.diversity(own) if len(own) > 1 else None)
        return out

    def diversity(self, places: NDArray[np.intp]) -> float:
        """1 − mean pairwise cosine of at least two items."""
        similar = cosines(self.bundle.tables["items"].rows(places))
        pairs = len(places) * (len(places) - 1)
        return float(1 - (similar.sum() - np.trace(similar)) / pairs)


def head(counts: NDArray[np.floating]) -> NDArray[np.bool_]:
    """bool [n]: the tenth of the items, rounded up, with the largest counts; equal ones by position."""
    chosen = np.zeros(len(counts), dtype=bool)
    chosen[np.argsort(-counts, kind="stable")[: int(np.ceil(HEAD * len(counts)))]] = True
    return chosen


class Calibration:
    """The categories of one person's events, as they come, against those of a list."""

    def __init__(self, values: list[tuple[str, ...]] | None) -> None:
        self._values = values
        self._own: Counter[str] = Counter()
        self._events = 0.0

    def add(self, place: int) -> None:
        """Take in an event; an item shares itself out among its categories."""
        self._events += self._share(self._own, place)

    def of(self, places: list[int]) -> float | None:
        """KL(p ‖ q̃) of a list, None while there is nothing to compare."""
        listed: Counter[str] = Counter()
        total = sum(self._share(listed, place) for place in places)
        if not self._events or not total:
            return None
        value = 0.0
        for name, weight in self._own.items():
            p = weight / self._events
            value += p * float(np.log(p / ((1 - SMOOTH) * listed[name] / total + SMOOTH * p)))
        return max(0.0, value)

    def _share(self, counts: Counter[str], place: int) -> float:
        names = self._values[place] if self._values is not None and place < len(self._values) else ()
        for name in names:
            counts[name] += 1 / len(names)  # type: ignore[assignment]
        return 1.0 if names else 0.0


def gini(counts: NDArray[np.integer] | NDArray[np.floating]) -> float:
    """Inequality of non-negative counts [n]: 0 when all are equal, 1 − 1/n when one has everything.

    G = Σ (2i − n − 1) x(i) / (n Σ x), x ascending, i from 1.
    """
    ordered = np.sort(np.asarray(counts, np.float64))
    n, total = len(ordered), float(ordered.sum())
    if not n or not total:
        return 0.0
    return float(((2 * np.arange(1, n + 1) - n - 1) * ordered).sum() / (n * total))
