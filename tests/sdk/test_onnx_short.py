"""The graph for short histories: the queries of the definition, and never those of another `model.onnx`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketrec import Recommender
from pocketrec.bundle import Bundle
from pocketrec.engine_numpy import NumpyEngine
from pocketrec.engine_onnxruntime import OnnxRuntimeEngine
from pocketrec.engines import load_engine
from pocketrec.manifest import Backbone as BackboneSpec
from pocketrec.onnx_short import ShortGraph
from pocketrec_export.backbone import Backbone, LowRankLinear, backbone_tensors
from pocketrec_export.precision import RECIPES
from pocketrec_export.target_onnx import to_onnx
from tiny_backbone import DIM, LENGTH, history, random_backbone, tiny_shape
from tiny_bundle import write_tiny_bundle


def low_rank(backbone: Backbone) -> Backbone:
    """Two of its linears in two parts."""
    for name in ("layers.0.q_proj", "layers.1.down_proj"):
        weight = backbone.get_submodule(name).weight
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        backbone.set_submodule(name, LowRankLinear(s[:16, None] * v[:16], u[:, :16]))
    return backbone


BACKBONES = {
    "qwen3": random_backbone(tiny_shape(layers=2)),
    "llama": random_backbone(tiny_shape(layers=2, architecture="llama"), seed=1),
    "one layer": random_backbone(tiny_shape(layers=1), seed=2),
    "low rank": low_rank(random_backbone(tiny_shape(layers=2), seed=3)),
}


@cache
def engines(name: str, precision: str) -> tuple[ShortGraph, NumpyEngine]:
    backbone = BACKBONES[name]
    tensors: dict[str, Any] = backbone_tensors(backbone, RECIPES[precision])
    reference = NumpyEngine(tensors, backbone.shape, LENGTH, DIM)
    return ShortGraph(tensors, backbone.shape, LENGTH, DIM, 1), reference


@pytest.mark.parametrize("precision", RECIPES)
@pytest.mark.parametrize("name", BACKBONES)
def test_every_short_history_gets_the_query_of_the_definition(name: str, precision: str) -> None:
    short, reference = engines(name, precision)
    assert short.most == 3 * LENGTH // 4
    errors = []
    for seed in range(5):
        for used in range(1, short.most + 1):
            rows, mask = history(used, seed=10 * used + seed)
            want = reference.run(rows, mask)
            errors.append(np.linalg.norm(short.run(rows[0, -used:]) - want) / np.linalg.norm(want))
    # One integer of one activation may differ where a value lies on a rounding border; most do not.
    assert max(errors) <= (1e-5 if precision == "fp32" else 0.03)
    assert np.median(errors) <= 1e-5


@settings(max_examples=30, deadline=None)
@given(
    used=st.integers(1, 3 * LENGTH // 4), scale=st.sampled_from([1e-3, 1.0, 30.0]), seed=st.integers(0, 99)
)
def test_a_longer_window_changes_nothing(used: int, scale: float, seed: int) -> None:
    """Equal rows at the end of two windows of the same backbone, of which one has the padding computed."""
    short, backbone = engines("qwen3", "fp32")[0], BACKBONES["qwen3"]
    rows, mask = history(used, seed=seed)
    rows = np.float32(scale) * rows
    with torch.no_grad():
        want = backbone(torch.from_numpy(rows), torch.from_numpy(mask)).numpy()[0]
    np.testing.assert_allclose(
        short.run(rows[0, -used:]), want, rtol=1e-4, atol=1e-4 * float(abs(want).max())
    )


def bundle_of(path: Path, graph: Backbone, backbone: Backbone, precision: str = "int8") -> Path:
    """A bundle whose `model.onnx` is of one backbone and whose weights are of another."""
    return write_tiny_bundle(
        path,
        precision,
        backbone=BackboneSpec(**vars(backbone.shape)),
        backbone_tensors=backbone_tensors(backbone, RECIPES[precision]),
        onnx=to_onnx(graph, RECIPES[precision]),
    )


class _Watched:
    """The short graph, writing down what it is asked."""

    def __init__(self, inner: ShortGraph, asked: list[int]) -> None:
        self.inner, self.asked, self.most = inner, asked, inner.most

    def run(self, x: np.ndarray) -> np.ndarray:
        self.asked.append(len(x))
        return self.inner.run(x)


class TestEngine:
    def test_takes_short_histories_through_it_and_long_ones_through_the_file(self, tmp_path: Path) -> None:
        backbone = BACKBONES["one layer"]
        with Bundle.open(bundle_of(tmp_path / "b", backbone, backbone)) as bundle:
            engine, reference = load_engine("onnxruntime", bundle), load_engine("numpy", bundle)
            assert isinstance(engine, OnnxRuntimeEngine)
            assert engine.short is not None
            most = engine.short.most
            asked: list[int] = []
            engine.short = _Watched(engine.short, asked)  # type: ignore[assignment]
            for used in range(1, LENGTH + 1):
                rows, mask = history(used, seed=used)
                want = reference.run(rows, mask)
                assert np.linalg.norm(engine.run(rows, mask) - want) <= 0.03 * np.linalg.norm(want)
            assert asked == list(range(1, most + 1))
            holes = np.array([[0, 1, 0, 1, 1, 1, 1, 1]], np.float32)[:, :LENGTH]
            engine.run(history(LENGTH)[0], holes)
            full, mask = history(2)
            full[0, 0] = 1
            engine.run(full, mask)
            engine.run(np.zeros_like(full), np.zeros_like(mask))
            assert len(asked) == most, "a mask with holes, rows in the padding and no event need the window"

    def test_a_file_that_computes_something_else_answers_for_itself(self, tmp_path: Path) -> None:
        """What is wrong in `model.onnx` stays visible: to golden vectors, to `verify`."""
        other = random_backbone(tiny_shape(layers=1), seed=7)
        path = bundle_of(tmp_path / "b", other, BACKBONES["one layer"])
        with Bundle.open(path) as bundle:
            engine = load_engine("onnxruntime", bundle)
            assert isinstance(engine, OnnxRuntimeEngine)
            assert engine.short is None
            rows, mask = history(3)
            with torch.no_grad():
                want = other(torch.from_numpy(rows), torch.from_numpy(mask)).numpy()[0]
            assert np.linalg.norm(engine.run(rows, mask) - want) <= 0.05 * np.linalg.norm(want)

    def test_the_same_list_every_time(self, tmp_path: Path) -> None:
        backbone = BACKBONES["one layer"]
        with Recommender.open(
            bundle_of(tmp_path / "b", backbone, backbone), engine="onnxruntime"
        ) as recommender:
            items = [recommender.bundle.catalogue.item_id(at) for at in range(LENGTH + 2)]
            for used in range(1, len(items) + 1):
                first = recommender.rank(items[:used])
                assert recommender.rank(items[:used]) == first
                with Recommender.open(tmp_path / "b", engine="onnxruntime") as again:
                    assert again.rank(items[:used]) == first
