"""The student: item rows fused from text and behaviour, a Qwen3 backbone, and a short path from history to
query.

* An item row is `text + gate · behaviour`: the TF-IDF weighted sum of its word rows, plus a learned residual
  whose gate `n / (n + kappa)` grows with the number n of training interactions and is exactly 0 for an item
  nobody has seen.
* A history row is item row + event row + gap row. The backbone reads history rows through `inputs_embeds`.
* The query is the backbone's last hidden state plus a recency-weighted sum of the history rows themselves.
* Scores are dot products of the query with item rows; the same rows stand on both sides.

One dial, `size`, sets depth, width and heads together. Teachers are the same family, wider.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3Model

# Thresholds in seconds between an event and the one before it: a minute … a year.
GAP_SECONDS = (60, 600, 3600, 21600, 86400, 259200, 604800, 2592000, 7776000, 31536000)


@dataclass(frozen=True)
class Shape:
    """What one notch of the size dial stands for."""

    dim: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int


SIZES = {
    "tiny": Shape(
        dim=96, layers=2, heads=4, kv_heads=2, intermediate=192, vocab=4096
    ),  # 0.17 M in the backbone
    "small": Shape(dim=256, layers=2, heads=4, kv_heads=2, intermediate=512, vocab=8192),  # 1.2 M
    "base": Shape(dim=512, layers=6, heads=8, kv_heads=4, intermediate=1408, vocab=16384),  # 18 M
}


class ItemRows(nn.Module):
    """Rows of the item table, computed for any subset of the catalogue.

    Args:
        features: CSR float32 [items, vocab], TF-IDF weights.
        seen: int [items], training interactions of each item.
        word_rows: float32 [vocab, dim], where the word table starts.
        kappa: interactions at which the gate of behaviour is one half.

    Attributes:
        sparse: whether the gradient of `behaviour` is a sparse tensor of the rows asked for, so that a step
            costs the same in a large catalogue as in a small one. Such a parameter needs an optimiser of its
            own, see `updates`.
    """

    sparse = False
    gate: Tensor
    indptr: Tensor
    indices: Tensor
    values: Tensor

    def __init__(self, features: csr_matrix, seen: np.ndarray, word_rows: np.ndarray, kappa: float) -> None:
        super().__init__()
        items, dim = features.shape[0], word_rows.shape[1]
        self.words = nn.Parameter(torch.from_numpy(word_rows.copy()))
        self.behaviour = nn.Parameter(torch.randn(items, dim).mul_(dim**-0.5).mul_(0.5))
        gate = seen / (seen + kappa)
        self.register_buffer("gate", torch.from_numpy(gate.astype(np.float32)), persistent=False)
        self.register_buffer("indptr", torch.from_numpy(features.indptr.astype(np.int64)), persistent=False)
        # As narrow as they come: these two are as long as all texts together.
        indices = features.indices.astype(np.int32, copy=False)
        values = features.data.astype(np.float32, copy=False)
        self.register_buffer("indices", torch.from_numpy(indices), persistent=False)
        self.register_buffer("values", torch.from_numpy(values), persistent=False)

    def text(self, items: Tensor) -> Tensor:
        """Text rows [m, dim] of the given items [m]."""
        start, lengths = self.indptr[items], self.indptr[items + 1] - self.indptr[items]
        offsets = torch.cumsum(lengths, 0) - lengths
        total = int(lengths.sum())
        flat = torch.arange(total, device=items.device) + torch.repeat_interleave(start - offsets, lengths)
        return F.embedding_bag(
            self.indices[flat].long(), self.words, offsets, mode="sum", per_sample_weights=self.values[flat]
        )

    def forward(self, items: Tensor, drop_behaviour: float = 0.0) -> Tensor:
        """Item rows [m, dim]; with probability `drop_behaviour` an item falls back to its text, as a new one
        would."""
        gate = self.gate[items]
        if drop_behaviour > 0:
            gate = gate * (torch.rand_like(gate) >= drop_behaviour)
        return self.text(items) + gate[:, None] * F.embedding(items, self.behaviour, sparse=self.sparse)

    @torch.no_grad()
    def table(self, block: int = 1 << 16) -> Tensor:
        """The rows of the whole catalogue [items, dim], without gradients; `block` items at a time, as their
        texts laid out take more room than their rows."""
        table = torch.empty_like(self.behaviour)
        for first in range(0, len(table), block):
            part = table[first : first + block]
            part.copy_(self(torch.arange(first, first + len(part), device=table.device)))
        return table


class Student(nn.Module):
    """Item rows, event and gap rows, recency path and backbone.

    See the module's page for how they fit together.
    """

    def __init__(
        self,
        shape: Shape,
        length: int,
        rows: ItemRows,
        events: int,
        gap_seconds: tuple[int, ...],
        *,
        recency_heads: int = 4,
        input_dropout: float = 0.2,
        hidden_dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.shape, self.length, self.gap_seconds = shape, length, gap_seconds
        self.rows = rows
        self.event_rows = nn.Parameter(torch.zeros(events, shape.dim))
        self.gap_rows = nn.Parameter(torch.zeros(len(gap_seconds) + 2, shape.dim))
        lags = torch.arange(length, dtype=torch.float32)
        self.recency = nn.Parameter((0.5 * 0.8**lags).repeat(recency_heads, 1))
        config = Qwen3Config(
            vocab_size=rows.words.shape[0],
            hidden_size=shape.dim,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            head_dim=shape.dim // shape.heads,
            intermediate_size=shape.intermediate,
            max_position_embeddings=length,
            rope_theta=10000.0,
            initializer_range=0.02,
            attention_dropout=0.0,
            use_cache=False,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=3,
            attn_implementation="sdpa",
        )
        self.backbone = Qwen3Model(config)
        # The word table is the backbone's token embedding; it lives in `rows` and is put in place when saved.
        self.backbone.embed_tokens = None
        self.input_dropout = nn.Dropout(input_dropout)
        # Qwen3 has no dropout on what its blocks add. The hooks ask the hooked module, not this one, whether
        # it is being trained, so that they stay right in a copy of the model.
        for layer in self.backbone.layers:
            for block in (layer.self_attn, layer.mlp):
                block.register_forward_hook(partial(_drop_output, hidden_dropout))

    def recency_weights(self) -> Tensor:
        """Weights [lags, dim] of the history rows in the query; lag 0 is the newest.

        Each head owns a slice of dim.
        """
        return self.recency.t().repeat_interleave(self.shape.dim // self.recency.shape[0], dim=1)

    def queries(self, item_rows: Tensor, events: Tensor, gaps: Tensor, segments: Tensor) -> Tensor:
        """Queries [B, T, dim] at every position of packed histories.

        Args:
            item_rows: float [B, T, dim].
            events, gaps: int64 [B, T], indices into the event and gap rows.
            segments: int64 [B, T]; positions of one history share a number, 0 is padding. A position attends
                to earlier ones of its own history only. Positions are relative in RoPE, so packing changes
                nothing.
        """
        batch, width, dim = item_rows.shape
        x = item_rows + self.event_rows[events] + self.gap_rows[gaps]
        x = self.input_dropout(x) * (segments > 0)[..., None]
        index = torch.arange(width, device=x.device)
        lag = index[:, None] - index[None, :]
        same = (segments[:, :, None] == segments[:, None, :]) & (lag >= 0)[None]
        hidden = self.backbone(
            inputs_embeds=x,
            attention_mask={"full_attention": same[:, None]},
            position_ids=index[None],
        ).last_hidden_state
        weights = self.recency[:, lag.clamp(0, self.length - 1)] * (lag < self.length)  # [heads, T, T]
        heads = weights.shape[0]
        path = torch.matmul(
            weights[None] * same[:, None], x.view(batch, width, heads, dim // heads).transpose(1, 2)
        )  # [B, heads, T, dim/heads]
        return hidden + path.transpose(1, 2).reshape(batch, width, dim)


def _drop_output(p: float, block: nn.Module, _inputs: object, output: Any) -> Any:
    """Dropout on what an attention (a tuple, hidden states first) or MLP block gives."""
    if isinstance(output, tuple):
        return (F.dropout(output[0], p, block.training), *output[1:])
    return F.dropout(output, p, block.training)


def gap_buckets(timestamps: np.ndarray, first: np.ndarray, gap_seconds: tuple[int, ...]) -> np.ndarray:
    """Gap row indices int64 [n] of consecutive events: 0 where `first`, else 1 + thresholds passed
    (docs/bundle.md §4)."""
    delta = np.diff(timestamps, prepend=timestamps[:1])
    bucket = 1 + np.searchsorted(np.asarray(gap_seconds, np.int64), np.maximum(delta, 0), side="right")
    return np.where(first, 0, bucket)
