"""A run of the simulator: its folder, what it depends on, and its events, ready to be replayed.

RUN/run.json         what the run depends on; another run is not let into the folder
RUN/chunks/          one pair of files for each fifty people, written whole; what a killed run goes on from
RUN/items.parquet    place -> item id: what `item` and `list` of the steps mean
RUN/users.parquet    row -> user id: what `user` of the steps means
RUN/steps.parquet    one row a list; equal for equal settings
RUN/report.{json,md,html}, RUN/plots/    equal for equal settings, too
RUN/timing.json      what was measured: differs from run to run
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import pocketrec
from pocketrec.bundle import Bundle
from pocketrec.errors import DataError
from pocketrec.recommender import Recommender
from pocketrec_tools.held_out import HeldOut
from pocketrec_tools.machine import engine_version
from pocketrec_tools.simulate_phone import Person
from pocketrec_tools.simulate_settings import Arm, Settings
from pocketrec_tools.simulate_work import PEOPLE, Chunk, Job, bundles_of

RUN_FILE = "run.json"
FORMAT = 1


@dataclass(frozen=True, eq=False)
class Run:
    """A run that is set up; make it with `set_up`.

    Attributes:
        out: its folder.
        data: the data directory.
        settings, arms: what is asked for.
        held_out: the data, split; its users are those replayed.
        job: what the workers know.
        item_ids: the run's list of items: the first bundle's catalogue, then what others add, then the rest
            of the data.
        catalogues: items in each arm's catalogue, its own and the update's together.
        bundles: manifest facts of each arm's bundles, and bytes of all files of the first of them.
    """

    out: Path
    data: Path
    settings: Settings
    arms: Sequence[Arm]
    held_out: HeldOut
    job: Job
    item_ids: list[str]
    catalogues: list[int]
    bundles: list[dict[str, Any]]

    @cached_property
    def chunks(self) -> list[Chunk]:
        """Everybody's events, in chunks."""
        data, opted = self.held_out.dataset, self._opted_out
        places = np.array(self._places_of_data, dtype=np.int32)
        users = self.held_out.users.tolist()
        made = []
        for number, first in enumerate(range(0, len(users), PEOPLE)):
            people, windows = [], []
            for user in users[first : first + PEOPLE]:
                own = data.user_slice(user)
                items, times = data.items[own], data.timestamps[own].tolist()
                person = Person(
                    row=user,
                    item_ids=[data.item_ids[item] for item in items.tolist()],
                    types=[data.events[kind] for kind in data.event_ids[own].tolist()],
                    times=times,
                    places=places[items].tolist(),
                    opted_out=user in opted,
                )
                inside = [index for index, time in enumerate(times) if self.settings.inside(time)]
                inside = inside[-self.settings.last :] if self.settings.last else inside
                people.append(person)
                windows.append((inside[0], inside[-1] + 1) if inside else (0, 0))
            made.append(Chunk(number, people, windows))
        return made

    @cached_property
    def _opted_out(self) -> set[int]:
        share = max(arm.conditions.opt_outs for arm in self.arms)
        rng = np.random.default_rng([self.settings.seed, 0x0F])
        users = self.held_out.users
        return set(rng.choice(users, round(share * len(users)), replace=False).tolist())

    @cached_property
    def _places_of_data(self) -> list[int]:
        where = {item_id: place for place, item_id in enumerate(self.item_ids)}
        return [where[item_id] for item_id in self.held_out.dataset.item_ids]


def set_up(out: Path, data: Path, arms: Sequence[Arm], settings: Settings) -> Run:
    """Check everything, claim the folder, and note down what the run depends on.

    Raises:
        BundleError, DataError: a bundle or the data cannot be used; `run-exists`, the folder holds another
            run or something else; `argument-invalid`, no event is in the window.
    """
    settings = settings.model_copy(update={"engine": _engine(arms[0].bundle, settings.engine)})
    names = [arm.name for arm in arms]
    if len(set(names)) != len(names):
        raise DataError(
            f"two arms are called {names}.", code="argument-invalid", remedy="Give each a name of its own."
        )
    item_ids: list[str] = []
    where: dict[str, int] = {}
    places: dict[str, Any] = {}
    facts: dict[str, dict[str, Any]] = {}
    held_out: HeldOut | None = None
    for arm in arms:
        for path in bundles_of(arm):
            if str(path) in places:
                continue
            with Bundle.open(path) as bundle:
                if held_out is None:
                    held_out = HeldOut.load(data, bundle.catalogue, "test", settings.users, settings.seed)
                ids = [bundle.catalogue.item_id(position) for position in range(bundle.catalogue.n)]
                for item_id in ids:
                    if item_id not in where:
                        where[item_id] = len(item_ids)
                        item_ids.append(item_id)
                places[str(path)] = np.array([where[item_id] for item_id in ids], dtype=np.int32)
                facts[str(path)] = _facts(bundle)
    assert held_out is not None
    for item_id in held_out.dataset.item_ids:
        if item_id not in where:
            where[item_id] = len(item_ids)
            item_ids.append(item_id)
    if settings.start is not None or settings.end is not None:
        held_out = _in_window(held_out, settings)
    catalogues = [len(set().union(*(places[str(p)].tolist() for p in bundles_of(arm)))) for arm in arms]
    run = Run(
        out=out,
        data=data,
        settings=settings,
        arms=arms,
        held_out=held_out,
        job=Job(settings, arms, places, out / "chunks"),
        item_ids=item_ids,
        catalogues=catalogues,
        bundles=[facts[str(arm.bundle)] for arm in arms],
    )
    _claim(run, [[facts[str(path)]["bundle_id"] for path in bundles_of(arm)] for arm in arms])
    return run


def read_run(out: Path) -> dict[str, Any]:
    """What `run.json` of a run's folder says.

    Raises:
        DataError: `run-missing`.
    """
    try:
        found = json.loads((out / RUN_FILE).read_text(encoding="utf-8"))
        return {name: found[name] for name in ("key", "data", "arms", "settings")}
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(
            f"{out} holds no run of the simulator.",
            code="run-missing",
            remedy="Give the folder that `pocketrec simulate … --out RUN` wrote.",
        ) from None


def write_atomically(file: Path, text: str) -> None:
    """Write a file that is whole or absent."""
    partial = file.with_name(f".{file.name}.part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, file)


def _engine(bundle: Path, wanted: str | None) -> str:
    """The engine that is wanted, or the runtime's default: what a run depends on has to be named."""
    if wanted is not None:
        return wanted
    with Recommender.open(bundle) as recommender:
        return recommender.engine


def _facts(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    shape, graph = manifest.backbone, manifest.graph
    table = manifest.tables["items"]
    return {
        "name": manifest.name,
        "bundle_id": manifest.bundle_id,
        "model_version": manifest.model_version,
        "catalogue_version": manifest.catalogue_version,
        "precision": manifest.precision,
        "bundle_bytes": sum(bundle.sizes.values()),
        "items": bundle.catalogue.n,
        "length": graph.length,
        "dim": graph.dim,
        "backbone": shape.model_dump(),
        "table_bytes": bundle.sizes[table.file],
    }


def _in_window(held_out: HeldOut, settings: Settings) -> HeldOut:
    data = held_out.dataset
    if not data.timed:
        raise DataError(
            "the timestamps of the data are mere positions, so that there is no window of time.",
            code="argument-invalid",
            remedy="Leave --from and --to out.",
        )
    low = -np.inf if settings.start is None else settings.start
    high = np.inf if settings.end is None else settings.end
    hit = np.add.reduceat((data.timestamps >= low) & (data.timestamps < high), data.offsets[:-1])
    users = held_out.users[hit[held_out.users] > 0]
    if not len(users):
        raise DataError(
            "no event is in that window of time.",
            code="argument-invalid",
            remedy=f"The data has Unix seconds from {data.timestamps.min()} to {data.timestamps.max()}.",
        )
    return replace(held_out, users=users)


def _claim(run: Run, bundle_ids: list[list[str]]) -> None:
    """Note down what the run depends on, or find that this is the run that is there."""
    settings, out = run.settings, run.out
    key = {
        "format": FORMAT,
        "pocketrec": pocketrec.__version__,
        "engine": engine_version(str(settings.engine)),
        "data": run.held_out.dataset.fingerprint,
        "users": hashlib.sha256(run.held_out.users.astype("<i4").tobytes()).hexdigest(),
        "settings": settings.model_dump(mode="json"),
        "arms": [
            {"name": arm.name, "bundles": ids, **arm.conditions.key()}
            for arm, ids in zip(run.arms, bundle_ids, strict=True)
        ],
    }
    if (out / RUN_FILE).exists():
        if read_run(out)["key"] != json.loads(json.dumps(key)):
            raise DataError(
                f"{out} holds a run with other settings, data or bundles.",
                code="run-exists",
                remedy="Choose another folder with --out.",
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(
            f"{out} holds something that is not a run of the simulator.",
            code="run-exists",
            remedy="Choose another folder with --out.",
        )
    out.mkdir(parents=True, exist_ok=True)
    data = run.held_out.dataset
    _write_table(out / "items.parquet", {"item_id": run.item_ids})
    users = run.held_out.users
    _write_table(out / "users.parquet", {"row": users, "user_id": [data.user_ids[u] for u in users.tolist()]})
    arms = [arm.model_dump(mode="json") for arm in run.arms]
    for arm in arms:
        arm["bundle"] = str(Path(arm["bundle"]).resolve())
        if arm["conditions"]["update"]:
            arm["conditions"]["update"] = str(Path(arm["conditions"]["update"]).resolve())
    document = {
        "key": key,
        "data": str(run.data.resolve()),
        "arms": arms,
        "settings": settings.model_dump(mode="json"),
    }
    write_atomically(out / RUN_FILE, json.dumps(document, indent=1) + "\n")


def _write_table(file: Path, columns: dict[str, Any]) -> None:
    partial = file.with_name(f".{file.name}.part")
    pl.DataFrame(columns).write_parquet(partial)
    os.replace(partial, file)
