"""Writes what the tests of android_demo read: sound bundles with golden vectors, and the hostile corpus.

    PYTHONPATH=tests .venv/bin/python tests/android_bundles.py OUT
    cd android_demo && mvn test -Dpocketrec.bundles=OUT

OUT/golden holds bundles, directories and archives; OUT/hostile the corpus, one folder a case, and an index
as hostile_files.py describes it; OUT/graphs.json mutants of a graph, in base64, and whether Python admits
each; OUT/key the raw public key that signed OUT/golden/signed.zip and OUT/later.zip, and OUT/other-key one
that did not. OUT/golden/later is OUT/later.zip as an installed catalogue delta left it, OUT/later.json has
more answers of Python's for it. OUT/history holds the files of one history, and into OUT/history/kotlin the
tests write what they made of them.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

import pocketrec
from hostile_files import write_corpus
from hostile_graph_base import tiny_graph
from pocketrec.bundle import Bundle
from pocketrec.events import Event
from pocketrec.golden import Request
from pocketrec.history import History
from pocketrec.history_schema import APPLICATION_ID, MIGRATIONS
from pocketrec.manifest import Backbone as BackboneSpec
from pocketrec.onnx_shapes import check_graph
from pocketrec.quantise import quantise_rows_int4, quantise_rows_int8
from pocketrec.signing import generate_key
from pocketrec_export.backbone import Backbone, backbone_tensors
from pocketrec_export.delta import make_delta
from pocketrec_export.precision import RECIPES
from pocketrec_export.target_onnx import to_onnx
from pocketrec_export.writer import write_bundle
from tiny_backbone import random_backbone, tiny_shape
from tiny_bundle import tiny_backbone, tiny_content, write_tiny_bundle


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
    write_later(out, keys.private_pem)
    write_tiny_bundle(golden / "signed.zip", sign_key=keys.private_pem, as_zip=True)
    (out / "key").write_bytes(keys.raw_public)
    (out / "other-key").write_bytes(generate_key().raw_public)
    write_corpus(out / "hostile")
    write_graphs(out / "graphs.json", out / "hostile" / "sound-directory" / "bundle")
    write_histories(out / "history")


def _graph(backbone: Backbone, precision: str) -> dict[str, Any]:
    """Exporting takes seconds: "mixed" has all three kinds of linears in it."""
    if precision not in ("fp32", "mixed") or (backbone.shape.architecture == "llama" and precision == "fp32"):
        return {}
    versions = {"onnxruntime": {"min_version": "1.20", "max_version": "1.28"}}
    return {"onnx": to_onnx(backbone, RECIPES[precision]), "engines": versions}


FORMER = "called otherwise"


def write_later(out: Path, key: bytes) -> None:
    """A catalogue with retired and renamed items, reached by a delta; and what Python says of it."""
    content = tiny_content()
    rows = content.items.rows
    assert rows is not None
    ids = [*content.item_ids, "new"]
    later = dataclasses.replace(
        content,
        items=dataclasses.replace(content.items, rows=np.concatenate([rows, rows[:1] * 0.5])),
        item_ids=ids,
        prior=np.concatenate([content.prior, [2]]),
        display={name: [*texts, "Added"] for name, texts in content.display.items()},
        retired=[ids[5], ids[3]],
        renamed={FORMER: ids[11], "é formerly": ids[0]},
        golden=(
            [ids[5], (FORMER, "view", 5), ids[0]],
            [FORMER],
            [],
            Request(
                history=((ids[9], "", None),),
                exclude=(FORMER,),
                candidates=(FORMER, ids[3], "é formerly", ids[1]),
            ),
        ),
        catalogue_version=2,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        old = write_bundle(folder / "old", content=content)
        new = write_bundle(folder / "new", content=later)
        pocketrec.install(old, folder / "installed")
        pocketrec.install(make_delta(old, new, folder / "step"), folder / "installed")
        write_bundle(out / "later.zip", content=later, sign_key=key, as_zip=True)
        shutil.copytree(pocketrec.installed(folder / "installed").path, out / "golden" / "later")
    with pocketrec.Recommender.open(out / "golden" / "later") as recommender:
        answers = {
            item: [r.item_id for r in recommender.similar_items(item, 100)] for item in (ids[5], FORMER)
        }
        skipped = recommender.rank([FORMER, "é formerly", "nobody"]).skipped
    (out / "later.json").write_text(
        json.dumps({"similar": answers, "retired": later.retired, "skipped": skipped}), "utf-8"
    )


def write_graphs(out: Path, bundle: Path, count: int = 2000, seed: int = 0) -> None:
    """Mutants of a sound graph, without its weights the better to hit what counts, and Python's verdicts."""
    rng = np.random.default_rng(seed)
    with Bundle.open(bundle) as opened:
        manifest = opened.manifest
    model = tiny_graph()
    (weight,) = (t for t in model.graph.initializer if t.name == "weight")
    model.graph.node.append(helper.make_node("Transpose", ["weight"], ["turned"], perm=[1, 0]))
    model.graph.node.append(helper.make_node("Concat", ["turned", "weight"], ["both"], axis=1))
    sound = model.SerializeToString()
    at = sound.index(weight.raw_data)
    where = np.delete(np.arange(len(sound)), np.arange(at, at + len(weight.raw_data)))
    mutants = [sound]
    for _ in range(count):
        raw = bytearray(sound)
        for place in rng.choice(where, rng.integers(1, 4)).tolist():
            raw[place] = int(
                rng.choice([raw[place] ^ (1 << rng.integers(8)), raw[place] + 1 & 255, rng.integers(256)])
            )
        mutants.append(bytes(raw))
    verdicts = []
    for mutant in mutants:
        try:
            check_graph(mutant, manifest)
            verdicts.append("")
        except pocketrec.BundleError as error:
            verdicts.append(error.code)
    cases = [[base64.b64encode(m).decode(), verdict] for m, verdict in zip(mutants, verdicts, strict=True)]
    out.write_text(json.dumps(cases), "utf-8")


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
