"""Low rank by what a linear is asked: activation-whitened SVD with progressive alignment.

After OD-LLM (WSDM 2026, arXiv 2601.09306), from its formulas. For a linear W [out, in] and the second moments
C = E[x xᵀ] of its inputs, factor C = S Sᵀ and decompose W S = U Σ Vᵀ. Keeping r singular values,

    a = √Σ_r V_rᵀ S⁻¹  [r, in]        b = U_r √Σ_r  [out, r]

is the best product of rank r for these inputs: E|W x − b a x|² = Σ_{i>r} σ_i². Any S will do; the paper takes
Cholesky's with a ridge where C is singular. Here it is the square root by eigenvalues, which exists for
every C and gives the same product; eigenvalues below `FLOOR` of the largest are raised to it, so that
directions in which no input lay keep what W does there as far as the rank allows.

Alignment goes through the linears in the order of the graph. Once those before it are compressed, a linear
reads other inputs x'; `b` is fitted again to what W makes of them: b' = W C' aᵀ (a C' aᵀ)⁻¹. With x' = x it
is b already.

Everything is computed in float64.
"""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pocketrec.errors import PocketrecError

from .backbone import Backbone, LowRankLinear
from .precision_graph import HistoryGraph, Prefixes

log = logging.getLogger(__name__)

Matrix = NDArray[np.float64]
RankRule = Literal["uniform", "measured"]

FLOOR = 1e-10
STEP = 8
"""Ranks are multiples of this: kernels work in tiles, and the last, half empty one costs as much as a full
one."""


@dataclass(frozen=True)
class Factors:
    """One linear as two.

    Attributes:
        a, b: float64 [rank, in] and [out, rank].
        energy: float64 [min(out, in)], σ² in falling order; the sum is E|W x|², the tail the error.
    """

    a: Matrix
    b: Matrix
    energy: NDArray[np.float64]

    @property
    def rank(self) -> int:
        return len(self.a)

    @property
    def error(self) -> float:
        """E|W x − b a x|² as a part of E|W x|², before alignment."""
        total = float(self.energy.sum())
        return float(self.energy[self.rank :].sum()) / total if total else 0.0


def root(moments: Matrix) -> tuple[Matrix, Matrix]:
    """S and its inverse with S Sᵀ = `moments` [n, n], eigenvalues raised to `FLOOR` of the largest.

    Raises:
        PocketrecError: code "not-finite".
    """
    if not np.isfinite(moments).all():
        raise PocketrecError(
            "the second moments of a linear's inputs are not finite.",
            code="not-finite",
            remedy="Look for a diverged training.",
        )
    values, vectors = np.linalg.eigh((moments + moments.T) / 2)
    largest = float(values.max(initial=0.0))
    if largest <= 0:  # the linear never read anything but zeros: every direction counts alike
        return np.eye(len(moments)), np.eye(len(moments))
    scale = np.sqrt(np.maximum(values, FLOOR * largest))
    return vectors * scale, (vectors / scale).T


def factorise(weight: Matrix, moments: Matrix | None, rank: int) -> Factors:
    """The best two linears of this rank for inputs of these second moments.

    Args:
        weight: [out, in].
        moments: [in, in], E[x xᵀ]; None is plain SVD, which knows nothing of the inputs.
        rank: 1 to min(out, in).

    Raises:
        PocketrecError: code "rank-invalid".
    """
    weight = weight.astype(np.float64)
    if not 1 <= rank <= min(weight.shape):
        raise PocketrecError(
            f"a weight of {list(weight.shape)} has no rank {rank}.",
            code="rank-invalid",
            remedy=f"Ask for 1 to {min(weight.shape)}.",
        )
    s, inverse = root(np.eye(weight.shape[1]) if moments is None else moments)
    u, sigma, vt = np.linalg.svd(weight @ s, full_matrices=False)
    # The square root on both sides: neither part then has channels much larger than others, to be rounded.
    half = np.sqrt(sigma[:rank])
    return Factors(half[:, None] * (vt[:rank] @ inverse), u[:, :rank] * half, sigma**2)


def align(weight: Matrix, moments: Matrix, a: Matrix) -> Matrix:
    """`b` [out, rank] that makes b · a nearest to `weight` on inputs of second moments `moments` [in, in]."""
    s, _ = root(moments)
    # Least squares instead of the normal equations: their condition would be the square of this one.
    solution, *_ = np.linalg.lstsq((a @ s).T, (weight.astype(np.float64) @ s).T, rcond=None)
    return np.asarray(solution.T, np.float64)


def dense_rank(shape: tuple[int, ...]) -> float:
    """The rank from which two linears hold as many numbers as the one of this shape."""
    return shape[0] * shape[1] / (shape[0] + shape[1])


def uniform_ranks(shapes: Mapping[str, tuple[int, ...]], kept: float) -> dict[str, int]:
    """The rank at which each linear keeps this part of its numbers; linears that are to stay are left out."""
    _check_kept(kept)
    ranks: dict[str, int] = {}
    for name, shape in shapes.items():
        if kept < 1:
            ranks[name] = _stepped(int(kept * dense_rank(shape)), shape)
    return ranks


def measured_ranks(
    shapes: Mapping[str, tuple[int, ...]], energy: Mapping[str, NDArray[np.float64]], kept: float
) -> dict[str, int]:
    """Ranks under one budget for all linears together, `kept` of their numbers: what brings the relative
    error down most for its size comes first. Linears that are to stay are left out.

    Args:
        energy: σ² of each linear, as `Factors` has them.
    """
    _check_kept(kept)
    if kept == 1:
        return {}
    budget = kept * sum(shape[0] * shape[1] for shape in shapes.values())
    steps: list[tuple[float, str, int]] = []
    ranks = {name: _stepped(0, shape) for name, shape in shapes.items()}
    for name, shape in shapes.items():
        share = energy[name] / max(float(energy[name].sum()), 1e-300)
        done = ranks[name]
        while done < dense_rank(shape):
            more = min(STEP, int(np.ceil(dense_rank(shape))) - done)
            gain = float(share[done : done + more].sum()) / (more * sum(shape[:2]))
            steps.append((-gain, name, more))
            done += more
    spent = sum(rank * sum(shapes[name][:2]) for name, rank in ranks.items())
    for _, name, more in sorted(steps):  # σ² fall, so the steps of one linear come in their order
        cost = more * sum(shapes[name][:2])
        if spent + cost <= budget:
            ranks[name] += more
            spent += cost
    return {name: rank for name, rank in ranks.items() if rank < dense_rank(shapes[name])}


@dataclass(frozen=True)
class LowRankResult:
    """A compressed backbone and what was done.

    Attributes:
        ranks: of the linears that are two now.
        errors: of each of them, E|W x − b a x|² / E|W x|² on the calibration inputs, before alignment.
        kept: numbers in the linears, as a part of those before.
    """

    backbone: Backbone
    ranks: dict[str, int]
    errors: dict[str, float]
    kept: float


def compress(
    backbone: Backbone,
    prefixes: Prefixes,
    tables: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    kept: float,
    rule: RankRule = "measured",
    *,
    whiten: bool = True,
    aligned: bool = True,
) -> LowRankResult:
    """A copy of the backbone whose linears hold `kept` of their numbers.

    Args:
        prefixes: of training histories; nobody's held-out event may be in them.
        tables: item, event and gap rows float32 [·, d].
        kept: 0 to 1; 1 changes nothing.
        rule: every linear by the same part, or by `measured_ranks`.
        whiten, aligned: off only to compare with.

    Raises:
        PocketrecError: code "kept-invalid"; "low-rank-twice" when a linear is two already.
    """
    _check_kept(kept)
    if backbone.is_low_rank:
        raise PocketrecError(
            "the backbone is of low rank already.", code="low-rank-twice", remedy="Start from the checkpoint."
        )
    weights = {name: _float64(linear.weight) for name, linear in backbone.linears().items()}
    shapes = {name: weight.shape for name, weight in weights.items()}
    moments = second_moments(backbone, prefixes, tables, weights) if whiten else {}
    full = {name: factorise(weight, moments.get(name), min(weight.shape)) for name, weight in weights.items()}
    energy = {name: factors.energy for name, factors in full.items()}
    ranks = uniform_ranks(shapes, kept) if rule == "uniform" else measured_ranks(shapes, energy, kept)
    out = copy.deepcopy(backbone)
    errors: dict[str, float] = {}
    for group in _together(ranks):
        now = second_moments(out, prefixes, tables, group) if aligned else {}
        for name in group:
            found = Factors(full[name].a[: ranks[name]], full[name].b[:, : ranks[name]], energy[name])
            b = align(weights[name], now[name], found.a) if aligned else found.b
            two = LowRankLinear(torch.from_numpy(found.a).float(), torch.from_numpy(b).float())
            out.set_submodule(name, two)
            errors[name] = found.error
    sizes = [sum(linear.weight.numel() for linear in b.linears().values()) for b in (out, backbone)]
    log.info("low rank keeps %.3f of the linears' numbers", sizes[0] / max(sizes[1], 1))
    return LowRankResult(out.eval(), ranks, errors, sizes[0] / max(sizes[1], 1))


@torch.no_grad()
def second_moments(
    backbone: Backbone,
    prefixes: Prefixes,
    tables: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    names: Iterable[str],
) -> dict[str, Matrix]:
    """E[x xᵀ], float64 [in, in], over what each of the named linears reads; those of the last layer mostly
    read the newest event alone, as the graph uses nothing else."""
    linears = backbone.linears()
    sums = {name: np.zeros((linears[name].in_features,) * 2) for name in names}
    counts = dict.fromkeys(sums, 0)

    def observe(name: str, x: torch.Tensor) -> None:
        if name in sums:
            wide = x.numpy().astype(np.float64)
            sums[name] += wide.T @ wide
            counts[name] += len(wide)

    graph = HistoryGraph(backbone, observe=observe)
    for _, rows, mask in prefixes.batches(*tables):
        graph(rows, mask)
    return {name: total / max(counts[name], 1) for name, total in sums.items()}


def _together(names: Iterable[str]) -> list[list[str]]:
    """The names in the order of the graph, those that read the same inputs together."""
    reads = {"q_proj": 0, "k_proj": 0, "v_proj": 0, "o_proj": 1, "gate_proj": 2, "up_proj": 2, "down_proj": 3}

    def place(name: str) -> tuple[int, int]:
        _, layer, linear = name.split(".")
        return int(layer), reads[linear]

    return [list(group) for _, group in itertools.groupby(sorted(names, key=place), key=place)]


def _check_kept(kept: float) -> None:
    if not 0 < kept <= 1:
        raise PocketrecError(
            f"{kept:g} of a linear cannot be kept.",
            code="kept-invalid",
            remedy="Give a part between 0 and 1, such as 0.5.",
        )


def _stepped(rank: int, shape: tuple[int, ...]) -> int:
    """A multiple of STEP, at least one of them, within what the shape allows."""
    return min(max(rank // STEP * STEP, STEP), *shape)


def _float64(weight: torch.Tensor) -> Matrix:
    return weight.detach().cpu().numpy().astype(np.float64)
