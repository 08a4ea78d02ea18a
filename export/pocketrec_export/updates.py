"""What a batch changes: weights by AdamW, rows of a large behaviour table by an Adam that only looks at the
rows of the batch, and the moving average of all of them.

A dense step reads and writes the whole table five times over, so its cost grows with the catalogue while the
batch touches a few thousand rows. Beyond `LAZY_ITEMS`, where the softmax is sampled, the table's gradient is
sparse and

* `torch.optim.SparseAdam` updates the moments and the row of an item when a batch names it. (A dense Adam
  would go on moving a row for dozens of batches after it was last named, by momentum alone.) Weight decay,
  too, acts when an item is named;
* the average of a row is brought up to date when the row is about to change: n batches in which it stood
  still are one step of decay ** n. The result is that of averaging all rows after every batch.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .config import TrainingConfig
from .losses import ScoreStep
from .processes import mean_rows, processes
from .student import Student

LAZY_ITEMS = 20_000
"""Up to so many items every batch updates the whole table."""

BLOCK = 1 << 16
BETAS = (0.9, 0.98)


class MovingAverage:
    """Exponential moving average of a student's weights: the first update copies them, each later one takes a
    step of `1 - decay` towards them.

    Args:
        student: on its device already; buffers are shared with it.
        lazy: the behaviour table is averaged row by row, when `about_to_change` names a row. Call `settle`
            before `module` is used.

    Attributes:
        module: a student with the averaged weights.
    """

    def __init__(self, student: Student, decay: float, lazy: bool) -> None:
        self.decay, self.updates = decay, 0
        self.module: Student = copy.deepcopy(student, {id(buffer): buffer for buffer in student.buffers()})
        self.module.requires_grad_(False).eval()
        self._table, self._table_average = student.rows.behaviour, self.module.rows.behaviour
        pairs = zip(student.parameters(), self.module.parameters(), strict=True)
        self._pairs = [(p.detach(), a) for p, a in pairs if not (lazy and p is self._table)]
        self._step = get_ema_multi_avg_fn(decay)
        # How many updates the average of each row has seen.
        self._done = (
            torch.zeros(len(self._table), dtype=torch.int32, device=self._table.device) if lazy else None
        )

    @torch.no_grad()
    def about_to_change(self, rows: Tensor) -> None:
        """Bring the averages of these rows, int64 [m], up to date with what the rows are now."""
        assert self._done is not None
        stood_still = (self.updates - self._done[rows]).double()
        share = torch.pow(self.decay, stood_still).to(self._table.dtype)[:, None]
        self._table_average[rows] = torch.lerp(self._table[rows], self._table_average[rows], share)
        self._done[rows] = self.updates

    @torch.no_grad()
    def update(self, rows: Tensor | None) -> None:
        """Follow the weights after a batch, which changed these rows of a lazy table."""
        weights, averages = [p for p, _ in self._pairs], [a for _, a in self._pairs]
        if self.updates == 0:
            for weight, average in zip(weights, averages, strict=True):
                average.copy_(weight)
        else:
            self._step(averages, weights, None)
        self.updates += 1
        if rows is not None and self._done is not None:
            part = self._table[rows]
            if self.updates > 1:
                part = torch.lerp(self._table_average[rows], part, 1 - self.decay)
            self._table_average[rows] = part
            self._done[rows] = self.updates

    def settle(self) -> None:
        """Bring every row up to date."""
        if self._done is not None:
            for first in range(0, len(self._done), BLOCK):
                end = min(first + BLOCK, len(self._done))
                self.about_to_change(torch.arange(first, end, device=self._done.device))

    def state_dict(self) -> dict[str, Any]:
        """Everything that a killed run needs, settled or not."""
        return {"module": self.module.state_dict(), "updates": self.updates, "done": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.updates = state["updates"]
        if self._done is not None:
            self._done.copy_(state["done"])


class Updates:
    """Makes the changes of a batch to a student.

    Args:
        step: the module whose loss is minimised; `wrapped` is what to call instead of it.
        decay: of the moving average.
        lazy: whether the behaviour table is updated by rows; None decides by the size of the catalogue.
    """

    def __init__(
        self,
        step: ScoreStep,
        accelerator: Accelerator,
        config: TrainingConfig,
        decay: float,
        lazy: bool | None = None,
    ) -> None:
        student = step.student
        if lazy is None:
            lazy = step.negatives > 0 and step.items > LAZY_ITEMS
        self.config, self.accelerator = config, accelerator
        self._table = student.rows.behaviour if lazy else None
        student.rows.sparse = lazy
        dense = [p for p in step.parameters() if p is not self._table]
        decayed = [p for p in dense if p.ndim > 1]
        plain = [p for p in dense if p.ndim <= 1]
        adam = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            betas=BETAS,
        )
        if lazy and processes().num_processes > 1:
            nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
                step, [name for name, p in step.named_parameters() if p is self._table]
            )
        self.wrapped, self._adam = accelerator.prepare(step, adam)
        self._by_rows = None
        if self._table is not None:
            self._by_rows = torch.optim.SparseAdam([self._table], lr=config.learning_rate, betas=BETAS)
        self.average = MovingAverage(student, decay, lazy)

    def apply(self, loss: Tensor, learning_rate: float) -> None:
        """One step down the gradient of `loss`, scalar: the mean over this process's share."""
        for optimizer in (self._adam, self._by_rows):
            if optimizer is not None:
                optimizer.zero_grad(set_to_none=True)
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate
        self.accelerator.backward(loss)
        self._adam.step()
        rows = None
        if self._table is not None and self._by_rows is not None:
            rows, gradient = mean_rows(self._table.grad)
            self.average.about_to_change(rows)
            if self.config.weight_decay:
                with torch.no_grad():
                    self._table[rows] *= 1 - learning_rate * self.config.weight_decay
            self._table.grad = torch.sparse_coo_tensor(
                rows[None], gradient, self._table.shape, is_coalesced=True, check_invariants=False
            )
            self._by_rows.step()
        self.average.update(rows)

    def state_dict(self) -> dict[str, Any]:
        """Optimisers and average."""
        return {
            "adam": self._adam.state_dict(),
            "by_rows": self._by_rows and self._by_rows.state_dict(),
            "average": self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._adam.load_state_dict(state["adam"])
        if self._by_rows is not None:
            self._by_rows.load_state_dict(state["by_rows"])
        self.average.load_state_dict(state["average"])
