"""The parts of the scale benchmark that train and ask teachers (see `scale_measure`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from pocketrec_export.arithmetic import bf16_is_fast
from pocketrec_export.batches import Epoch
from pocketrec_export.cache import CacheWriter, TeacherCache
from pocketrec_export.config import BuildConfig
from pocketrec_export.distillation import Distillation
from pocketrec_export.known import KnownItems
from pocketrec_export.losses import ScoreStep, next_item_loss
from pocketrec_export.model import Material
from pocketrec_export.sequence import SequenceRanker
from pocketrec_export.student import Student
from pocketrec_export.teachers import Positions, lists_from_log_probs
from pocketrec_export.training_state import TrainingRun
from pocketrec_export.updates import Updates

WARM_UP, DISTILLED = 5, 15
"""Batches that are not counted, and batches with a teacher that are."""

LIST = 20
"""Length of the made-up teacher's lists. A build keeps 100, of which a batch reads as many bytes more."""

LISTED = 128
"""Positions at which a teacher is asked for lists."""


class Trainer:
    """Makes batches by the parts that `training.train` is made of.

    Args:
        work: where a state and a teacher's lists are written.
    """

    def __init__(self, material: Material, model: Student, seed: int, work: Path) -> None:
        self.config = BuildConfig()
        training, self.items = self.config.training, material.dataset.num_items
        self.material, self.model, self.work = material, model, work
        self.rng = np.random.default_rng(seed)
        self.step = ScoreStep(
            model, self.items, training.negatives_for(self.items), training.behaviour_dropout
        )
        self.updates = Updates(self.step, Accelerator(), training, decay=0.999)
        self.run = TrainingRun(training, work / "state", model, self.updates)
        self.epoch = Epoch(material.histories, model.length, training.positions, self.rng)
        self.done = 0
        model.train()

    def batches(
        self, go_on: Callable[[int, float], bool], lessons: Distillation | None = None
    ) -> dict[str, float]:
        """Figures of batches after `WARM_UP`: batches, positions, rows (that one changes, the mean), seconds,
        processor_seconds.

        Args:
            go_on: whether to make another one, by those made and the seconds they took.
        """
        for _ in range(WARM_UP):
            self._batch(lessons)
        began, spent = time.monotonic(), time.process_time()
        made: list[tuple[int, int]] = []
        while not made or go_on(len(made), time.monotonic() - began):
            made.append(self._batch(lessons))
        positions, rows = np.array(made).T
        return {
            "batches": len(made),
            "positions": int(positions.sum()),
            "rows": float(rows.mean()),
            "seconds": time.monotonic() - began,
            "processor_seconds": time.process_time() - spent,
        }

    def _batch(self, lessons: Distillation | None) -> tuple[int, int]:
        batch, _ = self.epoch.batch(self.done % len(self.epoch))
        self.done += 1
        tensors = {name: torch.from_numpy(array) for name, array in vars(batch).items()}
        drawn = torch.from_numpy(self.rng.integers(0, self.items, max(self.step.negatives, 1)))
        lesson = None if lessons is None else lessons.lesson(tensors)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16_is_fast()):
            candidates = self.updates.wrapped(tensors, drawn, None if lesson is None else lesson.items)
        loss = next_item_loss(candidates)
        if lessons is not None and lesson is not None:
            loss = loss + lessons.loss(candidates, lesson)
        self.updates.apply(loss, self.config.training.learning_rate)
        return len(candidates.targets), len(candidates.items)

    def made_up_lists(self) -> TeacherCache:
        """A cache of the size that the set asks for, with random lists for the batches to come."""
        histories = self.material.histories
        k = min(LIST, self.items)
        writer = CacheWriter.open(
            self.work / "lists", n=len(histories.items), k=k, items=self.items, key="made up"
        )
        for number in range(WARM_UP + DISTILLED):
            batch, _ = self.epoch.batch((self.done + number) % len(self.epoch))
            rows = batch.index[batch.segments > 0]
            first = self.rng.integers(0, self.items, len(rows))
            ids = (first[:, None] + np.arange(k)) % self.items
            log_probs = np.sort(self.rng.normal(-6, 1, ids.shape))[:, ::-1]
            rank = self.rng.integers(1, self.items + 1, len(rows))
            writer.write(number, rows, ids, log_probs, rank, np.full(len(rows), -9.0))
        writer.finish()
        return TeacherCache.open(self.work / "lists")

    def lessons(self, cache: TeacherCache) -> Distillation:
        """DuoKD on these lists."""
        histories = self.material.histories
        known = KnownItems.from_histories(histories.offsets, histories.items, self.items)
        return Distillation(cache, known, self.config.duokd)


def teacher_lists(model: Student, material: Material) -> int:
    """Ask a model of the student's family for lists of 100, and say at how many positions."""
    ranker = SequenceRanker(model, "sequence")
    positions = Positions.all(material.histories, model.length)
    chunks = positions.chunks(min(LISTED, max(1, (256 << 20) // (4 * ranker.items))))
    asked = 0
    for windows in chunks:
        part = positions.part(windows)
        lists_from_log_probs(ranker.log_probs(part), part, min(100, ranker.items))
        asked += len(part)
        if asked >= LISTED:
            break
    return asked
