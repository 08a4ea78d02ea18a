"""What a change of the student costs on held-out events: ranks, and how far its scores move.

NDCG@10 moves by chance more than rounding one linear costs, so a search that looked at it would chase noise.
The search looks at the divergence KL(float32 ‖ changed) of the softmax over the catalogue, a mean over
`SAMPLE` histories, which is smooth and never negative; NDCG@10 of all is what the result is held to.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from pocketrec.errors import DataError
from pocketrec.quantise import dequantise_rows_int4, dequantise_rows_int8

from .backbone import Backbone, backbone_tensors
from .batches import Histories
from .checkpoint import Checkpoint
from .content import TableContent
from .data import Dataset
from .metrics import Metrics, pessimistic_rank
from .precision import Precision, Scheme, scheme_of
from .precision_graph import HistoryGraph, Prefixes
from .ranking import judged_users
from .split import leave_one_out
from .stages import stage_key
from .text import text_features

CHUNK_SCORES = 1 << 23
"""Scores held at a time, of each of two models."""

SAMPLE = 1000
"""Users whose scores are compared as a whole; a mean of divergences needs no more."""


@dataclass(frozen=True)
class Outcome:
    """How a changed student does.

    Attributes:
        divergence: mean KL(float32 ‖ changed) over the catalogue, nats, of the judge's `sample`.
        ranks: int64 [users], of the held-out items.
    """

    divergence: float
    ranks: NDArray[np.int64]

    @property
    def ndcg(self) -> float:
        """NDCG@10."""
        return Metrics.from_ranks(self.ranks).ndcg


class Judge:
    """The float32 student on validation users, to hold changed ones against: the reference.

    Args:
        checkpoint: the student.
        dataset: what it was trained on.
        users: at most so many, drawn by the seed; 0 takes all by whom a model is judged
            (`ranking.judged_users`).

    Attributes:
        user_rows: int32 [n], the users, ascending rows of the dataset.
        everyone: nobody else could be asked.
        sample: int64 [at most `SAMPLE`], ascending indices of them, drawn by the seed.
        prefixes: their histories before the validation target.
        tables: item, event and gap rows float32 [·, d], as trained.
        float_backbone: the backbone, as trained.
        reference_backbone, reference_tables: the reference's; those of the student, unless it was made of
            another one (`of`).
        reference: float32 [n, d], the reference's queries.

    Raises:
        DataError: "catalogue-mismatch", the data has other items than the checkpoint; "data-too-short".
    """

    def __init__(self, checkpoint: Checkpoint, dataset: Dataset, users: int = 0, seed: int = 0) -> None:
        if dataset.item_ids != checkpoint.item_ids:
            raise DataError(
                f"the data has {dataset.num_items} items that are not the {len(checkpoint.item_ids)} of the "
                "checkpoint.",
                code="catalogue-mismatch",
                remedy="Give the data directory that the checkpoint was trained on.",
            )
        self.checkpoint, self.dataset, self.seed = checkpoint, dataset, seed
        self._wide = checkpoint
        self.split = leave_one_out(dataset)
        self.user_rows = everyone = judged_users(self.split, "validation", seed)
        if users:
            self.user_rows = self.split.some_users("validation", users, seed)
        self.everyone = len(self.user_rows) >= len(everyone)
        if not len(self.user_rows):
            raise DataError(
                "no user has a validation target.",
                code="data-too-short",
                remedy="Give users with three events or more.",
            )
        count = len(self.user_rows)
        drawn = np.random.default_rng(seed).permutation(count)[:SAMPLE]
        self.sample: NDArray[np.int64] = np.sort(drawn).astype(np.int64)
        gaps = tuple(checkpoint.meta["gap_seconds"])
        every = Histories.from_events(
            dataset.offsets, dataset.items, dataset.event_ids, dataset.timestamps, gaps
        )
        end = np.array([self.split.target(int(user), "validation") for user in self.user_rows], np.int64)
        size = np.minimum(end - dataset.offsets[self.user_rows], checkpoint.length)
        self.prefixes = Prefixes(every, end, size)
        self.targets = dataset.items[end]
        self.seen = [dataset.items[self.split.history(int(user), "validation")] for user in self.user_rows]
        self.training = Histories.from_events(*self.split.train_csr(), gaps)
        self.tables = (
            _tensor(checkpoint.item_rows),
            _tensor(checkpoint.event_rows),
            _tensor(checkpoint.gap_rows),
        )
        self.float_backbone = Backbone.from_decoder(checkpoint.backbone, torch.from_numpy(checkpoint.recency))
        self.reference_backbone, self.reference_tables = self.float_backbone, self.tables
        self.reference = self.queries(HistoryGraph(self.float_backbone), self.tables[0])
        self._own = self.reference[self.sample]
        self._text: Tensor | None = None

    def of(self, checkpoint: Checkpoint) -> Judge:
        """A judge of another student of the same catalogue, which is held against the same reference."""
        other = copy.copy(self)
        other.checkpoint, other._text = checkpoint, None
        rows = (checkpoint.item_rows, checkpoint.event_rows, checkpoint.gap_rows)
        other.tables = (_tensor(rows[0]), _tensor(rows[1]), _tensor(rows[2]))
        other.float_backbone = Backbone.from_decoder(
            checkpoint.backbone, torch.from_numpy(checkpoint.recency)
        )
        other._own = other.queries(HistoryGraph(other.float_backbone), other.tables[0], self.sample)
        return other

    def key(self) -> str:
        """Sixteen hex digits that change with the student, the reference, the data, the seed or the users."""
        students = [_digest(checkpoint) for checkpoint in (self.checkpoint, self._wide)]
        return stage_key("judge", *students, self.dataset.fingerprint, self.seed, len(self.user_rows))

    def calibration(self, count: int) -> Prefixes:
        """At most `count` beginnings of training histories; no held-out event is in them."""
        return Prefixes.drawn(self.training, self.checkpoint.length, count, self.seed)

    @torch.no_grad()
    def queries(
        self, graph: HistoryGraph, items: Tensor, users: NDArray[np.int64] | slice = slice(None)
    ) -> Tensor:
        """Queries float32 [users, d] when the history rows come from these item rows.

        Args:
            users: indices of `user_rows`; all unless they are given.
        """
        prefixes = self.prefixes.part(users)
        out = torch.empty(len(prefixes), items.shape[1])
        for which, rows, mask in prefixes.batches(items, *self.tables[1:]):
            out[torch.from_numpy(which)] = graph(rows, mask)
        return out

    def judge(self, backbone: Backbone, precision: Precision, items: NDArray[np.float32]) -> Outcome:
        """A student with these linears and item rows, both rounded as `precision` says."""
        graph, rows, scheme = _rounded(backbone, precision, items)
        queries = self.queries(graph, rows)
        asked = queries if scheme == "fp32" else rounded_queries(queries)
        ranks = chunked_ranks(asked, rows, self.targets, self.seen)
        return Outcome(self._divergence(asked[self.sample], rows), ranks)

    def divergence(self, backbone: Backbone, precision: Precision, items: NDArray[np.float32]) -> float:
        """The divergence of `judge` alone, for which no other users than the sample are asked."""
        graph, rows, scheme = _rounded(backbone, precision, items)
        queries = self.queries(graph, rows, self.sample)
        return self._divergence(queries if scheme == "fp32" else rounded_queries(queries), rows)

    def float_student(self) -> Outcome:
        """The reference itself."""
        ranks = chunked_ranks(self.reference, self.reference_tables[0], self.targets, self.seen)
        return Outcome(0.0, ranks)

    @torch.no_grad()
    def word_divergence(self, scheme: Scheme) -> float:
        """The divergence that rounding the word table costs when all items are ranked by their texts alone,
        as new ones are; 0 when there are no texts."""
        if self._text is None:
            tokenizer = Tokenizer.from_str(self.checkpoint.tokenizer.decode())
            weights = text_features(self.dataset.texts, tokenizer).weights
            self._text_weights = weights[:, : len(self.checkpoint.words)]
            self._text = torch.from_numpy(
                np.asarray(self._text_weights @ self.checkpoint.words, dtype=np.float32)
            )
        words = rounded_table(self.checkpoint.words, scheme)
        rows = torch.from_numpy(np.asarray(self._text_weights @ words, dtype=np.float32))
        total = 0.0
        for part in _chunks(len(self._own), len(rows)):
            query = self._own[part]
            total += float(_divergence(query @ self._text.T, query @ rows.T).sum())
        return total / len(self._own)

    @torch.no_grad()
    def _divergence(self, queries: Tensor, rows: Tensor) -> float:
        """Of the sample's queries [sample, d] over item rows [n, d], from the reference."""
        reference, total = self.reference[self.sample], 0.0
        for part in _chunks(len(queries), len(rows)):
            wanted = reference[part] @ self.reference_tables[0].T
            total += float(_divergence(wanted, queries[part] @ rows.T).sum())
        return total / len(queries)


@torch.no_grad()
def chunked_ranks(
    queries: Tensor, items: Tensor, targets: NDArray[np.integer], seen: Sequence[NDArray[np.integer]]
) -> NDArray[np.int64]:
    """`metrics.pessimistic_rank` of queries [n, d] over item rows [items, d], a part of the scores at a
    time."""
    found = [np.zeros(0, np.int64)]
    for part in _chunks(len(queries), len(items)):
        found.append(pessimistic_rank((queries[part] @ items.T).numpy(), targets[part], seen[part]))
    return np.concatenate(found)


def _digest(checkpoint: Checkpoint) -> str:
    """SHA-256 of the weights and of which items were seen."""
    found = hashlib.sha256(repr(checkpoint.length).encode())
    arrays = [checkpoint.item_rows, checkpoint.event_rows, checkpoint.gap_rows, checkpoint.recency]
    arrays += [checkpoint.seen, *(value.numpy() for value in checkpoint.backbone.state_dict().values())]
    for array in arrays:
        found.update(repr((array.shape, array.dtype)).encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def _rounded(
    backbone: Backbone, precision: Precision, items: NDArray[np.float32]
) -> tuple[HistoryGraph, Tensor, Scheme]:
    """Graph, item rows and the rows' scheme, as a runtime has them."""
    scheme = scheme_of(precision, "tables.items", items.shape)
    rows = torch.from_numpy(rounded_table(items, scheme))
    return rounded_graph(backbone, precision), rows, scheme


def _chunks(users: int, items: int) -> list[slice]:
    step = max(1, CHUNK_SCORES // items)
    return [slice(first, first + step) for first in range(0, users, step)]


def rounded_graph(backbone: Backbone, precision: Precision) -> HistoryGraph:
    """The graph that computes what a runtime does with the linears of this precision, up to the last digits
    of floats."""
    tensors = backbone_tensors(backbone, precision)
    weights: dict[str, Tensor] = {}
    rounded: set[str] = set()
    for name in backbone.linears():
        if name not in tensors:
            rounded.add(name)
        weights[name] = torch.from_numpy(stored_weight(name, tensors))
    return HistoryGraph(backbone, weights, frozenset(rounded))


def stored_weight(name: str, tensors: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
    """What the tensors of a linear (docs/bundle.md §5) stand for, float32 [out, in]."""
    if name in tensors:
        return np.asarray(tensors[name], np.float32)
    q, scale = tensors[f"{name}.q"], np.asarray(tensors[f"{name}.scale"], np.float32)
    if q.dtype == np.int8:
        return dequantise_rows_int8(np.asarray(q, np.int8), scale)
    return dequantise_rows_int4(np.asarray(q, np.uint8), scale)


def rounded_table(rows: NDArray[np.float32], scheme: Scheme) -> NDArray[np.float32]:
    """A table as a runtime reads it, float32 [n, d]."""
    stored = TableContent(scheme, rows=rows).stored()
    if scheme == "fp32":
        return stored["rows"]
    if scheme == "int8":
        return dequantise_rows_int8(stored["q"], stored["scale"])
    return dequantise_rows_int4(stored["q"], stored["scale"])


def rounded_queries(queries: Tensor) -> Tensor:
    """Queries [n, d] rounded to 8 bits, as the scan of an integer table asks with them (§6)."""
    t = queries.abs().amax(dim=1, keepdim=True) / 127
    t = torch.where(t == 0, torch.ones_like(t), t)
    return torch.round(queries / t).clamp(-127, 127) * t


def _divergence(reference: Tensor, changed: Tensor) -> Tensor:
    """KL of the softmaxes of two sets of scores [n, items], float64 [n]."""
    log_p, log_q = torch.log_softmax(reference, 1), torch.log_softmax(changed, 1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1, dtype=torch.float64)


def _tensor(rows: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(rows, np.float32))
