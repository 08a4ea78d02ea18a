"""The built-in teacher, a wider model of the student's family, and how a teacher fills the cache.

A teacher speaks once: for every training event it writes its best items and their log-probabilities, and what
it thinks of the true next item. Distillation reads nothing else.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from .batches import Histories, assemble
from .cache import CacheWriter
from .config import TeacherConfig
from .progress import Progress
from .student import Shape, Student

# Windows scored at once: a few thousand positions against the catalogue.
CHUNK = 512


def teacher_shape(config: TeacherConfig, vocab: int) -> Shape:
    """The shape of the built-in teacher."""
    return Shape(
        dim=config.dim,
        layers=config.layers,
        heads=config.heads,
        kv_heads=config.heads,
        intermediate=2 * config.dim,
        vocab=vocab,
    )


@torch.no_grad()
def write_cache(teacher: Student, histories: Histories, directory: Path, top_k: int, key: str) -> None:
    """Write the teacher's lists for every training event; goes on where a killed run stopped.

    Items that the user already had are filtered from the lists, but never the true next item.
    """
    teacher.eval()
    device = teacher.event_rows.device
    items = len(teacher.rows.gate)
    top_k = min(top_k, items)
    rows = teacher.rows(torch.arange(items, device=device))
    start, size, skip = histories.covering_windows(teacher.length)
    chunks = -(-len(start) // CHUNK)
    writer = CacheWriter.open(directory, n=len(histories.items), k=top_k, items=items, key=key)
    with Progress("teacher lists", total=chunks, done=writer.done) as progress:
        for chunk in range(writer.done, chunks):
            part = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
            batch = assemble(histories, teacher.length, start[part], size[part])
            valid = batch.segments > 0
            within = np.concatenate([np.arange(n) for n in size[part]])
            wanted = np.zeros(len(within), bool)
            wanted[:] = within >= np.repeat(skip[part], size[part])
            # `assemble` numbers windows from 1 in the order given; bring the flags into the order of the
            # rows.
            flags = np.zeros(batch.segments.shape, bool)
            order = np.argsort(batch.segments[valid], kind="stable")
            places = np.argwhere(valid)[order]
            flags[places[:, 0], places[:, 1]] = wanted
            queries = teacher.queries(
                rows[torch.from_numpy(batch.items).to(device)],
                torch.from_numpy(batch.events).to(device),
                torch.from_numpy(batch.gaps).to(device),
                torch.from_numpy(batch.segments).to(device),
            )[torch.from_numpy(flags).to(device)]
            index = batch.index[flags]
            targets = torch.from_numpy(batch.targets[flags]).to(device)
            ids, log_probs, rank, target = _lists(queries @ rows.T, targets, histories, index, top_k)
            writer.write(chunk, index, ids, log_probs, rank, target)
            progress.advance()
    writer.finish()


def _lists(
    scores: torch.Tensor, targets: torch.Tensor, histories: Histories, index: np.ndarray, top_k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Top lists int32 and float32 [m, K], the target's rank int32 [m] and log-probability float32 [m]."""
    begin = histories.offsets[np.searchsorted(histories.offsets, index, side="right") - 1]
    lengths = index - begin + 1
    row = np.repeat(np.arange(len(index)), lengths)
    event = np.repeat(begin, lengths) + np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    own = scores.gather(1, targets[:, None])
    scores[torch.from_numpy(row), torch.from_numpy(histories.items[event].astype(np.int64))] = -torch.inf
    scores.scatter_(1, targets[:, None], own)
    log_probs = torch.log_softmax(scores.float(), dim=1)
    best = torch.topk(log_probs, top_k, dim=1)
    target = log_probs.gather(1, targets[:, None])
    rank = (log_probs > target).sum(1) + 1
    return (
        best.indices.cpu().numpy().astype(np.int32),
        best.values.cpu().numpy(),
        rank.cpu().numpy().astype(np.int32),
        target[:, 0].cpu().numpy(),
    )
