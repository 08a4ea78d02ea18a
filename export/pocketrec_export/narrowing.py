"""Narrowing: a student cut to fewer numbers in each row, and taught to answer as it did.

Low rank makes the linears smaller and leaves the rows as they are; but rows, of items and of words, are most
of a bundle, and they can only be narrower if all that reads or writes them is. As in SliceGPT (Ashkboos et
al. 2024, arXiv 2401.15024), from its formulas: RMSNorm without its weights commutes with a rotation, so what
a decoder adds up in its residual stream can be turned, x' = Rᵀ x, if every linear that reads it becomes W R
and every linear that writes it Rᵀ W. With R [d, r] of the r < d directions that matter most, the rest is cut
off. Here one R is for all layers, as item rows enter the stream and are what queries are multiplied with.

* R holds the leading eigenvectors of E[x xᵀ] / E|x|² of item rows plus the same of queries.
* Weights of a norm go into the linears behind it. What is cut off shortens x, so norms are corrected by
  √(d/r), for fewer numbers, and by the part of the energy that is kept.
* The last norm and the recency path act element by element on what is scored, and a diagonal turned is no
  diagonal: it keeps the diagonal part, Σ_k R[k, i]² w[k], which is exact where w is the same everywhere.
* Heads and MLP keep their sizes.

Then the narrow student learns from the wide one as in `qat`, by KL over the catalogue on beginnings of
training histories. It is a student like any other: no format and no runtime knows of it.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocketrec.errors import PocketrecError
from pocketrec.quantise import GROUP

from .backbone import our_name
from .checkpoint import Checkpoint
from .compression_config import CompressionConfig
from .precision import fp32
from .precision_quality import Judge
from .qat import Lesson, learn
from .stages import stage_key

_READ = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
_WRITE = ("o_proj", "down_proj")


BATCH_EVENTS = 1536
"""Rows of history in a batch."""


def narrow(judge: Judge, settings: CompressionConfig, work: Path | None = None) -> Judge:
    """The judge's student cut to `settings.width` numbers in each row and taught to answer as the wide one.

    Args:
        work: where result and state are kept, under a key of all that they depend on, so that a run that was
            killed goes on; None keeps nothing.

    Returns:
        a judge of the narrow student, its `checkpoint`, which holds it against the wide one.

    Raises:
        PocketrecError: code "width-invalid", it is no multiple of 32 below the student's.
    """
    width = settings.width
    wide = judge.checkpoint.item_rows.shape[1]
    if width % GROUP or not 0 < width < wide:
        raise PocketrecError(
            f"a student {wide} wide cannot be made {width} wide.",
            code="width-invalid",
            remedy=f"Give a multiple of {GROUP} below {wide} as compression.width.",
        )
    lesson = Lesson(settings.width_epochs, settings.width_prefixes, settings.width_rate, BATCH_EVENTS)
    file = None if work is None else work / f"narrow-{stage_key(judge.key(), width, lesson)}.safetensors"
    axes = _kept_axes(judge, width, file)
    bare = judge.of(cut(judge.checkpoint, axes))
    backbone, items = learn(bare, bare.float_backbone, fp32, bare.checkpoint.item_rows, lesson, file)
    model, learnt = bare.checkpoint.backbone, backbone.state_dict()
    state = model.state_dict()
    state |= {name: learnt[our_name(name)] for name in state if our_name(name) in learnt}
    model.load_state_dict(state)
    recency = backbone.recency.detach().numpy().copy()
    return judge.of(dataclasses.replace(bare.checkpoint, item_rows=items, recency=recency))


def principal_axes(
    items: NDArray[np.float32], queries: NDArray[np.float32], width: int
) -> NDArray[np.float64]:
    """Orthonormal columns [d, width]: the directions in which items and queries, both [·, d], lie most."""
    moments = np.zeros((items.shape[1],) * 2)
    for rows in (items.astype(np.float64), queries.astype(np.float64)):
        total = float((rows**2).sum())
        moments += rows.T @ rows / (total or 1.0)
    values, vectors = np.linalg.eigh(moments)
    return np.ascontiguousarray(vectors[:, np.argsort(-values, kind="stable")[:width]])


def _kept_axes(judge: Judge, width: int, file: Path | None) -> NDArray[np.float64]:
    """`principal_axes`, kept beside what is learnt in them: found again with another number of threads they
    may differ by more than digits, where two directions matter the same."""
    kept = None if file is None else file.with_suffix(".npy")
    if kept is not None and kept.exists():
        return np.asarray(np.load(kept), np.float64)
    axes = principal_axes(judge.checkpoint.item_rows, judge.reference.numpy(), width)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".partial.npy")
        np.save(partial, axes)
        partial.replace(kept)
    return axes


@torch.no_grad()
def cut(checkpoint: Checkpoint, axes: NDArray[np.float64]) -> Checkpoint:
    """The checkpoint in the coordinates of `axes` [d, r]; with r = d and norms whose weights are all the same
    number, and recency that is the same in every column, it ranks as before."""
    turn = torch.from_numpy(axes)
    items = checkpoint.item_rows.astype(np.float64)
    narrow_items = items @ axes
    wide, width = axes.shape
    energy = float((narrow_items**2).sum() / max(float((items**2).sum()), 1e-300))
    model = checkpoint.backbone
    config = copy.deepcopy(model.config)
    config.hidden_size = width
    config.head_dim = model.config.head_dim  # said out loud: it does not follow from the width any more
    state = model.state_dict()
    correction = (wide / width * energy) ** 0.5
    made: dict[str, Tensor] = {}
    for name, value in state.items():
        value = value.double()
        kind = name.split(".")[-2]
        if kind in ("input_layernorm", "post_attention_layernorm"):
            new = torch.full((width,), correction, dtype=torch.float64)
        elif kind == "norm":
            new = (turn**2).T @ value * correction
        elif kind in _READ:
            new = (value * state[_norm_before(name)].double()) @ turn
        elif kind in _WRITE:
            new = turn.T @ value
        else:
            new = value @ turn if kind == "embed_tokens" else value
        made[name] = new.float().contiguous()
    narrow = type(model)(config)
    narrow.load_state_dict(made)
    return dataclasses.replace(
        checkpoint,
        backbone=narrow.eval(),
        item_rows=narrow_items.astype(np.float32),
        recency=(checkpoint.recency.astype(np.float64) @ axes**2).astype(np.float32),
        event_rows=(checkpoint.event_rows @ axes).astype(np.float32),
        gap_rows=(checkpoint.gap_rows @ axes).astype(np.float32),
    )


def _norm_before(name: str) -> str:
    """The norm whose output a linear reads: "layers.0.mlp.up_proj.weight" to that of its layer."""
    layer = ".".join(name.split(".")[:2])
    norm = "post_attention_layernorm" if ".mlp." in name else "input_layernorm"
    return f"{layer}.{norm}.weight"
