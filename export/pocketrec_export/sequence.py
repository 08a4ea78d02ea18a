"""A model of the student's family as a ranker."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .batches import assemble
from .student import Student
from .teachers import Positions

# Windows read at once.
WINDOWS = 256


class SequenceRanker:
    """Log-probabilities by a trained `Student`, in float32.

    Args:
        model: put into evaluation mode; its item rows are computed once.
        name: what to call it.
    """

    @torch.no_grad()
    def __init__(self, model: Student, name: str) -> None:
        self.name, self.items = name, len(model.rows.gate)
        self._model = model.eval()
        self._rows = model.rows.table()

    @torch.no_grad()
    def log_probs(self, positions: Positions) -> Tensor:
        """float32 [m, items]."""
        queries = torch.cat(list(self._queries(positions)))
        return torch.log_softmax(queries @ self._rows.T, 1)

    def _queries(self, positions: Positions) -> Iterator[Tensor]:
        device = self._rows.device
        for first in range(0, len(positions.start), WINDOWS):
            part = positions.part(slice(first, first + WINDOWS))
            batch = assemble(part.histories, self._model.length, part.start, part.size)
            tensors = {name: torch.from_numpy(a).to(device) for name, a in vars(batch).items()}
            queries = self._model.queries(
                self._rows[tensors["items"]], tensors["events"], tensors["gaps"], tensors["segments"]
            )
            # Windows were packed into rows, numbered from 1; an event may be a position in one and context in
            # the next.
            valid = tensors["segments"] > 0
            events = len(part.histories.items)
            packed = tensors["segments"][valid] * events + tensors["index"][valid]
            wanted = torch.from_numpy((part.window + 1) * events + part.index).to(device)
            order = torch.argsort(packed)
            place = order[torch.searchsorted(packed[order], wanted)]
            yield queries[valid][place]
