"""One size of the scale benchmark, measured in a process of its own: `scale` runs this module as a program.

Standard input is the JSON of a `Job`; the last line of standard output is that of what `measure` returns.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, TypedDict

from pocketrec_tools.machine import peak_memory

WARM_UP = 5
VALIDATION_USERS = 256
"""Ranked for the clock; a build ranks `training.validation_users` of them after an epoch."""


class Job(TypedDict):
    """What to measure: a data directory, minutes of training, a directory for what is written."""

    data: str
    work: str
    minutes: float
    seed: int


class Clock:
    """Seconds, processor seconds and peak memory of stages; the peak of a stage is its own where the system
    lets the counter be set back (Linux), else the highest so far."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, float]] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        began, spent = time.monotonic(), time.process_time()
        yield
        self.stages[name] = {
            "seconds": time.monotonic() - began,
            "processor_seconds": time.process_time() - spent,
            "peak_bytes": float(peak_memory()),
        }
        sys.stderr.write(f"{name}: {self.stages[name]}\n")


def measure(job: Job) -> dict[str, Any]:
    """Everything that a build does with a data set, once, and training for some minutes.

    Returns:
        users, items, events, positions, batches: of the set; the latter two of an epoch.
        stages: seconds, processor_seconds and peak_bytes of each.
        training: of the batches after `WARM_UP`: batches, positions, seconds, processor_seconds, rows (of the
            behaviour table that a batch changes, the mean), and state_bytes of a saved state.
    """
    clock = Clock()
    with clock.stage("import"):
        import torch

        from pocketrec_export.batches import Epoch
        from pocketrec_export.checkpoint import load_checkpoint, save_checkpoint
        from pocketrec_export.config import BuildConfig
        from pocketrec_export.data import load_dataset
        from pocketrec_export.exporting import export_checkpoint
        from pocketrec_export.known import KnownItems
        from pocketrec_export.metrics import popularity_metrics
        from pocketrec_export.model import Material
        from pocketrec_export.options import ExportOptions
        from pocketrec_export.student import SIZES
    torch.set_num_threads(1)
    config, work = BuildConfig(), Path(job["work"])
    with clock.stage("load"):
        dataset = load_dataset(job["data"])
    with clock.stage("fingerprint"):
        fingerprint = dataset.fingerprint
    shape = SIZES[config.student.size]
    material = Material(dataset, shape.vocab)
    with clock.stage("split, popularity"):
        popularity_metrics(dataset, material.split, "test")
    with clock.stage("histories"):
        histories, ranker = material.histories, material.ranker
    with clock.stage("tokenizer, TF-IDF"):
        weights = material.features.weights
    with clock.stage("model, word rows"):
        model = material.model(
            shape,
            length=50,
            seed=job["seed"],
            kappa=2.0,
            recency_heads=4,
            input_dropout=0.2,
            hidden_dropout=0.2,
        )
    with clock.stage("windows of an epoch"):
        epoch = Epoch(histories, 50, config.training.positions, None)
        positions, batches = epoch.predictions, len(epoch)
        del epoch
    training = _train(material, model, job, clock)
    users = material.split.users_for("validation")[:VALIDATION_USERS]
    with clock.stage(f"ranks of {len(users)} users"):
        ranker.ranks(model, "validation", users)
    with clock.stage("known items"):
        known = KnownItems.from_histories(histories.offsets, histories.items, dataset.num_items)
        del known
    with clock.stage("checkpoint"):
        save_checkpoint(
            work / "student",
            model,
            material.tokenizer,
            idf=material.features.idf,
            seen=material.seen,
            item_ids=dataset.item_ids,
            columns=dataset.columns,
            events=dataset.events,
            meta={"data": fingerprint},
        )
    with clock.stage("bundle, int8"):
        export_checkpoint(
            load_checkpoint(work / "student"), work / "bundle", ExportOptions(targets=(), force=True)
        )
    return {
        "users": dataset.num_users,
        "items": dataset.num_items,
        "events": dataset.num_events,
        "words": int(weights.nnz),
        "positions": positions,
        "batches": batches,
        "stages": clock.stages,
        "training": training,
        "bundle_bytes": sum(file.stat().st_size for file in (work / "bundle").iterdir()),
    }


def _train(material: Any, model: Any, job: Job, clock: Clock) -> dict[str, float]:
    """Batches for so many minutes, by the parts that `training.train` is made of; and one saved state."""
    import numpy as np
    import torch
    from accelerate import Accelerator

    from pocketrec_export.batches import Epoch
    from pocketrec_export.config import BuildConfig
    from pocketrec_export.losses import ScoreStep, next_item_loss
    from pocketrec_export.training import bf16_is_fast
    from pocketrec_export.training_state import TrainingRun
    from pocketrec_export.updates import Updates

    config, items = BuildConfig().training, material.dataset.num_items
    rng = np.random.default_rng(job["seed"])
    with clock.stage("first batches"):
        step = ScoreStep(model, items, config.negatives_for(items), config.behaviour_dropout)
        updates = Updates(step, Accelerator(), config, decay=0.999)
        run = TrainingRun(config, Path(job["work"]) / "state", model, updates)
        epoch = Epoch(material.histories, model.length, config.positions, rng)
        model.train()
    done = rows = predicted = 0
    began = spent = 0.0
    for number in count():
        if number in (WARM_UP, 0):
            began, spent = time.monotonic(), time.process_time()
            done = rows = predicted = 0
        if number > WARM_UP and time.monotonic() - began > 60 * job["minutes"]:
            break
        batch, _ = epoch.batch(number % len(epoch))
        tensors = {name: torch.from_numpy(array) for name, array in vars(batch).items()}
        drawn = torch.from_numpy(rng.integers(0, items, max(step.negatives, 1)))
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16_is_fast()):
            candidates = updates.wrapped(tensors, drawn)
        updates.apply(next_item_loss(candidates), config.learning_rate)
        done, rows = done + 1, rows + len(candidates.items)
        predicted += len(candidates.targets)
    figures = {
        "batches": done,
        "positions": predicted,
        "seconds": time.monotonic() - began,
        "processor_seconds": time.process_time() - spent,
        "rows": rows / done,
    }
    with clock.stage("averages brought up to date"):
        updates.average.settle()
    with clock.stage("state"):
        run.save(None)
    model.rows.sparse = False
    return figures | {"state_bytes": float(run.file.stat().st_size)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(json.loads(sys.stdin.read()))) + "\n")
