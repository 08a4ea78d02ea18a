"""Ranks by a bundle's own files, hundreds of histories at once: what a runtime gives, in a tenth of its time.

Computed by torch in the arithmetic of docs/bundle.md, so that all users of a large set can be asked where a
runtime, one history at a time, could only ask some. It equals the runtimes up to the last digits of floats
and single integers on a rounding border; how often these change a list is in docs/benchmarks/agreement.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocketrec.bundle import Bundle

from .backbone import Backbone, BackboneShape
from .precision_graph import HistoryGraph, Prefixes
from .precision_quality import chunked_ranks, rounded_queries, stored_weight


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


def input_rows(bundle: Bundle) -> tuple[Tensor, Tensor]:
    """Event and gap rows of a bundle, float32 [·, d]."""
    inputs = bundle.tensors("inputs.safetensors")
    events, gaps = (torch.from_numpy(np.array(inputs[name], np.float32)) for name in ("events", "gaps"))
    return events, gaps


@torch.no_grad()
def bundle_queries(
    bundle: Bundle, prefixes: Prefixes, items: Tensor, graph: HistoryGraph | None = None
) -> Tensor:
    """Queries float32 [n, d] of the bundle's graph, or of another one in its place, with rows `items` float32
    [items, d] in the histories."""
    graph = graph or bundle_graph(bundle)
    queries = torch.empty(len(prefixes), items.shape[1])
    for which, rows, mask in prefixes.batches(items, *input_rows(bundle)):
        queries[torch.from_numpy(which)] = graph(rows, mask)
    return queries


def bundle_ranks(
    bundle: Bundle, prefixes: Prefixes, targets: NDArray[np.integer], seen: Sequence[NDArray[np.integer]]
) -> NDArray[np.int64]:
    """Ranks from 1, int64 [n], of the targets, seen items left out, ties against the bundle.

    Args:
        prefixes: histories whose items, events and gaps are numbered as in the bundle.
        targets: int [n], catalogue positions.
        seen: n arrays of catalogue positions.
    """
    table = bundle.tables["items"]
    items = torch.from_numpy(np.array(table.rows(np.arange(table.n)), np.float32))
    queries = bundle_queries(bundle, prefixes, items)
    return chunked_ranks(
        queries if table.scheme == "fp32" else rounded_queries(queries), items, targets, seen
    )
