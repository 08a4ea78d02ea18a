"""Every bundle of the hostile corpus is refused with its code, and random damage never passes or crashes."""

from __future__ import annotations

import json
import os
import re
import shutil
import tracemalloc
from pathlib import Path

import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hostile
from hostile_files import write_corpus
from hostile_later import sign
from pocketrec.bundle import Bundle
from pocketrec.engines import load_engine
from pocketrec.errors import BundleError
from pocketrec.golden import GOLDEN_NAME, parse_golden
from pocketrec.onnx_shapes import OPERATORS
from pocketrec.text import TextRows
from pocketrec_export.writer import zip_directory
from support import ROOT, not_applicable


@pytest.fixture(scope="module")
def good_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile.good_bundle(tmp_path_factory.mktemp("good") / "bundle")


def use(path: Path, stage: str, keys: tuple[bytes, ...] = ()) -> None:
    """What a program does that comes as far as `stage`."""
    with Bundle.open(path, keys) as bundle:
        match stage:
            case "golden":
                parse_golden(bundle.file_bytes(GOLDEN_NAME))
            case "text":
                TextRows(bundle).row("w1 w2 unheard-of")
            case "graph":
                load_engine("onnxruntime", bundle).close()


@pytest.mark.parametrize("case", hostile.CASES, ids=lambda case: case.name)
def test_it_is_refused(
    case: hostile.Hostile, good_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case.name == "named-pipe" and not hasattr(os, "mkfifo"):
        not_applicable("no pipes in the file system")
    bundle = Path(shutil.copytree(good_bundle, tmp_path / "bundle"))
    path = case.make(bundle)
    # A hostile graph must be refused before the library sees it.
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: pytest.fail("the library saw it"))
    tracemalloc.start()
    try:
        with pytest.raises(BundleError) as caught:
            use(path, case.stage, case.keys)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.code == case.code, str(caught.value)
    assert peak < 40 << 20


@pytest.mark.parametrize("stage", ["open", "golden", "text", "graph"])
def test_every_stage_takes_the_sound_bundle(good_bundle: Path, stage: str) -> None:
    use(good_bundle, stage)


def test_a_signed_bundle_opens_with_its_key(good_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(good_bundle, tmp_path / "bundle"))
    sign(bundle)
    use(bundle, "open", (hostile.PINNED_KEY,))


def test_the_corpus_as_files(tmp_path: Path) -> None:
    """For runtimes in other languages: what the index says holds for this one."""
    entries = write_corpus(tmp_path / "corpus")
    index = json.loads((tmp_path / "corpus" / "index.json").read_bytes())
    assert index["cases"] == entries
    assert {entry["name"] for entry in entries} >= {
        case.name for case in hostile.CASES if case.stage != "open"
    }
    for entry in entries:
        path = tmp_path / "corpus" / entry["path"]
        assert path.exists() == entry["exists"]
        keys = tuple(bytes.fromhex(key) for key in entry["public_keys"])
        if not entry["codes"]:
            use(path, "golden", keys)
            continue
        with pytest.raises(BundleError) as caught:
            use(path, entry["stage"], keys)
        assert caught.value.code in entry["codes"], entry["name"]


def test_names_in_the_corpus_are_unique() -> None:
    names = [case.name for case in hostile.CASES]
    assert len(set(names)) == len(names) > 150


def test_what_the_corpus_starts_from_is_sound(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    """Resealing and packing alone harm nothing: each refusal is for the fault of its case."""
    bundle = Path(shutil.copytree(tiny_bundle_dir, tmp_path / "bundle"))
    hostile.edit_tensors(bundle, "items.safetensors", lambda header, data: None)
    Bundle.open(bundle).close()
    Bundle.open(hostile.pack(bundle, hostile.members(bundle))).close()


@settings(max_examples=150)
@given(data=st.data())
def test_any_changed_byte_of_an_archive_is_noticed(
    tiny_bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """One byte flipped anywhere: refused, or a byte that says nothing, so that the content is what it was."""
    folder = tmp_path_factory.mktemp("flip")
    whole = folder / "whole.zip"
    zip_directory(tiny_bundle_dir, whole)
    with Bundle.open(whole) as good:
        contents = {name: good.file_bytes(name) for name in good.sizes}
    raw = bytearray(whole.read_bytes())
    position = data.draw(st.integers(0, len(raw) - 1), label="position")
    raw[position] ^= data.draw(st.integers(1, 255), label="change")
    whole.write_bytes(raw)
    try:
        bundle = Bundle.open(whole)
    except BundleError:
        pass
    else:
        with bundle:
            opened = {name: bundle.file_bytes(name) for name in bundle.sizes}
            same = {name for name in contents if opened.get(name) == contents[name]}
            # The manifest is not hashed by itself (that is what the signature is for), all the rest is.
            assert same >= set(contents) - {"manifest.json"}
    finally:
        shutil.rmtree(folder)


@settings(max_examples=60)
@given(cut=st.floats(0, 1, exclude_max=True), tail=st.binary(max_size=30))
def test_a_cut_archive_is_refused(
    tiny_bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory, cut: float, tail: bytes
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    whole = folder / "whole.zip"
    zip_directory(tiny_bundle_dir, whole)
    raw = whole.read_bytes()
    whole.write_bytes(raw[: int(len(raw) * cut)] + tail)
    with pytest.raises(BundleError):
        Bundle.open(whole)
    shutil.rmtree(folder)


def test_every_code_is_in_the_specification() -> None:
    specification = (ROOT / "docs" / "bundle.md").read_text("utf-8")
    table = specification.partition("## 10. Refusals")[2].partition("## 11.")[0]
    missing = sorted({case.code for case in hostile.CASES if f"`{case.code}`" not in table})
    assert not missing


def test_the_operators_in_the_specification_are_those_that_are_admitted() -> None:
    specification = (ROOT / "docs" / "bundle.md").read_text("utf-8")
    listed = specification.partition("**`model.onnx`.**")[2].partition("**Arithmetic")[0]
    assert set(re.findall("`([A-Z][A-Za-z]+)`", listed)) == OPERATORS
