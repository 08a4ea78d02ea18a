"""Writes what the tests of android_demo read: sound bundles with golden vectors, and the hostile corpus.

    PYTHONPATH=tests .venv/bin/python tests/android_bundles.py OUT
    cd android_demo && mvn test -Dpocketrec.bundles=OUT

OUT/golden holds bundles, directories and archives; OUT/hostile the corpus, one folder a case, and an index
as hostile_files.py describes it; OUT/key the raw public key that signed OUT/golden/signed.zip, and
OUT/other-key one that did not; OUT/history the files of one history, and into OUT/history/kotlin the tests
write what they made of them.
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from hostile_files import write_corpus
from pocketrec.events import Event
from pocketrec.history import History
from pocketrec.history_schema import APPLICATION_ID, MIGRATIONS
from pocketrec.manifest import Backbone as BackboneSpec
from pocketrec.quantise import quantise_rows_int4, quantise_rows_int8
from pocketrec.signing import generate_key
from pocketrec_export.backbone import Backbone, backbone_tensors
from pocketrec_export.precision import RECIPES
from pocketrec_export.target_onnx import to_onnx
from tiny_backbone import random_backbone, tiny_shape
from tiny_bundle import tiny_backbone, write_tiny_bundle


def write_all(out: Path) -> None:
    """Everything, below the directory `out`."""
    golden = out / "golden"
    golden.mkdir(parents=True)
    for architecture, precisions in (
        ("qwen3", ("fp32", "int8", "int4", "mixed")),
        ("llama", ("fp32", "mixed")),
    ):
        backbone = random_backbone(tiny_shape(architecture=architecture))
        for precision in precisions:
            write_tiny_bundle(
                golden / (precision if architecture == "qwen3" else f"{architecture}-{precision}"),
                precision,
                backbone=BackboneSpec(**vars(backbone.shape)),
                backbone_tensors=backbone_tensors(backbone, RECIPES[precision]),
                **_graph(backbone, precision),
            )
    write_tiny_bundle(golden / "low-rank", "int8", backbone_tensors=_low_rank())
    keys = generate_key()
    write_tiny_bundle(golden / "signed.zip", sign_key=keys.private_pem, as_zip=True)
    (out / "key").write_bytes(keys.raw_public)
    (out / "other-key").write_bytes(generate_key().raw_public)
    write_corpus(out / "hostile")
    write_histories(out / "history")


def _graph(backbone: Backbone, precision: str) -> dict[str, Any]:
    """Exporting takes seconds: "mixed" has all three kinds of linears in it."""
    if precision not in ("fp32", "mixed") or (backbone.shape.architecture == "llama" and precision == "fp32"):
        return {}
    versions = {"onnxruntime": {"min_version": "1.20", "max_version": "1.28"}}
    return {"onnx": to_onnx(backbone, RECIPES[precision]), "engines": versions}


EVENTS = (Event('é"', "view", 5), Event("b", "", None), Event("b", "buy", -(2**40)), Event("c", "", 2**40))


def write_histories(out: Path) -> None:
    """The same events in files of both versions, and in one of a person who opted out; and as JSON."""
    (out / "kotlin").mkdir(parents=True)
    (out / "events.json").write_text(json.dumps([list(dataclasses.astuple(e)) for e in EVENTS]), "utf-8")
    for name in ("version-2.db", "opted-out.db"):
        with History(out / name) as history:
            history.record_many(EVENTS)
            history.set_recording(name != "opted-out.db")
    with closing(sqlite3.connect(out / "version-1.db")) as db:
        db.execute("PRAGMA journal_mode=WAL")
        for statement in MIGRATIONS[0]:
            db.execute(statement)
        rows = [dataclasses.astuple(event) for event in EVENTS]
        db.executemany("INSERT INTO events (item_id, event, timestamp) VALUES (?, ?, ?)", rows)
        db.execute("PRAGMA user_version = 1")
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.commit()


def _low_rank() -> dict[str, np.ndarray]:
    """The tensors of a random backbone, two of whose linears are pairs of linears, in all forms."""
    rng = np.random.default_rng(0)
    tensors = tiny_backbone("int8", rng)
    for name, rank in (("layers.0.gate_proj", 5), ("layers.1.down_proj", 32)):
        out, inner = tensors[f"{name}.q"].shape
        del tensors[f"{name}.q"], tensors[f"{name}.scale"]
        a = (rng.normal(size=(rank, inner)) / np.sqrt(inner)).astype(np.float32)
        b = (rng.normal(size=(out, rank)) / np.sqrt(rank)).astype(np.float32)
        tensors[f"{name}.a.q"], tensors[f"{name}.a.scale"] = quantise_rows_int8(a)
        if rank % 32:
            tensors[f"{name}.b"] = b
        else:
            packed, scale = quantise_rows_int4(b)
            tensors[f"{name}.b.q"], tensors[f"{name}.b.scale"] = packed, scale.astype(np.float32)
    return tensors


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/android_bundles.py OUT")
    write_all(Path(sys.argv[1]))
