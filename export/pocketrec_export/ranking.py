"""Ranks by a float model: what early stopping watches, and what the quantised bundle is held against."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .batches import Histories, assemble
from .metrics import pessimistic_rank
from .split import Part, Split
from .student import Student

CHUNK_BYTES = 256 << 20
"""Scores held at a time; as many again are compared with them."""

SCORES = 10_000_000_000
"""Users times items that are scored to judge a model; with more of them, some users stand for all."""


def judged_users(split: Split, part: Part, seed: int) -> NDArray[np.int32]:
    """The users of a part by whom a model is judged, ascending: all, or as many as `SCORES` allows, drawn by
    the seed. A million of each would take hours for every look."""
    return split.some_users(part, max(1, SCORES // split.dataset.num_items), seed)


class FloatRanker:
    """Scores histories of a dataset with a `Student` (or a teacher of its family) in float32, in chunks."""

    def __init__(self, split: Split, gap_seconds: tuple[int, ...]) -> None:
        dataset = split.dataset
        self.split = split
        self.histories = Histories.from_events(
            dataset.offsets, dataset.items, dataset.event_ids, dataset.timestamps, gap_seconds
        )

    @torch.no_grad()
    def scores(
        self, model: Student, part: Part, users: NDArray[np.int32], chunk: int = 256
    ) -> Iterator[np.ndarray]:
        """float32 [<= chunk, items] for the given users' histories of this part, in order; fewer at a time
        where the catalogue is so large that they would take more than `CHUNK_BYTES`."""
        model.eval()
        device = model.event_rows.device
        rows = model.rows.table()
        chunk = min(chunk, max(1, CHUNK_BYTES // (4 * len(rows))))
        for first in range(0, len(users), chunk):
            end = np.array([self.split.target(int(user), part) for user in users[first : first + chunk]])
            begin = self.split.dataset.offsets[users[first : first + chunk]]
            yield self._chunk(model, rows, begin, end, device).cpu().numpy()

    def _chunk(
        self, model: Student, rows: Tensor, begin: np.ndarray, end: np.ndarray, device: torch.device
    ) -> Tensor:
        size = np.minimum(end - begin, model.length)
        batch = assemble(self.histories, model.length, end - size, size)
        tensors = {name: torch.from_numpy(a).to(device) for name, a in vars(batch).items()}
        queries = model.queries(
            rows[tensors["items"]], tensors["events"], tensors["gaps"], tensors["segments"]
        )
        # Windows are packed into rows and numbered from 1; the newest event of each has its query.
        valid = batch.segments > 0
        window = batch.segments[valid] - 1
        newest = batch.index[valid] == end[window] - 1
        place = np.empty(len(end), np.int64)
        place[window[newest]] = np.flatnonzero(valid)[newest]
        # In full precision, whatever the caller's autocast: coarse scores tie, and a tie counts as a miss.
        with torch.autocast(device.type, enabled=False):
            return queries.flatten(0, 1)[torch.from_numpy(place).to(device)].float() @ rows.T

    def ranks(self, model: Student, part: Part, users: NDArray[np.int32] | None = None) -> NDArray[np.int64]:
        """Pessimistic ranks of the targets, int64 [users], in the protocol of `metrics`."""
        users = self.split.users_for(part) if users is None else users
        items = self.split.dataset.items
        out: list[NDArray[np.int64]] = []
        done = 0
        for scores in self.scores(model, part, users):
            chunk = users[done : done + len(scores)]
            done += len(scores)
            targets = np.array([items[self.split.target(int(user), part)] for user in chunk])
            seen = [items[self.split.history(int(user), part)] for user in chunk]
            out.append(pessimistic_rank(scores, targets, seen))
        return np.concatenate(out) if out else np.zeros(0, np.int64)
