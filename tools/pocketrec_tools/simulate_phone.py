"""One person's phone, replayed: its own history and clock, the real runtime, a list before every event.

Nothing here imitates the runtime: events go through `Recommender.record` into a `History`, lists come from
`Recommender.recommend` over what is stored. Only the clock is replaced, by the time of the person's events.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketrec.history import History
from pocketrec.ranking import Ranking
from pocketrec.recommender import Recommender
from pocketrec_tools.simulate_policies import POOL, Shelf, explore, rerank
from pocketrec_tools.simulate_settings import DAY, Conditions, Policies

K = 10
"""HR, NDCG and MRR are of the first ten, whatever length is shown; 0 stands for a rank beyond."""


@dataclass(frozen=True)
class Person:
    """Whose phone it is.

    Attributes:
        row: the user's row in the data.
        item_ids, types, times: the events, oldest first.
        places: int [events], the items in the run's list of items.
        opted_out: whether this person lets nothing be recorded, where an arm has such people.
    """

    row: int
    item_ids: list[str]
    types: list[str]
    times: list[int]
    places: list[int]
    opted_out: bool = False


@dataclass(frozen=True)
class Software:
    """What is installed: an open bundle, its filters, and where its items are in the run's list of items."""

    recommender: Recommender
    shelf: Shelf
    places: NDArray[np.int32]


@dataclass(frozen=True)
class Step:
    """One list, and the event that followed it.

    Attributes:
        index: which event of the person it is, from 0.
        rank: of the item of the event in the list, from 1; 0 beyond the first ten.
        shown: catalogue positions of the list.
        known: whether the catalogue has the item of the event.
        fallback, skipped: as in `Ranking`.
        stored: events on the phone when the list was made.
        version: 0, or 1 after the update.
        list_seconds, record_seconds: measured.
    """

    index: int
    rank: int
    shown: list[int]
    known: bool
    fallback: bool
    skipped: int
    stored: int
    version: int
    list_seconds: float
    record_seconds: float


class Phone:
    """A phone with a history of its own, over software that many phones share.

    Args:
        software: one bundle, or two when there is an update.
        file: where the history is; ":memory:" keeps it in memory.
    """

    def __init__(
        self, software: list[Software], conditions: Conditions, k: int, file: str | Path = ":memory:"
    ) -> None:
        self.now = 0
        self._software, self._conditions, self._k = software, conditions, k
        days = conditions.keep_days
        self.history = History(
            file,
            max_events=conditions.keep_events,
            max_age_seconds=None if days is None else max(1, round(days * DAY)),
            clock=lambda: self.now,
        )
        self._version = 0
        self._runtime = software[0].recommender.for_history(self.history)

    def replay(self, person: Person, first: int, last: int, rng: np.random.Generator) -> Iterator[Step]:
        """A step for each of the events `first` to `last` (excluded); those before are history."""
        if first:
            self.now = person.times[first - 1]
            earlier = zip(person.item_ids[:first], person.types[:first], person.times[:first], strict=True)
            self.history.record_many(earlier)
        stored = len(self.history)
        for index in range(first, last):
            self.now = person.times[index]
            self._update()
            began = time.perf_counter()
            ranking = self._list()
            shown = self._policed(ranking, person, index, rng)
            made = time.perf_counter()
            target = self._software[self._version].recommender.bundle.catalogue.positions(
                [person.item_ids[index]]
            )[0]
            rank = self._rank(ranking, shown, int(target))
            before = time.perf_counter()
            recorded = self._runtime.record(person.item_ids[index], person.types[index], self.now)
            yield Step(
                index=index,
                rank=rank,
                shown=shown[: self._k],
                known=bool(target >= 0),
                fallback=ranking.fallback,
                skipped=ranking.skipped,
                stored=stored,
                version=self._version,
                list_seconds=made - began,
                record_seconds=time.perf_counter() - before,
            )
            if recorded is not None:
                stored += 1
                if stored > self._conditions.keep_events or self._conditions.keep_days is not None:
                    stored = len(self.history)

    def close(self) -> None:
        """Close the history."""
        self._runtime.close()

    @property
    def _policies(self) -> Policies:
        return self._conditions.policies

    def _update(self) -> None:
        """Install the second bundle when its time has come; the history stays the one it was."""
        at = self._conditions.update_at
        if at is not None and self._version == 0 and self.now >= at:
            self._version = 1
            self._runtime = self._software[1].recommender.for_history(self.history)

    def _list(self) -> Ranking:
        software = self._software[self._version]
        # One more than is looked at: an item that scores as much as the last one may count against it.
        k = max(self._k, K) + 1 if self._policies.mmr is None else POOL * self._k
        return self._runtime.recommend(
            k, candidates=software.shelf.candidates, exclude=software.shelf.exclude
        )

    def _policed(self, ranking: Ranking, person: Person, index: int, rng: np.random.Generator) -> list[int]:
        """Catalogue positions of what is shown, in order; without policies one or more beyond it, too."""
        positions = [item.position for item in ranking]
        policies, software = self._policies, self._software[self._version]
        if policies.mmr is not None and positions:
            rows = software.recommender.bundle.tables["items"].rows(np.array(positions))
            scores = np.array([item.score for item in ranking])
            chosen = rerank(scores, rows, self._k, policies.mmr)
            positions = [positions[place] for place in chosen.tolist()]
        if policies.explore:
            catalogue = software.recommender.bundle.catalogue
            seen = set(catalogue.positions(person.item_ids[:index]).tolist())
            positions = explore(positions[: self._k], policies.explore, software.shelf.allowed, seen, rng)
        return positions

    def _rank(self, ranking: Ranking, shown: list[int], target: int) -> int:
        """Rank of the target from 1, 0 beyond the first ten.

        Without policies ties count against the target, as in `evaluate`: in a list that is longer than ten,
        everything that scores at least as much as a target with a rank up to ten is in view.
        """
        if target < 0 or target not in shown:
            return 0
        if self._policies.mmr is not None or self._policies.explore:
            rank = shown.index(target) + 1
        else:
            score = ranking[shown.index(target)].score
            rank = sum(item.score >= score for item in ranking)
        return rank if rank <= K else 0
