"""The arms of ours in the quality benchmark: what `build` makes of a data set, as the runtime runs it.

Every arm goes the whole way: trained, quantised to int8, exported to ONNX, opened and run by the runtime. The
arms of one seed share a work directory, so the teacher is trained and its lists are written once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pocketrec.errors import DataError
from pocketrec_export.build import BuildResult, build
from pocketrec_export.config import BuildConfig, load_config
from pocketrec_export.options import ExportOptions
from pocketrec_tools.evaluate import evaluate
from pocketrec_tools.quality_records import QualityData, Record, Store, stamp

TARGETS = ("onnx",)


@dataclass(frozen=True)
class Arm:
    """A way to build.

    Args:
        label: in the page.
        teacher: of `build`; None leaves the default.
        changes: to the recipe, nested like a configuration file.
        judged: "bundle", or "teacher" for the teacher's own figures.
    """

    label: str
    teacher: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    judged: str = "bundle"


OURS = "duokd"
"""The arm that the others are compared with: the recipe as it is."""

ARMS: dict[str, Arm] = {
    "none": Arm("no teacher: next items alone", teacher="none"),
    OURS: Arm("**DuoKD, the default recipe**"),
    "positives": Arm("positives only", changes={"duokd": {"lambda_negative": 0.0}}),
    "negatives": Arm("negatives only", changes={"duokd": {"lambda_positive": 0.0}}),
    "no-reliability": Arm("both, without ρ", changes={"duokd": {"reliability": False}}),
    "kl": Arm(
        "plain KL to the teacher's 100 best, same budget",
        changes={"duokd": {"method": "kl", "lambda_kl": 1.0, "top_k": 100}},
    ),
    "teacher": Arm("the teacher itself, float32", judged="teacher"),
}


@dataclass(frozen=True)
class Recipe:
    """What all arms have in common.

    Args:
        config: a TOML file, the defaults when None.
        max_minutes: of each build, see `build`.
    """

    config: Path | None = None
    max_minutes: float | None = None

    def of(self, arm: Arm, seed: int) -> BuildConfig:
        """The configuration of an arm.

        Raises:
            DataError: the recipe has no such setting.
        """
        return load_config(self.config, {**arm.changes, "seed": seed})

    def settings(self, arm: Arm) -> dict[str, Any]:
        """The `settings` of a record: what differs from a plain `build`; two runs with equal ones are one."""
        changed = self.of(arm, 0).model_dump(mode="json", exclude_defaults=True)
        asked: dict[str, Any] = {"config": changed} if changed else {}
        if arm.teacher is not None:
            asked["teacher"] = arm.teacher
        return asked if self.max_minutes is None else {**asked, "max_minutes": self.max_minutes}


def run_arm(data: QualityData, name: str, seed: int, recipe: Recipe, store: Store) -> Record:
    """Build and evaluate one arm, and note it down; with the default recipe its teacher, too.

    Raises:
        DataError: there is no such arm, or the recipe lacks what it sets.
        PocketrecError: see `build` and `evaluate`.
    """
    arm = find_arm(name)
    began = time.monotonic()
    built = build_arm(data.path, arm, seed, recipe, store.work / data.name, name)
    shared: dict[str, Any] = {"kind": "ours", "data": data.figures, "seed": seed, **stamp()}
    taught = name == OURS and "teacher" in built.figures
    if taught or arm.judged == "teacher":
        teacher = built.figures["teacher"]
        assert built.teacher_ranks is not None
        ranks = np.load(built.teacher_ranks)
        record = Record(
            **shared,
            arm="teacher",
            settings=recipe.settings(find_arm("teacher")),
            minutes=(time.monotonic() - began) / 60,
            training=training_minutes({"teacher": teacher}),
            validation=teacher["validation"],
            **data.of_ranks(ranks),
            details=_trained(teacher),
        )
        record = store.save(record, ranks)
        if not taught:
            return record
    report = evaluate(built.bundle, data.path, progress=False)
    student = built.figures["student"]
    record = Record(
        **shared,
        arm=name,
        settings=recipe.settings(arm),
        minutes=(time.monotonic() - began) / 60,
        training=training_minutes(built.figures),
        validation=student["validation"],
        **data.of_ranks(report.ranks),
        details={
            **_trained(student),
            "float_test": student["test"],
            "precision": report.precision,
            "engine": f"{report.engine} {report.engine_version}",
            "bundle_bytes": report.bundle_bytes,
            "ms_per_list": report.ms_per_list,
        },
    )
    return store.save(record, report.ranks)


def build_arm(path: Path, arm: Arm, seed: int, recipe: Recipe, work: Path, name: str) -> BuildResult:
    """`build` with the stages of this seed in one place and a bundle for each arm."""
    asked: dict[str, Any] = {} if arm.teacher is None else {"teacher": arm.teacher}
    return build(
        path,
        work / "bundles" / f"{name}-{seed}",
        recipe.of(arm, seed),
        ExportOptions(targets=TARGETS, name=f"{name}-{seed}", force=True),
        work_dir=work / f"seed-{seed}",
        max_minutes=recipe.max_minutes,
        **asked,
    )


def training_minutes(figures: dict[str, Any]) -> dict[str, float]:
    """Minutes of training by part; a teacher that was there already is counted as what it took then."""
    parts = ("teacher", "student")
    return {p: figures[p]["seconds"] / 60 for p in parts if "seconds" in figures.get(p, {})}


def find_arm(name: str) -> Arm:
    """The arm of this name; `DataError` when there is none."""
    if name not in ARMS:
        raise DataError(
            f"there is no arm {name!r}.", code="arm-unknown", remedy=f"Choose from {','.join(ARMS)}."
        )
    return ARMS[name]


def _trained(figures: dict[str, Any]) -> dict[str, Any]:
    """What is worth keeping of a trained model's figures, or of a teacher's, which has others."""
    wanted = ("kind", "name", "parameters", "best_epoch", "epochs", "stopped")
    kept = {name: figures[name] for name in wanted if name in figures}
    members = [{"name": m["name"], "weight": m["weight"]} for m in figures.get("members", [])]
    return {**kept, "members": members} if members else kept
