"""From what `--teacher` says (`options.TeacherChoice`) to a teacher."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .counting import Pairs, fit_counting
from .ensemble import Ensemble, fit_weights, gather_evidence
from .llm_teacher import LLMTeacher, train_llm_teacher
from .options import TeacherChoice
from .score_file import open_score_teacher
from .sequence import SequenceRanker
from .stages import Stages, stage_key
from .teachers import Ranker, Teacher
from .text_rows import text_embeddings

log = logging.getLogger(__name__)

SENTENCE_FLOORS = (0.3, 1e6)
"""Floors of whitening of a ranker's embeddings to choose from: product titles want them whitened, names and
film titles only centred (docs/item-text.md)."""


def make_teacher(stages: Stages, choice: TeacherChoice, share: float) -> tuple[Teacher, dict[str, Any]]:
    """The teacher and what to tell about it; trains what it is made of.

    Args:
        choice: any but "none".
        share: of the time that is left, what training it may take.
    """
    if choice.kind == "ensemble":
        return _ensemble(stages, stages.config.teacher.rankers, share)
    if choice.kind == "sequence":
        return _ensemble(stages, ("sequence",), share)
    if choice.kind == "llm":
        return _language_model(stages, choice.source, share)
    if choice.kind == "scores":
        scores = open_score_teacher(choice.source, stages.material, stages.config.scores)
        return scores, {"parameters": 0, "seconds": 0.0, "report": scores.report.to_dict()}
    raise ValueError(f"no teacher of kind {choice.kind!r}")


def _language_model(stages: Stages, source: str, share: float) -> tuple[LLMTeacher, dict[str, Any]]:
    config = stages.config.llm
    if source:
        config = config.model_copy(update={"checkpoint": source})
    left = stages.deadline()
    teacher = train_llm_teacher(
        stages.material,
        config,
        stages.work,
        seed=stages.config.seed,
        max_seconds=None if left is None else left * share,
    )
    training = teacher.training
    return teacher, {
        "key": teacher.key,
        "parameters": sum(p.numel() for p in teacher.encoder.parameters()),
        "best_epoch": training.best_epoch,
        "epochs": len(training.records),
        "seconds": training.seconds,
        "stopped": training.stopped,
    }


def _ensemble(stages: Stages, wanted: tuple[str, ...], share: float) -> tuple[Teacher, dict[str, Any]]:
    rankers: list[Ranker] = []
    told: list[dict[str, Any]] = []
    if "sequence" in wanted:
        for number, (model, trained) in enumerate(
            stages.sequence_models(share / 2 if "llm" in wanted else share), 1
        ):
            rankers.append(SequenceRanker(model, f"sequence {number}"))
            told.append(asdict(trained))
    if "llm" in wanted:
        language_model, details = _language_model(stages, "", share / 2)
        rankers.append(language_model)
        told.append(details)
    material = stages.material
    positions = stages.validation_positions()
    counting: set[str] = {"rules", "neighbours", "text"} & set(wanted)
    if counting:
        pairs = Pairs(material.histories, material.dataset.num_items, stages.config.seed)
        texts = material.features.weights if "text" in counting else None
        sentences: list[NDArray[np.float32]] = []
        if "text" in counting and stages.texts is not None:
            counting.add("sentences")
            embeddings = stages.texts.embeddings
            sentences = [text_embeddings(embeddings, floor) for floor in SENTENCE_FLOORS]
        for ranker in fit_counting(pairs, texts, positions, sentences):
            if ranker.name in counting:
                rankers.append(ranker)
                told.append({"decay": ranker.decay})
    evidence = gather_evidence(rankers, positions, stages.config.seed)
    weights = fit_weights(evidence)
    alone = [evidence.metrics([float(i == j) for j in range(len(rankers))]) for i in range(len(rankers))]
    members = [
        {"name": ranker.name, "weight": round(float(weight), 4), "fitted": figures.to_dict(), **details}
        for ranker, weight, figures, details in zip(rankers, weights, alone, told, strict=True)
    ]
    for member in members:
        log.info(
            "ensemble: %s has weight %.3f, alone NDCG@10 %.4f",
            member["name"],
            member["weight"],
            member["fitted"]["ndcg@10"],
        )
    key = stage_key(
        "ensemble", stages.data_key, stages.config.training.key(), stages.config.teacher.key(), members
    )
    return Ensemble(rankers, weights.tolist(), key), {
        "members": members,
        "parameters": sum(int(member.get("parameters", 0)) for member in members),
        "seconds": sum(float(member.get("seconds", 0)) for member in members),
    }
