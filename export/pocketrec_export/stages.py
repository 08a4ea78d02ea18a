"""The stages of a build, each resumable: teacher, its cache, the student, its checkpoint.

A stage leaves a directory or file named after the key of all it depends on, in the work directory of the
build. What is there and complete is taken as it is; what a kill left half done is gone on with.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pocketrec import __version__

from .cache import TeacherCache
from .checkpoint import save_checkpoint
from .config import BuildConfig
from .distillation import Distillation
from .known import KnownItems
from .metrics import Metrics
from .model import Material
from .student import SIZES, Student
from .teacher import teacher_shape, write_cache
from .training import TrainingResult, train

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A trained model's figures, as they stand in the manifest and in the report; `parameters` counts tables
    too."""

    parameters: int
    validation: dict[str, Any]
    test: dict[str, Any]
    best_epoch: int
    epochs: int
    seconds: float
    stopped: str


def stage_key(*parts: object) -> str:
    """Sixteen hex digits that change when any part does, or the version of pocketrec."""
    text = json.dumps([__version__, *[str(part) for part in parts]])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Stages:
    """Runs the stages for one dataset and configuration in one work directory."""

    def __init__(
        self, material: Material, config: BuildConfig, work: Path, deadline: Callable[[], float | None]
    ) -> None:
        self.material, self.config, self.work = material, config, work
        self.deadline = deadline
        data = (material.dataset.fingerprint, material.vocab, config.seed)
        model = (
            config.student.length,
            config.student.kappa,
            config.student.recency_heads,
            config.training.key(),
        )
        self.teacher_key = stage_key("teacher", *data, *model, config.teacher.key())
        self.student_key = stage_key("student", *data, config.student.key(), config.training.key())

    def teacher(self, share: float) -> tuple[TeacherCache, Trained]:
        """The built-in teacher's finished cache, and how good the teacher is.

        Args:
            share: of the time that is left, how much training may take.
        """
        key = self.teacher_key
        directory, figures = self.work / f"cache-{key}", self.work / f"teacher-{key}.json"
        if figures.exists():
            log.info("teacher and its lists are there already")
            return TeacherCache.open(directory, key), Trained(**json.loads(figures.read_text()))
        settings = self.config.teacher
        model = self._model(
            teacher_shape(settings, self.material.vocab), settings.input_dropout, settings.hidden_dropout
        )
        result = self._train(model, f"teacher-{key}.state", "teacher", None, share)
        trained = self._figures(model, result)
        write_cache(model, self.material.histories, directory, settings.top_k, key)
        _write_json(figures, asdict(trained))
        (self.work / f"teacher-{key}.state").unlink(missing_ok=True)
        return TeacherCache.open(directory, key), trained

    def student(self, cache: TeacherCache | None, teacher: str) -> tuple[Path, Trained]:
        """The trained student's checkpoint and figures.

        Args:
            cache: what to distil from; None trains on next items alone.
            teacher: names the teacher in keys and files.
        """
        key = stage_key(self.student_key, teacher, self.config.duokd.key() if cache is not None else "")
        checkpoint = self.work / f"student-{key}"
        if checkpoint.exists():
            log.info("the student is there already: %s", checkpoint)
            return checkpoint, Trained(**json.loads((checkpoint / "pocketrec.json").read_text())["trained"])
        settings = self.config.student
        model = self._model(SIZES[settings.size], settings.input_dropout, settings.hidden_dropout)
        lessons = None
        if cache is not None:
            histories = self.material.histories
            known = KnownItems.from_histories(
                histories.offsets, histories.items, self.material.dataset.num_items
            )
            lessons = Distillation(cache, known, self.config.duokd)
        result = self._train(model, f"student-{key}.state", "student", lessons, 1.0)
        trained = self._figures(model, result)
        dataset = self.material.dataset
        save_checkpoint(
            checkpoint,
            model,
            self.material.tokenizer,
            idf=self.material.features.idf,
            seen=self.material.seen,
            item_ids=dataset.item_ids,
            columns=dataset.columns,
            events=dataset.events,
            meta={
                "trained": asdict(trained),
                "teacher": teacher,
                "config": self.config.model_dump(),
                "data": dataset.fingerprint,
                "pocketrec": __version__,
            },
        )
        (self.work / f"student-{key}.state").unlink(missing_ok=True)
        return checkpoint, trained

    def _model(self, shape: Any, input_dropout: float, hidden_dropout: float) -> Student:
        settings = self.config.student
        return self.material.model(
            shape,
            length=settings.length,
            seed=self.config.seed,
            kappa=settings.kappa,
            recency_heads=settings.recency_heads,
            input_dropout=input_dropout,
            hidden_dropout=hidden_dropout,
        )

    def _train(
        self, model: Student, state: str, label: str, lessons: Distillation | None, share: float
    ) -> TrainingResult:
        left = self.deadline()
        result = train(
            model,
            self.material.histories,
            self.material.ranker,
            self.config.training,
            seed=self.config.seed,
            state_file=self.work / state,
            label=label,
            distillation=lessons,
            max_seconds=None if left is None else left * share,
        )
        log.info(
            "%s: best epoch %d of %d, validation NDCG@10 %.4f, stopped by %s",
            label, result.best_epoch, len(result.epochs), result.best_ndcg, result.stopped,
        )  # fmt: skip
        return result

    def _figures(self, model: Student, result: TrainingResult) -> Trained:
        """Quality on all users; the test part is looked at once, after every choice has been made."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model.to(device)
        ranker = self.material.ranker
        part = {p: Metrics.from_ranks(ranker.ranks(model, p)).to_dict() for p in ("validation", "test")}
        return Trained(
            sum(p.numel() for p in model.parameters()),
            part["validation"],
            part["test"],
            result.best_epoch,
            len(result.epochs),
            result.seconds,
            result.stopped,
        )


def _write_json(file: Path, value: Any) -> None:
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1), encoding="utf-8")
    partial.replace(file)
