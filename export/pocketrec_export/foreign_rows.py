"""Tables for a decoder that knows nothing of the catalogue: item rows, word rows, the recency path.

Item rows come from one of three places (docs/export.md):

* `text`: the TF-IDF weighted sum of the decoder's own token embeddings over the item's text. It reads what
  it was trained to read, a soft token for each item; with tied embeddings its answer is a next token, too.
* `llm`: the decoder's last hidden state after the item's text, as in a dual encoder (docs/llm-teacher.md).
* a file: rows that somebody trained together with the decoder.

The recency path is the one thing that is fitted: two numbers, on validation events.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pocketrec.errors import DataError

from .llm_config import LLMConfig
from .llm_encoder import DualEncoder, item_rows
from .llm_prompts import Prompts
from .metrics import Metrics, pessimistic_rank
from .model import Material
from .text import TextFeatures
from .text_rows import choose_ridge, ridge_rows

log = logging.getLogger(__name__)

FloatArray = NDArray[np.float32]

DECAYS = (0.5, 0.8, 0.95)
"""Say of an event beside the one after it."""
WEIGHTS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Of the recency path beside the hidden state, in lengths of the latter; the largest is nearly rows alone."""
# Tokens that the decoder reads at a time, and histories.
TOKEN_BUDGET, HISTORIES = 4096, 8


@dataclass(frozen=True)
class Rows:
    """float32 tables; what is None is fitted (recency) or zeros (events, gaps).

    Attributes:
        items: [n, d]; recency: [L, d]; events, gaps: [event types, d] and [thresholds + 2, d].
    """

    items: FloatArray
    recency: FloatArray | None = None
    events: FloatArray | None = None
    gaps: FloatArray | None = None


@dataclass(frozen=True)
class Recency:
    """The fitted path: `weight` is the norm of its sum over that of the hidden state, means over histories.

    `ndcg` is NDCG@10 on the validation events that chose it, `alone` without the path; NaN when there were
    none to choose by.
    """

    weights: FloatArray = field(repr=False)
    decay: float
    weight: float
    ndcg: float
    alone: float
    users: int


def hidden_state_rows(
    decoder: nn.Module, tokenizer: Any, texts: Sequence[str], item_ids: Sequence[str], tokens: int
) -> FloatArray:
    """float32 [n, d]: the last hidden state after each text, as long as token embeddings are in the mean.

    Args:
        tokens: of a text that are read, at most. An item without text is read by its id.

    Raises:
        DataError: `data-no-text`, `llm-tokenizer`.
    """
    prompts = Prompts.make(texts, item_ids, tokenizer, LLMConfig(max_item_tokens=tokens))
    encoder = DualEncoder(decoder, 1.0, bf16=False).eval()
    rows = item_rows(encoder, prompts, np.arange(len(texts)), TOKEN_BUDGET)
    embeddings = decoder.get_input_embeddings().weight.detach().float()
    return (rows * embeddings.norm(dim=1).mean()).numpy()


def file_rows(path: Path, items: int, dim: int, length: int, events: int, gaps: int) -> Rows:
    """Rows out of a safetensors file: `items` and, where they are there, `recency`, `events` and `gaps`.

    Raises:
        DataError: `rows-invalid`: it cannot be read, or a tensor is missing, not finite, or of another shape.
    """
    try:
        tensors = safetensors.numpy.load_file(path)
    except Exception as error:
        raise DataError(
            f"{path.name} cannot be read: {error}.",
            code="rows-invalid",
            remedy="Give a safetensors file with the tensor `items`.",
        ) from None
    shapes = {"items": (items, dim), "recency": (length, dim), "events": (events, dim), "gaps": (gaps, dim)}
    found: dict[str, FloatArray] = {}
    for name, shape in shapes.items():
        if name not in tensors and name != "items":
            continue
        tensor = tensors.get(name)
        if tensor is None or tensor.shape != shape or not np.isfinite(tensor).all():
            what = "missing" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}, or not finite"
            raise DataError(
                f"{path.name}: {name} is {what}; wanted are finite floats {list(shape)}.",
                code="rows-invalid",
                remedy="Give one row for each item in the order of the catalogue (docs/data.md); recency has "
                "one for each position, the oldest first.",
            )
        found[name] = np.ascontiguousarray(tensor, np.float32)
    return Rows(found["items"], found.get("recency"), found.get("events"), found.get("gaps"))


def fitted_words(features: TextFeatures, rows: FloatArray, seed: int = 0) -> FloatArray:
    """Word rows float32 [vocab, d] whose TF-IDF weighted sums come closest to `rows` [n, d], by ridge
    regression.

    What a device can make of the text of an item that is new; zeros where no item has a text.
    """
    texts = np.diff(features.weights.indptr) > 0
    if texts.sum() < 2:
        return np.zeros((features.weights.shape[1], rows.shape[1]), np.float32)
    weights, goal = features.weights[texts], rows[texts]
    ridge = choose_ridge(weights, goal, np.ones(goal.shape[1]), seed)
    return ridge_rows(weights, goal, ridge)


@torch.no_grad()
def fit_recency(decoder: nn.Module, rows: Rows, material: Material, length: int, users: int) -> Recency:
    """The recency path [L, d] under which validation targets are ranked best: every element of a row weighs
    `scale · decay^lag`.

    Args:
        users: validation users that are asked, at most; 0 leaves the path at zeros.
    """
    dim = rows.items.shape[1]
    split, dataset = material.split, material.dataset
    some = split.some_users("validation", users, 0) if users else np.zeros(0, np.int32)
    if not len(some):
        return Recency(np.zeros((length, dim), np.float32), 1.0, 0.0, np.nan, np.nan, 0)
    events, gaps = material.ranker.histories.events, material.ranker.histories.gaps
    inputs = np.zeros((len(some), length, dim), np.float32)
    mask = np.zeros((len(some), length), np.int64)
    targets = np.empty(len(some), np.int64)
    seen: list[NDArray[np.int32]] = []
    for i, user in enumerate(some.tolist()):
        whole = split.history(user, "validation")
        part = slice(max(whole.start, whole.stop - length), whole.stop)
        x = rows.items[dataset.items[part]]
        x = x if rows.events is None else x + rows.events[events[part]]
        x = x if rows.gaps is None else x + rows.gaps[gaps[part]]
        inputs[i, length - len(x) :], mask[i, length - len(x) :] = x, 1
        targets[i] = dataset.items[split.target(user, "validation")]
        seen.append(dataset.items[whole])
    hidden = np.concatenate(
        [
            _last_states(decoder, torch.from_numpy(inputs[i : i + HISTORIES]), mask[i : i + HISTORIES])
            for i in range(0, len(some), HISTORIES)
        ]
    )

    def ndcg(queries: FloatArray) -> float:
        return Metrics.from_ranks(pessimistic_rank(queries @ rows.items.T, targets, seen)).ndcg

    alone = ndcg(hidden)
    best = (alone, 1.0, 0.0, 0.0)
    lag = np.arange(length - 1, -1, -1, dtype=np.float32)
    for decay in DECAYS:
        path = np.einsum("l,bld->bd", np.float32(decay) ** lag, inputs)
        ratio = float(np.linalg.norm(hidden, axis=1).mean() / max(np.linalg.norm(path, axis=1).mean(), 1e-12))
        for weight in WEIGHTS[1:]:
            best = max(
                best, (ndcg(hidden + np.float32(weight * ratio) * path), decay, weight, weight * ratio)
            )
    found, decay, weight, scale = best
    log.info("validation NDCG@10: %.4f as it is, %.4f with a recency path", alone, found)
    weights = np.repeat((np.float32(scale) * np.float32(decay) ** lag)[:, None], dim, axis=1)
    return Recency(weights, decay, weight, found, alone, len(some))


def _last_states(decoder: nn.Module, inputs: Tensor, mask: NDArray[np.int64]) -> FloatArray:
    states = decoder(inputs_embeds=inputs, attention_mask=torch.from_numpy(mask), use_cache=False)
    last: FloatArray = states.last_hidden_state[:, -1].float().numpy()
    return last
