"""The integer arithmetic: laws of rounding and packing, and exactness against plain Python integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pocketrec import quantise
from pocketrec.errors import DataError

# Below about 1e-36 the scale itself is subnormal and loses bits; nothing a network computes lives there.
FLOATS = st.floats(-1e4, 1e4, width=32).map(lambda v: v if abs(v) > 1e-20 else 0.0)


def matrices(width: int | None = None) -> st.SearchStrategy[np.ndarray]:
    shapes = st.tuples(st.integers(1, 4), st.just(width) if width else st.integers(1, 40))
    return shapes.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=FLOATS))


@given(matrices())
def test_int8_rows_are_within_half_a_step(rows: np.ndarray) -> None:
    q, scale = quantise.quantise_rows_int8(rows)
    assert q.dtype == np.int8
    assert scale.dtype == np.float32
    assert scale.shape == rows.shape[:1]
    error = np.abs(quantise.dequantise_rows_int8(q, scale) - rows)
    assert np.all(error <= scale[:, None] * 0.5001)
    assert np.all(np.abs(q).max(axis=1)[scale > 0] == 127), "the largest element uses the whole range"


@given(matrices(64))
def test_int4_rows_are_within_half_a_step_of_the_rounded_scale(rows: np.ndarray) -> None:
    packed, scale = quantise.quantise_rows_int4(rows)
    assert packed.dtype == np.uint8
    assert packed.shape == (len(rows), 32)
    assert scale.dtype == np.float16
    assert scale.shape == (len(rows), 2)
    error = np.abs(quantise.dequantise_rows_int4(packed, scale) - rows).reshape(len(rows), 2, 32)
    largest = np.abs(rows).reshape(len(rows), 2, 32).max(axis=2)
    # Half a step, plus what rounding the scale to 11 bits (or to a tiny float16) clips off the largest.
    assert np.all(error <= (scale.astype(np.float32) * 0.5001 + largest * 2**-11 + 7 * 2**-25)[:, :, None])


@given(matrices(32))
def test_integers_do_not_depend_on_a_power_of_two(rows: np.ndarray) -> None:
    q, scale = quantise.quantise_rows_int8(rows)
    q2, scale2 = quantise.quantise_rows_int8(rows * np.float32(4))
    assert np.array_equal(q, q2)
    assert np.array_equal(scale * np.float32(4), scale2)


@given(
    hnp.arrays(
        np.int8,
        st.tuples(st.integers(1, 3), st.integers(1, 20).map(lambda n: 2 * n)),
        elements=st.integers(-8, 7),
    )
)
def test_nibbles_round_trip(q: np.ndarray) -> None:
    packed = quantise.pack_nibbles(q)
    assert np.array_equal(quantise.unpack_nibbles(packed), q)
    assert packed[0, 0] & 15 == q[0, 0] + 8
    assert packed[0, 0] >> 4 == q[0, 1] + 8


def test_zero_rows_have_a_zero_scale_and_stay_zero() -> None:
    zeros = np.zeros((2, 32), dtype=np.float32)
    q, scale = quantise.quantise_rows_int8(zeros)
    packed, scale4 = quantise.quantise_rows_int4(zeros)
    assert not q.any()
    assert not scale.any()
    assert not scale4.any()
    assert not quantise.dequantise_rows_int4(packed, scale4).any()
    assert quantise.quantise_rows_int8(np.zeros((0, 32)))[0].shape == (0, 32)
    assert quantise.quantise_rows_int4(np.zeros((0, 32)))[0].shape == (0, 16)


def test_refusals_name_the_value() -> None:
    rows = np.ones((3, 32), dtype=np.float32)
    rows[1, 5] = np.nan
    with pytest.raises(DataError, match="row 1"):
        quantise.quantise_rows_int8(rows)
    with pytest.raises(DataError, match="multiple of 32, got 31"):
        quantise.quantise_rows_int4(np.ones((1, 31)))
    with pytest.raises(DataError, match="1e\\+06"):
        quantise.quantise_rows_int4(np.full((1, 32), 1e6))
    with pytest.raises(DataError, match="shape"):
        quantise.quantise_rows_int8(np.ones(3))


@given(matrices())
def test_activations_stay_in_range_and_near(x: np.ndarray) -> None:
    centred, s = quantise.quantise_activations(x)
    assert s.shape == (len(x), 1)
    assert np.all(s > 0)
    assert centred.max() <= 255
    assert centred.min() >= -255
    # Zero is exact, and no element is off by more than one step (half for value, half for zero point).
    assert not centred[x == 0].any()
    assert np.all(np.abs(centred * s - x) <= s * 1.001)


def test_activations_by_hand() -> None:
    x = np.array([[-1.0, 0.0, 0.5, 4.1], [0, 0, 0, 0], [2.55, 1.0, 0.005, 0.015]], dtype=np.float32)
    centred, s = quantise.quantise_activations(x)
    assert s[:, 0] == pytest.approx([0.02, 1.0, 0.01])
    assert centred[0].tolist() == [-50, 0, 25, 205]
    assert centred[1].tolist() == [0, 0, 0, 0]
    assert centred[2, :2].tolist() == [255, 100]


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.sampled_from([32, 512, 544, 1536]))
def test_linear_int8_is_exact(seed: int, width: int) -> None:
    """Against int64, with integers that overflow anything shorter; 544 is past what float32 can hold."""
    rng = np.random.default_rng(seed)
    x = rng.choice(np.array([-1, 1, 0.3], dtype=np.float32), (3, width))
    x[0] = 255.0
    q = rng.choice(np.array([-128, 127, 5], dtype=np.int8), (7, width))
    q[0] = -128
    scale = rng.random(7, dtype=np.float32)
    centred, s = quantise.quantise_activations(x)
    exact = centred.astype(np.int64) @ q.astype(np.int64).T
    expected = exact.astype(np.float32) * s * scale
    assert np.array_equal(quantise.linear_int8(x, q, scale), expected)


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.sampled_from([32, 64, 544]))
def test_linear_int4_adds_exact_groups(seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, 3, width)).astype(np.float32)
    q = rng.integers(-8, 8, (5, width), dtype=np.int8)
    scale = rng.random((5, width // 32), dtype=np.float32)
    centred, s = quantise.quantise_activations(x)
    exact = np.einsum(
        "...gi,ogi->...og",
        centred.reshape(2, 3, -1, 32).astype(np.int64),
        q.reshape(5, -1, 32).astype(np.int64),
    )
    expected = (exact * scale.astype(np.float64)).sum(-1) * s
    got = quantise.linear_int4(x, quantise.pack_nibbles(q), scale)
    assert got.shape == (2, 3, 5)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_quantised_linear_is_near_the_float_one() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 256)).astype(np.float32)
    w = rng.normal(size=(64, 256)).astype(np.float32)
    exact = x @ w.T
    q, scale = quantise.quantise_rows_int8(w)
    packed, scale4 = quantise.quantise_rows_int4(w)
    int8 = quantise.linear_int8(x, q, scale)
    int4 = quantise.linear_int4(x, packed, scale4.astype(np.float32))
    assert (int8 - exact).std() < 0.02 * exact.std()
    assert (int4 - exact).std() < 0.2 * exact.std()
