"""From the steps of a run to its figures: over all lists, by slice, over time, and between arms.

Equal steps give equal figures. What was measured in seconds and bytes is not among them.
"""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pocketrec.bundle import Bundle
from pocketrec_export.metrics import Difference, Metrics, ndcg_gains, paired_bootstrap, popularity_ranks
from pocketrec_tools.evaluation_report import EvaluationReport
from pocketrec_tools.machine import engine_version
from pocketrec_tools.simulate_lists import gini, head
from pocketrec_tools.simulate_phone import K
from pocketrec_tools.simulate_run import Run

BINS = 24
"""At most so many points over time."""

DEPTHS = ((0, 0, "nothing"), (1, 1, "1 event"), (2, 4, "2–4"), (5, 9, "5–9"), (10, 19, "10–19"),
          (20, 49, "20–49"), (50, 1 << 30, "50 and more"))  # fmt: skip
SESSION_POSITIONS = 10
PARTS = ("training", "validation", "test")
TARGETS = ("popular", "middling", "rare", "cold")
RARE = 5
"""A rare item has at most so many training events, a cold one none; popular is the tenth with the most."""


class Steps:
    """The steps of a run, with what slices need beside them.

    Args:
        run: set up, and all its chunks done.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        files = [run.job.steps_file(chunk.number) for chunk in run.chunks]
        self.table = pl.concat([pl.read_parquet(file) for file in files]).sort("arm", "user", "step")
        split = run.held_out.split
        ends = np.asarray(split.train_ends - split.dataset.offsets[:-1], dtype=np.int64)
        lengths = np.diff(split.dataset.offsets)
        table, users, step = self.table, self.table["user"].to_numpy(), self.table["step"].to_numpy()
        held = np.where(step == lengths[users] - 1, 2, np.where(step >= ends[users], 1, 0))
        rank = table["rank"].to_numpy().astype(np.int64)
        hit = rank > 0
        self.table = table.with_columns(
            pl.Series("hit", hit.astype(np.float64)),
            pl.Series("ndcg", ndcg_gains(np.where(hit, rank, K + 1), K)),
            pl.Series("mrr", np.where(hit, 1.0 / np.maximum(rank, 1), 0.0)),
            pl.Series("part", np.array(PARTS)[held]),
            pl.Series("target", np.array(TARGETS)[self._target_groups()]),
            pl.Series("session_position", self._session_positions()),
            pl.Series("kept", self._kept()),
        )

    def figures(self, table: pl.DataFrame, arm: int) -> dict[str, Any]:
        """The figures of some lists of an arm; None where there is nothing to average."""
        means = table.select(
            pl.col("hit", "ndcg", "mrr", "popular", "novelty", "diversity", "calibration").mean(),
            pl.col("repeat", "fallback").cast(pl.Float64).mean(),
            pl.col("kept").mean(),
        ).row(0, named=True)
        shown = table["list"].explode(empty_as_null=False, keep_nulls=False) if len(table) else None
        counts = (
            np.bincount(shown.to_numpy(), minlength=1) if shown is not None and len(shown) else np.zeros(1)
        )
        exposed = int(np.count_nonzero(counts))
        items = self.run.catalogues[arm]
        spread = np.concatenate([counts[counts > 0], np.zeros(max(0, items - exposed))])
        return {
            "lists": len(table),
            "users": table["user"].n_unique(),
            f"hr@{K}": means["hit"],
            f"ndcg@{K}": means["ndcg"],
            f"mrr@{K}": means["mrr"],
            "coverage": exposed / items,
            "gini": gini(spread),
            "popular_share": means["popular"],
            "novelty_bits": means["novelty"],
            "diversity": means["diversity"],
            "calibration_kl": means["calibration"],
            "repeat_share": means["repeat"],
            "fallback_share": means["fallback"],
            "kept_share": means["kept"],
        }

    def of_arm(self, arm: int) -> pl.DataFrame:
        """The steps of one arm."""
        return self.table.filter(pl.col("arm") == arm)

    def slices(self, arm: int) -> dict[str, list[dict[str, Any]]]:
        """Figures by slice, each a list of rows that begin with the value of the slice."""
        table = self.of_arm(arm)
        made: dict[str, list[dict[str, Any]]] = {}

        def row(name: str, value: str | int, part: pl.DataFrame) -> None:
            if len(part):
                made.setdefault(name, []).append({"value": value, **self.figures(part, arm)})

        for part in PARTS:
            row("part", part, table.filter(pl.col("part") == part))
        for low, high, name in DEPTHS:
            row("history", name, table.filter(pl.col("step").is_between(low, high)))
        for value in TARGETS:
            row("target", value, table.filter(pl.col("target") == value))
        for position in range(1, SESSION_POSITIONS + 1):
            row("session_position", position, table.filter(pl.col("session_position") == position))
        kinds = table["event"].unique().sort().to_list()
        for kind in kinds if 1 < len(kinds) <= 12 else []:
            row("event", kind or "(none)", table.filter(pl.col("event") == kind))
        row("repeat", "new to the person", table.filter(~pl.col("repeat")))
        row("repeat", "met before", table.filter(pl.col("repeat")))
        for version in (0, 1) if self.run.arms[arm].conditions.update else ():
            name = ("before the update", "after the update")[version]
            row("update", name, table.filter(pl.col("version") == version))
        return made

    def over_time(self, arm: int) -> list[dict[str, Any]]:
        """Figures of equal stretches of time; empty where the data has no times.

        They go from the 0.5 % to the 99.5 % quantile; what lies outside is in the first and the last.
        """
        times = self.table["time"].to_numpy()
        if not self.run.held_out.dataset.timed or not len(times):
            return []
        # A few wrong clocks must not squeeze everybody else into one point.
        low, high = (int(value) for value in np.quantile(times, (0.005, 0.995), method="nearest"))
        high += 1
        bins = min(BINS, high - low)
        table = self.of_arm(arm)
        place = np.clip((table["time"].to_numpy() - low) * bins // (high - low), 0, bins - 1)
        rows = []
        for number in range(bins):
            part = table.filter(pl.Series(place == number))
            if len(part):
                begins = low + number * (high - low) // bins
                when = datetime.datetime.fromtimestamp(begins, datetime.UTC).strftime("%Y-%m-%d %H:%M")
                rows.append({"value": when, "from": begins, **self.figures(part, arm)})
        return rows

    def differences(self, arm: int) -> list[dict[str, Any]]:
        """The first arm minus this one, paired by user: at the last event, and over all held-out lists where
        these are more."""
        rows = []
        parts_of = {"last events": ["test"]}
        if (self.of_arm(arm)["part"] == "validation").any():
            parts_of["held-out events"] = ["validation", "test"]
        for over, parts in parts_of.items():
            means = []
            for number in (0, arm):
                held = self.of_arm(number).filter(pl.col("part").is_in(parts))
                means.append(
                    held.group_by("user").agg(pl.col("hit", "ndcg", "diversity").mean()).sort("user")
                )
            for metric, column in ((f"ndcg@{K}", "ndcg"), (f"hr@{K}", "hit"), ("diversity", "diversity")):
                ours, theirs = (mean[column].fill_null(0.0).to_numpy() for mean in means)
                if len(ours):
                    found = paired_bootstrap(ours, theirs, seed=self.run.settings.seed)
                    rows.append(_difference(self.run, arm, over, metric, theirs, found))
        return rows

    def final(self, ms_per_list: float, seconds: float) -> dict[str, Any] | None:
        """What `evaluate --json` says, of the first arm's last events; None when none was replayed.

        Without policies, update, limits and window the figures are exactly those of `evaluate`.
        """
        run, held_out = self.run, self.run.held_out
        last = self.of_arm(0).filter(pl.col("part") == "test")
        ranks = last["rank"].to_numpy().astype(np.int64)
        ranks = np.where(ranks > 0, ranks, run.catalogues[0] + 1)
        if not len(ranks):
            return None
        facts = run.bundles[0]
        asked = np.isin(held_out.split.users_for("test"), last["user"].to_numpy(), assume_unique=True)
        engine = str(run.settings.engine)
        report = EvaluationReport(
            bundle=str(run.arms[0].bundle),
            bundle_id=facts["bundle_id"],
            name=facts["name"],
            precision=facts["precision"],
            bundle_bytes=facts["bundle_bytes"],
            data=held_out.dataset.report,
            engine=engine,
            engine_version=engine_version(engine),
            split="test",
            seed=run.settings.seed,
            users=len(ranks),
            users_available=held_out.available,
            items=run.catalogues[0],
            metrics=Metrics.from_ranks(ranks, K),
            popularity=Metrics.from_ranks(popularity_ranks(held_out.split, "test")[asked], K),
            ms_per_list=ms_per_list,
            seconds=seconds,
            unknown_items=held_out.unknown_items,
            items_without_data=held_out.items_without_data,
            unknown_targets=int((~last["known"]).sum()),
            repeated_targets=int((last["repeat"] & last["known"]).sum()),
            skipped_events=int(last["skipped"].sum()),
            fallback_users=int(last["fallback"].sum()),
            overlap=None,
            ranks=ranks,
        )
        return report.to_dict()

    def _target_groups(self) -> NDArray[np.int64]:
        """int64 [steps], indices into TARGETS, by the training events that the first bundle counts."""
        with Bundle.open(self.run.arms[0].bundle) as bundle:
            seen = np.array(bundle.catalogue.seen, dtype=np.int64)
        group = np.where(
            seen == 0, 3, np.where(head(seen.astype(np.float64)), 0, np.where(seen > RARE, 1, 2))
        )
        # An item that the first bundle lacks is cold.
        every = np.concatenate([group, np.full(len(self.run.item_ids) - len(group), 3)])
        return every[self.table["item"].to_numpy()]

    def _session_positions(self) -> NDArray[np.int32]:
        """Which event of its session each is, from 1; 0 where the data has no times."""
        arm, user, time = (self.table[name].to_numpy() for name in ("arm", "user", "time"))
        if not self.run.held_out.dataset.timed or not len(time):
            return np.zeros(len(time), np.int32)
        pause = self.run.settings.session_minutes * 60
        begins = np.ones(len(time), dtype=bool)
        begins[1:] = (arm[1:] != arm[:-1]) | (user[1:] != user[:-1]) | (time[1:] - time[:-1] > pause)
        starts = np.flatnonzero(begins)
        place = np.arange(len(time)) - np.repeat(starts, np.diff(np.append(starts, len(time))))
        return (place + 1).astype(np.int32)

    def _kept(self) -> list[float | None]:
        """The share of each list that the person's list before it had shown, too; None for the first one."""
        arm, user = self.table["arm"].to_list(), self.table["user"].to_list()
        kept: list[float | None] = []
        before: set[int] = set()
        for place, shown in enumerate(self.table["list"].to_list()):
            first = place == 0 or (arm[place], user[place]) != (arm[place - 1], user[place - 1])
            kept.append(None if first or not shown else len(before.intersection(shown)) / len(shown))
            before = set(shown)
        return kept


def _difference(
    run: Run, arm: int, over: str, metric: str, theirs: NDArray[np.float64], found: Difference
) -> dict[str, Any]:
    return {
        "ours": run.arms[0].name,
        "theirs": run.arms[arm].name,
        "over": over,
        "metric": metric,
        "base": float(theirs.mean()),
        "mean": found.mean,
        "low": found.low,
        "high": found.high,
        "confidence": found.confidence,
        "decided": found.decided,
        "users": found.users,
    }
