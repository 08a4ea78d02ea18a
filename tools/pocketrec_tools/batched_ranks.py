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
from pocketrec_tools.held_out import HeldOut


class Asked(NamedTuple):
    """Histories before the targets, targets int [n], and what was seen, n arrays of items."""

    prefixes: Prefixes
    targets: NDArray[np.integer]
    seen: list[NDArray[np.int64]]


def asked_of(bundle: Bundle, held_out: HeldOut) -> Asked:
    """What `held_out.users` are asked, in their order.

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
    users = held_out.users
    end = np.array([held_out.split.target(int(user), held_out.part) for user in users], np.int64)
    prefixes = Prefixes(histories, end, np.minimum(end - data.offsets[users], manifest.graph.length))
    return Asked(prefixes, data.items[end], [held_out.seen(int(user)) for user in users])


def batched_ranks(bundle: Bundle, held_out: HeldOut) -> NDArray[np.int64]:
    """Ranks from 1, int64 [users], of the targets of `held_out.users` in its order, seen items left out, ties
    against the bundle; `asked_of` says what is raised."""
    return bundle_ranks(bundle, *asked_of(bundle, held_out))


def ranks_of(bundle: Path, data_dir: Path, users: int | None, seed: int) -> NDArray[np.int64]:
    """`batched_ranks` of a bundle on disk; `users` at most, drawn by the seed, or all."""
    with Bundle.open(bundle) as opened:
        return batched_ranks(opened, HeldOut.load(data_dir, opened.catalogue, users=users, seed=seed))
