"""Training of a student or of the built-in teacher: epochs, early stopping, resuming after a kill.

* `accelerate` places model and batches and chooses the arithmetic. One process; the stages of a build know no
  other.
* What validates and what is kept is a moving average of the weights.
* After every epoch the whole state goes to one file, replaced atomically. Order and dropout depend on seed
  and epoch only, so a killed run goes on as if nothing had happened.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .batches import Batch, Histories, batches
from .config import TrainingConfig
from .distillation import Distillation
from .losses import ScoreStep, next_item_loss
from .metrics import Metrics
from .progress import Progress
from .ranking import FloatRanker
from .student import Student

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpochRecord:
    """One line of the training log."""

    epoch: int
    loss: float
    hr: float
    ndcg: float
    seconds: float


@dataclass(frozen=True)
class TrainingResult:
    """The kept weights are those of `best_epoch`; they are in the model that was trained."""

    best_epoch: int
    best_ndcg: float
    epochs: list[EpochRecord]
    seconds: float
    stopped: str


def bf16_is_fast() -> bool:
    """Whether matrix products in bfloat16 pay on this machine: on a GPU, or with AVX-512 BF16 or AMX."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported and supported())


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
) -> TrainingResult:
    """Train `student` in place on the training part of a split and leave the best averaged weights in it.

    Args:
        histories: the training events.
        ranker: validates after every epoch, on at most `config.validation_users` users drawn by `seed`.
        state_file: where the state after each epoch is kept; found there at the start, training goes on from
            it.
        label: what the progress bar calls it.
        distillation: a teacher's cache and the DuoKD loss; None trains on next items alone.
        max_seconds: stop after the epoch in which this is exceeded, counting earlier runs that were killed.
    """
    mixed = (
        "bf16"
        if config.mixed_precision == "bf16" or (config.mixed_precision == "auto" and bf16_is_fast())
        else "no"
    )
    accelerator = Accelerator(mixed_precision=mixed)
    items = len(student.rows.gate)
    negatives = config.negatives_for(items)
    step = ScoreStep(student, items, negatives, config.behaviour_dropout)
    decayed = [p for p in step.parameters() if p.ndim > 1]
    plain = [p for p in step.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(0.9, 0.98),
    )
    positions = int(np.maximum(np.diff(histories.offsets) - 1, 0).sum())
    per_epoch = -(-positions // config.positions)
    decay = config.decay_for(per_epoch)
    average = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(decay))
    step, optimizer = accelerator.prepare(step, optimizer)
    average.to(accelerator.device)

    run = _Run(config, state_file, student, average, optimizer)
    users = _validation_users(ranker, config.validation_users, seed)
    with Progress(label, total=config.epochs * per_epoch, done=run.next_epoch * per_epoch) as progress:
        while run.stopped(max_seconds) is None:
            epoch, began = run.next_epoch, time.monotonic()
            set_seed(seed * 100_003 + epoch)
            rng = np.random.default_rng([seed, epoch])
            student.train()
            losses: list[Tensor] = []
            for batch in batches(histories, student.length, config.positions, rng):
                drawn = torch.from_numpy(rng.integers(0, items, max(negatives, 1)))
                for group in optimizer.param_groups:
                    group["lr"] = config.learning_rate * min(1.0, (run.steps + 1) / config.warmup_steps)
                losses.append(_step(accelerator, step, optimizer, batch, drawn, distillation))
                average.update_parameters(student)
                run.steps += 1
                progress.advance(epoch=epoch, best=run.best_ndcg)
            loss = float(torch.stack(losses).mean())
            figures = Metrics.from_ranks(ranker.ranks(average.module, "validation", users))
            record = EpochRecord(epoch, loss, figures.hr, figures.ndcg, time.monotonic() - began)
            run.finish_epoch(record)
            log.info(
                "%s: epoch %d, loss %.4f, validation HR@10 %.4f NDCG@10 %.4f, %.1f s",
                label, epoch, loss, figures.hr, figures.ndcg, record.seconds,
            )  # fmt: skip
    student.load_state_dict(run.best_weights)
    student.eval()
    return TrainingResult(
        run.best_epoch,
        run.best_ndcg,
        run.records,
        sum(r.seconds for r in run.records),
        run.stopped(max_seconds) or "",
    )


def _step(
    accelerator: Accelerator,
    step: torch.nn.Module,
    optimizer: Any,
    batch: Batch,
    drawn: Tensor,
    distillation: Distillation | None,
) -> Tensor:
    """One optimiser step; returns the detached loss."""
    tensors = {name: torch.from_numpy(a).to(accelerator.device) for name, a in vars(batch).items()}
    lesson = None if distillation is None else distillation.lesson(tensors)
    extra = None if lesson is None else lesson.items
    with accelerator.autocast():
        candidates = step(tensors, drawn.to(accelerator.device), extra)
    loss = next_item_loss(candidates)
    if distillation is not None and lesson is not None:
        loss = loss + distillation.loss(candidates, lesson)
    optimizer.zero_grad(set_to_none=True)
    accelerator.backward(loss)
    optimizer.step()
    return loss.detach()


def _validation_users(ranker: FloatRanker, at_most: int, seed: int) -> NDArray[np.int32]:
    users = ranker.split.users_for("validation")
    if len(users) <= at_most:
        return users
    return np.sort(np.random.default_rng(seed).choice(users, at_most, replace=False))


class _Run:
    """What has to survive a kill, and the rule that ends a run."""

    def __init__(
        self, config: TrainingConfig, file: Path, student: Student, average: AveragedModel, optimizer: Any
    ) -> None:
        self.config, self.file = config, file
        self.student, self.average, self.optimizer = student, average, optimizer
        self.next_epoch = self.steps = 0
        self.best_ndcg, self.best_epoch = -1.0, -1
        self.best_weights: dict[str, Tensor] = {}
        self.records: list[EpochRecord] = []
        if file.exists():
            self._load()

    def stopped(self, max_seconds: float | None) -> str | None:
        """Why training is over, or None."""
        if self.next_epoch >= self.config.epochs:
            return f"all {self.config.epochs} epochs"
        if self.records and self.next_epoch - 1 - self.best_epoch >= self.config.patience:
            return f"no better validation for {self.config.patience} epochs"
        if self.records and max_seconds is not None and sum(r.seconds for r in self.records) >= max_seconds:
            return f"time limit of {max_seconds:.0f} s"
        return None

    def finish_epoch(self, record: EpochRecord) -> None:
        self.records.append(record)
        self.next_epoch = record.epoch + 1
        if record.ndcg > self.best_ndcg:
            self.best_ndcg, self.best_epoch = record.ndcg, record.epoch
            self.best_weights = {
                k: v.detach().cpu().clone() for k, v in self.average.module.state_dict().items()
            }
        self._save()

    def _save(self) -> None:
        state = {
            "student": self.student.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best_weights": self.best_weights,
            "best": [self.best_ndcg, self.best_epoch],
            "steps": self.steps,
            "records": [asdict(r) for r in self.records],
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.file)

    def _load(self) -> None:
        state = torch.load(self.file, map_location="cpu", weights_only=True)
        self.student.load_state_dict(state["student"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best_weights = state["best_weights"]
        self.best_ndcg, self.best_epoch = state["best"]
        self.steps = state["steps"]
        self.records = [EpochRecord(**r) for r in state["records"]]
        self.next_epoch = len(self.records)
        log.info("going on from epoch %d of an earlier run", self.next_epoch)
