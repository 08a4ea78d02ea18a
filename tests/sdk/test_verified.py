"""A bundle that was verified before is known again, and anything that changed since is checked anew."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pocketrec import bundle as module
from pocketrec.bundle import Bundle
from pocketrec.errors import BundleError, PocketrecError
from pocketrec.signing import generate_key
from pocketrec.verified import _KEPT, Verified
from tiny_bundle import ITEMS, item_id, write_tiny_bundle


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one with every opening that hashes."""
    seen: list[str] = []
    check = module._check_hashes

    def counted(*arguments: object) -> None:
        seen.append("hashed")
        check(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_check_hashes", counted)
    return seen


def settle(path: Path) -> None:
    """Wait until the files are old enough to be noted."""
    files = list(path.iterdir()) if path.is_dir() else [path]
    while max(file.stat().st_ctime_ns for file in files) > time.time_ns() - 2.1e9:
        time.sleep(0.05)


@pytest.mark.parametrize("as_zip", [False, True])
def test_the_second_opening_does_not_hash_and_finds_the_same(
    tmp_path: Path, as_zip: bool, hashed: list[str]
) -> None:
    path, notes = write_tiny_bundle(tmp_path / "b", as_zip=as_zip), tmp_path / "notes"
    hashed.clear()  # writing a bundle opens it, too
    Bundle.open(path, verified=notes).close()
    assert not list(notes.iterdir()), "a file that changed a moment ago is not noted"
    settle(path)
    for times in (2, 2, 2):
        with Bundle.open(path, verified=notes) as opened:
            assert opened.catalogue.position(item_id(3)) == 3
            assert opened.catalogue.n == ITEMS
        assert len(hashed) == times
    Bundle.open(path).close()
    assert len(hashed) == 3, "without notes everything is checked"


def test_whatever_changes_is_checked_anew(tmp_path: Path, hashed: list[str]) -> None:
    path, notes = write_tiny_bundle(tmp_path / "b"), tmp_path / "notes"
    settle(path)
    hashed.clear()
    Bundle.open(path, verified=notes).close()
    table = path / "items.safetensors"
    status, good = table.stat(), table.read_bytes()
    bad = bytearray(good)
    bad[-1] ^= 1
    table.write_bytes(bad)
    os.utime(table, ns=(status.st_atime_ns, status.st_mtime_ns))  # as if nothing had been written
    with pytest.raises(BundleError) as caught:
        Bundle.open(path, verified=notes)
    assert caught.value.code == "hash-mismatch"
    assert len(hashed) == 2
    other = tmp_path / "other"
    other.write_bytes(bad)
    other.replace(table)
    with pytest.raises(BundleError):
        Bundle.open(path, verified=notes)
    table.write_bytes(good)
    Bundle.open(path, verified=notes).close()
    assert len(hashed) == 4


def test_a_signature_is_asked_for_all_the_same(tmp_path: Path) -> None:
    key = generate_key()
    private, public = key.private_pem, key.public_pem
    path, notes = write_tiny_bundle(tmp_path / "b", sign_key=private), tmp_path / "notes"
    settle(path)
    for _ in range(2):
        Bundle.open(path, [public], verified=notes).close()
    with pytest.raises(BundleError) as caught:
        Bundle.open(path, [generate_key().public_pem], verified=notes)
    assert caught.value.code == "signature-invalid"


def test_a_directory_that_others_write_to_is_refused(tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "b")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(PocketrecError) as caught:
        Bundle.open(path, verified=shared)
    assert caught.value.code == "verified-unsafe"
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "b", target_is_directory=True)
    with pytest.raises(PocketrecError) as caught:
        Bundle.open(path, verified=link)
    assert caught.value.code == "verified-unsafe"
    with pytest.raises(PocketrecError) as caught:
        Bundle.open(path, verified=path / "manifest.json")
    assert caught.value.code == "verified-unusable"


def test_old_notes_go(tmp_path: Path) -> None:
    notes = Verified(tmp_path / "notes")
    for index in range(_KEPT + 9):
        notes.add(f"note {index}", [(0, 0, 0, 0, 0)])
    assert len(list((tmp_path / "notes").iterdir())) == _KEPT
    assert f"note {_KEPT + 8}" in notes
    assert (tmp_path / "notes" / f"note {_KEPT + 8}").stat().st_mode & 0o077 == 0
