"""The integer arithmetic of the bundle format (docs/bundle.md, sections 3 and 5), in numpy.

Everything here is float32 with rounding half to even, and every sum of integers is exact, whatever order the
BLAS adds in. That is what lets runtimes written by different people, on different processors, agree:

* table rows:   `quantise_rows_int8`, `quantise_rows_int4` and back;
* nibbles:      `pack_nibbles`, `unpack_nibbles`, element 2i in the low four bits of byte i;
* activations:  `quantise_activations`, per row to 8 bits with a zero point (XNNPACK calls it qd8);
* linears:      `linear_int8`, `linear_int4`, quantised activations against quantised weights.

How the *weights* of linears are rounded is the business of whoever writes a bundle; here they are only used.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import DataError

GROUP = 32
"""Elements that share one scale in the int4 schemes."""

FloatArray = NDArray[np.float32]

_F16_MAX = float(np.finfo(np.float16).max)
_EXACT_IN_FLOAT32 = 2**24 // (255 * 128)
"""Longest sum of (a − z) · q, |a − z| ≤ 255 and |q| ≤ 128, whose every partial sum is exact in float32."""


def quantise_rows_int8(rows: NDArray[np.floating]) -> tuple[NDArray[np.int8], FloatArray]:
    """Rows [n, d] to symmetric int8 with one scale a row.

    Returns:
        q int8 [n, d] in −127 … 127 and scale float32 [n] = max|row| / 127; a row of zeros has the scale 0.

    Raises:
        DataError: a value that is not finite.
    """
    rows = _finite_rows(rows)
    scale = np.max(np.abs(rows), axis=1, initial=0.0) / np.float32(127)
    return _rint_div(rows, scale[:, None], 127), scale


def dequantise_rows_int8(q: NDArray[np.int8], scale: FloatArray) -> FloatArray:
    """int8 [n, d] and scale float32 [n] to float32 [n, d]."""
    return q.astype(np.float32) * scale.astype(np.float32, copy=False)[:, None]


def quantise_rows_int4(rows: NDArray[np.floating]) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Rows [n, d], d a multiple of 32, to symmetric int4 with one float16 scale for each 32 elements.

    The scale is rounded to float16 first and the integers are computed with it: errors do not add.

    Returns:
        q uint8 [n, d/2], nibbles 1 … 15 standing for −7 … 7, and scale float16 [n, d/32].

    Raises:
        DataError: d not a multiple of 32, a value that is not finite, or one too large for a float16 scale.
    """
    rows = _finite_rows(rows)
    n, d = rows.shape
    if d % GROUP:
        raise DataError(
            f"int4 rows need a width that is a multiple of {GROUP}, got {d}.",
            code="bad-width",
            remedy="Use int8, or another width.",
        )
    groups = rows.reshape(n, d // GROUP, GROUP)
    exact = np.max(np.abs(groups), axis=2, initial=0.0) / np.float32(7)
    if exact.size and float(exact.max()) > _F16_MAX:
        raise DataError(
            f"a row holds {float(np.abs(rows).max()):g}, too large for int4 with float16 scales.",
            code="value-too-large",
            remedy="Normalise the rows, or use int8.",
        )
    scale = exact.astype(np.float16)
    q = _rint_div(groups, scale.astype(np.float32)[:, :, None], 7)
    return pack_nibbles(q.reshape(n, d)), scale


def dequantise_rows_int4(packed: NDArray[np.uint8], scale: NDArray[np.floating]) -> FloatArray:
    """uint8 [n, d/2] and scale [n, d/32] to float32 [n, d]."""
    q = unpack_nibbles(packed)
    n, d = q.shape
    groups = q.reshape(n, d // GROUP, GROUP).astype(np.float32)
    return (groups * scale.astype(np.float32, copy=False)[:, :, None]).reshape(n, d)


def pack_nibbles(q: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Integers −8 … 7, [..., d] with d even, to uint8 [..., d/2]: q + 8, even elements in the low bits."""
    nibbles = (q.astype(np.int16) + 8).astype(np.uint8)
    return np.ascontiguousarray(nibbles[..., 0::2] | (nibbles[..., 1::2] << np.uint8(4)))


def unpack_nibbles(packed: NDArray[np.uint8]) -> NDArray[np.int8]:
    """uint8 [..., d/2] to the integers −8 … 7 as int8 [..., d]; the inverse of `pack_nibbles`."""
    out = np.empty((*packed.shape[:-1], packed.shape[-1] * 2), dtype=np.int8)
    out[..., 0::2] = packed & np.uint8(15)
    out[..., 1::2] = packed >> np.uint8(4)
    out -= np.int8(8)
    return out


def quantise_activations(x: FloatArray) -> tuple[NDArray[np.int32], FloatArray]:
    """Activations [..., d] to 8 bits with one scale and zero point a row.

    Returns:
        centred int32 [..., d] = a − z, in −255 … 255, and scale float32 [..., 1]; x ≈ centred · scale.
    """
    x = x.astype(np.float32, copy=False)
    low = np.minimum(x.min(axis=-1, keepdims=True), np.float32(0))
    high = np.maximum(x.max(axis=-1, keepdims=True), np.float32(0))
    scale = (high - low) / np.float32(255)
    scale = np.where(scale == 0, np.float32(1), scale)
    zero = np.clip(np.rint(np.float32(-128) - low / scale), -128, 127)
    a = np.clip(np.rint(x / scale) + zero, -128, 127)
    return (a - zero).astype(np.int32), scale


def linear_int8(x: FloatArray, q: NDArray[np.int8], scale: FloatArray) -> FloatArray:
    """x float32 [..., in] through int8 weights q [out, in] with scale [out] to float32 [..., out]."""
    centred, s = quantise_activations(x)
    return _exact_product(centred, q) * s * scale


def linear_int4(x: FloatArray, packed: NDArray[np.uint8], scale: FloatArray) -> FloatArray:
    """x [..., in] through int4 weights packed [out, in/2], scale [out, in/32]; gives float32 [..., out]."""
    centred, s = quantise_activations(x)
    q = unpack_nibbles(packed)
    y = np.zeros((*x.shape[:-1], q.shape[0]), dtype=np.float32)
    for g in range(scale.shape[1]):
        part = slice(g * GROUP, (g + 1) * GROUP)
        y += _exact_product(centred[..., part], q[:, part]) * scale[:, g]
    return y * s


def _exact_product(centred: NDArray[np.int32], q: NDArray[np.int8]) -> FloatArray:
    """Σ centred · q over the last axis, exact, then rounded once to float32."""
    if q.shape[1] <= _EXACT_IN_FLOAT32:
        return centred.astype(np.float32) @ q.astype(np.float32).T
    return (centred.astype(np.float64) @ q.astype(np.float64).T).astype(np.float32)


def _rint_div(x: FloatArray, scale: FloatArray, limit: int) -> NDArray[np.int8]:
    """clip(rint(x / scale)), with zeros where the scale is zero."""
    quotient = np.divide(x, scale, out=np.zeros_like(x), where=scale != 0)
    return np.clip(np.rint(quotient), -limit, limit).astype(np.int8)


def _finite_rows(rows: NDArray[np.floating]) -> FloatArray:
    out = np.ascontiguousarray(rows, dtype=np.float32)
    if out.ndim != 2:
        raise DataError(f"rows must be a matrix [n, d], got the shape {out.shape}.", code="bad-shape")
    bad = ~np.isfinite(out).all(axis=1)
    if bad.any():
        raise DataError(
            f"row {int(np.argmax(bad))} holds a value that is not finite.",
            code="not-finite",
            remedy="Look for a diverged training or a division by zero.",
        )
    return out
