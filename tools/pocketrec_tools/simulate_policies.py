"""What an app does with a ranked list before it shows it: filters, diversity, exploration.

shelf = Shelf(bundle, policies)
shelf.candidates, shelf.exclude                # given to `recommend`: the filter is the runtime's own
rerank(scores, rows, k, 0.7)                   # maximal marginal relevance
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pocketrec.bundle import Bundle
from pocketrec.errors import DataError
from pocketrec_tools.simulate_settings import Policies

POOL = 5
"""A re-rank chooses k items among the POOL * k best."""

_TRIES = 64
_BETWEEN = re.compile(r"\s*(?:[|;,>]|&gt;)\s*")


def categories(text: str) -> tuple[str, ...]:
    """The values in a display column: its parts between `|`, `;`, `,` and `>`, each once."""
    return tuple(dict.fromkeys(part for part in _BETWEEN.split(text.strip()) if part))


@dataclass
class Shelf:
    """What the business filters leave of a bundle's catalogue.

    Attributes:
        candidates: ids that `only` leaves; None without it.
        exclude: ids that `without` takes out.
        allowed: bool [n], by catalogue position.

    Raises:
        DataError: `argument-invalid`: no such column, or no item is left.
    """

    bundle: Bundle
    policies: Policies
    candidates: list[str] | None = field(init=False, default=None)
    exclude: list[str] = field(init=False, default_factory=list)
    allowed: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        catalogue = self.bundle.catalogue
        kept = np.ones(catalogue.n, dtype=bool)
        for column, value in self.policies.only:
            kept &= self._matches(column, value)
        barred = np.zeros(catalogue.n, dtype=bool)
        for column, value in self.policies.without:
            barred |= self._matches(column, value)
        self.allowed = kept & ~barred
        if not self.allowed.any():
            raise DataError(
                "the filters leave no item.", code="argument-invalid", remedy="Ask for other values."
            )
        if self.policies.only:
            self.candidates = [catalogue.item_id(p) for p in np.flatnonzero(kept).tolist()]
        self.exclude = [catalogue.item_id(p) for p in np.flatnonzero(barred).tolist()]

    def _matches(self, column: str, value: str) -> NDArray[np.bool_]:
        catalogue = self.bundle.catalogue
        if column not in catalogue.columns:
            raise DataError(
                f"the bundle has no display column {column!r}.",
                code="argument-invalid",
                remedy=f"It has {', '.join(catalogue.columns) or 'none'}.",
            )
        texts = (catalogue.text(column, position) for position in range(catalogue.n))
        return np.fromiter((text == value or value in categories(text) for text in texts), bool, catalogue.n)


def rerank(
    scores: NDArray[np.floating], rows: NDArray[np.floating], k: int, relevance: float
) -> NDArray[np.intp]:
    """Indices of k items, chosen one after the other by maximal marginal relevance.

    The next item is the one with the largest λ · r(i) − (1 − λ) · max over chosen j of cos(i, j), where r is
    the score scaled to 0…1 over the pool (Carbonell & Goldstein, SIGIR 1998). Equal ones in the order given.

    Args:
        scores: [m], best first.
        rows: [m, d], item rows; a row of zeros is similar to nothing.
        relevance: λ; 1 keeps the order.
    """
    spread = float(scores.max() - scores.min()) if len(scores) else 0.0
    worth = (scores - scores.min()) / spread if spread else np.ones(len(scores))
    similar = cosines(rows)
    nearest = np.zeros(len(scores))
    left = np.ones(len(scores), dtype=bool)
    chosen: list[int] = []
    for _ in range(min(k, len(scores))):
        value = np.where(left, relevance * worth - (1 - relevance) * nearest, -np.inf)
        best = int(np.argmax(value))
        nearest = similar[best] if not chosen else np.maximum(nearest, similar[best])
        chosen.append(best)
        left[best] = False
    return np.array(chosen, dtype=np.intp)


def cosines(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """float64 [..., m, m]: cosine of each two of the rows [..., m, d]; 0 for a row of zeros."""
    wide = np.asarray(rows, np.float64)
    length = np.linalg.norm(wide, axis=-1, keepdims=True)
    unit = np.divide(wide, length, out=np.zeros_like(wide), where=length > 0)
    product: NDArray[np.float64] = unit @ np.swapaxes(unit, -1, -2)
    return product


def explore(
    positions: list[int],
    chance: float,
    allowed: NDArray[np.bool_],
    seen: Collection[int],
    rng: np.random.Generator,
) -> list[int]:
    """The list with each slot replaced, by this chance, by an item drawn at random (ε-greedy, slot by slot).

    Drawn uniformly among items that are allowed, not seen and not in the list. In a catalogue where hardly
    any are left, a slot may stay as it was.
    """
    shown = list(positions)
    for slot in np.flatnonzero(rng.random(len(shown)) < chance).tolist():
        for position in rng.integers(len(allowed), size=_TRIES).tolist():
            if allowed[position] and position not in seen and position not in shown:
                shown[slot] = position
                break
    return shown
