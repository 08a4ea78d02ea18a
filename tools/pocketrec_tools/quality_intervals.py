"""Paired differences between two arms of the quality benchmark, with intervals of the bootstrap over users.

A user's gain is averaged over the seeds first, then users are drawn anew: the interval says how far the
difference would move with other users. Of two arms of ours only the seeds that both have count.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from pocketrec_export.metrics import ndcg_gains, paired_bootstrap
from pocketrec_tools.quality_records import INTERVALS, Record, Store, write_json

K = 10
SAMPLES = 5000


class Interval(BaseModel):
    """The mean of `ours` minus `theirs` over users.

    Attributes:
        metric: "ndcg@10" or "hr@10".
        seeds: seeds averaged over, of `ours` and of `theirs`.
        base: the mean of `theirs`, so that mean / base is the relative gain.
        low, high: the bootstrap's 95 % interval of the mean.
        users: how many were paired.
        of: sha256 of all ranks it was made from; other ranks, another interval.
    """

    ours: str
    theirs: str
    metric: str
    seeds: tuple[list[int], list[int]]
    base: float
    mean: float
    low: float
    high: float
    users: int
    of: list[str]

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def update_intervals(store: Store, data: str, ours: str, peers: Iterable[str]) -> list[Interval]:
    """Intervals of the arm `ours` against every other arm of a data set, written to its `intervals.json`.

    An interval that is there already and was made from the ranks of today's records stays, with or without
    the ranks at hand; one whose records are gone or were made again goes.

    Args:
        peers: arms whose seeds have nothing to do with those of `ours`.
    """
    arms: dict[str, dict[int, Record]] = {}
    for record in store.records(data):
        if record.kind != "cold" and record.ranks:
            arms.setdefault(record.arm, {})[record.seed] = record
    kept = {(i.theirs, i.metric, *i.of): i for i in read_intervals(store, data) if i.ours == ours}
    found: list[Interval] = []
    apart = set(peers)
    for theirs in [arm for arm in arms if arm != ours] if ours in arms else []:
        left, right = arms[ours], arms[theirs]
        if theirs not in apart:
            common = left.keys() & right.keys()
            left, right = ({s: arm[s] for s in sorted(common)} for arm in (left, right))
        if left and right:
            found += _intervals(store, left, right, kept)
    file = store.results / data / INTERVALS
    if found:
        write_json(file, [interval.model_dump() for interval in found])
    else:
        file.unlink(missing_ok=True)
    return found


def read_intervals(store: Store, data: str) -> list[Interval]:
    """What `update_intervals` wrote; empty when it has not."""
    file = store.results / data / INTERVALS
    if not file.exists():
        return []
    return [Interval.model_validate(entry) for entry in json.loads(file.read_text(encoding="utf-8"))]


def _intervals(
    store: Store,
    left: dict[int, Record],
    right: dict[int, Record],
    kept: dict[tuple[str, ...], Interval],
) -> list[Interval]:
    first, second = next(iter(left.values())), next(iter(right.values()))
    of = [record.ranks for record in (*left.values(), *right.values())]
    names = ("ndcg@10", "hr@10")
    known = [kept.get((second.arm, name, *of)) for name in names]
    if all(known):
        return [interval for interval in known if interval is not None]
    ours, theirs = _ranks(store, left), _ranks(store, right)
    if ours is None or theirs is None or ours.shape[1] != theirs.shape[1]:
        return []
    found = []
    for name in names:
        a, b = (_gains(ranks, name).mean(axis=0) for ranks in (ours, theirs))
        paired = paired_bootstrap(a, b, samples=SAMPLES)
        found.append(
            Interval(
                ours=first.arm,
                theirs=second.arm,
                metric=name,
                seeds=(list(left), list(right)),
                base=float(b.mean()),
                mean=paired.mean,
                low=paired.low,
                high=paired.high,
                users=paired.users,
                of=of,
            )
        )
    return found


def _ranks(store: Store, runs: dict[int, Record]) -> NDArray[np.int32] | None:
    """int32 [seeds, users]; None when some are not here."""
    found = [store.ranks(record) for record in runs.values()]
    there = [ranks for ranks in found if ranks is not None]
    whole = len(there) == len(found) and len({len(ranks) for ranks in there}) == 1
    return np.stack(there) if whole else None


def _gains(ranks: NDArray[np.int32], metric: str) -> NDArray[np.float64]:
    return ndcg_gains(ranks, K) if metric == "ndcg@10" else (ranks <= K).astype(np.float64)
