"""Why a list of the Kotlin engine differs from Python's: what changed places, and what moved the query.

Python's own scan of the query that Kotlin computed must give Kotlin's list to the bit (`rebuilt`): then
nothing but the query can be the cause. What moved the query is found by going back through Python's engine:
activations that lie within `NEAR` of a step of a rounding border are laid on its other side, one after the
other, until the query is Kotlin's but for the digits in which two sums of floats differ (`SAME`).
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketrec.bundle import Bundle
from pocketrec.engine_numpy import NumpyEngine
from pocketrec.events import as_events
from pocketrec.quantise import GROUP, quantise_activations, unpack_nibbles
from pocketrec.ranking import top_k
from pocketrec.scan import quantise_query

FloatArray = NDArray[np.float32]
Array = NDArray[Any]
Site = tuple[str, int, int, int]
"""An activation: what its row goes into, the row's place in the window, the element, and the step (−1 or 1)
that lays it on the other side. The least and the largest of a row may go either way: the row's zero point is
rounded at the same border."""

NEAR = 1e-4
"""Of a step: some four times the largest distance from which an activation was seen to cross."""

SAME = 2e-6
"""Two queries closer than this part of their length differ by digits only."""

MOST_RUNS = 600
"""Of Python's engine, in search of the activations of one list."""

_INPUT_OF = {"q_proj": "attention", "k_proj": "attention", "v_proj": "attention"}
_INPUT_OF |= {"gate_proj": "mlp", "up_proj": "mlp"}


class BorderEngine(NumpyEngine):
    """The numpy engine; notes activations near a rounding border, and lays those in `flips` beyond it."""

    def trace(self, rows: FloatArray, mask: FloatArray, flips: frozenset[Site] = frozenset()) -> FloatArray:
        """The query [d]; `near` then holds the sites near a border, by distance in steps."""
        self._flips, self._mask = flips, mask[0]
        self.near: dict[Site, float] = {}
        return self.run(rows, mask)

    def _linear(self, x: Array, name: str) -> Array:
        y = super()._linear(x, name)
        if f"{name}.q" not in self.tensors:
            return y
        layer, _, linear = name.removeprefix("layers.").partition(".")
        place = f"layer {layer}, {_INPUT_OF.get(linear.removesuffix('.a'), linear)}"
        first = self.length - len(x)  # of the last layer, q_proj reads only the last row
        scale = quantise_activations(x)[1]
        self._note(x / scale, place, first)
        for where, row, column, step in self._flips:
            if where == place and row >= first:
                y[row - first] += step * scale[row - first] * self._weights(name, column)
        return y

    def _note(self, steps: Array, place: str, first: int) -> None:
        """Keeps what of `steps` [rows, elements] lies near a border."""
        above = steps - np.floor(steps) - 0.5
        near = np.abs(above) < NEAR
        near[self._mask[first:] == 0] = False
        ends = np.stack([steps.argmin(axis=1), steps.argmax(axis=1)], axis=1)
        for row, column in zip(*(axis.tolist() for axis in np.nonzero(near)), strict=True):
            to = -1 if np.rint(steps[row, column]) > steps[row, column] else 1
            for step in (to, -to) if column in ends[row] else (to,):
                self.near[place, first + row, column, step] = float(np.abs(above[row, column]))

    def _weights(self, name: str, column: int) -> Array:
        """What a step of 1 in the element [column] of the input adds to the output [out]."""
        q, scale = self.tensors[f"{name}.q"], self.tensors[f"{name}.scale"]
        if q.dtype == np.int8:
            return q[:, column] * scale
        return unpack_nibbles(q)[:, column] * scale[:, column // GROUP]


@dataclass(frozen=True)
class Trace:
    """One list that differs.

    Attributes:
        index: of the history.
        rebuilt: Python's scan of Kotlin's query gives Kotlin's list, scores to the bit.
        entered: items of Kotlin's list that Python's lacks; 0 where the same items stand in another order.
        pair: the two items that changed places with the largest gap, Python's first.
        gap: Python's score of the first less that of the second.
        moved: how far the queries are apart, as a part of the length of Python's.
        steps: elements that differ once both queries are quantised for the scan.
        flips: the activations that fell on the other side of a border.
        left: how far the queries are apart once those are laid there, as `moved`.
    """

    index: int
    rebuilt: bool
    entered: int
    pair: tuple[str, str]
    gap: float
    moved: float
    steps: int
    flips: tuple[Site, ...] = field(default=())
    left: float = 0.0

    @property
    def cause(self) -> str:
        """What moved the query; `unexplained` when nothing was found that did."""
        if not self.rebuilt or self.left > SAME:
            return "unexplained"
        if self.flips:
            return "activations" if len(self.flips) > 1 else "one activation"
        return "the query's own border" if self.steps else "digits of its scale"


class Tracer:
    """Explains lists over one bundle of a quantised or float backbone."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle, shape = bundle, bundle.manifest
        name = shape.engines["numpy"].file
        self._engine = BorderEngine(bundle.tensors(name), shape.backbone, shape.graph.length, shape.graph.dim)

    def explain(
        self,
        index: int,
        history: Sequence[Any],
        want: dict[str, Any],
        got: dict[str, Any],
        *,
        flips: bool = True,
    ) -> Trace:
        """`want` and `got` hold `items` and `scores`; `got` the `query` too, in base64."""
        bundle = self._bundle
        known = bundle.inputs.known(as_events(history), bundle.catalogue)
        rows, mask = bundle.inputs.fuse(known)
        theirs = np.frombuffer(base64.b64decode(got["query"]), "<f4")
        ours = self._engine.trace(rows, mask)
        items = bundle.tables["items"]
        scores = items.scores(ours)
        position = {
            item: int(bundle.catalogue.positions([item])[0]) for item in {*want["items"], *got["items"]}
        }
        gap, pair = widest(
            want["items"], got["items"], {item: float(scores[at]) for item, at in position.items()}
        )
        found, left = self._search(rows, mask, ours, theirs) if flips else ((), 0.0)
        differ = quantise_query(ours)[1] != quantise_query(theirs)[1]
        rebuilt = items.scores(theirs)
        rebuilt[known.positions] = -np.inf
        best = top_k(rebuilt, len(got["items"]))
        return Trace(
            index=index,
            rebuilt=[bundle.catalogue.item_id(int(i)) for i in best] == got["items"]
            and np.array_equal(rebuilt[best], np.float32(got["scores"])),
            entered=len(set(got["items"]) - set(want["items"])),
            pair=pair,
            gap=gap,
            moved=_apart(theirs, ours),
            steps=int(differ.sum()),
            flips=found,
            left=left,
        )

    def _search(
        self, rows: FloatArray, mask: FloatArray, ours: FloatArray, theirs: FloatArray
    ) -> tuple[tuple[Site, ...], float]:
        """Activations to lay on the other side, those nearest to a border first; how far the query stays."""
        best = (_apart(theirs, ours), frozenset[Site]())
        order = count()  # so that the heap never compares sets
        heap = [(far, next(order), frozenset([site])) for site, far in self._engine.near.items()]
        heapify(heap)
        seen = {flips for _, _, flips in heap}
        for _ in range(MOST_RUNS):
            if best[0] <= SAME or not heap:
                break
            far, _, flips = heappop(heap)
            best = min(
                best, (_apart(theirs, self._engine.trace(rows, mask, flips)), flips), key=lambda one: one[0]
            )
            for site, more in self._engine.near.items():
                if flips | {site} not in seen and site not in flips:
                    seen.add(flips | {site})
                    heappush(heap, (far + more, next(order), flips | {site}))
        return tuple(sorted(best[1])), best[0]


def widest(want: list[str], got: list[str], score: dict[str, float]) -> tuple[float, tuple[str, str]]:
    """Of the pairs that stand one way round in `want` and the other in `got`, the one with the largest gap of
    `score`, and that gap. An item that a list lacks stands behind it."""
    places = [{item: at for at, item in enumerate(items)} for items in (want, got)]
    items, end = sorted({*want, *got}), len(want)

    def before(a: str, b: str, place: dict[str, int]) -> bool:
        return place.get(a, end) < place.get(b, end)

    pairs = [(a, b) for a in items for b in items if before(a, b, places[0]) and before(b, a, places[1])]
    return max((score[a] - score[b], (a, b)) for a, b in pairs)


def summary(traces: Sequence[Trace], tolerance: float) -> dict[str, Any]:
    """Counts by cause and by place, and the largest gap of each as a part of the tolerance."""
    causes = {}
    for cause in sorted({trace.cause for trace in traces}):
        some = [trace for trace in traces if trace.cause == cause]
        gaps = [trace.gap for trace in some]
        causes[cause] = {
            "lists": len(some),
            "same_items": sum(not trace.entered for trace in some),
            "tenth_place": sum(trace.entered > 0 for trace in some),
            "equal_scores": sum(gap == 0 for gap in gaps),
            "median_gap_of_tolerance": round(float(np.median(gaps)) / tolerance, 4),
            "largest_gap_of_tolerance": round(max(gaps) / tolerance, 4),
            "query_moved": [float(f"{f(t.moved for t in some):.2g}") for f in (min, max)],
            "steps_of_query": [f(t.steps for t in some) for f in (min, max)],
        }
    return {
        "lists": len(traces),
        "rebuilt": sum(trace.rebuilt for trace in traces),
        "causes": causes,
        "activations": dict(sorted(Counter(len(trace.flips) for trace in traces).items())),
        "where": dict(Counter(site[0] for trace in traces for site in trace.flips).most_common()),
        "unexplained": [trace.index for trace in traces if trace.cause == "unexplained"],
    }


def _apart(a: FloatArray, b: FloatArray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
