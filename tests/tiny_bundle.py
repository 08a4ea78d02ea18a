"""A bundle of a few kilobytes with random weights, made by numpy alone, through the real writer.

`tiny_content` gives its content, to be changed before it is written; `write_tiny_bundle` writes it.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from pocketrec.golden import Request
from pocketrec.manifest import Backbone
from pocketrec.quantise import quantise_rows_int4, quantise_rows_int8
from pocketrec_export.content import BundleContent, TableContent
from pocketrec_export.writer import write_bundle

DIM, LENGTH, ITEMS, WORDS = 32, 8, 50, 16
EVENTS = ("", "view", "buy")
GAP_SECONDS = (60, 3600, 86400)
CREATED = "2026-01-02T03:04:05Z"
BACKBONE = Backbone(
    architecture="qwen3",
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=16,
    intermediate=64,
    rms_eps=1e-6,
    rope_theta=10000.0,
)


def item_id(position: int) -> str:
    """Ids whose byte order differs from the catalogue order; some are not ASCII."""
    return f"{'é' if position % 7 == 0 else 'i'}{(position * 37) % ITEMS:02d}"


HISTORIES: tuple[Any, ...] = (
    [(item_id(3), "view", 1_000_000), (item_id(9), "buy", 1_000_090), (item_id(3), "", None)],
    [item_id(p) for p in range(12)],  # longer than LENGTH
    [],
    ["nobody-knows-this"],
    [(item_id(7), "unknown type", 5), ("gone", "", 6), (item_id(8), "view", 4)],
    Request(
        history=((item_id(1), "view", 10),),
        k=5,
        filter_seen=False,
        exclude=(item_id(2),),
        candidates=tuple(item_id(p) for p in range(1, 9)),
    ),
)


def tiny_backbone(precision: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random tensors of docs/bundle.md, section 5: fp32, int8 or int4 linears."""
    b = BACKBONE
    tensors: dict[str, np.ndarray] = {
        "norm": _near_one(rng, DIM),
        "recency": (rng.normal(size=(LENGTH, DIM)) * 0.1).astype(np.float32),
    }
    q, kv = b.heads * b.head_dim, b.kv_heads * b.head_dim
    shapes = {
        "q": (q, DIM),
        "k": (kv, DIM),
        "v": (kv, DIM),
        "o": (DIM, q),
        "gate": (b.intermediate, DIM),
        "up": (b.intermediate, DIM),
        "down": (DIM, b.intermediate),
    }
    for layer in range(b.layers):
        for name, width in (
            ("input_norm", DIM),
            ("post_norm", DIM),
            ("q_norm", b.head_dim),
            ("k_norm", b.head_dim),
        ):
            tensors[f"layers.{layer}.{name}"] = _near_one(rng, width)
        for name, (rows, columns) in shapes.items():
            weight = (rng.normal(size=(rows, columns)) / np.sqrt(columns)).astype(np.float32)
            full = f"layers.{layer}.{name}_proj"
            if precision == "fp32":
                tensors[full] = weight
            elif precision == "int8":
                tensors[f"{full}.q"], tensors[f"{full}.scale"] = quantise_rows_int8(weight)
            else:
                packed, scale = quantise_rows_int4(weight)
                tensors[f"{full}.q"], tensors[f"{full}.scale"] = packed, scale.astype(np.float32)
    return tensors


def tiny_content(precision: str = "int8", seed: int = 0, **changes: Any) -> BundleContent:
    """The content; `changes` replaces fields of `BundleContent`."""
    rng = np.random.default_rng(seed)
    scheme: Any = precision if precision in ("fp32", "int8", "int4") else "int8"
    popularity = np.sort(rng.integers(0, 40, ITEMS))[::-1]
    content = BundleContent(
        name="tiny",
        precision=precision,
        length=LENGTH,
        backbone=BACKBONE,
        backbone_tensors=tiny_backbone(precision, rng),
        items=TableContent(scheme, rows=rng.normal(size=(ITEMS, DIM)).astype(np.float32) * 0.3),
        words=TableContent(scheme, rows=rng.normal(size=(WORDS, DIM)).astype(np.float32)),
        event_rows=(rng.normal(size=(len(EVENTS), DIM)) * 0.1).astype(np.float32),
        gap_rows=(rng.normal(size=(len(GAP_SECONDS) + 2, DIM)) * 0.1).astype(np.float32),
        idf=rng.uniform(1, 8, WORDS).astype(np.float32),
        events=EVENTS,
        gap_seconds=GAP_SECONDS,
        item_ids=[item_id(p) for p in range(ITEMS)],
        prior=popularity,
        tokenizer=_tokenizer(),
        display={
            "title": [f"Title {p} ünïcode" if p != 4 else "" for p in range(ITEMS)],
            "categories": [f"cat {p % 5}" for p in range(ITEMS)],
        },
        golden=HISTORIES,
        licences={"model": "Apache-2.0", "data": "CC0-1.0"},
        created=CREATED,
    )
    return dataclasses.replace(content, **changes)


def write_tiny_bundle(
    out: Path,
    precision: str = "int8",
    seed: int = 0,
    *,
    sign_key: bytes | None = None,
    as_zip: bool = False,
    force: bool = False,
    **changes: Any,
) -> Path:
    """Write it at `out`; for the rest see `tiny_content` and `write_bundle`."""
    content = tiny_content(precision, seed, **changes)
    return write_bundle(out, content=content, sign_key=sign_key, as_zip=as_zip, force=force)


def _near_one(rng: np.random.Generator, width: int) -> np.ndarray:
    return (1 + 0.1 * rng.normal(size=width)).astype(np.float32)


def _tokenizer() -> bytes:
    vocabulary = {"[UNK]": 0} | {f"w{i}": i for i in range(1, WORDS)}
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": None,
            "decoder": None,
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
        }
    ).encode()
