"""One size of the scale benchmark, measured in a process of its own: `scale` runs this module as a program.

Standard input is the JSON of a `Job`; the last line of standard output is that of what `measure` returns.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

from pocketrec_tools.machine import peak_memory

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
        training, distilled: see `scale_training.Trainer.batches`, without and with a teacher; and state_bytes
            of a saved state.
        listed: positions of the stage "lists of a teacher".
    """
    clock = Clock()
    with clock.stage("import"):
        import torch

        from pocketrec_export.batches import Epoch
        from pocketrec_export.checkpoint import load_checkpoint, save_checkpoint
        from pocketrec_export.config import BuildConfig
        from pocketrec_export.data import load_dataset
        from pocketrec_export.exporting import export_checkpoint
        from pocketrec_export.metrics import popularity_metrics
        from pocketrec_export.model import Material
        from pocketrec_export.options import ExportOptions
        from pocketrec_export.student import SIZES
        from pocketrec_tools.scale_training import DISTILLED, Trainer, teacher_lists
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
    with clock.stage("training"):
        trainer = Trainer(material, model, job["seed"], work)
        training = trainer.batches(lambda _, seconds: seconds < 60 * job["minutes"])
    with clock.stage("averages brought up to date"):
        trainer.updates.average.settle()
    with clock.stage("state"):
        trainer.run.save(None)
    training["state_bytes"] = trainer.run.file.stat().st_size
    trainer.run.file.unlink()
    with clock.stage("a cache of lists"):
        cache = trainer.made_up_lists()
    with clock.stage("known items"):
        lessons = trainer.lessons(cache)
    with clock.stage("distilled batches"):
        distilled = trainer.batches(lambda made, _: made < DISTILLED, lessons)
    del trainer, lessons, cache
    shutil.rmtree(work / "lists")
    model.rows.sparse = False
    with clock.stage("lists of a teacher"):
        listed = teacher_lists(model, material)
    users = material.split.users_for("validation")[:VALIDATION_USERS]
    with clock.stage(f"ranks of {len(users)} users"):
        ranker.ranks(model, "validation", users)
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
        "distilled": distilled,
        "listed": listed,
        "bundle_bytes": sum(file.stat().st_size for file in (work / "bundle").iterdir()),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(json.loads(sys.stdin.read()))) + "\n")
