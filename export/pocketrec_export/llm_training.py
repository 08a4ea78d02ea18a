"""Training of the `llm` teacher: by `accelerate` on one or many devices, resumable at any batch.

* A batch is a number of history windows. All positions of a window are learned at once; the rows of targets
  and of drawn negatives are read again in every batch, by the same weights, with gradients.
* Each process has its own histories and negatives; gradients are averaged, files are written by the first.
* What validates and what is kept is a moving average of what is trained.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from .batches import Histories
from .llm_config import LLMConfig
from .llm_encoder import DualEncoder, save_trained, tensors
from .llm_loss import CandidateSampler, contrastive_loss, met_columns
from .llm_prompts import Prompts, ranges
from .llm_state import Progressed, best_directory, copies, load_state, save_state
from .metrics import Metrics
from .processes import agreed
from .progress import Progress
from .training import EpochRecord

log = logging.getLogger(__name__)

# The ranks of the validation users' targets by an encoder; all processes call it and get the same.
Validate = Callable[[DualEncoder, Accelerator], NDArray[np.int64]]


def train_encoder(
    encoder: DualEncoder,
    prompts: Prompts,
    histories: Histories,
    validate: Validate,
    config: LLMConfig,
    *,
    learning_rate: float,
    seed: int,
    directory: Path,
    max_seconds: float | None = None,
) -> Progressed:
    """Train `encoder` in place; the best averaged weights are left in `best_directory(directory, …)`.

    Every process of a launch calls this alike.

    Args:
        histories: the training events.
        directory: where states go; one that is found there is gone on from.
        max_seconds: stop after the batch in which this is exceeded, counting earlier runs, and validate.
    """
    accelerator = Accelerator()
    run = _Run(encoder, prompts, histories, config, learning_rate, seed, directory, accelerator)
    while not run.over(max_seconds):
        run.epoch(max_seconds)
        run.validated(validate)
    return run.at


class _Run:
    """The loop and all that it changes."""

    def __init__(
        self,
        encoder: DualEncoder,
        prompts: Prompts,
        histories: Histories,
        config: LLMConfig,
        learning_rate: float,
        seed: int,
        directory: Path,
        accelerator: Accelerator,
    ) -> None:
        self.prompts, self.histories, self.config = prompts, histories, config
        self.learning_rate, self.seed, self.directory = learning_rate, seed, directory
        self.accelerator = accelerator
        self.parameters = encoder.trained()
        decayed = [p for p in self.parameters.values() if p.ndim > 1]
        plain = [p for p in self.parameters.values() if p.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=learning_rate,
        )
        self.at = Progressed(processes=accelerator.num_processes)
        average: dict[str, Tensor] = {}
        found = load_state(directory, accelerator.num_processes)
        if found is not None:
            self.at, state = found
            for name, value in state["parameters"].items():
                self.parameters[name].data.copy_(value)
            optimizer.load_state_dict(state["optimizer"])
            average = state["average"]
        self.encoder = encoder
        self.model, self.optimizer = accelerator.prepare(encoder, optimizer)
        self.average = {
            name: average.get(name, p.detach()).to(p.device, torch.float32, copy=True)
            for name, p in self.parameters.items()
        }
        counts = np.bincount(_targets(histories), minlength=prompts.items)
        self.sampler = CandidateSampler(counts, config.negatives)
        # On one process only: what a state says is the sum over all.
        self.loss = torch.zeros(2, device=accelerator.device)
        if accelerator.is_main_process:
            self.loss += torch.tensor([self.at.loss_sum, float(self.at.loss_count)], device=self.loss.device)

    def over(self, max_seconds: float | None) -> bool:
        at, config = self.at, self.config
        if not at.stopped and at.epoch >= config.epochs:
            at.stopped = f"all {config.epochs} epochs"
        elif not at.stopped and at.records and at.epoch - 1 - at.best_epoch >= config.patience:
            at.stopped = f"no better validation for {config.patience} epochs"
        elif not at.stopped and at.records and self._late(max_seconds):
            at.stopped = f"time limit of {max_seconds:.0f} s"
        return bool(at.stopped)

    def _late(self, max_seconds: float | None) -> bool:
        """Whether time is up; the first process decides for all."""
        if max_seconds is None:
            return False
        return agreed(self.at.seconds >= max_seconds)

    def epoch(self, max_seconds: float | None) -> None:
        """The rest of the running epoch, or less when time is up."""
        at, config, accelerator = self.at, self.config, self.accelerator
        loader = self._loader()
        total = at.batch + len(loader)
        self.model.train()
        label = f"llm, epoch {at.epoch}"
        bar = Progress(label, total, at.batch) if accelerator.is_main_process else nullcontext()
        with bar as progress:
            began = time.monotonic()
            for start, size in loader:
                self._step(start.numpy(), size.numpy())
                at.batch += 1
                at.steps += 1
                now = time.monotonic()
                at.seconds, at.epoch_seconds = at.seconds + now - began, at.epoch_seconds + now - began
                began = now
                if progress is not None:
                    progress.advance(best=at.best_ndcg)
                if self._late(max_seconds):
                    break
                if at.steps % config.save_steps == 0 and at.batch < total:
                    self._save()
        self.model.eval()

    def _loader(self) -> Any:
        """Windows of this process that are still to come in this epoch."""
        at = self.at
        rng = np.random.default_rng([self.seed, at.epoch])
        start, size = self.histories.windows(self.config.history_items, rng)
        order = rng.permutation(len(start))
        windows = TensorDataset(*(torch.from_numpy(a[order]) for a in (start, size)))
        loader = self.accelerator.prepare_data_loader(
            DataLoader(windows, batch_size=self.config.batch), device_placement=False
        )
        return self.accelerator.skip_first_batches(loader, at.batch) if at.batch else loader

    def _step(self, start: NDArray[np.int64], size: NDArray[np.int64]) -> None:
        at, accelerator = self.at, self.accelerator
        rng = np.random.default_rng([self.seed, at.epoch, at.batch, accelerator.process_index])
        torch.manual_seed(int(rng.integers(2**62)))
        device = accelerator.device
        targets = self.histories.items[ranges(start, size) + 1]
        candidates = self.sampler.draw(targets, rng)
        queries, rows, scale = self.model(
            tensors(self.prompts.histories(self.histories, start, size), device),
            tensors(self.prompts.rows(candidates.items), device),
        )
        columns, chance, *met = (
            torch.from_numpy(a).to(device)
            for a in (
                candidates.targets,
                candidates.log_chance,
                *met_columns(self.histories, start, size, candidates.items),
            )
        )
        loss = contrastive_loss(scale * queries @ rows.T, columns, chance, (met[0], met[1]))
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * min(1.0, (at.steps + 1) / self.config.warmup_steps)
        self.optimizer.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(list(self.parameters.values()), 1.0)
        self.optimizer.step()
        decay = min(self.config.averaging, (at.steps + 1) / (at.steps + 10))
        for name, parameter in self.parameters.items():
            self.average[name].lerp_(parameter.detach().float(), 1 - decay)
        self.loss += torch.stack([loss.detach(), torch.ones_like(loss)])

    def validated(self, validate: Validate) -> None:
        """End an epoch: rank the validation users, keep the weights if they are better than any before."""
        at, began = self.at, time.monotonic()
        with self._averaged():
            figures = Metrics.from_ranks(validate(self.encoder, self.accelerator))
            if figures.ndcg > at.best_ndcg:
                at.best_ndcg, at.best_epoch = figures.ndcg, at.epoch
                if self.accelerator.is_main_process:
                    save_trained(self.encoder, best_directory(self.directory, at))
        loss_sum, loss_count = self._loss()
        took = time.monotonic() - began
        at.seconds += took
        record = EpochRecord(
            at.epoch, loss_sum / max(1, loss_count), figures.hr, figures.ndcg, at.epoch_seconds + took
        )
        at.records.append(record)
        at.epoch, at.batch, at.epoch_seconds = at.epoch + 1, 0, 0.0
        self.loss.zero_()
        self._save()
        if self.accelerator.is_main_process:
            log.info(
                "llm: epoch %d, loss %.4f, validation HR@10 %.4f NDCG@10 %.4f, %.1f s",
                record.epoch, record.loss, record.hr, record.ndcg, record.seconds,
            )  # fmt: skip

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The averaged weights in place of the running ones."""
        running = {name: p.detach().clone() for name, p in self.parameters.items()}
        try:
            for name, parameter in self.parameters.items():
                parameter.data.copy_(self.average[name])
            yield
        finally:
            for name, parameter in self.parameters.items():
                parameter.data.copy_(running[name])

    def _loss(self) -> tuple[float, int]:
        """Sum of the losses of the epoch and their number, over all processes."""
        total = self.accelerator.reduce(self.loss.clone(), reduction="sum")
        return float(total[0]), int(total[1])

    def _save(self) -> None:
        """All processes call this; the first one writes."""
        self.at.loss_sum, self.at.loss_count = self._loss()
        if self.accelerator.is_main_process:
            state = {
                "parameters": copies(self.parameters),
                "average": copies(self.average),
                "optimizer": self.optimizer.state_dict(),
            }
            save_state(self.directory, self.at, state)
        self.accelerator.wait_for_everyone()


def _targets(histories: Histories) -> NDArray[np.int64]:
    """Items that are next to some event: all but the first of each history."""
    follows = np.ones(len(histories.items), bool)
    first = histories.offsets[:-1]
    follows[first[first < len(follows)]] = False
    return histories.items[follows].astype(np.int64)
