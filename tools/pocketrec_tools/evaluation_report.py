"""What `evaluate` found: the figures, how they were made, and what a reader has to know besides them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketrec.output import human_bytes
from pocketrec_export.data_report import DataReport
from pocketrec_export.metrics import Metrics
from pocketrec_export.split import Part
from pocketrec_tools.overlap import Overlap


@dataclass(frozen=True)
class EvaluationReport:
    """What `evaluate` found.

    Attributes:
        bundle, bundle_id, name, precision, bundle_bytes: which artifact, and the size of all its files.
        data: what was read, with the warnings met.
        engine, engine_version: what ran the graph.
        split, seed: which targets; the seed draws users when not all are asked.
        users, users_available: how many were evaluated, and how many have a target.
        items: candidates, the whole catalogue of the bundle.
        metrics, popularity: of the bundle, and of items in the order of their training events; same users.
        ms_per_list: median milliseconds of `Recommender.rank` for ten items, over at most 200 of the users.
        seconds: of the whole evaluation.
        unknown_items, items_without_data: items of the data that the catalogue lacks, and the reverse.
        unknown_targets: users whose target the catalogue lacks; each is a miss.
        repeated_targets: users whose target is in their history, so that filtering makes it a miss.
        skipped_events: events of the histories whose item the catalogue lacks.
        fallback_users: users without one known event, who were answered by the popularity prior.
        overlap: agreement with another engine, when one was named.
        ranks: int64 [users], rank of each user's target from 1; items + 1 for an unknown or repeated target.
    """

    bundle: str
    bundle_id: str
    name: str
    precision: str
    bundle_bytes: int
    data: DataReport
    engine: str
    engine_version: str
    split: Part
    seed: int
    users: int
    users_available: int
    items: int
    metrics: Metrics
    popularity: Metrics
    ms_per_list: float
    seconds: float
    unknown_items: int
    items_without_data: int
    unknown_targets: int
    repeated_targets: int
    skipped_events: int
    fallback_users: int
    overlap: Overlap | None
    ranks: NDArray[np.int64] = field(repr=False, compare=False)

    @property
    def protocol(self) -> str:
        """How the figures were made, in a sentence."""
        which = "last event" if self.split == "test" else "last event but one"
        whom = (
            "every user"
            if self.users == self.users_available
            else f"{self.users} users drawn by seed {self.seed}"
        )
        return (
            f"leave-one-out, target: the {which} of {whom}; all {self.items} items of the catalogue are "
            f"candidates, none sampled; items of the history filtered; ties count against the target; "
            f"the {self.precision} bundle run by {self.engine} {self.engine_version}"
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON; docs/evaluation.md describes the keys."""
        figures = self.metrics.to_dict()
        floor = self.popularity.to_dict()
        del floor["users"]
        return {
            **figures,
            "items": self.items,
            "popularity": floor,
            "engine": self.engine,
            "engine_version": self.engine_version,
            "precision": self.precision,
            "bundle_bytes": self.bundle_bytes,
            "bundle": self.bundle,
            "bundle_id": self.bundle_id,
            "name": self.name,
            "data": self.data.path,
            "data_warnings": [str(warning) for warning in self.data.warnings],
            "protocol": self.protocol,
            "split": self.split,
            "seed": self.seed,
            "users_available": self.users_available,
            "unknown_items": self.unknown_items,
            "items_without_data": self.items_without_data,
            "unknown_targets": self.unknown_targets,
            "repeated_targets": self.repeated_targets,
            "skipped_events": self.skipped_events,
            "fallback_users": self.fallback_users,
            "ms_per_list": self.ms_per_list,
            "seconds": self.seconds,
            **(self.overlap.to_dict() if self.overlap else {}),
        }


def remarks(report: EvaluationReport) -> Iterator[str]:
    """What a reader of the table has to know besides it."""
    yield f"{report.protocol}."
    yield (
        f"{human_bytes(report.bundle_bytes)} in all; {report.ms_per_list:.2f} ms a ranked list; "
        f"{report.seconds:.0f} s in all."
    )
    if report.overlap is not None:
        shared = report.overlap
        yield (
            f"{shared.names[0]} and {shared.names[1]} share {shared.mean:.2%} of the ten best over "
            f"{shared.users} users; {shared.same_lists:.1%} of the lists are the same in order, too."
        )
    counted = [
        (report.unknown_targets, "targets are not in the catalogue and count as misses"),
        (report.repeated_targets, "targets were in the history, are filtered, and count as misses"),
        (report.skipped_events, "events of histories were skipped, as the catalogue lacks their items"),
        (report.fallback_users, "users have no known event and were answered by the popularity prior"),
        (report.unknown_items, "items of the data are not in the catalogue"),
        (report.items_without_data, "items of the catalogue do not occur in the data"),
    ]
    yield from (f"{count} {what}." for count, what in counted if count)
