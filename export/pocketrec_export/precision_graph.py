"""The backbone's graph for many histories at once, in torch: what calibration, search and finishing run.

The same weights and the same arithmetic as `Backbone` (docs/bundle.md §5), but [B, T, d] in, where T is as
long as the longest history of the batch and not the length of the graph: RoPE knows only distances, so the
padding that is left away changes nothing. Linears are looked up by name, so that they may be replaced by
rounded ones, watched, or trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from .backbone import Backbone
from .batches import Histories

BATCH_EVENTS = 4096
"""Rows of history in a batch, padding included; attention holds heads · T times as many numbers."""

Observer = Callable[[str, Tensor], None]
"""Called with the name of a linear and its inputs [tokens, in], padding left out."""


class HistoryGraph:
    """rows float32 [B, T, d] and mask float32 [B, T] to queries float32 [B, d].

    Args:
        backbone: shape, norms and recency are its own.
        weights: the linears, by their names of `Backbone.linears`; None takes the backbone's.
        rounded: names of linears whose inputs are rounded to 8 bits a row, as §5 says. Gradients pass
            through the rounding as if it were not there.
        observe: see `Observer`.
    """

    def __init__(
        self,
        backbone: Backbone,
        weights: Mapping[str, Tensor] | None = None,
        rounded: frozenset[str] = frozenset(),
        observe: Observer | None = None,
    ) -> None:
        self.backbone, self.rounded, self.observe = backbone, rounded, observe
        self.weights = weights or {name: linear.weight for name, linear in backbone.linears().items()}

    def __call__(self, rows: Tensor, mask: Tensor) -> Tensor:
        backbone, steps = self.backbone, rows.shape[1]
        seen = mask.bool()
        causal = torch.ones(steps, steps, dtype=torch.bool, device=rows.device).tril()
        every = torch.where(causal & seen[:, None, :], 0.0, -1e9)[:, None]  # [B, 1, T, T]
        final = torch.where(seen, 0.0, -1e9)[:, None, None]  # [B, 1, 1, T]
        h = rows
        for number, layer in enumerate(backbone.layers):
            h = self._layer(f"layers.{number}", layer, h, seen, final if layer.last else every)
        recency = backbone.recency[backbone.length - steps :]
        return backbone.norm(h[:, -1]) + (rows * recency).sum(dim=1)

    def _layer(self, prefix: str, layer: torch.nn.Module, h: Tensor, seen: Tensor, bias: Tensor) -> Tensor:
        n = layer.input_norm(h)
        own, own_seen = n, seen
        if layer.last:
            h, own, own_seen = h[:, -1:], n[:, -1:], seen[:, -1:]
        q = self._heads(self._linear(f"{prefix}.q_proj", own, own_seen), layer.head_dim)
        k = self._heads(self._linear(f"{prefix}.k_proj", n, seen), layer.head_dim)
        v = self._heads(self._linear(f"{prefix}.v_proj", n, seen), layer.head_dim)
        # The layer's tables are for the last positions of the graph; 1/sqrt(head_dim) is in those of q.
        q = _rope(layer.q_norm(q), layer.q_cos[-own.shape[1] :], layer.q_sin[-own.shape[1] :])
        k = _rope(layer.k_norm(k), layer.k_cos[-n.shape[1] :], layer.k_sin[-n.shape[1] :])
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [B, heads, T, head_dim]
        k, v = k.repeat_interleave(layer.group, dim=1), v.repeat_interleave(layer.group, dim=1)
        a = torch.softmax(q @ k.transpose(2, 3) + bias, dim=-1) @ v
        h = h + self._linear(f"{prefix}.o_proj", a.transpose(1, 2).flatten(2), own_seen)
        n = layer.post_norm(h)
        gate = self._linear(f"{prefix}.gate_proj", n, own_seen)
        up = self._linear(f"{prefix}.up_proj", n, own_seen)
        return h + self._linear(f"{prefix}.down_proj", functional.silu(gate) * up, own_seen)

    def _heads(self, x: Tensor, width: int) -> Tensor:
        return x.view(*x.shape[:2], -1, width)

    def _linear(self, name: str, x: Tensor, seen: Tensor) -> Tensor:
        parts = (name,) if name in self.weights else (f"{name}.a", f"{name}.b")
        for part in parts:
            if self.observe is not None:
                self.observe(part, x[seen])
            x = (rounded_rows(x) if part in self.rounded else x) @ self.weights[part].T
        return x


def rounded_rows(x: Tensor) -> Tensor:
    """x [..., in] rounded to 8 bits a row and back, as a quantised linear of docs/bundle.md §5 reads it."""
    with torch.no_grad():
        low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
        scale = (high - low) / 255.0
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        zero = torch.round(-128.0 - low / scale).clamp(-128, 127)
        near = ((torch.round(x / scale) + zero).clamp(-128, 127) - zero) * scale
    return x + (near - x).detach() if x.requires_grad else near


def _rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate-half on [B, T, heads, width] with the tables [T, 1, width] of a layer."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([x[..., half:], x[..., :half]], dim=-1) * sin


@dataclass(frozen=True)
class Prefixes:
    """Beginnings of histories, each a question to the graph: what comes next?

    Attributes:
        histories: whose.
        end: int64 [n], one past the newest event that is read.
        size: int64 [n], how many events are read, at least 1.
    """

    histories: Histories
    end: NDArray[np.int64]
    size: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.end)

    @classmethod
    def drawn(cls, histories: Histories, length: int, count: int, seed: int) -> Prefixes:
        """At most `count` prefixes of at most `length` events, drawn evenly over all events."""
        events = len(histories.items)
        chosen = np.arange(events)
        if events > count:
            chosen = np.sort(np.random.default_rng(seed).choice(events, count, replace=False))
        user = np.searchsorted(histories.offsets, chosen, side="right") - 1
        end = chosen + 1
        return cls(histories, end, np.minimum(end - histories.offsets[user], length))

    def part(self, which: NDArray[np.int64] | slice) -> Prefixes:
        """Some of them."""
        return Prefixes(self.histories, self.end[which], self.size[which])

    def batches(
        self, items: Tensor, events: Tensor, gaps: Tensor, most: int = BATCH_EVENTS
    ) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
        """Which of the prefixes [B], their rows [B, T, d] and mask [B, T], padded on the left; those of like
        size together, so an order of its own.

        Args:
            items, events, gaps: the rows [·, d] that are added up (docs/bundle.md §4).
            most: rows of history in a batch, padding included; a batch has one history at least.
        """
        order = np.argsort(self.size, kind="stable")
        first = 0
        while first < len(order):
            # Sizes rise: with one more member the batch is as wide as that one.
            wide = np.arange(1, len(order) - first + 1) * self.size[order[first:]]
            count = max(1, int(np.searchsorted(wide, most, side="right")))
            which = order[first : first + count]
            steps = int(self.size[which].max())
            index = self.end[which][:, None] - np.arange(steps, 0, -1)[None]
            mask = np.arange(steps, 0, -1)[None] <= self.size[which][:, None]
            index = np.where(mask, index, 0)
            seen = torch.from_numpy(mask.astype(np.float32))
            named = (self.histories.items, self.histories.events, self.histories.gaps)
            item, event, gap = (torch.from_numpy(each[index].astype(np.int64)) for each in named)
            yield which, (items[item] + events[event] + gaps[gap]) * seen[:, :, None], seen
            first += count
