"""What a student that learns to be narrower or rounded keeps for a kill, and what it keeps in the end.

    NAME.state          weights, optimiser, generator and the place in the pass; goes when the result is there
    NAME.safetensors    the result: the best pass, empty when not to train was best

Both are replaced atomically. A state is written after a pass, and in a long one every `SAVE_SECONDS`.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

SAVE_SECONDS = 60.0


@dataclass
class Learning:
    """A run of `qat.learn`.

    Attributes:
        file: where the result goes, NAME.safetensors; None keeps nothing.
        best: divergence of the best pass, or of what learning began with.
        found: the student's state after the best pass; None while not to train is best.
        epoch: the pass that is under way.
        left: batches of it that are still to come; None before its order is drawn.
    """

    file: Path | None
    student: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    random: np.random.Generator
    best: float = float("inf")
    found: dict[str, Tensor] | None = None
    epoch: int = 0
    left: list[int] | None = None
    _saved: float = field(default_factory=time.monotonic)

    def resume(self) -> bool:
        """Take what an earlier run left; whether there was any."""
        if self.file is None or not self._state.exists():
            return False
        state = torch.load(self._state, map_location="cpu", weights_only=True)
        self.student.load_state_dict(state["student"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.random.bit_generator.state = state["random"]
        self.best, self.found = state["best"], state["found"]
        self.epoch, self.left = state["epoch"], state["left"]
        log.info("going on in pass %d of an earlier run", self.epoch + 1)
        return True

    def save(self, *, due: bool = True) -> None:
        """Write the state; unless it is due, only when the last one is old."""
        if self.file is None or not (due or time.monotonic() - self._saved >= SAVE_SECONDS):
            return
        state = {
            "student": self.student.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": dict(self.random.bit_generator.state),
            "best": self.best,
            "found": self.found,
            "epoch": self.epoch,
            "left": self.left,
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self._state.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self._state)
        self._saved = time.monotonic()

    def finish(self) -> None:
        """Write the result, and remove the state."""
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_suffix(".partial")
        safetensors.torch.save_file(self.found or {}, partial)
        partial.replace(self.file)
        self._state.unlink(missing_ok=True)

    def finished(self) -> bool:
        """Whether an earlier run left its result, which is then in `found`."""
        if self.file is None or not self.file.exists():
            return False
        self.found = safetensors.torch.load_file(self.file) or None
        log.info("what was learnt is there already: %s", self.file)
        return True

    @property
    def _state(self) -> Path:
        assert self.file is not None
        return self.file.with_suffix(".state")
