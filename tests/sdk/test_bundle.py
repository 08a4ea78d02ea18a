"""Opening good bundles, as a directory and as an archive, signed and not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hostile import edit_manifest
from pocketrec import signing
from pocketrec.bundle import Bundle
from pocketrec.errors import BundleError, PocketrecError
from pocketrec.manifest import FileEntry, bundle_id, parse_manifest
from tiny_bundle import DIM, ITEMS, WORDS, write_tiny_bundle


def test_what_a_bundle_offers(tiny_bundle_dir: Path) -> None:
    with Bundle.open(tiny_bundle_dir) as bundle:
        assert bundle.manifest.name == "tiny"
        assert (bundle.tables["items"].n, bundle.tables["items"].d) == (ITEMS, DIM)
        assert bundle.tables["words"].n == WORDS
        assert bundle.catalogue.n == ITEMS
        assert not bundle.signed
        raw = bundle.file_bytes("tokenizer.json")
        assert (
            raw == (tiny_bundle_dir / "tokenizer.json").read_bytes() == bundle.path_or_bytes("tokenizer.json")
        )
        norm = bundle.tensors("backbone.safetensors")["norm"]
        assert norm.dtype == np.float32
        assert not norm.flags.writeable
        with pytest.raises(BundleError) as caught:
            bundle.file_bytes("model.onnx")
        assert caught.value.code == "file-missing"
    assert norm[0] == norm[0].copy()  # arrays outlive the bundle


def test_directory_and_archive_are_the_same_bundle(tmp_path: Path) -> None:
    directory = write_tiny_bundle(tmp_path / "directory")
    archive = write_tiny_bundle(tmp_path / "archive.zip", as_zip=True)
    with Bundle.open(directory) as a, Bundle.open(archive) as b:
        assert a.manifest == b.manifest
        assert a.sizes == b.sizes
        assert all(a.file_bytes(name) == b.file_bytes(name) for name in a.sizes)
        tensors = [t for file in a.sizes if file.endswith(".safetensors") for t in b.tensors(file).values()]
        assert all(tensor.flags.aligned and tensor.base is not None for tensor in tensors)


def test_the_path_itself_may_be_a_link(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(tiny_bundle_dir)
    Bundle.open(tmp_path / "current").close()


def test_a_bundle_that_is_replaced_stays_what_it_was(copy_bundle: Callable[[], Path], tmp_path: Path) -> None:
    path = copy_bundle()
    with Bundle.open(path) as bundle:
        before = bundle.tables["items"].rows(np.arange(ITEMS))
        shutil.rmtree(path)
        write_tiny_bundle(path, seed=9)
        assert (bundle.tables["items"].rows(np.arange(ITEMS)) == before).all()


def test_further_listed_files_are_checked_and_ignored(copy_bundle: Callable[[], Path]) -> None:
    from hostile import reseal

    path = copy_bundle()
    (path / "notes.txt").write_text("hello")
    edit_manifest(path, lambda m: m["files"].update({"notes.txt": {"size": 0, "sha256": "0" * 64}}))
    reseal(path)
    Bundle.open(path).close()
    (path / "notes.txt").write_text("hallo")
    with pytest.raises(BundleError) as caught:
        Bundle.open(path)
    assert caught.value.code == "hash-mismatch"


def test_the_id_is_that_of_the_content() -> None:
    files = {"b": FileEntry(size=1, sha256="1" * 64), "a": FileEntry(size=2, sha256="2" * 64)}
    reordered = dict(reversed(files.items()))
    assert bundle_id(files) == bundle_id(reordered)
    assert bundle_id(files) != bundle_id({"b": files["a"], "a": files["b"]})


def test_the_manifest_reads_back_as_it_was_written(tiny_bundle_dir: Path) -> None:
    raw = (tiny_bundle_dir / "manifest.json").read_bytes()
    manifest = parse_manifest(raw)
    assert parse_manifest(manifest.model_dump_json().encode()) == manifest


# Keys are pinned by whoever opens: a bundle cannot vouch for itself.
ours, other = signing.generate_key(), signing.generate_key()


@pytest.fixture(name="signed", scope="module")
def signed_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("signed") / "b", sign_key=ours.private_pem)


def test_opens_with_the_key_in_both_forms_and_among_others(signed: Path) -> None:
    for keys in ([ours.public_pem], [ours.raw_public], [other.raw_public, ours.public_pem]):
        with Bundle.open(signed, keys) as bundle:
            assert bundle.signed
            assert bundle.signer_checked
    with Bundle.open(signed) as bundle:
        assert not bundle.signer_checked


def test_refused_with_another_key(signed: Path) -> None:
    with pytest.raises(BundleError) as caught:
        Bundle.open(signed, [other.public_pem])
    assert caught.value.code == "signature-invalid"


def test_refused_when_the_manifest_changed(signed: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(signed, tmp_path / "b"))
    edit_manifest(path, lambda m: m.update(name="renamed"))
    Bundle.open(path).close()  # sound, but not what was signed
    with pytest.raises(BundleError) as caught:
        Bundle.open(path, [ours.public_pem])
    assert caught.value.code == "signature-invalid"


def test_refused_without_a_signature(tiny_bundle_dir: Path) -> None:
    with pytest.raises(BundleError) as caught:
        Bundle.open(tiny_bundle_dir, [ours.public_pem])
    assert caught.value.code == "signature-missing"


@pytest.mark.parametrize("key", [b"", b"x" * 31, b"not a key", ours.private_pem])
def test_keys_that_are_none(signed: Path, key: bytes) -> None:
    with pytest.raises(PocketrecError) as caught:
        Bundle.open(signed, [key])
    assert caught.value.code == "key-invalid"


def test_signing_keys_that_are_none() -> None:
    for key in (b"", ours.public_pem, ours.raw_public):
        with pytest.raises(PocketrecError) as caught:
            signing.sign(b"message", key)
        assert caught.value.code == "key-invalid"


def test_a_key_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PocketrecError) as caught:
        signing.read_key(tmp_path / "absent.pem")
    assert caught.value.code == "key-invalid"
