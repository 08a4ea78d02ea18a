"""The bundle: opened, checked in full, and mapped (docs/bundle.md).

`Bundle.open` reads nothing it has not checked: limits and names, the manifest, the signature when keys are
given, the size and SHA-256 of every file, then the tensors of every table. What it hands out afterwards are
views of what was hashed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketrec import __version__, signing
from pocketrec.catalogue import Catalogue
from pocketrec.container import Container, open_container
from pocketrec.errors import BundleError
from pocketrec.inputs import InputRows
from pocketrec.manifest import MANIFEST_NAME, SIGNATURE_NAME, Manifest, parse_manifest
from pocketrec.safetensors_map import Tensors, map_tensors, only, take
from pocketrec.tables import Table, check_finite
from pocketrec.verified import Verified

_HASH_BLOCK = 4 << 20


class Bundle:
    """An open, verified bundle. Everything in it is read-only and safe to use from many threads.

    Attributes:
        path: where it was opened.
        manifest: what it says of itself.
        tables: "items" and "words".
        catalogue: item ids, display columns, prior.
        inputs: turns histories into the rows of the graph.
        idf: float32 [rows of "words"], what a token weighs in a text.
        signed: whether it carries a signature; `signer_checked` whether one of the given keys made it.
    """

    def __init__(
        self,
        path: Path,
        container: Container,
        manifest: Manifest,
        *,
        signer_checked: bool,
        known: bool = False,
    ) -> None:
        """Map the tables of a container whose files were checked; use `Bundle.open`."""
        self.path = path
        self.manifest = manifest
        self.signer_checked = signer_checked
        self.signed = SIGNATURE_NAME in container.sizes
        self._container = container
        self.tables = {
            str(name): Table(spec, self.tensors(spec.file)) for name, spec in manifest.tables.items()
        }
        items = self.tables["items"]
        self.catalogue = Catalogue(
            self.tensors("catalogue.safetensors"),
            items.n,
            manifest.display,
            checked=known,
            requires=manifest.requires,
        )
        event_rows, gap_rows, self.idf = self._input_rows()
        self.inputs = InputRows(
            items, event_rows, gap_rows, manifest.events, manifest.gap_seconds, manifest.graph.length
        )

    @classmethod
    def open(
        cls, path: str | Path, public_keys: Sequence[bytes] = (), *, verified: str | Path | None = None
    ) -> Bundle:
        """Open the bundle at `path`, a directory or a stored ZIP, and check all of it.

        Args:
            public_keys: keys (PEM or 32 raw bytes), one of which must have signed the bundle; none: the
                signature is not checked.
            verified: a directory of notes by which a bundle that was verified before is known again, so that
                hashes and catalogue need not be checked anew; None checks all of it every time. What that
                trusts in is in `pocketrec.verified`.

        Raises:
            PocketrecError: `verified-unsafe`, `verified-unusable`.
            BundleError: the bundle is missing, damaged, hostile, too new, or not signed by one of the keys;
                `code` says which.
        """
        path = Path(path)
        container = open_container(path)
        try:
            raw = bytes(container.view(MANIFEST_NAME))
            manifest = parse_manifest(raw)
            _check_listing(container, manifest)
            _check_signature(container, raw, public_keys)
            notes = None if verified is None else Verified(verified)
            note = Verified.name(__version__, raw, container.sizes, container.identities)
            known = notes is not None and note in notes
            if not known:
                _check_hashes(container, manifest)
            made = cls(path, container, manifest, signer_checked=bool(public_keys), known=known)
            if notes is not None and not known:
                notes.add(note, container.identities)
            return made
        except BaseException:
            container.close()
            raise

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of every file, the manifest and its signature included."""
        return self._container.sizes

    def file_view(self, name: str) -> memoryview:
        """A file's bytes as they were hashed, read-only, not copied."""
        return self._view(name)

    def file_bytes(self, name: str) -> bytes:
        """A copy of a file's bytes, as they were hashed."""
        return bytes(self._view(name))

    def path_or_bytes(self, name: str) -> bytes:
        """What an engine loads its graph from.

        Always the bytes that were hashed: a path could lead to another file by the time the engine opens it,
            and lets
        a graph refer to files beside it.
        """
        return self.file_bytes(name)

    def tensors(self, name: str) -> dict[str, NDArray[np.generic]]:
        """The tensors of a safetensors file, read-only and memory-mapped."""
        return map_tensors(self._view(name), name)

    def close(self) -> None:
        """Let go of the files. Arrays that were handed out stay valid."""
        self._container.close()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _view(self, name: str) -> memoryview:
        try:
            return self._container.view(name)
        except KeyError:
            raise BundleError(
                f"the bundle holds no file {name}.",
                code="file-missing",
                remedy="It was closed, or was built without it.",
            ) from None

    def _input_rows(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        file, d = "inputs.safetensors", self.manifest.graph.dim
        tensors: Tensors = self.tensors(file)
        only(tensors, file, {"events", "gaps", "idf"})
        event_rows = take(tensors, file, "events", "F32", (len(self.manifest.events), d))
        gap_rows = take(tensors, file, "gaps", "F32", (len(self.manifest.gap_seconds) + 2, d))
        check_finite(event_rows, f"events of {file}")
        check_finite(gap_rows, f"gaps of {file}")
        idf = take(tensors, file, "idf", "F32", (self.tables["words"].n,))
        check_finite(idf, f"idf of {file}")
        if (idf < 0).any():
            raise BundleError(
                f"idf of {file} holds {idf.min()}, below 0.", code="values-invalid", remedy="Build it again."
            )
        return event_rows, gap_rows, idf


def _check_listing(container: Container, manifest: Manifest) -> None:
    """Every file present is listed, every listed file is present, with its size."""
    sizes = container.sizes
    present = set(sizes) - {MANIFEST_NAME, SIGNATURE_NAME}
    if surplus := sorted(present - set(manifest.files)):
        raise BundleError(
            f"the manifest does not list {surplus[:5]}.",
            code="file-unlisted",
            remedy="Remove what does not belong to the bundle.",
        )
    if missing := sorted(set(manifest.files) - present):
        raise BundleError(
            f"the bundle lacks {missing[:5]}.", code="file-missing", remedy="Get the bundle again."
        )
    for name, entry in manifest.files.items():
        if sizes[name] != entry.size:
            raise BundleError(
                f"{name} has {sizes[name]} bytes, not the {entry.size} that the manifest says.",
                code="size-mismatch",
                remedy="Get the bundle again.",
            )


def _check_signature(container: Container, raw: bytes, public_keys: Sequence[bytes]) -> None:
    signature = bytes(container.view(SIGNATURE_NAME)) if SIGNATURE_NAME in container.sizes else None
    if signature is not None and len(signature) != signing.SIGNATURE_BYTES:
        raise BundleError(
            f"{SIGNATURE_NAME} has {len(signature)} bytes, not {signing.SIGNATURE_BYTES}.",
            code="signature-invalid",
        )
    if not public_keys:
        return
    if signature is None:
        raise BundleError(
            "the bundle is not signed, and a signature is asked for.",
            code="signature-missing",
            remedy="Use a signed bundle, or open it without public keys.",
        )
    signing.verify(raw, signature, public_keys)


def _check_hashes(container: Container, manifest: Manifest) -> None:
    for name, entry in manifest.files.items():
        view = container.view(name)
        digest = hashlib.sha256()
        for start in range(
            0, len(view), _HASH_BLOCK
        ):  # in blocks, so that a large file only passes through memory
            digest.update(view[start : start + _HASH_BLOCK])
        if digest.hexdigest() != entry.sha256:
            raise BundleError(
                f"{name} is not the file that the manifest describes (SHA-256 differs).",
                code="hash-mismatch",
                remedy="Get the bundle again.",
            )
