"""What the quality benchmark notes down: one small JSON file for each run, and the ranks it was made from.

    RESULTS/amazon-beauty/duokd-0.json   figures, settings, commit, machine, minutes
    RESULTS/amazon-beauty/duokd-0.npz    uint8 [users], the rank of each user's target, 11 for all beyond 10

The files are all that the page is made from, and a run whose file is there is not repeated. Ranks are for the
paired intervals; a few kilobytes each, they are kept, so that seeds can be added on another machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from pocketrec.errors import DataError
from pocketrec_export.data import Dataset, load_dataset
from pocketrec_export.metrics import Metrics
from pocketrec_export.split import Split, leave_one_out
from pocketrec_tools.machine import machine

HEAD_SHARE = 0.2
"""The head: this share of the items that have training events, the most popular ones."""

BEYOND = 11
"""Stands for every rank beyond the tenth, which no metric tells apart."""

SOURCES = Path(__file__).resolve().parents[2]
Kind = Literal["ours", "peer", "cold"]


class DataFigures(BaseModel):
    """Which data a figure is of; `fingerprint` is that of `data.Dataset`."""

    name: str
    users: int
    items: int
    events: int
    test_users: int
    head_items: int
    head_users: int
    fingerprint: str


class Record(BaseModel):
    """One run.

    Attributes:
        arm, seed: what was run, see `quality_runs.ARMS` and `quality_peers.PEERS`.
        settings: what was asked for beside the defaults; other settings, another run.
        minutes: of the whole run, without what an earlier run had left behind.
        training: minutes of training by part, earlier runs that were killed included.
        validation, test: {"users", "hr@10", "ndcg@10", "mrr@10"}; of a bundle, validation is the float
            student's.
        head, tail: the test figures of the users whose target is in the head, and of the others.
        details: whatever else is worth keeping.
        ranks: sha256 of the ranks, "" when there are none.
    """

    model_config = ConfigDict(extra="forbid")

    kind: Kind
    data: DataFigures
    arm: str
    seed: int
    settings: dict[str, Any]
    commit: str
    machine: dict[str, str | int]
    minutes: float
    training: dict[str, float] = {}
    validation: dict[str, float | int] | None = None
    test: dict[str, float | int]
    head: dict[str, float | int] | None = None
    tail: dict[str, float | int] | None = None
    details: dict[str, Any] = {}
    ranks: str = ""


@dataclass(frozen=True, eq=False)
class QualityData:
    """A data set of the benchmark, split.

    Args:
        name: of its directory.
        path: its directory.
        split: leave-one-out, the split of every build and every evaluation.
    """

    name: str
    path: Path
    split: Split

    @classmethod
    def load(cls, path: Path) -> QualityData:
        """Read a data directory; raises what `load_dataset` raises."""
        return cls(path.resolve().name, path, leave_one_out(load_dataset(path)))

    @property
    def dataset(self) -> Dataset:
        """The data as it was read."""
        return self.split.dataset

    @cached_property
    def head(self) -> NDArray[np.bool_]:
        """bool [items]: the most popular fifth of the items with training events, ties by catalogue order."""
        counts = self.split.train_counts
        size = int(np.ceil(HEAD_SHARE * np.count_nonzero(counts)))
        head = np.zeros(len(counts), bool)
        head[np.argsort(-counts, kind="stable")[:size]] = True
        return head

    @cached_property
    def head_users(self) -> NDArray[np.bool_]:
        """bool [users of test]: whose target is in the head."""
        return self.head[self.split.target_items("test")]

    @cached_property
    def figures(self) -> DataFigures:
        """Its entry in a record."""
        data = self.dataset
        return DataFigures(
            name=self.name,
            users=data.num_users,
            items=data.num_items,
            events=data.num_events,
            test_users=len(self.head_users),
            head_items=int(self.head.sum()),
            head_users=int(self.head_users.sum()),
            fingerprint=data.fingerprint,
        )

    def of_ranks(self, ranks: NDArray[np.integer]) -> dict[str, dict[str, float | int] | None]:
        """The fields `test`, `head` and `tail` of a record, from the rank of each test user's target."""
        if len(ranks) != len(self.head_users):
            raise ValueError(f"{len(ranks)} ranks, but {len(self.head_users)} users have a test target")
        parts = {"test": ranks, "head": ranks[self.head_users], "tail": ranks[~self.head_users]}
        return {k: Metrics.from_ranks(part).to_dict() if len(part) else None for k, part in parts.items()}


@dataclass(frozen=True)
class Store:
    """Where records and ranks are.

    Args:
        results: directory of the records, a folder for each data set.
        work: directory for everything else.
    """

    results: Path
    work: Path

    def file(self, data: str, arm: str, seed: int) -> Path:
        """The record of a run."""
        return self.results / data / f"{arm}-{seed}.json"

    def find(self, data: str, arm: str, seed: int) -> Record | None:
        """The record of a run, None when it has not been made.

        Raises:
            DataError: the file is there and is no record.
        """
        file = self.file(data, arm, seed)
        return _read(file) if file.exists() else None

    def records(self, data: str | None = None) -> Iterator[Record]:
        """All records, of one data set or of every one, in the order of their names."""
        for file in sorted(self.results.glob(f"{data or '*'}/*.json")):
            if file.name != INTERVALS:
                yield _read(file)

    def save(self, record: Record, ranks: NDArray[np.integer] | None = None) -> Record:
        """Write a record and, beside the work, its ranks; each file appears whole or not at all."""
        if ranks is not None:
            file, kept = self.ranks_file(record), np.minimum(ranks, BEYOND).astype(np.uint8)
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".partial")
            with open(partial, "wb") as out:
                np.savez_compressed(out, ranks=kept)
            os.replace(partial, file)
            record = record.model_copy(update={"ranks": _sha256(kept)})
        write_json(
            self.file(record.data.name, record.arm, record.seed), record.model_dump(exclude_defaults=True)
        )
        return record

    def ranks(self, record: Record) -> NDArray[np.int32] | None:
        """int32 [users], the ranks of a record, `BEYOND` for all beyond the tenth; None when they are not
        here, or are those of another run."""
        file = self.ranks_file(record)
        if not record.ranks or not file.exists():
            return None
        with np.load(file) as arrays:
            found: NDArray[np.uint8] = arrays["ranks"]
        return found.astype(np.int32) if _sha256(found) == record.ranks else None

    def ranks_file(self, record: Record) -> Path:
        """Where the ranks of a record belong."""
        return self.file(record.data.name, record.arm, record.seed).with_suffix(".npz")


INTERVALS = "intervals.json"
"""Beside the records of a data set: the paired differences between their arms."""


def write_json(file: Path, value: Any) -> None:
    """Write a JSON file that appears whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, file)


def stamp() -> dict[str, Any]:
    """The fields `commit` and `machine` of a record made now, here."""
    return {"commit": commit(), "machine": {**machine(), **_compute()}}


def commit() -> str:
    """The commit of the sources that run, with "+" when they were changed since; "unknown" outside git."""
    git = ["git", "-c", f"safe.directory={SOURCES}", "-C", str(SOURCES)]
    changes = ("status", "--porcelain", "--untracked-files=no", "--", "sdk", "export", "tools")
    try:
        head, changed = (
            subprocess.run([*git, *command], capture_output=True, text=True, check=True).stdout.strip()
            for command in (("rev-parse", "--short=10", "HEAD"), changes)
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed else "")


def _compute() -> dict[str, str | int]:
    import torch

    if torch.cuda.is_available():
        return {"threads": torch.get_num_threads(), "gpu": torch.cuda.get_device_name()}
    return {"threads": torch.get_num_threads()}


def _read(file: Path) -> Record:
    try:
        return Record.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, ValidationError) as error:
        raise DataError(
            f"{file} is no record of the quality benchmark: {error}",
            code="record-invalid",
            remedy="Remove it; the run is then made again.",
        ) from None


def _sha256(ranks: NDArray[np.uint8]) -> str:
    return hashlib.sha256(ranks.tobytes()).hexdigest()
