"""Writes the hostile corpus as files, for runtimes that are not written in Python.

    PYTHONPATH=tests .venv/bin/python tests/hostile_files.py OUT

makes one folder a case in OUT, with the bundle that a runtime must refuse in it, and OUT/index.json:

    {"keys": {"pinned": "64 hex digits"},
     "cases": [{"name": "one-bit-flipped", "path": "one-bit-flipped/bundle", "codes": ["hash-mismatch"],
                "stage": "open", "public_keys": [], "exists": true}]}

`path` is relative to OUT; `codes` are those that docs/bundle.md admits, empty for a sound bundle that must
open (the corpus starts from these, so a runtime that refuses everything fails). `stage` says which step has
to refuse it at the latest: `open`, `golden`, `text`, `graph`; see `hostile_base.Hostile`. `public_keys` are
raw keys in hex that the loader is to pin. `exists` is false where there is nothing at `path`. Links and pipes
are left out where the file system has none.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import hostile
from pocketrec_export.writer import zip_directory

SOUND = ("sound-directory", "sound-zip")


def write_corpus(out: Path) -> list[dict[str, Any]]:
    """Write every case below the new directory `out`; the entries of its index."""
    out.mkdir(parents=True)
    good = hostile.good_bundle(out / SOUND[0] / "bundle")
    (out / SOUND[1]).mkdir()
    zip_directory(good, out / SOUND[1] / "bundle.zip")
    entries = [
        _entry(out, SOUND[0], good, [], hostile.Hostile("", "", Path)),
        _entry(out, SOUND[1], out / SOUND[1] / "bundle.zip", [], hostile.Hostile("", "", Path)),
    ]
    for case in hostile.CASES:
        bundle = Path(shutil.copytree(good, out / case.name / "bundle"))
        try:
            path = case.make(bundle)
        except (OSError, AttributeError, NotImplementedError):  # no links or pipes here
            shutil.rmtree(out / case.name)
            continue
        if path != bundle:
            shutil.rmtree(bundle)
        entries.append(_entry(out, case.name, path, [case.code], case))
    index = {"keys": {"pinned": hostile.PINNED_KEY.hex()}, "cases": entries}
    (out / "index.json").write_text(json.dumps(index, indent=1) + "\n", "utf-8")
    return entries


def _entry(out: Path, name: str, path: Path, codes: list[str], case: hostile.Hostile) -> dict[str, Any]:
    return {
        "name": name,
        "path": path.relative_to(out).as_posix(),
        "codes": codes,
        "stage": case.stage,
        "public_keys": [key.hex() for key in case.keys],
        "exists": path.exists(),
    }


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/hostile_files.py OUT")
    written = write_corpus(Path(sys.argv[1]))
    sys.stdout.write(f"{len(written)} cases in {sys.argv[1]}\n")
