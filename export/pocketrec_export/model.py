"""From data to an untrained model: what students and teachers have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from tokenizers import Tokenizer

from .batches import Histories
from .data import Dataset
from .ranking import FloatRanker
from .split import Split, leave_one_out
from .student import GAP_SECONDS, ItemRows, Shape, Student
from .text import TextFeatures, text_features, train_tokenizer


@dataclass(frozen=True)
class Material:
    """A dataset, split and turned into what models are made of. Everything follows from the training part.

    Args:
        dataset: the data directory as read.
        vocab: size of the tokenizer's vocabulary, at most.
    """

    dataset: Dataset
    vocab: int

    def of_vocab(self, vocab: int) -> Material:
        """The same with another vocabulary; what does not depend on it is shared."""
        other = replace(self, vocab=vocab)
        vars(other).update(split=self.split, histories=self.histories, ranker=self.ranker)
        return other

    @property
    def gap_seconds(self) -> tuple[int, ...]:
        """Gap thresholds; none where timestamps are mere positions, from which no gap can be told."""
        return GAP_SECONDS if self.dataset.timed else ()

    @cached_property
    def split(self) -> Split:
        """Leave-one-out."""
        return leave_one_out(self.dataset)

    @cached_property
    def seen(self) -> np.ndarray:
        """int64 [items], training interactions."""
        return self.split.train_counts

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Trained on the catalogue's texts."""
        return train_tokenizer(self.dataset.texts, self.vocab)

    @cached_property
    def features(self) -> TextFeatures:
        """TF-IDF of the catalogue."""
        return text_features(self.dataset.texts, self.tokenizer)

    @cached_property
    def histories(self) -> Histories:
        """The training events."""
        offsets, items, event_ids, timestamps = self.split.train_csr()
        return Histories.from_events(offsets, items, event_ids, timestamps, self.gap_seconds)

    @cached_property
    def ranker(self) -> FloatRanker:
        """Ranks held-out targets."""
        return FloatRanker(self.split, self.gap_seconds)

    def model(
        self,
        shape: Shape,
        *,
        length: int,
        seed: int,
        kappa: float,
        recency_heads: int,
        input_dropout: float,
        hidden_dropout: float,
        words: np.ndarray | None = None,
    ) -> Student:
        """An untrained model; the seed decides its weights.

        Args:
            words: word rows float32 [vocab, dim] to start from; None takes latent semantic analysis.
        """
        torch.manual_seed(seed)
        if words is None:
            words = self.features.start_rows(shape.dim, seed)
        rows = ItemRows(self.features.weights, self.seen, words, kappa)
        return Student(
            shape,
            length,
            rows,
            len(self.dataset.events),
            self.gap_seconds,
            recency_heads=recency_heads,
            input_dropout=input_dropout,
            hidden_dropout=hidden_dropout,
        )
