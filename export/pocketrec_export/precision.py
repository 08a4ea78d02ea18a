"""Precision by predicate: which linear and which table is kept in how many bits.

A `Precision` is a function of a path ("layers.0.q_proj", "tables.items", "tables.words") and a shape; it says
"fp32", "int8" or "int4". `RECIPES` names the usual ones; anything else is a lambda away:

    def careful(path, shape):
        return "fp32" if path.endswith("down_proj") else "int8"

`quantise_linear` writes a weight in the form of docs/bundle.md §5, and is the single source of the integers:
every target wraps what it gives, so that all of them run the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import PocketrecError
from pocketrec.quantise import GROUP, pack_nibbles

Scheme = Literal["fp32", "int8", "int4"]
Precision = Callable[[str, Sequence[int]], Scheme]
SCHEMES: tuple[Scheme, ...] = ("fp32", "int8", "int4")

_SMALLEST_NORMAL = np.float32(np.finfo(np.float32).smallest_normal)


def fp32(path: str, shape: Sequence[int]) -> Scheme:
    """Everything as trained."""
    return "fp32"


def int8(path: str, shape: Sequence[int]) -> Scheme:
    """Eight bits everywhere: a quarter of the size, for nothing that could be measured."""
    return "int8"


def int4(path: str, shape: Sequence[int]) -> Scheme:
    """Four bits everywhere, in groups of 32."""
    return "int4"


def mixed(path: str, shape: Sequence[int]) -> Scheme:
    """Eight bits where errors are felt most, attention and the item table; four in MLP and word table."""
    whole = path.removesuffix(".a").removesuffix(".b")  # the parts of a low-rank linear are as sensitive
    return (
        "int8"
        if path == "tables.items" or whole.endswith(("q_proj", "k_proj", "v_proj", "o_proj"))
        else "int4"
    )


RECIPES: dict[str, Precision] = {"fp32": fp32, "int8": int8, "int4": int4, "mixed": mixed}


def recipe(name: str) -> Precision:
    """The named recipe.

    Raises:
        PocketrecError: code "precision-unknown".
    """
    if name not in RECIPES:
        raise PocketrecError(
            f"there is no precision {name!r}.",
            code="precision-unknown",
            remedy=f"Choose one of {', '.join(RECIPES)}, or search.",
        )
    return RECIPES[name]


def scheme_of(precision: Precision, path: str, shape: Sequence[int]) -> Scheme:
    """What `precision` answers for this path, with int8 for int4 where the width is no multiple of 32.

    Raises:
        PocketrecError: code "precision-unknown", the predicate answered something else than a scheme.
    """
    answer = precision(path, shape)
    if answer not in SCHEMES:
        raise PocketrecError(
            f"the precision of {path!r} is {answer!r}.",
            code="precision-unknown",
            remedy=f"Answer one of {', '.join(SCHEMES)}.",
        )
    return "int8" if answer == "int4" and shape[-1] % GROUP else answer


def quantise_linear(name: str, weight: NDArray[np.float32], scheme: Scheme) -> dict[str, NDArray[np.generic]]:
    """The tensors that hold `weight` float32 [out, in] under `name`.

    Rounded as torchao rounds them, symmetric over the full range (scale = max|w| / 127.5 or 7.5). The int4
    scales are rounded to bfloat16 first, because XNNPACK keeps them so; the file holds them as float32.

    Raises:
        PocketrecError: code "not-finite", a weight is NaN or infinite.
    """
    if not np.isfinite(weight).all():
        raise PocketrecError(
            f"{name!r} holds a value that is not finite.",
            code="not-finite",
            remedy="Look for a diverged training.",
        )
    if scheme == "fp32":
        return {name: np.ascontiguousarray(weight, dtype=np.float32)}
    if scheme == "int8":
        q, scale = _quantise(weight[:, None, :], 127.5)
        return {f"{name}.q": q[:, 0], f"{name}.scale": scale[:, 0]}
    out, inner = weight.shape
    q, scale = _quantise(weight.reshape(out, inner // GROUP, GROUP), 7.5)
    return {f"{name}.q": pack_nibbles(q.reshape(out, inner)), f"{name}.scale": scale}


def _quantise(blocks: NDArray[np.float32], half_range: float) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Blocks [out, n, width] to q int8 of that shape and scale float32 [out, n]."""
    scale = np.maximum(np.abs(blocks).max(axis=2) / np.float32(half_range), _SMALLEST_NORMAL)
    if half_range < 8:
        scale = _to_bfloat16(scale)
    limit = int(half_range + 0.5)
    q = np.clip(np.rint(blocks * (np.float32(1) / scale)[:, :, None]), -limit, limit - 1)
    return q.astype(np.int8), scale


def _to_bfloat16(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Finite, non-negative x rounded to the nearest bfloat16, ties to even, as float32."""
    bits = x.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return cast("NDArray[np.float32]", rounded.view(np.float32))
