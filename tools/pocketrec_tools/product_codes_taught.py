"""Product codes whose centroids learn: each row keeps the codes that k-means gave it, and the centroids and
the backbone learn to give the float32 student's lists.

Codes first and centroids by gradient is RecJPQ (Petrov and Macdonald, arXiv 2312.06165); that the lesson is
the trained student and not the next item alone is what `pocketrec_export.qat` does for rounding: the loss is
KL(float32 ‖ coded) of the softmax over the catalogue, over beginnings of training histories.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import vq
from torch import Tensor, nn
from torch.nn import functional

from pocketrec.bundle import Bundle
from pocketrec.output import note
from pocketrec_export.bundle_ranks import bundle_graph, input_rows
from pocketrec_export.precision_graph import HistoryGraph, Prefixes
from pocketrec_export.qat import BATCH_EVENTS

Rows = NDArray[np.float32]

RATE = 3e-4
"""Of Adam, falling to 0."""


class CodedRows(nn.Module):
    """Item rows that are looked up, piece by piece, in tables of centroids.

    Args:
        rows: float32 [n, d].
        centroids: float32 [c, d / pieces] of each piece, where they start.
    """

    codes: Tensor

    def __init__(self, rows: Rows, centroids: list[Rows]) -> None:
        super().__init__()
        parts = np.split(rows, len(centroids), axis=1)
        codes = [vq(part, table)[0] for part, table in zip(parts, centroids, strict=True)]
        self.register_buffer("codes", torch.from_numpy(np.stack(codes).astype(np.int64)))
        self.centroids = nn.ParameterList(torch.from_numpy(table.copy()) for table in centroids)

    def forward(self) -> Tensor:
        """The rows, float32 [n, d]."""
        pairs = zip(self.codes, self.centroids, strict=True)
        return torch.cat([functional.embedding(code, table) for code, table in pairs], dim=1)

    @torch.no_grad()
    def stored(self) -> Rows:
        """The rows as centroids in half precision make them."""
        for table in self.centroids:
            table.copy_(table.half())
        return np.asarray(self().numpy(), np.float32)


def taught_codes(
    bundle: Bundle, rows: Rows, centroids: list[Rows], prefixes: Prefixes, passes: int, seed: int
) -> tuple[Rows, HistoryGraph]:
    """Coded rows float32 [n, d], and the graph that learnt with them.

    Args:
        bundle: the float32 one, from whose graph and rows is learnt.
        rows: its item rows, float32 [n, d].
        centroids: of each piece, from k-means.
        prefixes: beginnings of training histories.
        passes: over all of them; the last one is what stays, nothing is chosen.
    """
    coded = CodedRows(rows, centroids)
    reference, whole, inputs = bundle_graph(bundle), torch.from_numpy(rows), input_rows(bundle)
    # Norms and recency stay; linears are in `weights` alone.
    weights = {name: weight.clone().requires_grad_() for name, weight in reference.weights.items()}
    taught = HistoryGraph(reference.backbone, weights)
    batches = [which for which, _, _ in prefixes.batches(whole, *inputs, most=BATCH_EVENTS)]
    optimiser = torch.optim.Adam([*coded.parameters(), *weights.values()], lr=RATE)
    steps = max(passes * len(batches), 1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=steps)
    random = np.random.default_rng(seed)
    for number in range(passes):
        losses = []
        for index in random.permutation(len(batches)):
            part = prefixes.part(batches[index])
            table = coded()
            ((_, asked, mask),) = part.batches(table, *inputs, most=BATCH_EVENTS)
            ((_, as_trained, _),) = part.batches(whole, *inputs, most=BATCH_EVENTS)
            with torch.no_grad():
                wanted = torch.log_softmax(reference(as_trained, mask) @ whole.T, dim=1)
            given = torch.log_softmax(taught(asked, mask) @ table.T, dim=1)
            loss = functional.kl_div(given, wanted, log_target=True, reduction="batchmean")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
        note(f"codes {len(centroids)}, pass {number + 1}: divergence {np.mean(losses):.4f}")
    return coded.stored(), taught
