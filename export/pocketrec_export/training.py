"""Training of a student, or of a wider model of its family: epochs, early stopping, resuming after a kill.

* `accelerate` places model and batches and says how many processes there are (`accelerate launch`). Each
  takes its share of every batch and gradients are averaged, so that two processes are one with batches twice
  as large; validation is shared out too, the main process writes the state.
* What validates and what is kept is a moving average of the weights (`updates`).
* The state goes to one file at the end of an epoch and now and then within a long one (`training_state`).
  Order, negatives and dropout depend on seed and epoch only, so a killed run goes on as if nothing had
  happened.
* A batch costs the same however many users, items and events there are: `batches.Epoch`, sampled negatives
  and updates by rows see to that.
"""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import set_seed
from numpy.typing import NDArray
from torch import Tensor

from .arithmetic import bf16_is_fast
from .batches import Batch, Epoch, Histories
from .config import TrainingConfig
from .distillation import Distillation
from .losses import ScoreStep, next_item_loss
from .metrics import Metrics
from .processes import agreed, gathered, processes
from .progress import Progress
from .ranking import FloatRanker
from .student import Student
from .training_state import EpochRecord, Place, TrainingRun, generator_states, restore_generators
from .updates import Updates

__all__ = ["EpochRecord", "TrainingResult", "train"]

log = logging.getLogger(__name__)

CHECK_BATCHES = 20
"""How often the clock is looked at within an epoch."""

GRACE_SECONDS = 60.0
"""An epoch that is to end within so many seconds is not cut short by a time limit."""


@dataclass(frozen=True)
class TrainingResult:
    """The kept weights are those of `best_epoch`; they are in the model that was trained."""

    best_epoch: int
    best_ndcg: float
    epochs: list[EpochRecord]
    seconds: float
    stopped: str


def train(
    student: Student,
    histories: Histories,
    ranker: FloatRanker,
    config: TrainingConfig,
    *,
    seed: int,
    state_file: Path,
    label: str,
    distillation: Distillation | None = None,
    max_seconds: float | None = None,
    lazy: bool | None = None,
) -> TrainingResult:
    """Train `student` in place on the training part of a split and leave the best averaged weights in it.

    Under several processes all of them call this with the same arguments, and all end with the same weights.

    Args:
        histories: the training events.
        ranker: validates after every epoch, on at most `config.validation_users` users drawn by `seed`.
        state_file: where the state is kept; found there at the start, training goes on from it.
            `training_state.forget_training` removes it and what lies beside it.
        label: what the progress bar calls it.
        distillation: a teacher's cache and the DuoKD loss; None trains on next items alone.
        max_seconds: stop after the epoch in which this is exceeded, or within it if it would last much
            longer; time of earlier runs that were killed counts.
        lazy: see `Updates`.
    """
    team = processes()
    # Buffers never change, so processes need not send them about.
    accelerator = Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)])
    items = len(student.rows.gate)
    step = ScoreStep(student, items, config.negatives_for(items), config.behaviour_dropout)
    positions = int(np.maximum(np.diff(histories.offsets) - 1, 0).sum())
    per_epoch = -(-positions // (config.positions * team.num_processes))
    updates = Updates(step, accelerator, config, config.decay_for(per_epoch), lazy)
    run = TrainingRun(config, state_file, student, updates)
    users = ranker.split.some_users("validation", config.validation_users, seed)
    max_seconds = agreed(max_seconds)
    total = config.epochs * per_epoch
    with _progress(label, total, run.next_epoch * per_epoch) as progress:
        while run.stopped(max_seconds) is None:
            epoch = _EpochRun(run, step, accelerator, histories, seed, distillation)
            loss, seconds = epoch.train(max_seconds, progress)
            began = time.monotonic()
            updates.average.settle()
            figures = _validated(ranker, updates.average.module, users, _in_bf16(config))
            seconds = agreed(seconds + time.monotonic() - began)
            record = EpochRecord(run.next_epoch, loss, figures.hr, figures.ndcg, seconds)
            run.finish_epoch(record, max_seconds)
            if team.is_main_process:
                log.info(
                    "%s: epoch %d, loss %.4f, validation HR@10 %.4f NDCG@10 %.4f, %.1f s",
                    label, record.epoch, loss, figures.hr, figures.ndcg, record.seconds,
                )  # fmt: skip
    run.load_best()
    student.eval()
    return TrainingResult(
        run.best_epoch, run.best_ndcg, run.records, run.seconds, run.stopped(max_seconds) or ""
    )


class _EpochRun:
    """One epoch of a run, or what a kill left of it."""

    def __init__(
        self,
        run: TrainingRun,
        step: ScoreStep,
        accelerator: Accelerator,
        histories: Histories,
        seed: int,
        distillation: Distillation | None,
    ) -> None:
        self.run, self.step, self.accelerator, self.distillation = run, step, accelerator, distillation
        self.config, self.team, self.bf16 = run.config, processes(), _in_bf16(run.config)
        number = run.next_epoch
        # Unlike dropout in each process, the same order and negatives in all.
        set_seed((seed * 100_003 + number + 715_827_883 * self.team.process_index) % 2**32)
        self.rng = np.random.default_rng([seed, number])
        together = self.config.positions * self.team.num_processes
        self.epoch = Epoch(histories, run.student.length, together, self.rng)
        self.losses: list[Tensor] = []
        self.first, self.before, self.began = 0, 0.0, time.monotonic()
        if run.place is not None:
            self.first, self.before = run.place.batch, run.place.seconds
            self.losses = [torch.tensor(loss) for loss in run.place.losses]
            restore_generators(run.place, self.rng)
        run.student.train()

    def train(self, max_seconds: float | None, progress: Progress | None) -> tuple[float, float]:
        """Mean loss and seconds; all of the epoch, or less when the time is up."""
        run, device = self.run, self.accelerator.device
        for number in range(self.first, len(self.epoch)):
            if number > self.first and number % CHECK_BATCHES == 0 and self._interrupted(number, max_seconds):
                break
            batch, weight = self.epoch.batch(number, self.team.process_index, self.team.num_processes)
            drawn = torch.from_numpy(self.rng.integers(0, self.step.items, max(self.step.negatives, 1)))
            loss = self._loss(batch, drawn.to(device))
            if self.team.num_processes > 1:
                loss = loss * weight
            rate = self.config.learning_rate * min(1.0, (run.steps + 1) / self.config.warmup_steps)
            run.updates.apply(loss, rate)
            self.losses.append(loss.detach())
            run.steps += 1
            if progress is not None:
                progress.advance(epoch=run.next_epoch, best=run.best_ndcg)
        mean = torch.stack([loss.to(device) for loss in self.losses]).mean()
        return float(self.accelerator.reduce(mean, "mean")), self._seconds()

    def _loss(self, batch: Batch, drawn: Tensor) -> Tensor:
        tensors = {name: torch.from_numpy(a).to(self.accelerator.device) for name, a in vars(batch).items()}
        lesson = None if self.distillation is None else self.distillation.lesson(tensors)
        extra = None if lesson is None else lesson.items
        # Not accelerate's, which has one arithmetic for all models of a process.
        with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.bf16):
            candidates = self.run.updates.wrapped(tensors, drawn, extra)
        loss = next_item_loss(candidates)
        if self.distillation is not None and lesson is not None:
            loss = loss + self.distillation.loss(candidates, lesson)
        return loss

    def _seconds(self) -> float:
        return self.before + time.monotonic() - self.began

    def _interrupted(self, number: int, max_seconds: float | None) -> bool:
        """Save the state if it is time to, and say whether the epoch is to end here."""
        seconds = self._seconds()
        left = (len(self.epoch) - number) * (seconds - self.before) / (number - self.first)
        late = max_seconds is not None and self.run.seconds + seconds >= max_seconds and left > GRACE_SECONDS
        late, due = agreed((late, self.run.due()))
        if due and not late:
            losses = torch.stack([loss.cpu() for loss in self.losses]).tolist()
            self.run.save(Place(number, seconds, losses, generator_states(self.rng)))
        return late


def _in_bf16(config: TrainingConfig) -> bool:
    return config.mixed_precision == "bf16" or (config.mixed_precision == "auto" and agreed(bf16_is_fast()))


def _progress(label: str, total: int, done: int) -> Progress | nullcontext[None]:
    return Progress(label, total=total, done=done) if processes().is_main_process else nullcontext()


def _validated(ranker: FloatRanker, model: Student, users: NDArray[np.int32], bf16: bool) -> Metrics:
    """Each process ranks its share of the users, in the arithmetic of training."""
    team = processes()
    with torch.autocast(model.event_rows.device.type, torch.bfloat16, enabled=bf16):
        share = ranker.ranks(model, "validation", users[team.process_index :: team.num_processes])
    return Metrics.from_ranks(np.concatenate(gathered(share)))
