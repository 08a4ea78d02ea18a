"""Every bundle of the hostile corpus is refused with its code, and random damage never passes or crashes."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hostile
from pocketrec.bundle import Bundle
from pocketrec.errors import BundleError
from pocketrec_export.writer import zip_directory
from support import ROOT, not_applicable


@pytest.mark.parametrize("case", hostile.CASES, ids=lambda case: case.name)
def test_it_is_refused(case: hostile.Hostile, tiny_bundle_dir: Path, tmp_path: Path) -> None:
    if case.name == "named-pipe" and not hasattr(os, "mkfifo"):
        not_applicable("no pipes in the file system")
    bundle = Path(shutil.copytree(tiny_bundle_dir, tmp_path / "bundle"))
    path = case.make(bundle)
    tracemalloc.start()
    try:
        with pytest.raises(BundleError) as caught:
            Bundle.open(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.code == case.code, str(caught.value)
    assert peak < 32 << 20


def test_names_in_the_corpus_are_unique() -> None:
    names = [case.name for case in hostile.CASES]
    assert len(set(names)) == len(names) > 80


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
