"""From a checkpoint to a bundle: quantise, write each target, run it, compare it; only then is it done."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pocketrec.errors import PocketrecError
from pocketrec.manifest import Backbone as BackboneSpec
from pocketrec.verify import Verification, verify

from .backbone import Backbone, backbone_tensors
from .checkpoint import Checkpoint
from .compression_config import CompressionConfig
from .content import BundleContent, TableContent, compact_json
from .gate import Attempt, attempt, doubt, measure
from .golden_requests import golden_requests
from .options import TARGETS, ExportOptions
from .precision import scheme_of
from .precision_plan import Plan, Planner, compression_figures
from .precision_quality import Judge
from .report import write_report
from .targets import Sample, export_target, tolerances
from .writer import write_bundle

log = logging.getLogger(__name__)


def export_checkpoint(
    checkpoint: Checkpoint,
    out: Path,
    options: ExportOptions,
    figures: dict[str, Any] | None = None,
    *,
    settings: CompressionConfig | None = None,
    judge: Judge | None = None,
    report: Path | None = None,
    work: Path | None = None,
) -> Verification:
    """Write the bundle of a checkpoint at `out`; what its own runtime says of it is the result.

    Args:
        settings: how it is made smaller; None takes the defaults.
        judge: held-out histories of the checkpoint's data; a search, low rank and limits on quality need it.
        report: the directory that gets the build's report, `OUT.report.html` and `.md`; None writes none.
        work: where narrowing and finishing keep result and state, so that what was killed goes on; made when
            there is something to keep. None keeps nothing.

    Raises:
        PocketrecError: `artifact-disagrees` when a target's artifact, run by its runtime, does not agree with
            the numpy engine; `exists`, `target-unknown`, `precision-unknown`. Nothing is left behind.
        BudgetError: nothing that was tried keeps to `options.budget`. Nothing is left behind.
        DataError: `data-missing`, without the judge that is needed; `display-unknown`.
    """
    options.shown(checkpoint.columns)  # a wrong name is answered at once
    planner = Planner(checkpoint, options, settings or CompressionConfig(), judge, work)
    plan = planner.first()
    while True:
        try:
            told = _write(planner.checkpoint, out, options, figures or {}, planner, plan)
        except _RefusedError as refused:
            plan = planner.another(refused.attempt)
            continue
        if report is not None:
            write_report(report, out, planner, plan)
        return told


class _RefusedError(Exception):
    """The gate refused a bundle before it was put in place."""

    def __init__(self, attempt: Attempt) -> None:
        super().__init__(attempt.label)
        self.attempt = attempt


def _write(
    checkpoint: Checkpoint,
    out: Path,
    options: ExportOptions,
    figures: dict[str, Any],
    planner: Planner,
    plan: Plan,
) -> Verification:
    backbone, precision, item_rows = plan.backbone, plan.precision, plan.items
    tensors = backbone_tensors(backbone, precision)
    samples = catalogue_samples(checkpoint)
    engines: dict[str, dict[str, str | None]] = {}
    graphs: dict[str, bytes] = {}
    for target in options.targets:
        engine, file = TARGETS[target]
        log.info("writing %s (%s)", file, options.precision)
        graphs[target], agreement = export_target(target, backbone, precision, samples)
        log.info("%s agrees with the numpy engine: %s", file, agreement)
        engines[engine] = _versions(engine)
    events = list(checkpoint.meta["events"])
    prior = checkpoint.seen.astype(np.float32)
    shape = item_rows.shape
    worst = tolerances(backbone, tensors)[1]
    spread, top = _score_scales(backbone, checkpoint, samples)
    content = BundleContent(
        name=options.name or out.stem,
        precision=plan.label,
        length=checkpoint.length,
        backbone=BackboneSpec(**asdict(backbone.shape)),
        backbone_tensors=tensors,
        items=TableContent(scheme_of(precision, "tables.items", shape), rows=item_rows),
        words=TableContent(
            scheme_of(precision, "tables.words", checkpoint.words.shape), rows=checkpoint.words
        ),
        event_rows=checkpoint.event_rows,
        gap_rows=checkpoint.gap_rows,
        idf=checkpoint.idf,
        events=events,
        gap_seconds=checkpoint.meta["gap_seconds"],
        item_ids=checkpoint.item_ids,
        prior=prior,
        seen=checkpoint.seen,
        tokenizer=compact_json(checkpoint.tokenizer),
        display=options.shown(checkpoint.columns),
        onnx=graphs.get("onnx"),
        pte=graphs.get("executorch"),
        engines=engines,
        # A query that is off by a part of its length moves scores by that part of their spread if it is off
        # in any direction, and by that part of the best score if it is off along the query.
        tolerance=worst * spread,
        most_off=worst * top,
        golden=golden_requests(checkpoint.item_ids, prior, events, checkpoint.length),
        model_version=options.model_version,
        catalogue_version=options.catalogue_version,
        licences=options.licences,
        figures=figures,
        created=options.created,
    )

    results: list[Verification] = []
    measured: dict[str, Any] = {}

    def measure_it(directory: Path) -> dict[str, Any]:
        if planner.judge is None and not options.budget:
            return {}
        reference = planner.reference
        ranks = reference.ranks if reference is not None else None
        measured.update(measure(directory, planner.judge, ranks))
        return {"compression": compression_figures(planner, plan, figures, measured)}

    def check(directory: Path) -> None:
        results.append(verify(directory))
        wrong = [f"{c.name}: {c.detail}" for c in results[-1].checks if c.status == "failed"]
        missing = [
            f"{c.name} could not be run"
            for c in results[-1].checks
            if c.status == "skipped" and c.name in engines
        ]
        if wrong or missing:
            raise PocketrecError(
                f"the bundle does not do what its checkpoint says ({'; '.join(wrong + missing)}).",
                code="artifact-disagrees",
                remedy="Choose another precision, or leave the target out with --targets.",
            )
        if measured:
            size = sum(file.stat().st_size for file in directory.iterdir())
            found = attempt(options.precision, size, measured, options.budget)
            if found.missed:
                raise _RefusedError(found)
            planner.tried.append(found)
            if (told := doubt(found, options.budget)) is not None:
                log.warning("%s", told)

    write_bundle(
        out,
        content=content,
        force=options.force,
        sign_key=options.sign_key,
        as_zip=options.as_zip,
        measure=measure_it,
        check=check,
    )
    return replace(results[0], path=str(out))


def catalogue_samples(checkpoint: Checkpoint, count: int = 16, seed: int = 0) -> list[Sample]:
    """Rows and masks of histories of all lengths, drawn from the catalogue by popularity."""
    rng = np.random.default_rng(seed)
    weights = (checkpoint.seen + 1.0) / (checkpoint.seen + 1.0).sum()
    length, dim = checkpoint.recency.shape
    samples: list[Sample] = []
    for used in np.linspace(1, length, count).astype(int):
        fused = checkpoint.item_rows[rng.choice(len(weights), used, p=weights)]
        fused = fused + checkpoint.event_rows[rng.integers(0, len(checkpoint.event_rows), used)]
        fused = fused + checkpoint.gap_rows[rng.integers(0, len(checkpoint.gap_rows), used)]
        rows, mask = np.zeros((1, length, dim), np.float32), np.zeros((1, length), np.float32)
        rows[0, length - used :], mask[0, length - used :] = fused, 1.0
        samples.append((rows, mask))
    return samples


@torch.no_grad()
def _score_scales(
    backbone: Backbone, checkpoint: Checkpoint, samples: Sequence[Sample]
) -> tuple[float, float]:
    """Standard deviation of a list's scores over the catalogue, and how far the best is above their mean; the
    means over the samples."""
    queries = torch.cat([backbone(torch.from_numpy(rows), torch.from_numpy(mask)) for rows, mask in samples])
    scores = queries @ torch.from_numpy(checkpoint.item_rows).T
    return float(scores.std(dim=1).mean()), float((scores.amax(dim=1) - scores.mean(dim=1)).mean())


def _versions(engine: str) -> dict[str, str | None]:
    """What the manifest says of the runtime versions that may run an artifact made with the one installed."""
    made = importlib.metadata.version(engine)
    if engine != "executorch":
        return {"min_version": "1.20", "made_with": made}
    major, minor = made.split(".")[:2]
    # A .pte is guaranteed for the release that made it and the next minor one.
    return {
        "min_version": f"{major}.{minor}",
        "max_version": f"{major}.{int(minor) + 1}",
        "made_with": made,
    }
