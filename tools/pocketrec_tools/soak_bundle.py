"""The smallest bundle that ranks: random weights, a few kilobytes, for harnesses that need many of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pocketrec.manifest import Backbone
from pocketrec_export.content import BundleContent, TableContent
from pocketrec_export.writer import write_bundle

_D, _LENGTH, _WORDS = 32, 4, 4
_LINEARS = ("q", "k", "v", "o", "gate", "up", "down")


def write_small_bundle(out: Path, item_ids: Sequence[str], version: int) -> Path:
    """Write it at `out`; the weights follow from `version`, which is its model version."""
    return write_bundle(out, content=small_content(item_ids, version))


def small_content(item_ids: Sequence[str], version: int) -> BundleContent:
    """What is in it."""
    chance = np.random.default_rng(version)

    def normal(*shape: int) -> np.ndarray:
        return chance.normal(size=shape).astype(np.float32)

    backbone = {"norm": np.ones(_D, np.float32), "recency": normal(_LENGTH, _D)}
    for name in ("input_norm", "post_norm"):
        backbone[f"layers.0.{name}"] = np.ones(_D, np.float32)
    backbone |= {f"layers.0.{name}_proj": normal(_D, _D) / 6 for name in _LINEARS}
    vocabulary = {f"w{number}": number for number in range(_WORDS)}
    tokenizer = {"version": "1.0", "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"}}
    return BundleContent(
        name="small",
        precision="fp32",
        length=_LENGTH,
        backbone=Backbone(
            architecture="llama", layers=1, heads=1, kv_heads=1, head_dim=32, intermediate=32, rms_eps=1e-6,
            rope_theta=1e4,
        ),
        backbone_tensors=backbone,
        items=TableContent("int8", rows=normal(len(item_ids), _D)),
        words=TableContent("int8", rows=normal(_WORDS, _D)),
        event_rows=normal(1, _D),
        gap_rows=normal(2, _D),
        idf=np.ones(_WORDS, np.float32),
        events=("",),
        gap_seconds=(),
        item_ids=item_ids,
        prior=np.arange(len(item_ids)),
        tokenizer=json.dumps(tokenizer).encode(),
        golden=[item_ids[:3], []],
        model_version=version,
        created="2026-01-02T03:04:05Z",
    )  # fmt: skip
