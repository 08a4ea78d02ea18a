"""Writes a bundle: whole or not at all.

Everything is written into a hidden directory beside the target, flushed to the disk, opened and checked as a
runtime would, and only then renamed. An existing bundle is replaced only with `force`, by two renames; a
writer that is killed between them leaves the old bundle under its hidden name, and `recover` (which every
`write_bundle` starts with) puts it back. One writer at a time works in a directory; what it finds there under
a hidden name is left over from a dead one.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import secrets
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pocketrec import signing
from pocketrec.bundle import Bundle
from pocketrec.errors import DataError, PocketrecError
from pocketrec.golden import (
    GOLDEN_NAME,
    Case,
    Golden,
    compute_cases,
    largest_difference,
    parse_golden,
)
from pocketrec.install_state import sync_directory
from pocketrec.manifest import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST_NAME,
    SIGNATURE_NAME,
    Backbone,
    FileEntry,
    Manifest,
    TableSpec,
    bundle_id,
    describe_faults,
    graph_spec,
)
from pocketrec.recommender import Recommender
from pocketrec_export.content import BundleContent, json_bytes, tensor_bytes

ALIGNMENT = 64
"""Where members of a ZIP start: a cache line, so that mapped tensors are aligned as in a file of their
own."""


def write_bundle(
    out: str | Path,
    *,
    content: BundleContent,
    force: bool = False,
    sign_key: bytes | None = None,
    as_zip: bool = False,
    measure: Callable[[Path], Mapping[str, Any]] | None = None,
    check: Callable[[Path], None] | None = None,
) -> Path:
    """Write `content` as a bundle at `out` and return its path.

    Args:
        force: replace a bundle that is there.
        sign_key: Ed25519 private key in PEM; the bundle is then signed.
        as_zip: one stored ZIP instead of a directory.
        measure: called with the hidden directory once a runtime can open it; what it returns joins the
            figures of the manifest. What it raises stops the writing.
        check: called with the hidden directory once it holds the whole bundle; what it raises stops the
            writing, and nothing is left behind.

    Raises:
        PocketrecError: `exists` when something is at `out` and `force` is not set, or when what is there is
            no bundle; `write-failed` when the disk refuses.
        BundleError: what was written does not pass the runtime's own checks; nothing is left behind.
    """
    target = Path(out).absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target.parent):
            recover(target)
            refuse_existing(target, force)
            work, archive = _hidden(target, "new"), _hidden(target, "new")
            try:
                _write_directory(work, content, sign_key, measure)
                if check is not None:
                    check(work)
                if as_zip:
                    zip_directory(work, archive)
                    Bundle.open(archive).close()
                _swap_in(archive if as_zip else work, target)
            finally:
                _remove(work)
                _remove(archive)
    except OSError as error:
        raise PocketrecError(
            f"the bundle {target} cannot be written: {error}.",
            code="write-failed",
            remedy="Check the path, its rights and the space on the disk.",
        ) from error
    return Path(out)


def refuse_existing(target: str | Path, force: bool) -> None:
    """Raise what `write_bundle` would raise for what is already at `target`; call it before a long job."""
    target = Path(target)
    if not os.path.lexists(target):
        return
    if not force:
        raise PocketrecError(
            f"{target} exists.", code="exists", remedy="Choose another path, or replace it with --force."
        )
    is_bundle = (target / MANIFEST_NAME).is_file() if target.is_dir() else zipfile.is_zipfile(target)
    empty = target.is_dir() and not any(target.iterdir())
    if target.is_symlink() or not (is_bundle or empty):
        raise PocketrecError(
            f"{target} is not a bundle, so it is not replaced.",
            code="exists",
            remedy="Remove it yourself, or choose another path.",
        )


def recover(target: str | Path) -> bool:
    """Tidy up after a writer that was killed: put an old bundle back when its replacement never arrived, and
    remove what is left over. Returns whether a bundle was put back."""
    target = Path(target).absolute()
    restored = False
    name = glob.escape(target.name)
    for old in sorted(target.parent.glob(f".{name}.old-*")):
        if not os.path.lexists(target):
            os.rename(old, target)
            restored = True
        else:
            _remove(old)
    for unfinished in target.parent.glob(f".{name}.new-*"):
        _remove(unfinished)
    return restored


def zip_directory(source: Path, out: Path) -> None:
    """The files of a bundle directory as one stored ZIP, every member aligned, the same bytes for the same
    files."""
    first = [name for name in (MANIFEST_NAME, SIGNATURE_NAME) if (source / name).exists()]
    names = first + sorted(p.name for p in source.iterdir() if p.name not in first)
    with open(out, "xb") as raw:
        with zipfile.ZipFile(raw, "w", zipfile.ZIP_STORED) as archive:
            for name in names:
                info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
                info.external_attr = 0o100644 << 16
                info.create_system = 3
                info.file_size = (source / name).stat().st_size
                # zipfile adds 20 bytes of its own to members that may need ZIP64.
                wide = 20 if info.file_size * 1.05 > zipfile.ZIP64_LIMIT else 0
                bare = raw.tell() + 30 + len(name) + wide + 4
                padding = -bare % ALIGNMENT
                info.extra = b"\x35\xd9" + padding.to_bytes(2, "little") + bytes(padding)
                with open(source / name, "rb") as member, archive.open(info, "w") as sink:
                    shutil.copyfileobj(member, sink, 1 << 20)
        raw.flush()
        os.fsync(raw.fileno())


def _write_directory(
    work: Path,
    content: BundleContent,
    sign_key: bytes | None,
    measure: Callable[[Path], Mapping[str, Any]] | None,
) -> None:
    """The finished, checked and flushed bundle in the new directory `work`."""
    work.mkdir()
    files: dict[str, FileEntry] = {}
    measured: dict[str, Any] = {}
    for name, tensors in content.tensor_files().items():
        files[name] = _write(work / name, tensor_bytes(tensors))
    for name, data in content.other_files().items():
        files[name] = _write(work / name, data)

    def finish(golden: Golden) -> None:
        files[GOLDEN_NAME] = _write(
            work / GOLDEN_NAME, json_bytes(golden.model_dump(mode="json"), indent=None)
        )
        described = replace(content, figures={**content.figures, **measured})
        raw = json_bytes(_manifest(described, files).model_dump(mode="json"))
        _write(work / MANIFEST_NAME, raw)
        if sign_key is not None:
            _write(work / SIGNATURE_NAME, signing.sign(raw, sign_key))

    if isinstance(content.golden, Golden):
        golden = content.golden
        finish(golden)
    else:
        # The vectors are what the definition answers, and it needs a bundle to run on: one without vectors.
        finish(Golden(tolerance=content.tolerance, cases=()))
        with Recommender.open(work, engine="numpy") as recommender:
            cases = compute_cases(recommender, content.golden)
        golden = Golden(tolerance=_tolerance(work, content, cases), cases=tuple(cases))
        finish(golden)
    if measure is not None:
        measured |= measure(work)
        finish(golden)
    with Bundle.open(work) as made:
        parse_golden(made.file_bytes(GOLDEN_NAME))  # within the limits, too
    sync_directory(work)


def _tolerance(work: Path, content: BundleContent, cases: Sequence[Case]) -> float:
    """The tolerance of these vectors: that of the content, or twice what an engine is off by here."""
    off = 0.0
    for engine in content.engines if content.most_off > 0 else ():
        try:
            with Recommender.open(work, engine=engine) as recommender:
                off = max(off, largest_difference(recommender, cases))
        except PocketrecError:  # an engine that is not here, or cannot run it: `check` says so
            continue
    return max(content.tolerance, 2 * off) if off <= content.most_off else content.tolerance


def _manifest(content: BundleContent, files: dict[str, FileEntry]) -> Manifest:
    """The manifest of this content; DataError `content-invalid` when the format has no room for it."""
    try:
        return _build_manifest(content, files)
    except ValidationError as error:
        raise DataError(
            f"this content makes no bundle: {describe_faults(error)}.", code="content-invalid"
        ) from None


def _build_manifest(content: BundleContent, files: dict[str, FileEntry]) -> Manifest:
    ordered = {name: files[name] for name in sorted(files)}
    d = content.items.shape()[1]
    inputs, outputs = graph_spec(content.length, d)
    tables = {
        name: TableSpec(
            file=f"{name}.safetensors", rows=table.shape()[0], dim=table.shape()[1], scheme=table.scheme
        )
        for name, table in (("items", content.items), ("words", content.words))
    }
    space = content.embedding_space
    if space is None:
        parts = files["backbone.safetensors"].sha256 + files["inputs.safetensors"].sha256
        space = hashlib.sha256(parts.encode()).hexdigest()
    fields: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "requires": content.requires(),
        "bundle_id": bundle_id(ordered),
        "name": content.name,
        "model_version": content.model_version,
        "catalogue_version": content.catalogue_version,
        "embedding_space": space,
        "created": content.created_or_now(),
        "producer": content.producer,
        "precision": content.precision,
        "graph": {"length": content.length, "dim": d, "inputs": inputs, "outputs": outputs},
        "backbone": content.backbone if isinstance(content.backbone, Backbone) else dict(content.backbone),
        "engines": content.engine_files(),
        "tables": tables,
        "events": tuple(content.events),
        "gap_seconds": tuple(content.gap_seconds),
        "display": tuple(content.display),
        "licences": dict(content.licences),
        "figures": dict(content.figures),
        "extra": dict(content.extra),
        "files": ordered,
    }
    return Manifest.model_validate(fields)


def _write(path: Path, data: bytes | Path) -> FileEntry:
    """Write and flush a file; what the manifest says of it."""
    digest = hashlib.sha256()
    size = 0
    with open(path, "wb") as out:
        for block in [data] if isinstance(data, bytes) else _blocks(data):
            out.write(block)
            digest.update(block)
            size += len(block)
        out.flush()
        os.fsync(out.fileno())
    return FileEntry(size=size, sha256=digest.hexdigest())


def _blocks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            yield block


def _swap_in(result: Path, target: Path) -> None:
    """Give `result` the name `target`. At every moment the target is the old bundle, the new one, or
    absent."""
    old = None
    # A file over a file needs no detour: rename replaces it in one step.
    if os.path.lexists(target) and (target.is_dir() or result.is_dir()):
        old = _hidden(target, "old")
        os.rename(target, old)
    os.replace(result, target)
    sync_directory(target.parent)
    if old is not None:
        _remove(old)


def _hidden(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{kind}-{secrets.token_hex(4)}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(parent: Path) -> Iterator[None]:
    """Hold the directory's lock, which dies with the process; without `fcntl` (Windows) there is none."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
