"""What of a training of the `llm` teacher survives a kill.

    state.pt        what is trained, its average, the optimiser, how far it is; replaced in one step
    best-<n>/       the best averaged weights so far, those after epoch n
    done.json       how it ended; training is over

Order, draws and dropout depend on seed, epoch, batch and process only, so no state of any generator is kept.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .training import EpochRecord

log = logging.getLogger(__name__)
STATE, DONE = "state.pt", "done.json"


@dataclass
class Progressed:
    """How far a training is.

    Attributes:
        epoch, batch: what comes next.
        steps: batches in all.
        loss_sum, loss_count: of the running epoch, over all processes.
        seconds: in all, earlier runs included; epoch_seconds: of the running epoch.
        stopped: why it is over, or "".
        processes: how many there were.
    """

    epoch: int = 0
    batch: int = 0
    steps: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    best_ndcg: float = -1.0
    best_epoch: int = -1
    records: list[EpochRecord] = field(default_factory=list)
    stopped: str = ""
    processes: int = 1

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Progressed:
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**values, "records": [EpochRecord(**record) for record in values["records"]]})


def save_state(directory: Path, progressed: Progressed, tensors: dict[str, Any]) -> None:
    """Replace the state, then remove what only the state before it needed."""
    partial = directory / f"{STATE}.partial"
    torch.save({**tensors, "progressed": asdict(progressed)}, partial)
    os.replace(partial, directory / STATE)
    for old in directory.glob("best-*"):
        if old != best_directory(directory, progressed):
            shutil.rmtree(old)


def load_state(directory: Path, processes: int) -> tuple[Progressed, dict[str, Any]] | None:
    """(how far it is, tensors) of an earlier run; None when there is none.

    Where there were other `processes`, the running epoch goes on at about the same place.
    """
    if not (directory / STATE).exists():
        return None
    state = torch.load(directory / STATE, map_location="cpu", weights_only=True)
    progressed = Progressed.from_dict(state.pop("progressed"))
    if progressed.processes != processes:
        log.warning(
            "the earlier run had %d processes, this one has %d: it ends otherwise than either alone would",
            progressed.processes, processes,
        )  # fmt: skip
        progressed.batch = progressed.batch * progressed.processes // processes
        progressed.processes = processes
    log.info("going on from epoch %d, batch %d of an earlier run", progressed.epoch, progressed.batch)
    return progressed, state


def best_directory(directory: Path, progressed: Progressed) -> Path:
    """Where the best weights are."""
    return directory / f"best-{progressed.best_epoch}"


def finish(directory: Path, progressed: Progressed) -> None:
    """Say that training is over, and remove what only training needs."""
    partial = directory / f"{DONE}.partial"
    partial.write_text(json.dumps(asdict(progressed), indent=1), encoding="utf-8")
    os.replace(partial, directory / DONE)
    (directory / STATE).unlink(missing_ok=True)


def finished(directory: Path) -> Progressed | None:
    """How a training ended; None when it has not."""
    file = directory / DONE
    return Progressed.from_dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None


def copies(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Detached copies in memory of the processor."""
    return {name: value.detach().cpu().clone() for name, value in parameters.items()}
