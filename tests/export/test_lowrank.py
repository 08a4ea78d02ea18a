"""Low rank: the error is the tail of Σ², alignment changes nothing where nothing changed, full rank is exact,
and all runtimes run it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketrec.bundle import Bundle
from pocketrec.engine_numpy import NumpyEngine
from pocketrec.engines import load_engine
from pocketrec.errors import BundleError, PocketrecError
from pocketrec.manifest import Backbone as BackboneSpec
from pocketrec_export.backbone import Backbone, LowRankLinear, backbone_tensors
from pocketrec_export.batches import Histories
from pocketrec_export.lowrank import (
    STEP,
    Factors,
    align,
    compress,
    dense_rank,
    factorise,
    measured_ranks,
    root,
    second_moments,
    uniform_ranks,
)
from pocketrec_export.precision import RECIPES, fp32
from pocketrec_export.precision_graph import Prefixes
from pocketrec_export.target_executorch import operators_executorch, to_executorch
from pocketrec_export.target_onnx import to_onnx
from pocketrec_export.targets import check_artifact
from tiny_backbone import DIM, LENGTH, history, patchwork, random_backbone, tiny_shape
from tiny_bundle import write_tiny_bundle

SEEDS = st.integers(0, 2**32 - 1)
ITEMS = 40


def problem(seed: int, kind: str = "plain") -> tuple[np.ndarray, np.ndarray]:
    """A weight [out, in] and inputs [in, tokens] that lie as `kind` says."""
    random = np.random.default_rng(seed)
    out, inner = random.integers(3, 24, 2)
    tokens = 200
    x = random.normal(size=(inner, tokens)) * np.exp(random.normal(size=(inner, 1)))
    x = random.normal(size=(inner, inner)) @ x
    if kind == "deficient":  # inputs that span a third of the space
        span = max(1, int(inner) // 3)
        x = random.normal(size=(inner, span)) @ random.normal(size=(span, tokens))
    elif kind == "ill-conditioned":
        x = np.linalg.qr(random.normal(size=(inner, inner)))[0] @ (
            10.0 ** np.linspace(0, -7, inner)[:, None] * random.normal(size=(inner, tokens))
        )
    return random.normal(size=(out, inner)), x


def output_error(weight: np.ndarray, factors: Factors, x: np.ndarray) -> float:
    return float(np.mean(np.sum((weight @ x - factors.b @ (factors.a @ x)) ** 2, axis=0)))


@given(SEEDS, st.integers(1, 24))
def test_the_error_is_the_tail_of_the_squares(seed: int, rank: int) -> None:
    weight, x = problem(seed)
    rank = min(rank, *weight.shape)
    factors = factorise(weight, x @ x.T / x.shape[1], rank)
    total = np.sum(factors.energy)
    assert total == pytest.approx(np.mean(np.sum((weight @ x) ** 2, axis=0)), rel=1e-9)
    assert output_error(weight, factors, x) == pytest.approx(
        np.sum(factors.energy[rank:]), rel=1e-6, abs=1e-10 * total
    )
    assert factors.error == pytest.approx(np.sum(factors.energy[rank:]) / total, rel=1e-6, abs=1e-12)


@given(SEEDS, st.integers(1, 24))
def test_no_other_product_of_that_rank_is_better(seed: int, rank: int) -> None:
    """Neither plain SVD, nor the optimum moved a little in any way."""
    weight, x = problem(seed)
    rank = min(rank, *weight.shape)
    best = factorise(weight, x @ x.T / x.shape[1], rank)
    error = output_error(weight, best, x)
    slack = 1e-9 * best.energy.sum()
    assert error <= output_error(weight, factorise(weight, None, rank), x) + slack
    random = np.random.default_rng(seed)
    moved = Factors(
        best.a + 1e-3 * random.normal(size=best.a.shape),
        best.b + 1e-3 * random.normal(size=best.b.shape),
        best.energy,
    )
    assert error <= output_error(weight, moved, x) + slack


@pytest.mark.parametrize("kind", ["plain", "deficient", "ill-conditioned"])
@settings(max_examples=30)
@given(seed=SEEDS)
def test_full_rank_is_exact_everywhere(kind: str, seed: int) -> None:
    """Also in directions that no input had."""
    weight, x = problem(seed, kind)
    factors = factorise(weight, x @ x.T / x.shape[1], min(weight.shape))
    np.testing.assert_allclose(factors.b @ factors.a, weight, rtol=0, atol=1e-5 * np.abs(weight).max())


@settings(max_examples=30)
@given(SEEDS)
def test_inputs_of_low_rank_need_no_more(seed: int) -> None:
    weight, x = problem(seed, "deficient")
    span = np.linalg.matrix_rank(x)
    factors = factorise(weight, x @ x.T / x.shape[1], min(span, *weight.shape))
    assert output_error(weight, factors, x) <= 1e-6 * factors.energy.sum()


@given(SEEDS, st.integers(1, 24))
def test_alignment_to_the_same_inputs_changes_nothing(seed: int, rank: int) -> None:
    weight, x = problem(seed)
    rank = min(rank, *weight.shape)
    moments = x @ x.T / x.shape[1]
    factors = factorise(weight, moments, rank)
    np.testing.assert_allclose(
        align(weight, moments, factors.a), factors.b, rtol=0, atol=1e-6 * np.abs(factors.b).max()
    )


@given(SEEDS, st.integers(1, 24))
def test_alignment_is_the_least_squares_fit(seed: int, rank: int) -> None:
    """The formula of the method on other inputs, and never worse than not to align."""
    weight, x = problem(seed)
    rank = min(rank, *weight.shape)
    factors = factorise(weight, x @ x.T / x.shape[1], rank)
    other = x + 0.5 * np.random.default_rng(seed).normal(size=x.shape)
    moments = other @ other.T / x.shape[1]
    b = align(weight, moments, factors.a)
    d = factors.a @ other
    expected = weight @ other @ d.T @ np.linalg.inv(d @ d.T)
    np.testing.assert_allclose(b, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    aligned = Factors(factors.a, b, factors.energy)
    slack = 1e-12 * float(np.mean(np.sum((weight @ other) ** 2, axis=0)))
    assert output_error(weight, aligned, other) <= output_error(weight, factors, other) + slack


def test_roots_of_strange_moments() -> None:
    s, inverse = root(np.zeros((3, 3)))
    np.testing.assert_array_equal(s @ inverse, np.eye(3))
    with pytest.raises(PocketrecError, match="not finite") as error:
        root(np.full((2, 2), np.nan))
    assert error.value.code == "not-finite"
    for rank in (0, 4):
        with pytest.raises(PocketrecError, match=f"rank {rank}") as error:
            factorise(np.ones((3, 5)), None, rank)
        assert error.value.code == "rank-invalid"


SHAPES = {"wide": (64, 256), "square": (128, 128), "narrow": (16, 128)}


@given(st.floats(0.05, 1.0), SEEDS)
def test_ranks_keep_to_the_budget(kept: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    energy = {
        name: np.sort(np.exp(random.normal(size=min(shape)) * random.uniform(0, 4)))[::-1]
        for name, shape in SHAPES.items()
    }
    whole = {name: shape[0] * shape[1] for name, shape in SHAPES.items()}
    floor = sum(STEP * sum(shape) for shape in SHAPES.values())

    def numbers(ranks: dict[str, int]) -> int:
        return sum(ranks[n] * sum(s) if n in ranks else whole[n] for n, s in SHAPES.items())

    for ranks in (uniform_ranks(SHAPES, kept), measured_ranks(SHAPES, energy, kept)):
        # A linear that stays as it is holds at most a step more than what its ranks were counted as.
        assert numbers(ranks) <= max(kept * sum(whole.values()), floor)
        assert all(rank < dense_rank(SHAPES[name]) for name, rank in ranks.items())
    measured, uniform = measured_ranks(SHAPES, energy, kept), uniform_ranks(SHAPES, kept)

    def error(ranks: dict[str, int]) -> float:
        return sum(float(energy[n][r:].sum() / energy[n].sum()) for n, r in ranks.items())

    if numbers(measured) >= numbers(uniform):
        slack = max(float(e[:STEP].sum() / e.sum()) for e in energy.values())  # the last step may not fit
        assert error(measured) <= error(uniform) + slack


def test_kept_parts_that_make_no_sense() -> None:
    for kept in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(PocketrecError, match=f"{kept:g}") as error:
            uniform_ranks(SHAPES, kept)
        assert error.value.code == "kept-invalid"
    assert uniform_ranks(SHAPES, 1.0) == {}


def world(
    seed: int = 0, shape: Any = None
) -> tuple[Backbone, Prefixes, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """A backbone, histories of 1 to 12 events, and rows that lie in a few directions, as item rows do."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 12, 60)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    items, events = random.integers(0, ITEMS, offsets[-1]), np.zeros(offsets[-1], np.int64)
    histories = Histories.from_events(offsets, items, events, np.zeros(offsets[-1], np.int64), (60,))
    basis = np.exp(-np.arange(DIM) / 4)[:, None] * np.linalg.qr(random.normal(size=(DIM, DIM)))[0]
    rows = 4 * random.normal(size=(ITEMS, DIM)) @ basis
    tables = tuple(torch.from_numpy(t).float() for t in (rows, np.zeros((1, DIM)), np.zeros((3, DIM))))
    backbone = random_backbone(shape, seed=seed)
    return backbone, Prefixes.drawn(histories, LENGTH, 200, seed), (tables[0], tables[1], tables[2])


def test_moments_are_those_of_what_the_linears_read() -> None:
    """Against hooks on the backbone itself, history by history."""
    backbone, prefixes, tables = world()
    prefixes = prefixes.part(slice(0, 20))
    found = second_moments(backbone, prefixes, tables, backbone.linears())
    inputs: dict[str, list[np.ndarray]] = {name: [] for name in found}
    used = 0

    def watch(name: str) -> Any:
        def hook(_: Any, given: tuple[torch.Tensor, ...], __: Any) -> None:
            inputs[name].append(given[0][-min(used, len(given[0])) :].numpy().astype(np.float64))

        return hook

    for name, linear in backbone.linears().items():
        linear.register_forward_hook(watch(name))
    for end, size in zip(prefixes.end, prefixes.size, strict=True):
        rows, mask = history(0)
        used = int(size)
        rows[0, LENGTH - used :] = tables[0].numpy()[prefixes.histories.items[end - used : end]]
        mask[0, LENGTH - used :] = 1
        with torch.no_grad():
            backbone(torch.from_numpy(rows), torch.from_numpy(mask))
    for name, seen in inputs.items():
        x = np.concatenate(seen)
        np.testing.assert_allclose(found[name], x.T @ x / len(x), rtol=1e-3, atol=1e-4)


def query_error(one: Backbone, other: Backbone, prefixes: Prefixes, tables: Any) -> float:
    from pocketrec_export.precision_graph import HistoryGraph

    total = 0.0
    with torch.no_grad():
        for _, rows, mask in prefixes.batches(*tables):
            difference = HistoryGraph(one)(rows, mask) - HistoryGraph(other)(rows, mask)
            total += float((difference**2).sum())
    return total


def test_whitening_helps_and_alignment_does_no_harm_on_unseen_histories() -> None:
    """What reaches the query: alignment fits each linear, which need not make the whole better."""
    backbone, prefixes, tables = world(3, tiny_shape(layers=3))
    _, unseen, _ = world(4)
    errors = {}
    for name, options in {
        "plain": {"whiten": False, "aligned": False},
        "whitened": {"aligned": False},
        "both": {},
    }.items():
        out = compress(backbone, prefixes, tables, 0.5, "uniform", **options).backbone
        errors[name] = query_error(backbone, out, unseen, tables)
    assert errors["whitened"] < 0.8 * errors["plain"]
    assert errors["both"] < 1.05 * errors["whitened"]


@pytest.mark.parametrize("rule", ["uniform", "measured"])
def test_what_is_reported_is_what_was_done(rule: Any) -> None:
    backbone, prefixes, tables = world()
    result = compress(backbone, prefixes, tables, 0.6, rule)
    assert result.backbone.is_low_rank
    assert not backbone.is_low_rank
    assert set(result.ranks) == set(result.errors)
    for name, rank in result.ranks.items():
        two = result.backbone.get_submodule(name)
        assert isinstance(two, LowRankLinear)
        assert two.a.weight.shape[0] == rank == two.b.weight.shape[1]
        assert 0 <= result.errors[name] < 1
    assert result.kept <= 0.6
    with pytest.raises(PocketrecError, match="already") as error:
        compress(result.backbone, prefixes, tables, 0.5)
    assert error.value.code == "low-rank-twice"


def test_keeping_everything_changes_nothing() -> None:
    backbone, prefixes, tables = world()
    result = compress(backbone, prefixes, tables, 1.0)
    assert result.ranks == {}
    assert result.kept == 1
    assert query_error(backbone, result.backbone, prefixes, tables) == 0


@pytest.fixture(scope="module")
def low() -> Backbone:
    backbone, prefixes, tables = world(5, tiny_shape(layers=1))
    return compress(backbone, prefixes, tables, 0.7).backbone


@pytest.mark.parametrize("precision", ["fp32", "int8", "mixed"])
def test_onnx_agrees_with_the_numpy_engine(low: Backbone, precision: str) -> None:
    tensors = backbone_tensors(low, RECIPES[precision])
    agreement = check_artifact("onnx", to_onnx(low, RECIPES[precision]), low, tensors)
    assert agreement.median <= 1e-5


def test_executorch_agrees_and_takes_it_whole(low: Backbone) -> None:
    program = to_executorch(low, patchwork)
    assert operators_executorch(program) == {"delegate::XnnpackBackend": 1}
    assert check_artifact("executorch", program, low, backbone_tensors(low, patchwork)).median <= 1e-5


def test_the_numpy_engine_runs_what_torch_runs(low: Backbone) -> None:
    engine = NumpyEngine(backbone_tensors(low, fp32), low.shape, LENGTH, DIM)
    for used in (1, 5, LENGTH):
        rows, mask = history(used)
        with torch.no_grad():
            expected = low(torch.from_numpy(rows), torch.from_numpy(mask))[0].numpy()
        np.testing.assert_allclose(engine.run(rows, mask), expected, rtol=0, atol=1e-5)


def test_a_bundle_says_that_it_needs_the_feature(low: Backbone, tmp_path: Any) -> None:
    tensors = backbone_tensors(low, RECIPES["int8"])
    content: dict[str, Any] = {"backbone": BackboneSpec(**vars(low.shape)), "backbone_tensors": tensors}
    with Bundle.open(write_tiny_bundle(tmp_path / "low", "int8", **content)) as bundle:
        assert bundle.manifest.requires == ("low-rank",)
        assert load_engine("numpy", bundle).run(*history(4)).shape == (DIM,)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("another rank", r"q_proj\.b"),
        ("no second part", r"q_proj\.b"),
        ("no rank", "rank must be 1"),
        ("too much rank", "rank must be 1"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: str, named: str) -> None:
    backbone = random_backbone(tiny_shape(layers=1))
    two = LowRankLinear(torch.randn(8, DIM), torch.randn(DIM, 8))
    backbone.set_submodule("layers.0.q_proj", two)
    tensors = backbone_tensors(backbone, fp32)
    a, b = "layers.0.q_proj.a", "layers.0.q_proj.b"
    if change == "another rank":
        tensors[b] = tensors[b][:, :4]
    elif change == "no second part":
        del tensors[b]
    else:
        rank = 0 if change == "no rank" else DIM + 1
        tensors |= {a: np.zeros((rank, DIM), np.float32), b: np.zeros((DIM, rank), np.float32)}
    with pytest.raises(BundleError, match=named):
        NumpyEngine(tensors, backbone.shape, LENGTH, DIM)
