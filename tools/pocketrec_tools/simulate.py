"""`pocketrec simulate`: real histories replayed, each user a phone with the real runtime on it.

    report = simulate("bundle/", "data/", "runs/replay")       # every user, every event, ranked before it
    report.document["final"]["ndcg@10"]                        # as `evaluate` has it, to the last digit

A run that was killed goes on where it was when the same is asked for again, and its report is the one that an
undisturbed run writes. docs/simulate.md describes options, figures and files.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pocketrec_export.progress import Progress
from pocketrec_tools.machine import machine
from pocketrec_tools.simulate_devices import DEVICES, Device, macs
from pocketrec_tools.simulate_phone import K
from pocketrec_tools.simulate_plots import draw_plots
from pocketrec_tools.simulate_report import write_reports
from pocketrec_tools.simulate_run import Run, set_up, write_atomically
from pocketrec_tools.simulate_settings import Arm, Conditions, Settings
from pocketrec_tools.simulate_summary import RARE, Steps
from pocketrec_tools.simulate_work import work


@dataclass(frozen=True)
class SimulationReport:
    """What a run found.

    Attributes:
        out: the folder of the run.
        bundle, data: what was replayed, as it was named.
        document: report.json: equal for equal settings, data and bundles.
        timing: timing.json: what was measured, seconds and bytes.
    """

    out: Path
    bundle: str
    data: str
    document: dict[str, Any]
    timing: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """For `--json`: the document, the timing, and `final` with every key of `evaluate --json`."""
        final = self.document["final"]
        if final is not None:
            seconds = {
                "ms_per_list": self.timing["arms"][0]["list_ms"]["median"],
                "seconds": self.timing["seconds"],
            }
            final = {**final, **seconds, "bundle": self.bundle, "data": self.data}
        return {**self.document, "final": final, "timing": self.timing, "out": str(self.out)}


def simulate(
    bundle: str | Path,
    data_dir: str | Path,
    out: str | Path,
    *,
    against: Sequence[str | Path] = (),
    conditions: Conditions | None = None,
    plain: bool = False,
    settings: Settings | None = None,
    devices: Sequence[Device] = DEVICES,
    processes: int | None = None,
    plots: bool = True,
    progress: bool = True,
) -> SimulationReport:
    """Replay the users of a data directory and write a report.

    Args:
        out: the folder of the run, made when absent; one that holds a part of the same run is completed.
        against: further bundles, replayed beside the first one over the same events, under the same policies
            and limits (without its update).
        conditions: policies, update and limits of the phones.
        plain: replay the first bundle once more without any of them.
        settings: what all arms share.
        devices: profiles for the model of latency.
        processes: how many at once; None: one a core.
        plots: draw them; without, a report of tables is written sooner.
        progress: show how far it is, on standard error.

    Raises:
        BundleError, DataError, PocketrecError: a bundle, the data or an argument cannot be used, or the
            folder holds something else.
    """
    began = time.monotonic()
    conditions = conditions or Conditions()
    arms = arms_of(Path(bundle), [Path(path) for path in against], conditions, plain)
    run = set_up(Path(out), Path(data_dir), arms, settings or Settings())
    _replay(run, processes or _cores(), progress)
    timing = _timing(run, time.monotonic() - began)
    document = summarise(run, devices)
    drawn = draw_plots(document, run.out / "plots") if plots else []
    write_reports(run.out, document, drawn)
    timing["seconds"] = time.monotonic() - began
    write_atomically(run.out / "timing.json", json.dumps(timing, indent=1) + "\n")
    return SimulationReport(run.out, str(bundle), str(data_dir), document, timing)


def arms_of(bundle: Path, against: Sequence[Path], conditions: Conditions, plain: bool) -> list[Arm]:
    """The arms of a run, with names that tell them apart."""
    arms = [Arm(name="A", bundle=bundle, conditions=conditions)]
    others = conditions.model_copy(update={"update": None, "update_at": None})
    for letter, path in zip("BCDEFGHIJKLMNOPQRSTUVWXYZ", against, strict=False):
        arms.append(Arm(name=letter, bundle=path, conditions=others))
    if plain:
        arms.append(Arm(name="A, plain", bundle=bundle))
    return arms


def summarise(run: Run, devices: Sequence[Device] = DEVICES) -> dict[str, Any]:
    """The document of a run whose chunks are all done; also writes its steps.parquet."""
    steps = Steps(run)
    target = run.out / "steps.parquet"
    partial = target.with_name(".steps.parquet.part")
    steps.table.write_parquet(partial)
    os.replace(partial, target)
    arms = []
    for number, arm in enumerate(run.arms):
        facts = run.bundles[number]
        modelled = [
            {"device": d.name, "ms": d.milliseconds(facts), **d.model_dump(exclude={"name"})} for d in devices
        ]
        arms.append(
            {
                "name": arm.name,
                "bundle": {key: facts[key] for key in sorted(facts) if key not in ("backbone",)},
                "conditions": arm.conditions.key(),
                "macs": macs(facts),
                "modelled_latency": modelled,
                "all": steps.figures(steps.of_arm(number), number),
                "slices": steps.slices(number),
                "over_time": steps.over_time(number),
            }
        )
    final = steps.final(0.0, 0.0)
    if final is not None:
        del final["ms_per_list"], final["seconds"]
        final["bundle"], final["data"] = run.arms[0].bundle.name, run.data.name
    return {
        "settings": run.settings.model_dump(mode="json"),
        "data": {
            "name": run.data.name,
            "events": run.held_out.dataset.num_events,
            "timed": run.held_out.dataset.timed,
        },
        "users": len(run.held_out.users),
        "lists": len(steps.table),
        "k": K,
        "rare": RARE,
        "final": final,
        "arms": arms,
        "differences": [row for arm in range(1, len(run.arms)) for row in steps.differences(arm)],
    }


def _replay(run: Run, processes: int, progress: bool) -> None:
    chunks = run.chunks
    total = sum(chunk.events for chunk in chunks) * len(run.arms)
    done = sum(c.events for c in chunks if run.job.steps_file(c.number).exists()) * len(run.arms)
    if not progress:
        work(run.job, chunks, processes, lambda events: None)
        return
    with Progress(
        f"replaying {len(run.held_out.users)} users with {run.settings.engine}", total, done
    ) as bar:
        work(run.job, chunks, processes, lambda events: bar.advance(events * len(run.arms)))


def _timing(run: Run, seconds: float) -> dict[str, Any]:
    """What was measured: of lists and records, on this machine, with this many processes at once."""
    table = pl.concat([pl.read_parquet(run.job.times_file(chunk.number)) for chunk in run.chunks])
    arms = []
    for number, arm in enumerate(run.arms):
        own = table.filter(pl.col("arm") == number)
        sizes = own["history_bytes"].drop_nulls()
        arms.append(
            {
                "name": arm.name,
                "list_ms": _spread(own["list_us"].to_numpy() / 1e3),
                "record_ms": _spread(own["record_us"].to_numpy() / 1e3),
                "history_bytes": _spread(sizes.to_numpy()) if len(sizes) else None,
                "bundle_bytes": run.bundles[number]["bundle_bytes"],
            }
        )
    busy = (float(table["list_us"].sum()) + float(table["record_us"].sum())) / 1e6
    return {
        "arms": arms,
        "process_memory_bytes": int(table["memory"].max() or 0),  # type: ignore[arg-type]
        "runtime_seconds": busy,
        "replay_seconds": seconds,
        "machine": machine(),
    }


def _spread(values: np.ndarray) -> dict[str, float]:
    names = {"median": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    if not len(values):
        return dict.fromkeys(names, 0.0)
    return {name: float(np.quantile(values, q)) for name, q in names.items()}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
