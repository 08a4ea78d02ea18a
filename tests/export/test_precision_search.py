"""The search: simulation equals the runtime, the frontier is exact, and what a budget asks for is found."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pocketrec.engine_numpy import NumpyEngine
from pocketrec.quantise import quantise_activations
from pocketrec.scan import quantise_query
from pocketrec_export.backbone import LowRankLinear, backbone_tensors
from pocketrec_export.content import TableContent
from pocketrec_export.precision import RECIPES, SCHEMES, Scheme, quantise_linear
from pocketrec_export.precision_graph import HistoryGraph, rounded_rows
from pocketrec_export.precision_quality import rounded_graph, rounded_queries
from pocketrec_export.precision_search import (
    Mix,
    Option,
    best_within,
    frontier,
    smallest_that,
    stored_bytes,
)
from tiny_backbone import DIM, LENGTH, history, patchwork, random_backbone, tiny_shape

CHOICES = st.lists(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 20)), min_size=1, max_size=3),
    min_size=1,
    max_size=5,
)


def as_options(choices: list[list[tuple[int, int]]]) -> dict[str, list[Option]]:
    return {
        f"p{i}": [
            Option(scheme, size, float(cost)) for scheme, (size, cost) in zip(SCHEMES, each, strict=False)
        ]
        for i, each in enumerate(choices)
    }


def every_mix(options: dict[str, list[Option]]) -> list[tuple[int, float]]:
    return [
        (sum(o.bytes for o in picked), sum(o.cost for o in picked))
        for picked in itertools.product(*options.values())
    ]


@given(CHOICES)
def test_the_frontier_is_that_of_all_mixes(choices: list[list[tuple[int, int]]]) -> None:
    options = as_options(choices)
    mixes, every = frontier(options), every_mix(options)
    found = [(mix.bytes, mix.cost) for mix in mixes]
    beaten = {one for one in every if any(o != one and o[0] <= one[0] and o[1] <= one[1] for o in every)}
    assert set(found) == set(every) - beaten
    assert found == sorted(found), "smallest first"
    for mix in mixes:
        picked = [next(o for o in options[path] if o.scheme == s) for path, s in mix.schemes.items()]
        assert (sum(o.bytes for o in picked), sum(o.cost for o in picked)) == (mix.bytes, mix.cost)
        assert all(mix(path, (1, 1)) == scheme for path, scheme in mix.schemes.items())


@given(CHOICES, st.integers(0, 250))
def test_the_best_within_a_budget(choices: list[list[tuple[int, int]]], budget: int) -> None:
    options = as_options(choices)
    fitting = [cost for size, cost in every_mix(options) if size <= budget]
    found = best_within(frontier(options), budget)
    if not fitting:
        assert found is None
    else:
        assert found is not None
        assert found.cost == min(fitting)
        assert found.bytes <= budget


def test_a_long_frontier_keeps_its_ends_and_its_order() -> None:
    random = np.random.default_rng(0)
    options = {
        f"p{i}": [
            Option("fp32", 4000 + i, 0.0),
            Option("int8", 1000 + i, float(random.random())),
            Option("int4", 500 + i, 5 + float(random.random())),
        ]
        for i in range(40)
    }
    mixes = frontier(options, most=200)
    assert len(mixes) <= 200
    assert mixes[-1].cost == 0
    assert mixes[0].bytes == sum(500 + i for i in range(40))
    assert all(a.bytes < b.bytes and a.cost > b.cost for a, b in itertools.pairwise(mixes))


@given(st.integers(0, 30), st.integers(0, 32))
def test_the_smallest_that_passes(count: int, border: int) -> None:
    mixes = [Mix({}, size, float(count - size)) for size in range(count)]
    asked: list[int] = []

    def passes(mix: Mix) -> bool:
        asked.append(mix.bytes)
        return mix.bytes >= border

    found = smallest_that(mixes, passes)
    assert (found.bytes if found else None) == (border if border < count else None)
    assert len(asked) <= 7


@pytest.mark.parametrize("scheme", SCHEMES)
def test_bytes_are_those_of_the_tensors(scheme: Scheme) -> None:
    w = np.random.default_rng(0).normal(size=(48, 96)).astype(np.float32)
    linear = sum(t.nbytes for t in quantise_linear("x", w, scheme).values())
    assert stored_bytes("layers.0.q_proj", w.shape, scheme, 3) == 3 * linear
    table = sum(t.nbytes for t in TableContent(scheme, rows=w).stored().values())
    assert stored_bytes("tables.items", w.shape, scheme, 3) == table


@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
@pytest.mark.parametrize("name", [*RECIPES, "patchwork", "low rank"])
def test_simulation_is_what_the_numpy_engine_computes(name: str, architecture: str) -> None:
    """In one batch of histories of every length, padded to the longest only."""
    backbone = random_backbone(tiny_shape(architecture=architecture))
    if name == "low rank":
        generator = torch.Generator().manual_seed(3)
        two = LowRankLinear(torch.randn(8, DIM, generator=generator), torch.randn(64, 8, generator=generator))
        backbone.set_submodule("layers.1.up_proj", two)
    precision = RECIPES.get(name, patchwork)
    engine = NumpyEngine(backbone_tensors(backbone, precision), backbone.shape, LENGTH, DIM)
    graph, steps = rounded_graph(backbone, precision), LENGTH - 1
    inputs = [history(used, seed=used) for used in range(1, steps + 1)]
    rows = torch.from_numpy(np.concatenate([rows for rows, _ in inputs])[:, LENGTH - steps :])
    mask = torch.from_numpy(np.concatenate([mask for _, mask in inputs])[:, LENGTH - steps :])
    with torch.no_grad():
        found = graph(rows, mask).numpy()
    expected = np.stack([engine.run(*each) for each in inputs])
    errors = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert np.median(errors) < 1e-5
    assert errors.max() < 0.03  # one integer on a rounding border


@given(st.integers(0, 2**32 - 1))
def test_activations_and_queries_are_rounded_as_the_format_says(seed: int) -> None:
    random = np.random.default_rng(seed)
    x = (random.normal(size=(5, 16)) * 10.0 ** random.uniform(-3, 3, (5, 1))).astype(np.float32)
    x[0] = 0
    x[1] = np.abs(x[1])
    centred, scale = quantise_activations(x)
    np.testing.assert_array_equal(
        rounded_rows(torch.from_numpy(x)).numpy(), centred.astype(np.float32) * scale
    )
    for row, got in zip(x, rounded_queries(torch.from_numpy(x)).numpy(), strict=True):
        t, u = quantise_query(row)
        np.testing.assert_array_equal(got, t * u)


def test_gradients_pass_through_the_rounding() -> None:
    x = torch.randn(3, 8, requires_grad=True)
    (rounded_rows(x) * torch.arange(8.0)).sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), np.tile(np.arange(8.0, dtype=np.float32), (3, 1)))


def test_what_is_observed_has_no_padding() -> None:
    backbone = random_backbone()
    counts: dict[str, int] = {}

    def observe(name: str, x: torch.Tensor) -> None:
        counts[name] = len(x)

    rows, mask = (np.concatenate(parts) for parts in zip(history(3), history(5), strict=True))
    with torch.no_grad():
        HistoryGraph(backbone, observe=observe)(torch.from_numpy(rows), torch.from_numpy(mask))
    assert counts["layers.0.q_proj"] == counts["layers.1.k_proj"] == 8
    assert counts["layers.1.q_proj"] == counts["layers.1.down_proj"] == 2, "the last layer: the newest event"
