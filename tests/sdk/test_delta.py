"""A delta from A to B, applied to A, is B: to the byte, and so in every list."""

from __future__ import annotations

import dataclasses
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pocketrec
from pocketrec.bundle import Bundle
from pocketrec.cli import main
from pocketrec.delta import Delta
from pocketrec.errors import DataError, PocketrecError
from pocketrec.recommender import Recommender
from pocketrec.signing import generate_key
from pocketrec_export.content import BundleContent
from pocketrec_export.delta import make_delta
from pocketrec_export.writer import write_bundle
from tiny_bundle import DIM, ITEMS, item_id, tiny_content

HISTORY = [item_id(3), item_id(9), item_id(21)]


def changed(content: BundleContent, **more: Any) -> BundleContent:
    """The same model, a catalogue later: two items more, one re-titled, one retired, one renamed."""
    rows = content.items.rows
    assert rows is not None
    added = np.random.default_rng(5).normal(size=(2, DIM)).astype(np.float32)
    titles = [*content.display["title"], "New one", "Ünlike any other"]
    titles[7] = "Now for half the price"
    ids = [*content.item_ids, "new-1", "new-2"]
    ids[11] = "called otherwise"
    fields: dict[str, Any] = {
        "items": dataclasses.replace(content.items, rows=np.concatenate([rows, added])),
        "item_ids": ids,
        "prior": np.concatenate([content.prior, [0, 3]]),
        "display": {"title": titles, "categories": [*content.display["categories"], "", "cat"]},
        "retired": [item_id(5), item_id(3)],
        "renamed": {item_id(11): "called otherwise"},
        "catalogue_version": 2,
    }
    return dataclasses.replace(content, **fields | more)


@pytest.fixture(scope="module", params=["int8", "fp32", "int4"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    root = tmp_path_factory.mktemp("delta")
    content = tiny_content(request.param)
    old = write_bundle(root / "old", content=content)
    new = write_bundle(root / "new", content=changed(content))
    return old, new, make_delta(old, new, root / "step.delta")


def code_of(call: Any) -> str:
    with pytest.raises(PocketrecError) as caught:
        call()
    return caught.value.code


def test_the_result_is_the_new_bundle(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    old, new, delta = pair
    pocketrec.install(old, tmp_path / "i")
    with pocketrec.open_installed(tmp_path / "i", history=tmp_path / "me.db") as recommender:
        recommender.record(item_id(3), "view", 5)
        recommender.record(item_id(11), "view", 6)
    answer = pocketrec.install(delta, tmp_path / "i")
    assert (answer.model_version, answer.catalogue_version) == (1, 2)
    with Bundle.open(new) as wanted, Bundle.open(answer.path) as made:
        assert {name: made.file_bytes(name) for name in made.sizes} == {
            name: wanted.file_bytes(name) for name in wanted.sizes
        }
    with pocketrec.open_installed(tmp_path / "i", history=tmp_path / "me.db") as recommender:
        with Recommender.open(new) as direct:
            assert recommender.rank(HISTORY, ITEMS) == direct.rank(HISTORY, ITEMS)
        ranking = recommender.recommend(ITEMS + 2)  # of a retired item and a renamed one: both are read
        assert ranking.skipped == 0
        assert item_id(5) not in [r.item_id for r in ranking]
        assert len(recommender.events()) == 2
    assert pocketrec.roll_back(tmp_path / "i").catalogue_version == 1


@settings(max_examples=12)
@given(data=st.data())
def test_any_two_catalogues(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Items in any order, of any number, taken from one world: the delta gives the second from the first."""
    root = tmp_path_factory.mktemp("any")
    whole = tiny_content("int8")
    rows = whole.items.rows
    assert rows is not None
    paths = []
    for version in (1, 2):
        chosen = data.draw(st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=12, unique=True))
        content = dataclasses.replace(
            whole,
            items=dataclasses.replace(whole.items, rows=rows[chosen]),
            item_ids=[item_id(p) for p in chosen],
            prior=whole.prior[chosen] + data.draw(st.integers(0, 1)),
            display={name: [texts[p] for p in chosen] for name, texts in whole.display.items()},
            catalogue_version=version,
            golden=(),
        )
        paths.append(write_bundle(root / str(version), content=content))
    delta = make_delta(paths[0], paths[1], root / "d")
    (root / "out").mkdir()
    with Bundle.open(paths[0]) as base, Delta(delta) as opened:
        opened.apply(base, root / "out")
    names = {path.name for path in paths[1].iterdir()}
    assert {path.name for path in (root / "out").iterdir()} == names
    assert all((root / "out" / name).read_bytes() == (paths[1] / name).read_bytes() for name in names)
    shutil.rmtree(root)


def test_another_base_and_going_back_are_refused(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, new, delta = pair
    other = write_bundle(tmp_path / "other", content=tiny_content("int8", seed=4))
    pocketrec.install(other, tmp_path / "a")
    assert code_of(lambda: pocketrec.install(delta, tmp_path / "a")) == "delta-base"
    pocketrec.install(new, tmp_path / "b")
    assert not pocketrec.install(delta, tmp_path / "b").changed
    later = write_bundle(tmp_path / "later", content=tiny_content("int8", catalogue_version=3))
    pocketrec.install(later, tmp_path / "b")
    assert code_of(lambda: pocketrec.install(delta, tmp_path / "b")) == "install-downgrade"
    assert code_of(lambda: pocketrec.install(delta, tmp_path / "c")) == "install-missing"


def test_signatures(tmp_path: Path) -> None:
    keys, content = generate_key(), tiny_content("int8")
    pinned: dict[str, Any] = {"public_keys": [keys.raw_public]}
    old = write_bundle(tmp_path / "old", content=content, sign_key=keys.private_pem)
    new = write_bundle(tmp_path / "new", content=changed(content), sign_key=keys.private_pem)
    pocketrec.install(old, tmp_path / "i", **pinned)
    unsigned = make_delta(old, new, tmp_path / "unsigned")
    assert code_of(lambda: pocketrec.install(unsigned, tmp_path / "i", **pinned)) == "signature-missing"
    theirs = make_delta(old, new, tmp_path / "theirs", sign_key=generate_key().private_pem)
    assert code_of(lambda: pocketrec.install(theirs, tmp_path / "i", **pinned)) == "signature-invalid"
    signed = make_delta(old, new, tmp_path / "signed", sign_key=keys.private_pem)
    assert pocketrec.install(signed, tmp_path / "i", **pinned).catalogue_version == 2
    pocketrec.open_installed(tmp_path / "i", **pinned).close()


def test_what_is_no_delta_is_not_made(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    old, new, _ = pair
    other = write_bundle(tmp_path / "other", content=tiny_content("int8", seed=4, catalogue_version=2))
    for first, second, code in ((old, other, "delta-model"), (new, old, "delta-versions")):
        with pytest.raises(DataError) as caught:
            make_delta(first, second, tmp_path / "d")
        assert caught.value.code == code


@settings(max_examples=60)
@given(data=st.data())
def test_no_changed_byte_leads_elsewhere(
    pair: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """One byte changed, behind right hashes too: a typed error, or the files of the new bundle."""
    old, new, delta = pair
    root = tmp_path_factory.mktemp("flip")
    with zipfile.ZipFile(delta) as archive:
        files = {name: bytearray(archive.read(name)) for name in archive.namelist()}
    name = data.draw(st.sampled_from(sorted(files)))
    position = data.draw(st.integers(0, len(files[name]) - 1))
    files[name][position] ^= data.draw(st.integers(1, 255))
    if data.draw(st.booleans()) and name not in ("delta.json", "manifest.json"):
        import hashlib

        about = json.loads(files["delta.json"])
        about["files"][name]["sha256"] = hashlib.sha256(files[name]).hexdigest()
        files["delta.json"] = bytearray(json.dumps(about).encode())
    (root / "d").mkdir()
    for path, raw in files.items():
        (root / "d" / path).write_bytes(raw)
    (root / "out").mkdir()
    try:
        with Bundle.open(old) as base, Delta(root / "d") as opened:
            opened.apply(base, root / "out")
        Bundle.open(root / "out").close()
    except PocketrecError:
        pass
    else:
        for wanted in new.iterdir():
            if wanted.name != "manifest.json":  # which is not hashed by itself: the signature does that
                assert (root / "out" / wanted.name).read_bytes() == wanted.read_bytes()
    shutil.rmtree(root)


def test_the_command(
    pair: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, _ = pair
    with pytest.raises(SystemExit) as ended:
        main(["delta", "make", str(old), str(new), str(tmp_path / "d"), "--json"])
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out)["bytes"] == (tmp_path / "d").stat().st_size
