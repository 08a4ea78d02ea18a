"""The answer of the runtime, and the exact top-k under it (docs/bundle.md, section 7)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One item of a ranked list.

    Attributes:
        item_id, position: the item, and where it is in the catalogue.
        score: the query against the item's row; of a fallback, the popularity prior.
        title: the display column `title`, "" when the bundle has none.
        display: all display columns.
    """

    item_id: str
    score: float
    title: str
    position: int
    display: Mapping[str, str] = field(compare=False)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "item_id": self.item_id,
            "score": self.score,
            "title": self.title,
            "position": self.position,
            "display": dict(self.display),
        }


class Ranking(list[Recommendation]):
    """A ranked list, best first, and how it came about.

    Attributes:
        fallback: no item of the history is in the catalogue, so this is the popularity prior.
        skipped: events of the history whose item the catalogue lacks.
        engine: name of the engine that ran the graph; "" when none ran.
    """

    def __init__(self, items: Iterable[Recommendation], *, fallback: bool, skipped: int, engine: str) -> None:
        super().__init__(items)
        self.fallback = fallback
        self.skipped = skipped
        self.engine = engine

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "engine": self.engine,
            "fallback": self.fallback,
            "skipped": self.skipped,
            "items": [item.to_dict() for item in self],
        }


class ScoreVector(np.ndarray[tuple[int], np.dtype[np.float32]]):
    """Scores of the whole catalogue, float32 [n], that also say how they came about.

    Attributes:
        fallback, skipped: as in `Ranking`.
    """

    fallback: bool = False
    skipped: int = 0

    @classmethod
    def of(cls, values: FloatArray, *, fallback: bool, skipped: int) -> ScoreVector:
        """`values`, not copied, with the two notes."""
        made = values.view(cls)
        made.fallback = fallback
        made.skipped = skipped
        return made


def top_k(scores: FloatArray, k: int) -> NDArray[np.intp]:
    """Indices of the k best scores [m], best first, equal scores by index; all of them when k ≥ m.

    Exact also where equal scores straddle the border, which `argpartition` alone leaves to chance.
    """
    if k <= 0 or not len(scores):
        return np.empty(0, dtype=np.intp)
    if len(scores) <= _FEW:
        return np.argsort(-scores, kind="stable")[:k]
    if k < len(scores):
        border = np.partition(scores, len(scores) - k)[len(scores) - k]
        above = np.flatnonzero(scores > border)
        level = np.flatnonzero(scores == border)[: k - len(above)]
        chosen = np.concatenate([above, level])
        chosen.sort()
    else:
        chosen = np.arange(len(scores))
    return chosen[np.argsort(-scores[chosen], kind="stable")]


_BLOCK = 256
_BLOCK_INDICES = np.arange(_BLOCK)[:, None]
_FEW = 512  # scores that are sorted sooner than parted
_SHORT = 1 << 15  # scores that are all compared sooner than their blocks are chosen
_LOWEST = float(np.finfo(np.float32).min)


class Part:
    """Scores of some rows, or bounds of them, and what is at the top of them: the values are read once, and
    again only where a block of them holds one that is wanted.

    A block is every m / 256th value, not 256 in a row: so the maxima of all blocks are found in long runs.

    Args:
        values: float32 [m], never NaN. −inf is never found.
    """

    def __init__(self, values: FloatArray) -> None:
        self._values = values
        self._width = len(values) // _BLOCK
        whole = values[: self._width * _BLOCK].reshape(_BLOCK, self._width)
        self._maxima = np.maximum.reduce(whole, axis=0, initial=-np.inf)

    def floor(self, k: int) -> float:
        """What at least k values reach; −inf when there are no more than k."""
        if self._width > k:  # each of k blocks holds one
            return float(np.partition(self._maxima, -k)[-k])
        if len(self._values) > k:
            return float(np.partition(self._values, -k)[-k])
        return -np.inf

    def reaching(self, lowest: float) -> NDArray[np.intp]:
        """Indices, rising, of the values that are not below `lowest`."""
        border = _not_above(lowest)
        values = self._values
        if len(values) > _SHORT:
            hot = np.flatnonzero(self._maxima >= border)
            if len(hot) * 2 <= self._width:
                inside = (_BLOCK_INDICES * self._width + hot).reshape(-1)
                if self._width * _BLOCK < len(values):
                    inside = np.append(inside, np.arange(self._width * _BLOCK, len(values)))
                found: NDArray[np.intp] = inside[values[inside] >= border]
                return found
        return np.flatnonzero(values >= border)


def _not_above(bound: float) -> np.float32:
    """The largest finite float32 that is no more than `bound`; the lowest there is when none is."""
    rounded = np.float32(max(bound, _LOWEST))
    return (
        rounded
        if float(rounded) <= bound or rounded == _LOWEST
        else np.nextafter(rounded, np.float32(-np.inf))
    )


class Best:
    """The k best of scores that come part by part, in rising order of position: what `top_k` finds in all of
    them, without sorting, or even keeping, them all.

    Attributes:
        floor: the k-th best score so far, below which none is among the best; −inf before there are k.
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self.floor = -np.inf
        self._positions = np.empty(0, dtype=np.intp)
        self._scores = np.empty(0, dtype=np.float32)

    def add(self, positions: NDArray[np.intp], scores: FloatArray) -> None:
        """Take in exact scores; positions rise, also from call to call."""
        positions = np.concatenate([self._positions, positions])
        scores = np.concatenate([self._scores, scores])
        kept = np.sort(top_k(scores, self.k))
        self._positions, self._scores = positions[kept], scores[kept]
        if len(kept) == self.k:
            self.floor = float(self._scores.min())

    def result(self) -> tuple[NDArray[np.intp], FloatArray]:
        """Positions and scores, best first, equal scores by position."""
        order = np.argsort(-self._scores, kind="stable")
        return self._positions[order], self._scores[order]


def best_allowed(scores: FloatArray, k: int, banned: NDArray[np.intp]) -> NDArray[np.intp]:
    """`top_k` without the indices `banned` (rising): as many more are taken first as are then thrown out."""
    best = top_k(scores, k + len(banned))
    return best[~member(best, banned)][:k]


def distinct(positions: NDArray[np.integer[Any]]) -> NDArray[np.intp]:
    """The positions in rising order, each once. (`np.unique` loads `numpy.ma`, 40 ms of a fresh process.)"""
    ordered = np.sort(positions).astype(np.intp)
    return ordered[np.diff(ordered, prepend=-1) > 0]


def member(values: NDArray[np.intp], rising: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Whether each value is among `rising`."""
    if not len(rising):
        return np.zeros(len(values), dtype=bool)
    place = np.minimum(np.searchsorted(rising, values), len(rising) - 1)
    return np.equal(rising[place], values)
