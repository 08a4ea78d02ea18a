"""Bundles are written whole or not at all, and the same content gives the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketrec.bundle import Bundle
from pocketrec.errors import BundleError, DataError, PocketrecError
from pocketrec.golden import parse_golden
from pocketrec_export.content import TableContent
from pocketrec_export.writer import recover, write_bundle
from support import ROOT, not_applicable
from tiny_bundle import DIM, ITEMS, tiny_content, write_tiny_bundle


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = write_tiny_bundle(tmp_path / "a"), write_tiny_bundle(tmp_path / "b")
    assert contents(first) == contents(second)
    zips = [write_tiny_bundle(tmp_path / f"{name}.zip", as_zip=True) for name in "ab"]
    assert zips[0].read_bytes() == zips[1].read_bytes()
    assert names(tmp_path) == ["a", "a.zip", "b", "b.zip"]
    other = write_tiny_bundle(tmp_path / "c", seed=1)
    assert contents(first) != contents(other)


def test_the_embedding_space_follows_the_model_and_not_the_catalogue(tmp_path: Path) -> None:
    content = tiny_content()
    fewer = TableContent("int8", rows=np.ones((3, DIM), dtype=np.float32))
    paths = {
        "same": write_bundle(tmp_path / "same", content=content),
        "catalogue": write_tiny_bundle(
            tmp_path / "catalogue",
            items=fewer,
            item_ids=["a", "b", "c"],
            prior=np.ones(3),
            display={},
            golden=(),
        ),
        "model": write_tiny_bundle(tmp_path / "model", seed=3),
    }
    spaces = {}
    for name, path in paths.items():
        with Bundle.open(path) as bundle:
            spaces[name] = bundle.manifest.embedding_space
    assert spaces["same"] == spaces["catalogue"] != spaces["model"]


def test_golden_vectors_are_computed_or_taken(tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "computed")
    golden = parse_golden((path / "golden.json").read_bytes())
    assert all(case.items for case in golden.cases)
    taken = write_tiny_bundle(tmp_path / "taken", golden=golden)
    assert contents(taken) == contents(path)


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    out = write_tiny_bundle(tmp_path / "b")
    before = contents(out)
    with pytest.raises(PocketrecError) as caught:
        write_tiny_bundle(out, seed=1)
    assert caught.value.code == "exists"
    assert "--force" in caught.value.remedy
    assert contents(out) == before
    write_tiny_bundle(out, seed=1, force=True)
    assert contents(out) != before
    assert names(tmp_path) == ["b"]


def test_force_replaces_bundles_only(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cat.jpg").write_bytes(b"miaow")
    (tmp_path / "notes.txt").write_text("hello")
    for path in (folder, tmp_path / "notes.txt"):
        with pytest.raises(PocketrecError) as caught:
            write_tiny_bundle(path, force=True)
        assert caught.value.code == "exists"
    assert contents(folder) == {"cat.jpg": b"miaow"}
    assert names(tmp_path) == ["notes.txt", "photos"]


def test_a_directory_and_an_archive_replace_each_other(tmp_path: Path) -> None:
    out = tmp_path / "b"
    for as_zip in (False, True, True, False):
        write_tiny_bundle(out, as_zip=as_zip, force=True)
        assert out.is_dir() != as_zip
        Bundle.open(out).close()
    assert names(tmp_path) == ["b"]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"prior": np.full(ITEMS, np.nan)}, DataError),
        ({"events": ("view",)}, DataError),
        ({"length": 5000}, DataError),
        ({"length": 9}, BundleError),  # the recency path has 8 rows
        ({"item_ids": ["same"] * ITEMS}, DataError),
        ({"item_ids": [""] + [str(i) for i in range(1, ITEMS)]}, DataError),
        ({"display": {"title": ["too", "few"]}}, DataError),
        ({"engines": {"onnxruntime": {"made_with": "1"}}}, DataError),
    ],
)
def test_content_that_makes_no_bundle_leaves_nothing_behind(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception]
) -> None:
    out = write_tiny_bundle(tmp_path / "b")
    before = contents(out)
    with pytest.raises(error):
        write_tiny_bundle(out, force=True, **changes)
    assert contents(out) == before
    assert names(tmp_path) == ["b"]


def test_leftovers_of_a_dead_writer(tmp_path: Path) -> None:
    """As after a kill in the middle: between the renames, and before them."""
    out = write_tiny_bundle(tmp_path / "b")
    before = contents(out)
    out.rename(tmp_path / ".b.old-1234abcd")
    write_tiny_bundle(tmp_path / "unfinished")
    (tmp_path / "unfinished").rename(tmp_path / ".b.new-1234abcd")
    (tmp_path / ".b.new-1234abcd" / "golden.json").unlink()
    (tmp_path / ".c.new-1234abcd").mkdir()  # of another bundle: not ours to touch
    assert recover(out)
    assert contents(out) == before
    assert names(tmp_path) == [".c.new-1234abcd", "b"]
    assert not recover(out)


WRITE_FOR_EVER = """
import sys
from pathlib import Path
from typing import Any
from tiny_bundle import write_tiny_bundle
seed = 0
while True:
    write_tiny_bundle(Path(sys.argv[1]), seed=seed % 3, force=True, golden=())
    sys.stdout.write(".")
    sys.stdout.flush()
    seed += 1
"""


def test_a_writer_killed_at_any_moment_leaves_the_old_or_the_new_bundle(tmp_path: Path) -> None:
    if os.name == "nt":
        not_applicable("SIGKILL is of POSIX")
    out = tmp_path / "b"
    chance = random.Random(3)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *sys.path])}
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITE_FOR_EVER, str(out)], stdout=subprocess.PIPE, env=environment
        )
        assert child.stdout is not None
        assert child.stdout.read(2) == b".."
        time.sleep(chance.random() * 0.05)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        recover(out)
        Bundle.open(out).close()
        assert names(tmp_path) == ["b"]
