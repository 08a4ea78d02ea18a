"""Recipes, and the rounding of weights: torchao's, to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchao.quantization import Int8DynamicActivationIntxWeightConfig, IntxUnpackedToInt8Tensor, quantize_
from torchao.quantization.granularity import PerAxis, PerGroup

from pocketrec.errors import PocketrecError
from pocketrec.quantise import unpack_nibbles
from pocketrec_export.precision import RECIPES, quantise_linear, recipe, scheme_of

SHAPE = (64, 96)


def weights(seed: int, rows: int = 48) -> np.ndarray:
    """Rows of very different sizes, one of zeros, one with a single large value, one of halves."""
    random = np.random.default_rng(seed)
    w = random.normal(size=(rows, 96)) * 10.0 ** random.uniform(-6, 3, size=(rows, 1))
    w[1] = 0
    w[2, 1:] = 0
    w[3] = random.integers(-255, 256, 96) / 2
    return w.astype(np.float32)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fp32", ["fp32", "fp32", "fp32", "fp32"]),
        ("int8", ["int8", "int8", "int8", "int8"]),
        ("int4", ["int4", "int4", "int4", "int4"]),
        ("mixed", ["int8", "int4", "int8", "int4"]),
    ],
)
def test_recipes(name: str, expected: list[str]) -> None:
    paths = ["layers.1.o_proj", "layers.0.down_proj", "tables.items", "tables.words"]
    assert [scheme_of(recipe(name), path, SHAPE) for path in paths] == expected


def test_a_width_without_groups_gets_8_bits() -> None:
    assert scheme_of(RECIPES["int4"], "layers.0.q_proj", (64, 48)) == "int8"
    assert scheme_of(RECIPES["fp32"], "layers.0.q_proj", (64, 48)) == "fp32"


def test_unknown_precisions_are_named() -> None:
    with pytest.raises(PocketrecError, match=r"int3.*fp32, int8, int4, mixed") as error:
        recipe("int3")
    assert error.value.code == "precision-unknown"

    def wrong(path: str, shape: Sequence[int]) -> Any:
        return "int2"

    with pytest.raises(PocketrecError, match=r"tables\.items.*int2"):
        scheme_of(wrong, "tables.items", SHAPE)


@settings(max_examples=10)
@given(st.integers(0, 10_000))
def test_int8_is_what_torchao_writes(seed: int) -> None:
    w = weights(seed)
    linear = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
    linear.weight = torch.nn.Parameter(torch.from_numpy(w.copy()))
    quantize_(linear, Int8DynamicActivationIntxWeightConfig(weight_granularity=PerAxis(0)))
    theirs = cast(Any, linear.weight)
    ours = quantise_linear("x", w, "int8")
    assert np.array_equal(ours["x.q"], theirs.qdata.numpy())
    assert np.array_equal(ours["x.scale"], theirs.scale.numpy()[:, 0])
    assert not theirs.zero_point.any()


@settings(max_examples=10)
@given(st.integers(0, 10_000))
def test_int4_is_what_torchao_writes(seed: int) -> None:
    """torchao's scales, rounded to the bfloat16 that XNNPACK stores; its integers for those scales."""
    w = weights(seed)
    linear = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
    linear.weight = torch.nn.Parameter(torch.from_numpy(w.copy()))
    config = Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int4, weight_granularity=PerGroup(32))
    quantize_(linear, config)
    scale = cast(Any, linear.weight).scale.to(torch.bfloat16).float()
    theirs = IntxUnpackedToInt8Tensor.from_hp(
        torch.from_numpy(w.copy()),
        (1, 32),
        torch.int4,
        intx_choose_qparams_algorithm=None,
        custom_scale=scale,
        custom_zero_point=torch.zeros(scale.shape, dtype=torch.int8),
    )
    ours = quantise_linear("x", w, "int4")
    assert np.array_equal(ours["x.scale"], scale.numpy())
    assert np.array_equal(unpack_nibbles(cast(Any, ours["x.q"])), theirs.qdata.numpy())


@given(st.integers(0, 10_000))
def test_weights_are_within_half_a_step(seed: int) -> None:
    """Half a step, and a whole one at the positive end, where the integers stop one short."""
    w = weights(seed)
    for scheme, group in (("int8", 96), ("int4", 32)):
        tensors = cast(dict[str, np.ndarray], quantise_linear("x", w, cast(Any, scheme)))
        q = tensors["x.q"] if scheme == "int8" else unpack_nibbles(tensors["x.q"])
        scale = tensors["x.scale"].reshape(len(w), -1, 1)
        blocks = w.reshape(len(w), -1, group)
        error = np.abs(q.reshape(blocks.shape) * scale - blocks)
        # 2^-8 of the largest: bfloat16 scales may come out a little too small for it.
        limit = np.where(q.reshape(blocks.shape) == q.max(), 1.0, 0.5) * scale * 1.001
        assert np.all(error <= limit + np.abs(blocks).max(axis=2, keepdims=True) * 2.0**-8)


def test_weights_that_are_not_finite_are_refused() -> None:
    w = weights(0)
    w[5, 5] = np.inf
    for scheme in ("fp32", "int8", "int4"):
        with pytest.raises(PocketrecError, match=r"layers\.0\.q_proj") as error:
            quantise_linear("layers.0.q_proj", w, cast(Any, scheme))
        assert error.value.code == "not-finite"
