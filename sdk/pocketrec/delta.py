"""Catalogue deltas (docs/updates.md): the rows and texts in which a catalogue differs from the one before.

A delta carries the manifest of the new bundle, with its signature, and what the device lacks of its files.
The rest is taken from the live bundle, and what comes out has to be, byte for byte, the bundle that the
manifest describes: nothing a delta says is trusted beyond that.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from pocketrec import signing
from pocketrec.bundle import Bundle
from pocketrec.catalogue import ID_COLUMN
from pocketrec.container import Container, open_container
from pocketrec.errors import BundleError
from pocketrec.install_state import write_file
from pocketrec.manifest import (
    MANIFEST_NAME,
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    RENAMED,
    RETIRED,
    SIGNATURE_NAME,
    Digest,
    FileEntry,
    FileName,
    Part,
    describe_faults,
    load_json,
    parse_manifest,
)
from pocketrec.safetensors_map import DTYPES, MAX_HEADER_BYTES, Tensors, map_tensors

DELTA_NAME, DELTA_SIGNATURE, CHANGES_NAME = "delta.json", "delta.sig", "changes.safetensors"
PATCHED = ("items.safetensors", "catalogue.safetensors")
WHOLE = ("golden.json",)
ORDER = f"{ID_COLUMN}.order"
_RENAMED = (f"{RENAMED}.old", f"{RENAMED}.new")
_TENSORS = ("q", "scale", "rows", "prior", "seen", f"{RETIRED}.flags", ORDER, *_RENAMED)


class DeltaManifest(Part):
    """The whole of `delta.json`: from which bundle it leads, to which catalogue version, and its files."""

    format: Literal["pocketrec-delta"]
    format_version: Annotated[int, Field(ge=1, le=1)]
    base: Digest
    sequence: int = Field(ge=1, lt=2**31)
    files: dict[FileName, FileEntry] = Field(max_length=MAX_FILES)


class Delta:
    """An open delta whose files were checked against `delta.json`, and that against a key.

    Attributes:
        delta: what it says of itself. manifest: that of the bundle it leads to.

    Raises:
        BundleError: as `Bundle.open`; `delta-invalid`.
    """

    def __init__(self, path: str | Path, public_keys: Sequence[bytes] = ()) -> None:
        self._container = open_container(Path(path))
        try:
            raw = self._small(DELTA_NAME)
            load_json(raw, DELTA_NAME)
            try:
                self.delta = DeltaManifest.model_validate_json(raw)
            except ValidationError as error:
                raise refuse(f"{DELTA_NAME} is invalid: {describe_faults(error, data=raw)}") from None
            if public_keys:
                signing.verify(raw, self._signature(DELTA_SIGNATURE), public_keys)
                signing.verify(self._small(MANIFEST_NAME), self._signature(SIGNATURE_NAME), public_keys)
            self._check_files(self._container)
            self.manifest = parse_manifest(self._small(MANIFEST_NAME))
            if self.manifest.catalogue_version != self.delta.sequence:
                raise refuse("its sequence number is not the catalogue version it leads to")
            self._changes: Tensors = map_tensors(self._container.view(CHANGES_NAME), CHANGES_NAME)
        except BaseException:
            self.close()
            raise

    def apply(self, base: Bundle, target: Path) -> None:
        """Write the files of the new bundle into the directory `target`; the caller then opens it.

        Raises:
            BundleError: `delta-base` (it leads from another bundle), `delta-invalid`.
        """
        if base.manifest.bundle_id != self.delta.base:
            raise BundleError(
                f"the delta leads from the bundle {self.delta.base[:16]}…, the live one is another.",
                code="delta-base",
                remedy="Apply the deltas in their order, or install the whole bundle.",
            )
        for name, entry in self.manifest.files.items():
            old = base.manifest.files.get(name)
            if name in self.delta.files and name in WHOLE:
                self._write(target / name, self._container.view(name))
            elif old is not None and old.sha256 == entry.sha256:
                self._write(target / name, base.file_view(name))
            elif name in PATCHED:
                self._write(target / name, memoryview(self._patched(name, base, entry.size)))
            else:
                raise refuse(f"it does not bring {name}, which differs from the base's")
        for name in (MANIFEST_NAME, SIGNATURE_NAME):
            if name in self._container.sizes:
                self._write(target / name, self._container.view(name))

    def close(self) -> None:
        """Let go of the files."""
        self._changes = {}
        self._container.close()

    def __enter__(self) -> Delta:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _patched(self, name: str, base: Bundle, size: int) -> bytes:
        """The bytes of one table's file: the base's, with the changes."""
        try:
            stem, old = name.removesuffix(".safetensors"), base.tensors(name)
            change = {
                k.removeprefix(f"{stem}."): v for k, v in self._changes.items() if k.startswith(f"{stem}.")
            }
            header = change.pop("header").tobytes()
            layout = load_json(header, f"the header of {name}")
            if len(header) > MAX_HEADER_BYTES or 8 + len(header) > size:
                raise ValueError("its header is too long")
            n, runs = self.manifest.tables["items"].rows, self._runs(base.tables["items"].n)
            known = {*_TENSORS, ID_COLUMN, *self.manifest.display}
            made: dict[str, NDArray[Any]] = {}
            texts: dict[str, list[bytes]] = {}
            for tensor, entry in layout.items():
                kind = DTYPES[entry["dtype"]]
                column = tensor.removesuffix(".offsets")
                if column.removesuffix(".bytes") not in known:
                    raise ValueError(f"there is no tensor {tensor}")
                if f"{tensor}.whole" in change:
                    made[tensor] = change[f"{tensor}.whole"]
                elif tensor.endswith(".offsets"):
                    texts[column] = _texts(old, change, column, n, runs)
                    made[tensor] = np.cumsum([0, *map(len, texts[column])], dtype=np.int64)
                    made[f"{column}.bytes"] = np.frombuffer(b"".join(texts[column]), np.uint8)
                elif tensor != ORDER and not tensor.endswith(".bytes"):
                    made[tensor] = _numbers(old.get(tensor), change, tensor, n, runs, kind)
            if ORDER in layout:
                ids = texts[ID_COLUMN]
                made[ORDER] = np.array(sorted(range(n), key=ids.__getitem__), np.int32)
            ordered = sorted(layout, key=lambda tensor: layout[tensor]["data_offsets"])
            data = b"".join(
                made[tensor].astype(DTYPES[layout[tensor]["dtype"]]).tobytes() for tensor in ordered
            )
            out = struct.pack("<Q", len(header)) + header + data
        except (KeyError, ValueError, IndexError, TypeError, AttributeError, OverflowError) as error:
            raise refuse(f"its changes do not fit {name}: {error!r}") from None
        if len(out) != size:
            raise refuse(f"{name} would have {len(out)} bytes, not {size}")
        return out

    def _runs(self, n_old: int) -> list[tuple[int, int, int]]:
        """(new position, old position, count): what the new catalogue takes over, rising, no overlap."""
        n_new, end = self.manifest.tables["items"].rows, 0
        runs = [(int(a), int(b), int(c)) for a, b, c in self._changes["runs"].tolist()]
        for new, old, count in runs:
            if count < 1 or new < end or old < 0 or new + count > n_new or old + count > n_old:
                raise ValueError("its runs overlap or leave the catalogue")
            end = new + count
        # So that nothing small can claim to be a large catalogue.
        taken = sum(count for _, _, count in runs)
        if taken > n_old or n_new - taken > len(self._changes[f"catalogue.{ID_COLUMN}.at"]):
            raise ValueError("it does not bring all items that are new")
        return runs

    def _check_files(self, container: Container) -> None:
        outside = {MANIFEST_NAME, SIGNATURE_NAME, DELTA_NAME, DELTA_SIGNATURE}
        if set(container.sizes) - outside != set(self.delta.files) or not set(self.delta.files) <= {
            CHANGES_NAME,
            *WHOLE,
        }:
            raise refuse("it does not hold the files that it lists, or holds others")
        if CHANGES_NAME not in self.delta.files:
            raise refuse("it brings no changes")
        for name, entry in self.delta.files.items():
            if hashlib.sha256(container.view(name)).hexdigest() != entry.sha256:
                raise BundleError(
                    f"{name} is not the file that {DELTA_NAME} describes.", code="hash-mismatch"
                )

    def _small(self, name: str) -> bytes:
        size = self._container.sizes.get(name)
        if size is None or size > MAX_MANIFEST_BYTES:
            raise refuse(f"{name} is missing or too large")
        return bytes(self._container.view(name))

    def _signature(self, name: str) -> bytes:
        if name not in self._container.sizes:
            raise BundleError(f"the delta has no {name}.", code="signature-missing")
        raw = self._small(name)
        if len(raw) != signing.SIGNATURE_BYTES:
            raise BundleError(f"{name} has {len(raw)} bytes.", code="signature-invalid")
        return raw

    def _write(self, path: Path, data: memoryview) -> None:
        write_file(path, data)


def is_delta(path: str | Path) -> bool:
    """Whether there is a delta at `path`, rather than a bundle; False where there is neither."""
    try:
        container = open_container(Path(path))
    except (BundleError, OSError):
        return False
    found = DELTA_NAME in container.sizes
    container.close()
    return found


def refuse(what: str) -> BundleError:
    """The error for a delta that cannot be used."""
    return BundleError(
        f"the delta: {what}.", code="delta-invalid", remedy="Get it again, or the whole bundle."
    )


Runs = list[tuple[int, int, int]]


def _numbers(
    old: NDArray[Any] | None, change: Tensors, tensor: str, n: int, runs: Runs, kind: np.dtype[Any]
) -> NDArray[Any]:
    """A tensor with one entry an item: zeros, then what is taken over, then what changed."""
    at, values = change[f"{tensor}.at"], change[f"{tensor}.values"]
    out = np.zeros((n, *(() if old is None else old.shape[1:])), dtype=kind)
    if old is not None:
        for new, start, count in runs:
            out[new : new + count] = old[start : start + count]
    out[at] = values
    return out


def _texts(old: Tensors, change: Tensors, column: str, n: int, runs: Runs) -> list[bytes]:
    out = [b""] * n
    if f"{column}.offsets" in old:
        before = _split(old[f"{column}.bytes"], old[f"{column}.offsets"])
        for new, start, count in runs:
            out[new : new + count] = before[start : start + count]
    values = _split(change[f"{column}.bytes"], change[f"{column}.offsets"])
    for position, text in zip(change[f"{column}.at"].tolist(), values, strict=True):
        out[position] = text
    return out


def _split(data: NDArray[Any], offsets: NDArray[Any]) -> list[bytes]:
    raw, ends = data.tobytes(), offsets.tolist()
    return [raw[a:b] for a, b in pairwise(ends)]
