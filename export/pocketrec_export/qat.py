"""Finishing: the rounded student learns from the float32 one it comes from, for a few passes.

Quantisation-aware training as knowledge distillation (as in LLM-QAT, arXiv 2305.17888, with the student's own
histories for data): weights and item rows are rounded in the forward pass as the bundle will store them, the
activations as its arithmetic will, and gradients pass straight through the rounding (Bengio et al., arXiv
1308.3432). The loss is KL(float32 ‖ rounded) of the softmax over the catalogue, over beginnings of training
histories; no held-out event is seen. The pass that diverges least on validation stays, and none does if not
to train was best.

Rows of items that nobody has seen stay what their texts make of them, and so does the word table: the device
makes rows from it that must lie in the same space.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from .backbone import Backbone
from .compression_config import CompressionConfig
from .learning_state import Learning
from .precision import Precision, Scheme, quantise_linear, scheme_of
from .precision_graph import HistoryGraph, Prefixes
from .precision_quality import Judge, rounded_queries, rounded_table, stored_weight
from .precision_search import paths
from .stages import stage_key

log = logging.getLogger(__name__)

FULL_CATALOGUE = 20_000
"""Items up to which the softmax is over all of them; else over this many, drawn for every batch."""


BATCH_EVENTS = 512
"""Rows of history in a batch: few, as what finishing needs is steps."""


@dataclass(frozen=True)
class Lesson:
    """How much is learnt, and how fast.

    Attributes:
        epochs: passes over the prefixes.
        prefixes: beginnings of training histories, at most.
        rate: of Adam, falling to 0.
        batch_events: rows of history in a batch, padding included.
    """

    epochs: int
    prefixes: int
    rate: float
    batch_events: int = BATCH_EVENTS


class RoundedStudent(nn.Module):
    """Float weights that are rounded whenever they are used.

    Args:
        backbone: copied.
        items: item rows float32 [n, d].
        fixed: bool [n], rows that do not change.
    """

    def __init__(
        self,
        backbone: Backbone,
        items: NDArray[np.float32],
        precision: Precision,
        fixed: NDArray[np.bool_],
    ) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone)
        self.items = nn.Parameter(torch.from_numpy(items.copy()))
        self.backbone.requires_grad_(True)
        self.schemes: dict[str, Scheme] = {
            name: scheme_of(precision, name, tuple(linear.weight.shape))
            for name, linear in self.backbone.linears().items()
        }
        self.table: Scheme = scheme_of(precision, "tables.items", items.shape)
        free = torch.from_numpy((~fixed).astype(np.float32))[:, None]
        self.items.register_hook(lambda gradient: gradient * free)

    def graph(self) -> HistoryGraph:
        """The graph over the weights as they are rounded now."""
        weights: dict[str, Tensor] = {}
        for name, linear in self.backbone.linears().items():
            tensors = quantise_linear(name, linear.weight.detach().numpy(), self.schemes[name])
            weights[name] = _straight_through(linear.weight, stored_weight(name, tensors))
        rounded = frozenset(name for name, scheme in self.schemes.items() if scheme != "fp32")
        return HistoryGraph(self.backbone, weights, rounded)

    def rows(self) -> Tensor:
        """The item rows as they are rounded now, float32 [n, d]."""
        return _straight_through(self.items, rounded_table(self.items.detach().numpy(), self.table))

    def asked(self, queries: Tensor) -> Tensor:
        """Queries as the scan asks with them."""
        if self.table == "fp32":
            return queries
        return queries + (rounded_queries(queries) - queries).detach()


def finish(
    judge: Judge,
    backbone: Backbone,
    precision: Precision,
    items: NDArray[np.float32],
    settings: CompressionConfig,
    work: Path | None = None,
) -> tuple[Backbone, NDArray[np.float32]]:
    """The backbone and item rows whose rounded form comes closest to the float32 student; see `learn`.

    Args:
        work: where result and state are kept, under a key of all that they depend on; None keeps nothing.
    """
    lesson = Lesson(settings.finish_epochs, settings.finish_prefixes, settings.finish_rate)
    file = None
    if work is not None:
        every = paths(backbone, items.shape, judge.checkpoint.words.shape)
        schemes = {path: (shape, scheme_of(precision, path, shape)) for path, shape in every.items()}
        low_rank = (settings.kept, settings.ranks, settings.calibration)
        file = work / f"finished-{stage_key(judge.key(), schemes, low_rank, lesson)}.safetensors"
    return learn(judge, backbone, precision, items, lesson, file)


def learn(
    judge: Judge,
    backbone: Backbone,
    precision: Precision,
    items: NDArray[np.float32],
    lesson: Lesson,
    file: Path | None = None,
) -> tuple[Backbone, NDArray[np.float32]]:
    """The backbone and item rows that come closest to the judge's reference once they are rounded.

    Args:
        judge: the student, its data and its validation users.
        backbone: may be of low rank, or narrower than the reference.
        items: item rows float32 [n, d].
        file: where the result is kept, and the state beside it (`learning_state`): what is there is taken,
            and a run that was killed goes on. It is named after all other arguments. None keeps nothing.
    """
    student = RoundedStudent(backbone, items, precision, judge.checkpoint.seen == 0)
    prefixes = judge.calibration(lesson.prefixes)
    size = lesson.batch_events
    batches = [which for which, _, _ in prefixes.batches(*judge.tables, most=size)]
    random = np.random.default_rng(judge.seed)
    optimiser = torch.optim.Adam(student.parameters(), lr=lesson.rate)
    steps = lesson.epochs * len(batches)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=max(steps, 1))
    reference = HistoryGraph(judge.reference_backbone)
    run = Learning(file, student, optimiser, schedule, random)
    if not run.finished():
        if not run.resume():
            run.best = judge.divergence(backbone, precision, items)
            log.info("divergence %.5f before %d passes of %d steps", run.best, lesson.epochs, len(batches))
        while run.epoch < lesson.epochs:
            if run.left is None:
                run.left = random.permutation(len(batches)).tolist()
            while run.left:
                part = prefixes.part(batches[run.left.pop(0)])
                loss = _loss(student, judge, reference, part, random, size)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                run.save(due=False)
            divergence = judge.divergence(_frozen(student), precision, student.items.detach().numpy())
            log.info("divergence %.5f after pass %d", divergence, run.epoch + 1)
            if divergence < run.best:
                run.best, run.found = divergence, copy.deepcopy(student.state_dict())
            run.epoch, run.left = run.epoch + 1, None
            run.save()
        run.finish()
    if run.found is None:
        return backbone, items
    student.load_state_dict(run.found)
    return _frozen(student), student.items.detach().numpy().copy()


def _frozen(student: RoundedStudent) -> Backbone:
    """A copy of the backbone that learns nothing more."""
    return copy.deepcopy(student.backbone).requires_grad_(False).eval()


def _loss(
    student: RoundedStudent,
    judge: Judge,
    reference: HistoryGraph,
    prefixes: Prefixes,
    random: np.random.Generator,
    most: int,
) -> Tensor:
    """Mean divergence over the prefixes, which make one batch."""
    rounded, count = student.rows(), len(judge.checkpoint.item_ids)
    ((_, rows, mask),) = prefixes.batches(rounded, *judge.tables[1:], most=most)
    ((_, float_rows, _),) = prefixes.batches(*judge.reference_tables, most=most)
    among = slice(None) if count <= FULL_CATALOGUE else random.choice(count, FULL_CATALOGUE, replace=False)
    with torch.no_grad():
        wanted = torch.log_softmax(reference(float_rows, mask) @ judge.reference_tables[0][among].T, dim=1)
    scores = student.asked(student.graph()(rows, mask)) @ rounded[among].T
    return functional.kl_div(torch.log_softmax(scores, 1), wanted, log_target=True, reduction="batchmean")


def _straight_through(weight: Tensor, rounded: NDArray[np.float32]) -> Tensor:
    """The rounded weight forward, the weight itself backward."""
    return weight + (torch.from_numpy(rounded) - weight).detach()
