"""Ranks of a bundle's test targets, hundreds of histories at once: `pocketrec_export.bundle_ranks` on the
users of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pocketrec.bundle import Bundle
from pocketrec_export.batches import Histories
from pocketrec_export.bundle_ranks import bundle_ranks
from pocketrec_export.precision_graph import Prefixes
from pocketrec_export.split import Part, Split
from pocketrec_tools.held_out import HeldOut


class Asked(NamedTuple):
    """Histories before the targets, targets int [n], and what was seen, n arrays of items."""

    prefixes: Prefixes
    targets: NDArray[np.integer]
    seen: list[NDArray[np.int64]]


def asked(split: Split, part: Part, users: NDArray[np.integer], histories: Histories, length: int) -> Asked:
    """What these users of a split are asked, in their order.

    Args:
        histories: all events of the split's data.
        length: events that are read of each.
    """
    data = split.dataset
    end = np.array([split.target(int(user), part) for user in users], np.int64)
    prefixes = Prefixes(histories, end, np.minimum(end - data.offsets[users], length))
    seen = [data.items[split.history(int(user), part)].astype(np.int64) for user in users]
    return Asked(prefixes, data.items[end], seen)


def asked_of(bundle: Bundle, held_out: HeldOut) -> Asked:
    """`asked` of `held_out.users`, with events and gaps numbered as in the bundle.

    Args:
        held_out: of data that has the same catalogue in the same order.

    Raises:
        ValueError: it has not.
    """
    data, manifest = held_out.dataset, bundle.manifest
    if not np.array_equal(held_out.positions, np.arange(bundle.catalogue.n)):
        raise ValueError("the bundle's catalogue is not that of the data")
    histories = Histories.from_events(
        data.offsets, data.items, data.event_ids, data.timestamps, tuple(manifest.gap_seconds)
    )
    return asked(held_out.split, held_out.part, held_out.users, histories, manifest.graph.length)


def batched_ranks(bundle: Bundle, held_out: HeldOut) -> NDArray[np.int64]:
    """Ranks from 1, int64 [users], of the targets of `held_out.users` in its order, seen items left out, ties
    against the bundle; `asked_of` says what is raised."""
    return bundle_ranks(bundle, *asked_of(bundle, held_out))


def ranks_of(bundle: Path, data_dir: Path, users: int | None, seed: int) -> NDArray[np.int64]:
    """`batched_ranks` of a bundle on disk; `users` at most, drawn by the seed, or all."""
    with Bundle.open(bundle) as opened:
        return batched_ranks(opened, HeldOut.load(data_dir, opened.catalogue, users=users, seed=seed))
