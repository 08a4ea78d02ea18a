"""The work of a simulation: people in chunks, chunks in processes, each chunk a file that is whole or absent.

A person's events, random numbers and results depend on nobody else. So results are the same in one process or
many, and a run that was killed goes on with the chunks that are not there yet.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pocketrec.recommender import Recommender
from pocketrec_tools.machine import peak_memory
from pocketrec_tools.processes import ONE_THREAD
from pocketrec_tools.simulate_lists import Calibration, Yardstick
from pocketrec_tools.simulate_phone import Person, Phone, Software
from pocketrec_tools.simulate_policies import Shelf
from pocketrec_tools.simulate_settings import Arm, Policies, Settings

PEOPLE = 50
"""People in a chunk."""

STEPS: dict[str, Any] = {
    "arm": pl.Int16,
    "user": pl.Int32,
    "step": pl.Int32,
    "time": pl.Int64,
    "event": pl.String,
    "item": pl.Int32,
    "rank": pl.Int16,
    "repeat": pl.Boolean,
    "known": pl.Boolean,
    "fallback": pl.Boolean,
    "skipped": pl.Int32,
    "stored": pl.Int32,
    "version": pl.Int8,
    "diversity": pl.Float64,
    "novelty": pl.Float64,
    "popular": pl.Float64,
    "calibration": pl.Float64,
    "list": pl.List(pl.Int32),
}
"""Columns of steps.parquet; docs/simulate.md describes them."""

TIMES: dict[str, Any] = {
    "arm": pl.Int16,
    "list_us": pl.Int32,
    "record_us": pl.Int32,
    "history_bytes": pl.Int64,
    "memory": pl.Int64,
}


@dataclass(frozen=True)
class Job:
    """What every process of a run knows.

    Attributes:
        settings, arms: of the run.
        places: by path of a bundle: int32 [its catalogue], places in the run's list of items.
        out: the folder of the chunks.
    """

    settings: Settings
    arms: Sequence[Arm]
    places: dict[str, NDArray[np.int32]]
    out: Path

    def steps_file(self, chunk: int) -> Path:
        """Where the steps of a chunk are when it is done."""
        return self.out / f"{chunk:06d}.steps.parquet"

    def times_file(self, chunk: int) -> Path:
        """What was measured; there before the steps are."""
        return self.out / f"{chunk:06d}.times.parquet"


@dataclass(frozen=True)
class Chunk:
    """Some people, and which of their events are replayed: [first, last)."""

    number: int
    people: list[Person]
    windows: list[tuple[int, int]]

    @property
    def events(self) -> int:
        """How many are replayed."""
        return sum(last - first for first, last in self.windows)


class Fleet:
    """The open bundles of a process, and what is installed on the phones of each arm; a context manager."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._open = ExitStack()
        opened: dict[str, Recommender] = {}
        try:
            self.software = [
                [self._software(path, arm.conditions.policies, opened) for path in bundles_of(arm)]
                for arm in job.arms
            ]
            first = self.software[0][0].recommender.bundle
            self.yardstick = Yardstick.of(first, job.settings.column)
        except BaseException:
            self.close()
            raise

    def _software(self, path: Path, policies: Policies, opened: dict[str, Recommender]) -> Software:
        name = str(path)
        if name not in opened:
            opened[name] = self._open.enter_context(Recommender.open(path, engine=self.job.settings.engine))
        return Software(opened[name], Shelf(opened[name].bundle, policies), self.job.places[name])

    def replay(self, chunk: Chunk) -> None:
        """Replay a chunk and write its two files, the steps last."""
        steps: dict[str, list[Any]] = {name: [] for name in STEPS}
        times: dict[str, list[Any]] = {name: [] for name in TIMES}
        with tempfile.TemporaryDirectory(dir=self.job.out, prefix=".phones-") as phones:
            for arm in range(len(self.job.arms)):
                for person, window in zip(chunk.people, chunk.windows, strict=True):
                    file = Path(phones) / f"{arm}-{person.row}.db" if self.job.settings.files else ":memory:"
                    self._replay(arm, person, window, file, steps, times)
        times["memory"] = [peak_memory()] * len(times["arm"])
        _write(self.job.times_file(chunk.number), pl.DataFrame(times, schema=TIMES))
        _write(self.job.steps_file(chunk.number), pl.DataFrame(steps, schema=STEPS))

    def _replay(
        self,
        arm: int,
        person: Person,
        window: tuple[int, int],
        file: str | Path,
        steps: dict[str, list[Any]],
        times: dict[str, list[Any]],
    ) -> None:
        settings, software = self.job.settings, self.software[arm]
        rng = np.random.default_rng([settings.seed, person.row])
        calibration = Calibration(self.yardstick.categories)
        for place in person.places[: window[0]]:
            calibration.add(place)
        met = set(person.places[: window[0]])
        conditions = self.job.arms[arm].conditions
        phone = Phone(software, conditions, settings.k, file)
        if person.opted_out and conditions.opt_outs:
            phone.history.set_recording(False)
        lists = []
        try:
            for step in phone.replay(person, *window, rng):
                place = person.places[step.index]
                shown = software[step.version].places[step.shown].tolist()
                lists.append(shown)
                row = {
                    "arm": arm, "user": person.row, "step": step.index, "time": person.times[step.index],
                    "event": person.types[step.index], "item": place, "rank": step.rank,
                    "repeat": place in met, "known": step.known, "fallback": step.fallback,
                    "skipped": step.skipped, "stored": step.stored, "version": step.version,
                    "calibration": calibration.of(shown), "list": shown,
                }  # fmt: skip
                for name, value in row.items():
                    steps[name].append(value)
                times["arm"].append(arm)
                times["list_us"].append(round(step.list_seconds * 1e6))
                times["record_us"].append(round(step.record_seconds * 1e6))
                calibration.add(place)
                met.add(place)
        finally:
            phone.close()
        size = file.stat().st_size if isinstance(file, Path) else None
        times["history_bytes"] += [None] * (len(lists) - 1) + [size] if lists else []
        for name, values in self.yardstick.figures(lists).items():
            steps[name] += values

    def close(self) -> None:
        """Close the bundles."""
        self._open.close()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def bundles_of(arm: Arm) -> list[Path]:
    """The paths of an arm's bundles: its own, and the update."""
    update = arm.conditions.update
    return [arm.bundle] if update is None else [arm.bundle, update]


def work(job: Job, chunks: Sequence[Chunk], processes: int, advance: Callable[[int], object]) -> None:
    """Replay the chunks that are not done yet; `advance` is told how many events each had.

    Args:
        processes: 1 replays in this process.
    """
    job.out.mkdir(parents=True, exist_ok=True)
    for left in job.out.glob(".*"):  # of a run that was killed
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    todo = [chunk for chunk in chunks if not job.steps_file(chunk.number).exists()]
    if not todo:
        return
    if processes == 1:
        with Fleet(job) as fleet:
            for chunk in todo:
                fleet.replay(chunk)
                advance(chunk.events)
        return
    with (
        _one_thread(),
        ProcessPoolExecutor(min(processes, len(todo)), get_context("spawn"), _start, (job,)) as pool,
    ):
        running = {pool.submit(_run, chunk): chunk for chunk in todo}
        try:
            for done in as_completed(running):
                done.result()
                advance(running[done].events)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_fleet: Fleet | None = None
"""Of a worker process; it ends with the process."""


def _start(job: Job) -> None:
    global _fleet  # noqa: PLW0603
    _fleet = Fleet(job)


def _run(chunk: Chunk) -> None:
    assert _fleet is not None
    _fleet.replay(chunk)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes that are started inside have one thread each: there are as many of them as cores."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _write(file: Path, table: pl.DataFrame) -> None:
    partial = file.with_name(f".{file.name}.part")
    table.write_parquet(partial)
    os.replace(partial, file)
