"""What has to survive a kill: weights, optimisers, averages, the place in the epoch and every generator.

One file, replaced atomically, so that a run goes on as if nothing had happened. Beside it lie the best
weights so far, written when they get better: a large model then has them neither in memory nor in every
state. The state names their file and is written after it.

A state is written at the end of an epoch and, in a long one, every `SAVE_SECONDS`; but for a twentieth of the
time at most, however large it is.
"""

from __future__ import annotations

import glob
import logging
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from pocketrec.errors import DataError

from .config import TrainingConfig
from .processes import agreed, gathered, processes
from .student import Student
from .updates import Updates

log = logging.getLogger(__name__)

FORMAT = 2
SAVE_SECONDS = 900.0
SHARE = 20.0
"""A state is written when so many times as long has passed as it took to write the last one."""


@dataclass(frozen=True)
class EpochRecord:
    """One line of the training log."""

    epoch: int
    loss: float
    hr: float
    ndcg: float
    seconds: float


@dataclass
class Place:
    """Where in an epoch a run is.

    Attributes:
        batch: the next one.
        seconds: spent in this epoch by earlier runs.
        losses: of the batches so far, float32.
        generators: the states of numpy's and torch's, the latter of every process.
    """

    batch: int
    seconds: float
    losses: list[float]
    generators: tuple[dict[str, Any], list[dict[str, Tensor]]]


class TrainingRun:
    """The state of a run, and the rule that ends it.

    Args:
        file: where the state is kept; what is there is gone on from.

    Attributes:
        place: set after `load` found a run that was killed within an epoch.
    """

    def __init__(self, config: TrainingConfig, file: Path, student: Student, updates: Updates) -> None:
        self.config, self.file, self.student, self.updates = config, file, student, updates
        self.next_epoch = self.steps = 0
        self.best_ndcg, self.best_epoch = -1.0, -1
        self.records: list[EpochRecord] = []
        self.place: Place | None = None
        self._saved, self._cost = time.monotonic(), 0.0
        if file.exists():
            self._load()

    def stopped(self, max_seconds: float | None) -> str | None:
        """Why training is over, or None."""
        if self.next_epoch >= self.config.epochs:
            return f"all {self.config.epochs} epochs"
        if self.records and self.next_epoch - 1 - self.best_epoch >= self.config.patience:
            return f"no better validation for {self.config.patience} epochs"
        if self.records and max_seconds is not None and self.seconds >= max_seconds:
            return f"time limit of {max_seconds:.0f} s"
        return None

    @property
    def seconds(self) -> float:
        """Spent in whole epochs, by earlier runs too."""
        return sum(record.seconds for record in self.records)

    def finish_epoch(self, record: EpochRecord, max_seconds: float | None) -> None:
        """Note an epoch, keep its averaged weights when they are the best, and save if it is time to or the
        run is over."""
        self.records.append(record)
        self.next_epoch, self.place = record.epoch + 1, None
        if record.ndcg > self.best_ndcg:
            self.best_ndcg, self.best_epoch = record.ndcg, record.epoch
            if processes().is_main_process:
                self._write_best()
        late = time.monotonic() - self._saved >= SHARE * self._cost
        if agreed(late) or self.stopped(max_seconds):
            self.save(None)

    def due(self) -> bool:
        """Whether a long epoch should be saved now."""
        return time.monotonic() - self._saved >= max(SAVE_SECONDS, SHARE * self._cost)

    def save(self, place: Place | None) -> None:
        """Write the state. All processes call it, the main one writes."""
        if processes().is_main_process:
            began = time.monotonic()
            state = {
                "format": FORMAT,
                "processes": processes().num_processes,
                "student": self.student.state_dict(),
                "updates": self.updates.state_dict(),
                "best": [self.best_ndcg, self.best_epoch],
                "steps": self.steps,
                "records": [asdict(r) for r in self.records],
                "place": None if place is None else asdict(place),
            }
            self.file.parent.mkdir(parents=True, exist_ok=True)
            partial = self.file.with_suffix(".partial")
            torch.save(state, partial)
            os.replace(partial, self.file)
            for best in _best_files(self.file):
                if best != self._best_file():  # the state before this one named it
                    best.unlink()
            self._cost = time.monotonic() - began
        processes().wait_for_everyone()
        self._saved = time.monotonic()

    def load_best(self) -> None:
        """Put the best weights into the student."""
        self.student.load_state_dict(safetensors.torch.load_file(self._best_file()))

    def _best_file(self) -> Path:
        return self.file.with_name(f"{self.file.name}.best-{self.best_epoch}")

    def _write_best(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_suffix(".partial")
        weights = self.updates.average.module.state_dict()
        safetensors.torch.save_file({name: value.contiguous() for name, value in weights.items()}, partial)
        os.replace(partial, self._best_file())

    def _load(self) -> None:
        state = torch.load(self.file, map_location="cpu", weights_only=True)
        if state.get("format") != FORMAT:
            log.warning("%s: written by another version; training starts over", self.file)
            return
        place, count = state["place"], processes().num_processes
        if place is not None and state["processes"] != count:
            raise DataError(
                f"{self.file}: the state of a run of {state['processes']} processes, killed within an epoch; "
                f"this one has {count}.",
                code="state-foreign",
                remedy=f"Start {state['processes']} processes, or remove the file to train from the start.",
            )
        self.student.load_state_dict(state["student"])
        self.updates.load_state_dict(state["updates"])
        self.best_ndcg, self.best_epoch = state["best"]
        self.steps = state["steps"]
        self.records = [EpochRecord(**r) for r in state["records"]]
        self.next_epoch = len(self.records)
        self.place = None if place is None else Place(**place)
        if self.best_epoch >= 0 and not self._best_file().exists():
            raise DataError(
                f"{self._best_file()}: the best weights of the run in {self.file} are missing.",
                code="state-damaged",
                remedy=f"Remove {self.file} to train from the start.",
            )
        log.info("going on from epoch %d of an earlier run", self.next_epoch)


def forget_training(file: Path) -> None:
    """Remove the state of a run and its best weights, once the model is kept elsewhere."""
    for path in (file, *_best_files(file)):
        path.unlink(missing_ok=True)


def _best_files(file: Path) -> list[Path]:
    return list(file.parent.glob(f"{glob.escape(file.name)}.best-*"))


def generator_states(rng: np.random.Generator) -> tuple[dict[str, Any], list[dict[str, Tensor]]]:
    """For `Place.generators`. All processes call it."""
    own = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state()
    return dict(rng.bit_generator.state), gathered(own)


def restore_generators(place: Place, rng: np.random.Generator) -> None:
    """Put back what `generator_states` took."""
    state, everyone = place.generators
    rng.bit_generator.state = state
    own = everyone[processes().process_index]
    torch.set_rng_state(own["cpu"])
    if "cuda" in own and torch.cuda.is_available():
        torch.cuda.set_rng_state(own["cuda"])
