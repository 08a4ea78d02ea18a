"""The stages of a build, each resumable: sequence models, the teacher's cache, the student, its checkpoint.

A stage leaves a directory or file named after the key of all it depends on, in the work directory of the
build. What is there and complete is taken as it is; what a kill left half done is gone on with.

Several processes run the same stages in step: they train together, the main one writes files and the others
wait for it. All of them see one work directory.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch

from pocketrec import __version__

from .cache import TeacherCache
from .checkpoint import save_checkpoint
from .config import BuildConfig
from .distillation import Distillation
from .item_text import EncodedTexts
from .known import KnownItems
from .metrics import Metrics
from .model import Material
from .processes import agreed, gathered, processes
from .ranking import judged_users
from .split import Part
from .student import SIZES, Shape, Student
from .teachers import Positions, Teacher, held_out_ranks, write_cache
from .training import TrainingResult, train
from .training_state import forget_training

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A trained model's figures, as they stand in the manifest and in the report; `parameters` counts tables
    too."""

    parameters: int
    dropout: float
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
    """Runs the stages for one dataset and configuration in one work directory.

    Attributes:
        length: events that the graph reads, chosen where the configuration leaves it open.
        texts: item texts through a sentence encoder; None without one.
    """

    def __init__(
        self, material: Material, config: BuildConfig, work: Path, deadline: Callable[[], float | None]
    ) -> None:
        self.material, self.config, self.work = material, config, work
        self.deadline = deadline
        self.length = config.student.length_for(np.diff(material.histories.offsets))
        self.texts = EncodedTexts.of(material, config.text, work / "texts", seed=config.seed)
        read = () if self.texts is None else ("text", *self.texts.key)
        self.data_key = stage_key(
            material.dataset.fingerprint, material.vocab, config.seed, self.length, *read
        )
        student = config.student
        self._family = (self.data_key, student.kappa, student.recency_heads, config.training.key())

    @property
    def shape(self) -> Shape:
        """The student's."""
        return SIZES[self.config.student.size]

    def of_teacher(self) -> Stages:
        """The stages of the sequence models that teach: these, unless `teacher.size` is another size.

        Their tokenizer is that of their size, so students of every size find the same teacher in `work`.
        """
        size = self.config.teacher_size
        if size == self.config.student.size:
            return self
        student = self.config.student.model_copy(update={"size": size})
        config = self.config.model_copy(update={"student": student})
        return Stages(self.material.of_vocab(SIZES[size].vocab), config, self.work, self.deadline)

    def sequence_models(self, share: float = 1.0) -> list[tuple[Student, Trained]]:
        """One trained model of this shape for each of `teacher.dropouts`, of unlike seeds.

        Args:
            share: of the time that is left, what their training may take together.
        """
        dropouts = self.config.teacher.dropouts
        return [self._sequence_model(i, share / (len(dropouts) - i)) for i in range(len(dropouts))]

    def _sequence_model(self, number: int, share: float) -> tuple[Student, Trained]:
        settings = self.config.teacher
        dropout, seed = settings.dropouts[number], self.config.seed + 1000 * number
        key = stage_key("sequence", *self._family, self.shape, dropout, seed)
        weights, figures = self.work / f"sequence-{key}.safetensors", self.work / f"sequence-{key}.json"
        model = self._model(self.shape, dropout, seed)
        if agreed(figures.exists()):
            log.info("sequence model %d is there already", number + 1)
            model.load_state_dict(safetensors.torch.load_file(weights))
            return model.eval(), Trained(**json.loads(figures.read_text()))
        label = f"sequence model {number + 1}"
        result = self._train(model, f"sequence-{key}.state", label, None, share, seed)
        trained = self._figures(model, result, dropout)
        model.cpu()
        if processes().is_main_process:
            partial = weights.with_suffix(".partial")
            safetensors.torch.save_file(model.state_dict(), partial)
            partial.replace(weights)
            _write_json(figures, asdict(trained))
            forget_training(self.work / f"sequence-{key}.state")
        processes().wait_for_everyone()
        return model, trained

    def validation_positions(self) -> Positions:
        """What settings and weights of an ensemble are fitted on."""
        split = self.material.split
        users = split.some_users("validation", self.config.teacher.validation_users, self.config.seed)
        return Positions.held_out(self.material.ranker.histories, split, "validation", users, self.length)

    def cache(self, teacher: Teacher) -> tuple[TeacherCache, dict[str, Any], Path]:
        """The teacher's finished cache, and how good the teacher is: its validation and test figures, and a
        file with the rank of each judged user's test target, int64 [users]."""
        settings, key = self.config.teacher, stage_key("cache", teacher.key, self.config.teacher.key())
        directory, figures = self.work / f"cache-{key}", self.work / f"cache-{key}.json"
        ranks_file = self.work / f"cache-{key}.npy"
        if processes().is_main_process and not (figures.exists() and ranks_file.exists()):
            histories = self.material.histories
            write_cache(teacher, histories, directory, settings.top_k, self.length, settings.newest)
            everything, split = self.material.ranker.histories, self.material.split
            parts: tuple[Part, ...] = ("validation", "test")
            users = {part: judged_users(split, part, self.config.seed) for part in parts}
            ranks = {
                part: held_out_ranks(teacher, everything, split, part, self.length, users[part])
                for part in parts
            }
            np.save(ranks_file, ranks["test"])
            _write_json(figures, {part: Metrics.from_ranks(own).to_dict() for part, own in ranks.items()})
        processes().wait_for_everyone()
        return TeacherCache.open(directory, teacher.key), json.loads(figures.read_text()), ranks_file

    def student(
        self, cache: TeacherCache | None, share: float = 1.0, *, judges: Stages | None = None
    ) -> tuple[Path, Trained]:
        """The trained student's checkpoint and figures.

        Without a dropout in the configuration it takes that of the best sequence model, whose training this
        may start. Without a teacher too, it is that model.

        Args:
            cache: what to distil from; None trains on next items alone.
            share: of the time that is left, what training may take.
            judges: whose sequence models choose the dropout, because they are there already; None takes
                models of the student's own shape.
        """
        settings, seed = self.config.student, self.config.seed
        dropout, best = settings.dropout, None
        if dropout < 0:
            models = (judges or self).sequence_models(share if cache is None else share / 2)
            best = max(models, key=lambda model: model[1].validation["ndcg@10"])
            dropout = best[1].dropout
            # A model is as large as the catalogue: none stays that is not needed.
            del models
            if cache is not None:
                best = None
        lesson = (cache.key, self.config.duokd.key()) if cache is not None else ()
        key = stage_key("student", *self._family, self.shape, dropout, settings.dropout, *lesson)
        checkpoint = self.work / f"student-{key}"
        if agreed(checkpoint.exists()):
            log.info("the student is there already: %s", checkpoint)
            return checkpoint, Trained(**json.loads((checkpoint / "pocketrec.json").read_text())["trained"])
        if best is not None:
            model, trained = best
        else:
            model = self._model(self.shape, dropout, seed)
            result = self._train(model, f"student-{key}.state", "student", self._lessons(cache), share, seed)
            trained = self._figures(model, result, dropout)
        if processes().is_main_process:
            self._save(checkpoint, model, trained, cache)
            forget_training(self.work / f"student-{key}.state")
        processes().wait_for_everyone()
        return checkpoint, trained

    def _save(self, checkpoint: Path, model: Student, trained: Trained, cache: TeacherCache | None) -> None:
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
                "teacher": cache.teacher if cache is not None else "",
                "config": self.config.model_dump(mode="json"),
                "data": dataset.fingerprint,
                "pocketrec": __version__,
            },
        )

    def _lessons(self, cache: TeacherCache | None) -> Distillation | None:
        if cache is None:
            return None
        histories = self.material.histories
        known = KnownItems.from_histories(histories.offsets, histories.items, self.material.dataset.num_items)
        return Distillation(cache, known, self.config.duokd)

    def _model(self, shape: Shape, dropout: float, seed: int) -> Student:
        settings = self.config.student
        return self.material.model(
            shape,
            length=self.length,
            seed=seed,
            kappa=settings.kappa,
            recency_heads=settings.recency_heads,
            input_dropout=dropout,
            hidden_dropout=dropout,
            words=None if self.texts is None else self.texts.start_rows(shape.dim, self.validation_positions),
        )

    def _train(
        self,
        model: Student,
        state: str,
        label: str,
        lessons: Distillation | None,
        share: float,
        seed: int,
    ) -> TrainingResult:
        left = agreed(self.deadline())
        result = train(
            model,
            self.material.histories,
            self.material.ranker,
            self.config.training,
            seed=seed,
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

    def _figures(self, model: Student, result: TrainingResult, dropout: float) -> Trained:
        """Quality on `judged_users`, whom processes share; the test part is looked at once, after
        every choice has been made."""
        team = processes()
        model.to(team.device)
        ranker = self.material.ranker

        def judged(part: Part) -> dict[str, Any]:
            users = judged_users(ranker.split, part, self.config.seed)
            ranks = ranker.ranks(model, part, users[team.process_index :: team.num_processes])
            return Metrics.from_ranks(np.concatenate(gathered(ranks))).to_dict()

        part = {"validation": judged("validation"), "test": judged("test")}
        return Trained(
            sum(p.numel() for p in model.parameters()),
            dropout,
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
