"""Ranks of a bundle's test targets, hundreds of histories at once: what a runtime would give, in a tenth of
its time.

Read from the bundle's own files and computed by torch in the arithmetic of docs/bundle.md, so that all users
of a large set can be asked where a runtime, one history at a time, could only ask some. It equals the
runtimes up to the last digits of floats and single integers on a rounding border; how often these change a
list is in docs/benchmarks/agreement.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocketrec.bundle import Bundle
from pocketrec_export.backbone import Backbone, BackboneShape
from pocketrec_export.batches import Histories
from pocketrec_export.metrics import pessimistic_rank
from pocketrec_export.precision_graph import HistoryGraph, Prefixes
from pocketrec_export.precision_quality import rounded_queries, stored_weight
from pocketrec_tools.held_out import HeldOut

CHUNK_SCORES = 1 << 23


def bundle_graph(bundle: Bundle) -> HistoryGraph:
    """The graph of a bundle, with the weights that its `backbone.safetensors` stands for."""
    manifest = bundle.manifest
    shape = BackboneShape(**manifest.backbone.model_dump())
    backbone = Backbone(shape, manifest.graph.length, manifest.graph.dim)
    tensors = bundle.tensors("backbone.safetensors")
    stored = {name.removesuffix(".q").removesuffix(".scale") for name in tensors}
    linears = {name for name in stored if "_proj" in name}
    weights = {name: torch.from_numpy(stored_weight(name, tensors).copy()) for name in sorted(linears)}
    state = {
        (name if name == "recency" else f"{name}.weight"): torch.from_numpy(np.array(tensors[name]))
        for name in stored - linears
    }
    backbone.load_state_dict(state, strict=False)  # the linears are in `weights`
    return HistoryGraph(backbone, weights, frozenset(name for name in linears if name not in tensors))


@torch.no_grad()
def batched_ranks(bundle: Bundle, held_out: HeldOut) -> NDArray[np.int64]:
    """Ranks from 1, int64 [users], of the targets of `held_out.users` in its order, seen items left out, ties
    against the bundle.

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
    table = bundle.tables["items"]
    items = torch.from_numpy(np.array(table.rows(np.arange(table.n)), np.float32))
    inputs = bundle.tensors("inputs.safetensors")
    events, gaps = (torch.from_numpy(np.array(inputs[name], np.float32)) for name in ("events", "gaps"))
    graph = bundle_graph(bundle)
    queries = torch.empty(len(users), table.d)
    for which, rows, mask in prefixes.batches(items, events, gaps):
        queries[torch.from_numpy(which)] = graph(rows, mask)
    if table.scheme != "fp32":
        queries = rounded_queries(queries)
    return _ranks(queries, items, data.items[end], [held_out.seen(int(user)) for user in users])


def ranks_of(bundle: Path, data_dir: Path, users: int | None, seed: int) -> NDArray[np.int64]:
    """`batched_ranks` of a bundle on disk; `users` at most, drawn by the seed, or all."""
    with Bundle.open(bundle) as opened:
        return batched_ranks(opened, HeldOut.load(data_dir, opened.catalogue, users=users, seed=seed))


def _ranks(
    queries: Tensor, items: Tensor, targets: NDArray[np.int32], seen: list[NDArray[np.int64]]
) -> NDArray[np.int64]:
    step = max(1, CHUNK_SCORES // len(items))
    found = [np.zeros(0, np.int64)]
    for first in range(0, len(queries), step):
        part = slice(first, first + step)
        found.append(pessimistic_rank((queries[part] @ items.T).numpy(), targets[part], seen[part]))
    return np.concatenate(found)
