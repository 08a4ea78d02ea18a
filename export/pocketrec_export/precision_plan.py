"""What an export is going to write: low rank first, then a precision, then what the budget says to them.

    planner = Planner(checkpoint, options, CompressionConfig(), judge)
    plan = planner.first()
    plan = planner.another(attempt)      # after the gate refused it; BudgetError when nothing is left

The order is that of OD-LLM: distil, low rank, quantise. Whatever is chosen is chosen on validation users.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pocketrec.errors import DataError

from .backbone import Backbone
from .checkpoint import Checkpoint
from .compression_config import CompressionConfig
from .content import compact_json
from .gate import Attempt, BudgetError, Loss
from .lowrank import compress
from .options import SEARCH, ExportOptions
from .precision import RECIPES, Precision, fp32, recipe, scheme_of
from .precision_quality import Judge
from .precision_search import Mix, best_within, frontier, options, paths, smallest_that, stored_bytes

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 3
MANIFEST_BYTES, GRAPH_BYTES = 6_000, 45_000  # about: a manifest; nodes and constants of a graph


@dataclass(frozen=True)
class Plan:
    """What to write.

    Attributes:
        label: the precision's name in the manifest.
        items: item rows float32 [items, d], before they are rounded.
        path: what each step made of NDCG@10 on the validation users, in order; empty without data.
    """

    label: str
    backbone: Backbone
    items: NDArray[np.float32]
    precision: Precision
    path: list[dict[str, Any]] = field(default_factory=list)


class Planner:
    """Makes plans until one passes the gate.

    Args:
        work: where narrowing and finishing keep result and state; None keeps nothing.

    Attributes:
        tried: attempts so far, simulated ones first.
        reference: what the float32 student does on the validation users, None without data.
        low_rank: what low rank did, for the manifest; empty without it.
        checkpoint, judge: of the student that is written: the one given, unless it was made narrower.
        narrow: NDCG@10 of the narrow student before anything else; None without narrowing.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        options: ExportOptions,
        settings: CompressionConfig,
        judge: Judge | None,
        work: Path | None = None,
    ) -> None:
        self._work = work
        self.checkpoint, self.options, self.settings, self.judge = checkpoint, options, settings, judge
        self.tried: list[Attempt] = []
        self.low_rank: dict[str, Any] = {}
        needs = {
            f"--precision {SEARCH}": options.precision == SEARCH,
            "--width": settings.width > 0,
            "--low-rank": settings.kept < 1,
            "--max-ndcg-loss": options.budget.max_ndcg_loss is not None,
            "finish_epochs": settings.finish_epochs > 0,
        }
        wanted = [name for name, is_set in needs.items() if is_set]
        if judge is None and wanted:
            raise DataError(
                f"{wanted[0]} needs histories to measure on.",
                code="data-missing",
                remedy="Name the data that the checkpoint was trained on with --data.",
            )
        self.reference = judge.float_student() if judge is not None else None
        self.backbone = Backbone.from_decoder(checkpoint.backbone, torch.from_numpy(checkpoint.recency))
        self.narrow: float | None = None
        if judge is not None and settings.width:
            from .narrowing import narrow

            judge = narrow(judge, settings, work)
            self.judge, self.checkpoint, self.backbone = judge, judge.checkpoint, judge.float_backbone
            self.narrow = judge.judge(self.backbone, fp32, self.checkpoint.item_rows).ndcg
        if judge is not None and settings.kept < 1:
            found = compress(
                self.backbone,
                judge.calibration(settings.calibration),
                judge.tables,
                settings.kept,
                settings.ranks,
            )
            self.backbone = found.backbone
            self.low_rank = {"kept": found.kept, "ranks": found.ranks, "errors": found.errors}
        self._most_bytes = float("inf") if options.budget.max_bytes is None else options.budget.max_bytes
        self._least_bytes = 0.0

    def first(self) -> Plan:
        """The plan to begin with.

        Raises:
            BudgetError: the search finds no mix that could keep to the budget.
        """
        if self.options.precision != SEARCH:
            return self._plan(self.options.precision, recipe(self.options.precision))
        for name in RECIPES:
            self.tried.append(self.simulated(name, RECIPES[name]))
        return self._searched()

    def another(self, refused: Attempt) -> Plan:
        """The next plan after the gate refused one.

        Raises:
            BudgetError: there is none.
        """
        self.tried.append(refused)
        measured = [attempt for attempt in self.tried if attempt.measured]
        if self.options.precision != SEARCH or len(measured) >= MOST_ATTEMPTS or "ms" in refused.missed:
            raise BudgetError(self.options.budget, self.tried)
        assert refused.bytes is not None
        if "bytes" in refused.missed:
            # The estimate was too low by so much; for a like mix it will be again.
            self._most_bytes -= refused.bytes - float(self.options.budget.max_bytes or 0)
        elif self.options.budget.max_bytes is None:
            self._least_bytes = self._estimate(self._last) * 1.02
        else:
            raise BudgetError(self.options.budget, self.tried)  # the best mix of this size loses too much
        return self._searched()

    def simulated(self, label: str, precision: Precision) -> Attempt:
        """What this precision would give, by simulation: bytes are estimated."""
        size = int(self._estimate(precision))
        if self.judge is None or self.reference is None:
            return Attempt(label, size)
        outcome = self.judge.judge(self.backbone, precision, self.checkpoint.item_rows)
        loss = Loss.of(outcome.ranks, self.reference.ranks, self.judge.everyone)
        return Attempt(label, size, outcome.ndcg, loss)

    def _searched(self) -> Plan:
        budget, mix = self.options.budget, None
        if budget.max_bytes is not None:
            mix = best_within(self._mixes, self._most_bytes - self._other_bytes)
        else:
            left = [m for m in self._mixes if self._estimate(m) >= self._least_bytes]
            mix = smallest_that(left, self._passes)
        if mix is None:
            raise BudgetError(budget, self.tried)
        self._last = mix
        log.info("chosen: %s", ", ".join(f"{path} {scheme}" for path, scheme in mix.schemes.items()))
        return self._plan(SEARCH, mix)

    def _passes(self, mix: Mix) -> bool:
        attempt = self.simulated(f"a mix of {mix.bytes:,} bytes of weights", mix)
        self.tried.append(attempt)
        return attempt.loss is not None and attempt.loss.part <= (self.options.budget.max_ndcg_loss or 0.0)

    @cached_property
    def _mixes(self) -> list[Mix]:
        assert self.judge is not None
        return frontier(options(self.judge, self.backbone, self.checkpoint.item_rows, self._copies))

    @property
    def _copies(self) -> int:
        return 1 + len(self.options.targets)

    def _estimate(self, precision: Precision) -> float:
        """Bytes of the whole bundle."""
        shapes = paths(self.backbone, self.checkpoint.item_rows.shape, self.checkpoint.words.shape)
        weights = sum(
            stored_bytes(path, shape, scheme_of(precision, path, shape), self._copies)
            for path, shape in shapes.items()
        )
        return weights + self._other_bytes

    @cached_property
    def _other_bytes(self) -> int:
        """About what all else in the bundle takes."""
        checkpoint = self.checkpoint
        texts = [checkpoint.item_ids, *self.options.shown(checkpoint.columns).values()]
        catalogue = sum(len(text.encode()) + 8 for column in texts for text in column)
        catalogue += 12 * len(checkpoint.item_ids)
        inputs = sum(a.nbytes for a in (checkpoint.event_rows, checkpoint.gap_rows, checkpoint.idf))
        golden = 1_000 * checkpoint.length
        graphs = self._copies * checkpoint.recency.nbytes + GRAPH_BYTES * len(self.options.targets)
        tokenizer = len(compact_json(checkpoint.tokenizer))
        return catalogue + inputs + golden + graphs + tokenizer + MANIFEST_BYTES

    def _plan(self, label: str, precision: Precision) -> Plan:
        backbone, items = self.backbone, self.checkpoint.item_rows
        if self.judge is None or self.reference is None:
            return Plan(label, backbone, items, precision)
        path: list[dict[str, Any]] = [{"stage": "student", "ndcg@10": self.reference.ndcg}]
        if self.narrow is not None:
            path.append({"stage": f"{items.shape[1]} wide", "ndcg@10": self.narrow})
        if self.low_rank:
            path.append({"stage": "low rank", "ndcg@10": self.judge.judge(backbone, fp32, items).ndcg})
        if self.settings.finish_epochs:
            from .qat import finish

            rounded = self.judge.judge(backbone, precision, items).ndcg
            path.append({"stage": "quantised", "ndcg@10": rounded})
            backbone, items = finish(self.judge, backbone, precision, items, self.settings, self._work)
        path.append(
            {
                "stage": "finished" if self.settings.finish_epochs else "quantised",
                "ndcg@10": self.judge.judge(backbone, precision, items).ndcg,
            }
        )
        return Plan(label, backbone, items, precision, path)


def compression_figures(
    planner: Planner, plan: Plan, figures: dict[str, Any], measured: dict[str, Any]
) -> dict[str, Any]:
    """`figures.compression` of the manifest: the path from the teacher to the runtime.

    Args:
        figures: of the build; its teacher's validation figure is that of all users.
        measured: by `gate.measure`.
    """
    teacher = figures.get("teacher", {}).get("validation", {}).get("ndcg@10")
    path = [{"stage": "teacher, all users", "ndcg@10": teacher}] if teacher is not None else []
    path += plan.path
    if "ndcg@10" in measured:
        path.append({"stage": f"runtime, {measured['engine']}", "ndcg@10": measured["ndcg@10"]})
    found: dict[str, Any] = {"part": "validation", "users": measured.get("users", 0), "path": path}
    loss: Loss | None = measured.get("loss")
    if loss is not None:
        found |= {"run": measured["run"], "lost": {"mean": loss.part, "low": loss.low, "high": loss.high}}
    found |= {
        "engine": measured["engine"],
        "ms": round(measured["ms"], 3),
        "budget": str(planner.options.budget),
    }
    if planner.low_rank:
        found["low_rank"] = planner.low_rank
    if isinstance(plan.precision, Mix):
        found["schemes"] = dict(plan.precision.schemes)
    return found
