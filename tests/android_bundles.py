"""Writes what the tests of android_demo read: sound bundles with golden vectors, and the hostile corpus.

    PYTHONPATH=tests .venv/bin/python tests/android_bundles.py OUT
    cd android_demo && mvn test -Dpocketrec.bundles=OUT

OUT/golden holds bundles, directories and archives; OUT/hostile the corpus, one folder a case, and an index
as hostile_files.py describes it; OUT/key the raw public key that signed OUT/golden/signed.zip, and
OUT/other-key one that did not.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import hostile
from pocketrec.manifest import Backbone as BackboneSpec
from pocketrec.signing import generate_key
from pocketrec_export.backbone import Backbone, backbone_tensors
from pocketrec_export.precision import RECIPES
from pocketrec_export.target_onnx import to_onnx
from tiny_backbone import random_backbone
from tiny_bundle import write_tiny_bundle


def write_all(out: Path) -> None:
    """Everything, below the directory `out`."""
    golden = out / "golden"
    golden.mkdir(parents=True)
    backbone = random_backbone()
    for precision in ("fp32", "int8", "int4", "mixed"):
        write_tiny_bundle(
            golden / precision,
            precision,
            backbone=BackboneSpec(**vars(backbone.shape)),
            backbone_tensors=backbone_tensors(backbone, RECIPES[precision]),
            **_graph(backbone, precision),
        )
    keys = generate_key()
    write_tiny_bundle(golden / "signed.zip", sign_key=keys.private_pem, as_zip=True)
    (out / "key").write_bytes(keys.raw_public)
    (out / "other-key").write_bytes(generate_key().raw_public)
    write_hostile(out / "hostile")


def _graph(backbone: Backbone, precision: str) -> dict[str, Any]:
    """Exporting takes seconds: "mixed" has all three kinds of linears in it."""
    if precision not in ("fp32", "mixed"):
        return {}
    versions = {"onnxruntime": {"min_version": "1.20", "max_version": "1.28"}}
    return {"onnx": to_onnx(backbone, RECIPES[precision]), "engines": versions}


def write_hostile(out: Path) -> None:
    """The corpus as files; links and pipes are left out where the file system has none."""
    entries: list[dict[str, Any]] = []
    for case in hostile.CASES:
        bundle = write_tiny_bundle(out / case.name / "bundle")
        try:
            path = case.make(bundle)
        except (OSError, AttributeError, NotImplementedError):
            shutil.rmtree(out / case.name)
            continue
        entries.append(
            {
                "name": case.name,
                "path": path.relative_to(out).as_posix(),
                "codes": [case.code],
                "stage": getattr(case, "stage", "open"),
                "public_keys": [key.hex() for key in getattr(case, "keys", ())],
            }
        )
    (out / "index.json").write_text(json.dumps({"cases": entries}), "utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/android_bundles.py OUT")
    write_all(Path(sys.argv[1]))
