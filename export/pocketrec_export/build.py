"""`build`: from a data directory to a verified bundle. The verb of the command line is in `verbs`."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pocketrec.bundle import Bundle
from pocketrec.errors import DataError
from pocketrec.verify import Verification

from .config import BuildConfig
from .doubts import doubts
from .launched import is_main
from .options import ExportOptions, TeacherChoice

log = logging.getLogger(__name__)

# Of a build's time limit, what training the teacher may take; the rest is the student's and the export's.
TEACHER_SHARE = 0.5
EXPORT_RESERVE_SECONDS = 120.0


@dataclass(frozen=True)
class BuildResult:
    """What a build made.

    Attributes:
        bundle: where it is.
        checkpoint: the student as a Hugging Face checkpoint.
        figures: data, teacher, student, popularity, and of the main process what compression did; also in the
            manifest.
        verification: the bundle as its own runtimes see it.
        seconds: this run; stages that were there already cost nothing.
        teacher_ranks: file with the rank that the teacher gives each judged user's test target; None without
            a teacher.
        doubts: what speaks against shipping this student, in sentences; see `doubts`.
    """

    bundle: Path
    checkpoint: Path
    figures: dict[str, Any]
    verification: Verification
    seconds: float
    teacher_ranks: Path | None = None
    doubts: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "bundle": str(self.bundle),
            "checkpoint": str(self.checkpoint),
            "figures": self.figures,
            "verification": self.verification.to_dict(),
            "seconds": self.seconds,
            "doubts": list(self.doubts),
        }


def build(
    data_dir: str | Path,
    out: str | Path,
    config: BuildConfig | None = None,
    options: ExportOptions | None = None,
    *,
    teacher: str = "ensemble",
    work_dir: str | Path | None = None,
    max_minutes: float | None = None,
    report_dir: str | Path | None = None,
) -> BuildResult:
    """Train a student on a data directory and write its bundle.

    Started by `accelerate launch` or `torchrun`, all processes of the run call this and share the training;
    data, work directory and bundle lie where all of them see them.

    Args:
        data_dir: see `data.load_dataset`.
        out: the bundle; nothing is there before the last moment.
        config: None takes the defaults.
        options: of the export.
        teacher: what to distil from, see `options.TeacherChoice`; "none" trains on next items alone.
        work_dir: where stages are kept, `OUT.build` when None. The same build goes on there after a kill.
        max_minutes: stop training early enough to end about then.
        report_dir: gets the page of the build, see `report`; None writes none.

    Raises:
        DataError: the data or configuration cannot be used.
        PocketrecError: see `exporting.export_checkpoint`; BudgetError when `options.budget` cannot be kept.
    """
    from .data import load_dataset
    from .writer import recover, refuse_existing

    began = time.monotonic()
    config, options, out = config or BuildConfig(), options or ExportOptions(), Path(out)
    choice = TeacherChoice.parse(teacher)
    if max_minutes is not None and max_minutes <= 0:
        raise DataError(f"--max-minutes {max_minutes:g} is not positive.", remedy="Give minutes, such as 30.")
    if is_main():
        recover(out)
        refuse_existing(out, options.force)
    dataset = load_dataset(data_dir)
    log.info("%s", dataset.report)
    # Torch loads here, after all that can be wrong with options, paths and data was found.
    from .checkpoint import load_checkpoint
    from .exporting import export_checkpoint
    from .metrics import popularity_metrics
    from .model import Material
    from .precision_quality import Judge
    from .processes import agreed, processes
    from .stages import Stages
    from .student import SIZES
    from .teaching import make_teacher

    processes()  # joins the run, if there are several
    material = Material(dataset, SIZES[config.student.size].vocab)
    for part in ("validation", "test"):
        if len(material.split.users_for(part)) == 0:
            raise DataError(
                f"{data_dir}: no user has enough events for a {part} target.",
                code="data-too-short",
                remedy="Give users with three events or more; most should have that many.",
            )
    work = Path(work_dir) if work_dir is not None else out.with_name(out.name + ".build")
    work.mkdir(parents=True, exist_ok=True)

    def left() -> float | None:
        if max_minutes is None:
            return None
        return max(1.0, max_minutes * 60 - EXPORT_RESERVE_SECONDS - (time.monotonic() - began))

    stages = Stages(material, config, work, left)
    # Other teachers have no sequence models.
    teaching = stages.of_teacher() if choice.kind in ("ensemble", "sequence") else stages
    figures: dict[str, Any] = {
        "data": {
            "users": dataset.num_users,
            "items": dataset.num_items,
            "events": dataset.num_events,
            "warnings": [w.anonymous() for w in dataset.report.warnings],
        },
        "protocol": "leave-one-out, full catalogue, seen items filtered, pessimistic ties",
        "seed": config.seed,
        "popularity": popularity_metrics(dataset, material.split, "test").to_dict(),
    }
    cache = teacher_ranks = None
    if choice.kind != "none":
        made, details = make_teacher(teaching, choice, TEACHER_SHARE)
        cache, quality, teacher_ranks = teaching.cache(made)
        figures["teacher"] = {"kind": choice.kind, "name": made.name, **details, **quality}
        del made  # as large as its models; from here on its cache speaks for it
    directory, trained = stages.student(cache, judges=teaching)
    figures["student"] = asdict(trained)
    if stages.texts is not None:
        figures["text"] = stages.texts.told()
    verification = None
    if is_main():
        checkpoint = load_checkpoint(directory)
        verification = export_checkpoint(
            checkpoint,
            out,
            options,
            figures,
            settings=config.compression,
            judge=Judge(checkpoint, dataset, config.compression.validation_users, config.seed),
            report=Path(report_dir) if report_dir is not None else None,
            work=work,
        )
        with Bundle.open(out) as bundle:
            figures["compression"] = bundle.manifest.figures["compression"]
    processes().wait_for_everyone()
    told: Verification | None = agreed(verification)
    assert told is not None  # the main process has made it
    against = tuple(doubts(figures, alike=teaching is stages))
    return BuildResult(out, directory, figures, told, time.monotonic() - began, teacher_ranks, against)
