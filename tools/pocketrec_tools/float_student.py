"""The student as it was trained, float32 and run by torch: what the quantised bundle is held against."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from pocketrec.bundle import Bundle
from pocketrec.catalogue import Catalogue
from pocketrec.errors import DataError
from pocketrec.events import HistoryItem, as_events
from pocketrec.inputs import InputRows
from pocketrec.manifest import TableSpec
from pocketrec.ranking import best_allowed
from pocketrec.tables import Table
from pocketrec_export.backbone import Backbone
from pocketrec_export.checkpoint import load_checkpoint
from pocketrec_tools.held_out import HeldOut

TIMED_USERS = 200
_WEIGHTS = ("model.safetensors", "pocketrec.safetensors")


class FloatStudent:
    """Ranks like a `Recommender`, from a checkpoint instead of a bundle.

    Attributes:
        bytes: of the checkpoint's weights, all float32.
    """

    def __init__(self, checkpoint: str | Path, catalogue: Catalogue) -> None:
        """Open the student directory that `build` left.

        Args:
            catalogue: of the bundle that was made from it.

        Raises:
            DataError: `checkpoint-invalid`; `catalogue-mismatch` when the bundle has other items.
        """
        directory = Path(checkpoint)
        loaded = load_checkpoint(directory)
        own = np.arange(len(loaded.item_ids))
        if catalogue.n != len(own) or not np.array_equal(catalogue.positions(loaded.item_ids), own):
            raise DataError(
                f"{directory} has {len(own)} items that are not the {catalogue.n} of the bundle.",
                code="catalogue-mismatch",
                remedy="Give the checkpoint that the bundle was made from.",
            )
        self.bytes = sum((directory / name).stat().st_size for name in _WEIGHTS)
        self._catalogue = catalogue
        spec = TableSpec(file="items", rows=len(own), dim=loaded.item_rows.shape[1], scheme="fp32")
        self._items = Table(spec, {"rows": loaded.item_rows})
        self._inputs = InputRows(
            self._items,
            loaded.event_rows,
            loaded.gap_rows,
            loaded.meta["events"],
            loaded.meta["gap_seconds"],
            loaded.length,
        )
        self._backbone = Backbone.from_decoder(loaded.backbone, torch.from_numpy(loaded.recency))

    @torch.no_grad()
    def top(self, history: Iterable[HistoryItem], k: int = 10) -> list[int]:
        """Catalogue positions of the k best items, seen ones filtered, as `Recommender.rank` gives them."""
        known = self._inputs.known(as_events(history), self._catalogue)
        if len(known):
            rows, mask = self._inputs.fuse(known)
            query = self._backbone(torch.from_numpy(rows), torch.from_numpy(mask)).numpy().reshape(-1)
            scores = self._items.scores(query)
        else:
            scores = np.array(self._catalogue.prior)
        found: list[int] = best_allowed(scores, k, np.unique(known.positions)).tolist()
        return found


def measure(checkpoint: str | Path, bundle: str | Path, data_dir: str | Path) -> tuple[int, float]:
    """Bytes of the weights, and median milliseconds of a list for at most 200 test users, one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with Bundle.open(bundle) as opened:
            student = FloatStudent(checkpoint, opened.catalogue)
            held_out = HeldOut.load(data_dir, opened.catalogue, users=TIMED_USERS)
            taken = []
            for user in held_out.users.tolist():
                history = held_out.history(user)
                began = time.perf_counter()
                student.top(history)
                taken.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return student.bytes, float(np.median(taken)) * 1e3
