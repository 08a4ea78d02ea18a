"""Which linear and which table in how many bits: the mix that loses least under a budget of bytes.

1. *Sensitivity.* Each linear and table is rounded alone, to 8 and to 4 bits, and the divergence that this
   costs on validation histories is measured (`precision_quality`). The word table is judged where it matters:
   by ranking all items by their texts alone.
2. *Choice.* Costs are taken to add up, which makes it a knapsack with one choice for each path. All mixes
   that no other beats in both bytes and cost are kept, path by path, so what comes out is the whole frontier.
3. That they add up is only an assumption: what is chosen is judged as a whole afterwards, and so is what a
   runtime makes of it (`gate`).

Groups are of 32: the format has no others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pocketrec.quantise import GROUP

from .backbone import Backbone
from .precision import SCHEMES, Precision, Scheme, scheme_of
from .precision_quality import Judge

log = logging.getLogger(__name__)

MOST_MIXES = 4096
"""Mixes kept after each path. Beyond that, of those of almost equal size the best stays."""


@dataclass(frozen=True)
class Option:
    """One way to store one path.

    Attributes:
        bytes: in the whole bundle, all copies together.
        cost: nats of divergence that it adds.
    """

    scheme: Scheme
    bytes: int
    cost: float


@dataclass(frozen=True)
class Mix:
    """One choice for every path; a `Precision` when called.

    Attributes:
        bytes, cost: sums over the choices.
    """

    schemes: Mapping[str, Scheme]
    bytes: int
    cost: float

    def __call__(self, path: str, shape: Sequence[int]) -> Scheme:
        return self.schemes[path]


def stored_bytes(path: str, shape: Sequence[int], scheme: Scheme, copies: int) -> int:
    """Bytes of a linear or table in a bundle whose linears are stored `copies` times: in
    `backbone.safetensors` and in each graph. Tables are there once."""
    rows, width = shape
    table = path.startswith("tables.")
    scales = {
        "fp32": 0,
        "int8": 4 * rows,
        "int4": (2 if table else 4) * rows * (width // GROUP),  # float16 in tables, else float32
    }
    size = {"fp32": 4 * rows * width, "int8": rows * width, "int4": rows * width // 2}[scheme] + scales[
        scheme
    ]
    return size if table else size * copies


def paths(backbone: Backbone, items: Sequence[int], words: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Every path that a precision is asked about, with its shape."""
    found = {name: tuple(linear.weight.shape) for name, linear in backbone.linears().items()}
    return found | {"tables.items": tuple(items), "tables.words": tuple(words)}


def options(judge: Judge, backbone: Backbone, items: np.ndarray, copies: int) -> dict[str, list[Option]]:
    """What each path can be stored as, with the measured cost of each.

    Args:
        backbone, items: the student to be rounded, which may be of low rank already: its own divergence is
            not counted.
        copies: see `stored_bytes`.
    """
    shapes = paths(backbone, items.shape, judge.checkpoint.words.shape)
    start = judge.divergence(backbone, lambda path, shape: "fp32", items)
    found: dict[str, list[Option]] = {}
    for path, shape in shapes.items():
        found[path] = []
        for scheme in SCHEMES:
            if scheme_of(_only(path, scheme), path, shape) != scheme:
                continue  # int4 for a width that has no groups
            cost = 0.0
            if path == "tables.words":
                cost = judge.word_divergence(scheme)
            elif scheme != "fp32":
                cost = judge.divergence(backbone, _only(path, scheme), items) - start
            found[path].append(Option(scheme, stored_bytes(path, shape, scheme, copies), max(cost, 0.0)))
        log.info("%s: %s", path, ", ".join(f"{o.scheme} {o.cost:.2e} nats" for o in found[path]))
    return found


def frontier(choices: Mapping[str, Sequence[Option]], most: int = MOST_MIXES) -> list[Mix]:
    """The mixes that no other beats in both bytes and cost, smallest first.

    Exact as long as there are at most `most` of them after every path; beyond that, one of those that differ
    by less than 1/`most` of the range of bytes stays.
    """
    sizes, costs = np.zeros(1, np.int64), np.zeros(1)
    picked: list[np.ndarray] = []  # for each path: for each mix, where it comes from, and which option
    for each in choices.values():
        size = (sizes[:, None] + np.array([o.bytes for o in each], np.int64)).ravel()
        cost = (costs[:, None] + np.array([o.cost for o in each])).ravel()
        order = np.lexsort((cost, size))
        best = np.minimum.accumulate(cost[order])
        kept = order[np.append(True, cost[order][1:] < best[:-1])]
        if len(kept) > most:
            spread = np.linspace(size[kept[0]], size[kept[-1]], most)
            # The largest mix below each mark is the best below it, as costs fall with bytes.
            kept = kept[np.unique(np.searchsorted(size[kept], spread, side="right") - 1)]
        sizes, costs = size[kept], cost[kept]
        picked.append(kept)
    return [_mix(choices, picked, i, int(sizes[i]), float(costs[i])) for i in range(len(sizes))]


def best_within(mixes: Sequence[Mix], most_bytes: float) -> Mix | None:
    """The mix of least cost that is no larger; None when all are."""
    fitting = [mix for mix in mixes if mix.bytes <= most_bytes]
    return min(fitting, key=lambda mix: (mix.cost, mix.bytes)) if fitting else None


def smallest_that(mixes: Sequence[Mix], passes: Callable[[Mix], bool]) -> Mix | None:
    """The smallest mix that passes, by bisection: the larger of two neighbours costs less, so it is asked
    about a handful of mixes only. None when the largest does not pass."""
    if not mixes or not passes(mixes[-1]):
        return None
    low, high = -1, len(mixes) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(mixes[middle]) else (middle, high)
    return mixes[high]


def _only(path: str, scheme: Scheme) -> Precision:
    return lambda asked, shape: scheme if asked == path else "fp32"


def _mix(
    choices: Mapping[str, Sequence[Option]], picked: list[np.ndarray], index: int, size: int, cost: float
) -> Mix:
    schemes: dict[str, Scheme] = {}
    for path, kept in zip(reversed(list(choices)), reversed(picked), strict=True):
        index, option = divmod(int(kept[index]), len(choices[path]))
        schemes[path] = choices[path][option].scheme
    return Mix({path: schemes[path] for path in choices}, size, cost)
