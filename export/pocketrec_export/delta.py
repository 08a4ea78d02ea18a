"""Makes catalogue deltas (docs/updates.md): what the new bundle's catalogue has and the old one's has not."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from pocketrec import signing
from pocketrec.bundle import Bundle
from pocketrec.delta import CHANGES_NAME, DELTA_NAME, DELTA_SIGNATURE, ORDER, PATCHED, WHOLE
from pocketrec.errors import DataError
from pocketrec.manifest import MANIFEST_NAME, SIGNATURE_NAME
from pocketrec.output import human_bytes, print_json
from pocketrec_export.content import json_bytes, tensor_bytes
from pocketrec_export.writer import refuse_existing, zip_directory

_Tensors = dict[str, NDArray[Any]]


def make_delta(
    old: str | Path, new: str | Path, out: str | Path, *, sign_key: bytes | None = None, force: bool = False
) -> Path:
    """Write the delta that leads from the bundle `old` to the bundle `new`, a stored ZIP; its path.

    Args:
        sign_key: Ed25519 private key in PEM. The delta is then signed; `new` must be signed too for a device
            that pins a key.

    Raises:
        DataError: `delta-model` (the bundles differ in more than catalogue and golden vectors),
            `delta-versions`.
        BundleError: one of the bundles is unsound.
        PocketrecError: `exists`.
    """
    target = Path(out)
    refuse_existing(target, force)
    with Bundle.open(old) as before, Bundle.open(new) as after:
        _check(before, after)
        changes = _changes(before, after)
        files = {CHANGES_NAME: tensor_bytes(changes)} | {name: after.file_bytes(name) for name in WHOLE}
        entries = {
            name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
        }
        about = {
            "format": "pocketrec-delta",
            "format_version": 1,
            "base": before.manifest.bundle_id,
            "sequence": after.manifest.catalogue_version,
            "files": entries,
        }
        files[DELTA_NAME] = json_bytes(about)
        if sign_key is not None:
            files[DELTA_SIGNATURE] = signing.sign(files[DELTA_NAME], sign_key)
        files |= {
            name: after.file_bytes(name) for name in (MANIFEST_NAME, SIGNATURE_NAME) if name in after.sizes
        }
    with tempfile.TemporaryDirectory(dir=target.absolute().parent, prefix=".delta-") as work:
        folder = Path(work) / "delta"
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        zip_directory(folder, Path(work) / "out")
        shutil.move(Path(work) / "out", target)
    return target


def _check(before: Bundle, after: Bundle) -> None:
    a, b = before.manifest, after.manifest
    differ = [
        name
        for name in sorted({*a.files, *b.files})
        if name not in (*PATCHED, *WHOLE) and a.files.get(name) != b.files.get(name)
    ]
    if differ or a.tables["items"].scheme != b.tables["items"].scheme:
        raise DataError(
            f"the bundles differ in {differ or 'the scheme of the item table'}, beside the catalogue.",
            code="delta-model",
            remedy="Ship the new bundle as a whole.",
        )
    if a.model_version != b.model_version or b.catalogue_version <= a.catalogue_version:
        raise DataError(
            f"model {a.model_version}, catalogue {a.catalogue_version} to model {b.model_version}, catalogue"
            f" {b.catalogue_version} is no step of the catalogue.",
            code="delta-versions",
            remedy="Keep model_version and raise catalogue_version.",
        )


def _changes(before: Bundle, after: Bundle) -> _Tensors:
    n = after.tables["items"].n
    source = before.catalogue.positions([after.catalogue.item_id(p) for p in range(n)])
    starts = [
        p
        for p in range(n)
        if source[p] >= 0 and (p == 0 or source[p] != source[p - 1] + 1 or source[p - 1] < 0)
    ]
    runs = []
    for start in starts:
        end = start + 1
        while end < n and source[end] == source[end - 1] + 1 and source[end] >= 0:
            end += 1
        runs.append((start, int(source[start]), end - start))
    out: _Tensors = {"runs": np.array(runs, np.int64).reshape(-1, 3)}
    for name in PATCHED:
        stem, raw = name.removesuffix(".safetensors"), after.file_view(name)
        old, new = before.tensors(name), after.tensors(name)
        out[f"{stem}.header"] = np.frombuffer(raw[8 : 8 + int.from_bytes(raw[:8], "little")], np.uint8)
        for tensor, values in new.items():
            column = tensor.removesuffix(".offsets")
            if tensor.startswith("renamed."):
                out[f"{stem}.{tensor}.whole"] = values
            elif tensor.endswith(".offsets"):
                out |= {f"{stem}.{k}": v for k, v in _text_changes(column, old, new, source).items()}
            elif tensor != ORDER and not tensor.endswith(".bytes"):
                base = _taken_over(old.get(tensor), values, source)
                rest = tuple(range(1, values.ndim))
                at = np.flatnonzero((base != values).any(axis=rest) if rest else base != values)
                out[f"{stem}.{tensor}.at"], out[f"{stem}.{tensor}.values"] = at.astype(np.int64), values[at]
    return out


def _taken_over(old: NDArray[Any] | None, new: NDArray[Any], source: NDArray[np.int64]) -> NDArray[Any]:
    base = np.zeros_like(new)
    if old is not None:
        base[source >= 0] = old[source[source >= 0]]
    return base


def _text_changes(column: str, old: _Tensors, new: _Tensors, source: NDArray[np.int64]) -> _Tensors:
    def entries(tensors: _Tensors) -> list[bytes]:
        if f"{column}.offsets" not in tensors:
            return []
        raw = tensors[f"{column}.bytes"].tobytes()
        return [raw[a:b] for a, b in pairwise(tensors[f"{column}.offsets"].tolist())]

    before, after = entries(old), entries(new)
    base = [before[s] if s >= 0 and before else b"" for s in source.tolist()]
    at = [p for p, (a, b) in enumerate(zip(base, after, strict=True)) if a != b]
    texts = [after[p] for p in at]
    return {
        f"{column}.at": np.array(at, np.int64),
        f"{column}.bytes": np.frombuffer(b"".join(texts), np.uint8),
        f"{column}.offsets": np.cumsum([0, *map(len, texts)], dtype=np.int64),
    }


def cli_delta(
    action: Annotated[str, typer.Argument(metavar="make", help="What to do; `make` is all there is.")],
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The bundle that devices have.")],
    new: Annotated[
        Path,
        typer.Argument(
            metavar="NEW",
            help="A bundle: same model, later catalogue. Or a table of changes, .csv, .csv.gz or .parquet.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where the delta goes, a stored ZIP.")],
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle",
            metavar="DIR",
            help="With a table of changes: where the new bundle goes, the next OLD.",
        ),
    ] = None,
    text_columns: Annotated[
        str | None,
        typer.Option(
            "--text-columns",
            metavar="NAMES",
            help="With a table of changes: columns that make up an item's text, with commas; default: as"
            " `build` chooses.",
        ),
    ] = None,
    sign_key: Annotated[
        Path | None,
        typer.Option(
            "--sign-key", metavar="FILE", help="Ed25519 private key in PEM; signs all that is made."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document and nothing else.")
    ] = False,
) -> None:
    """Make the delta that leads from one catalogue to the next; `pocketrec install` applies it."""
    from pocketrec_export.catalogue_changes import is_changes, write_next

    if action != "make":
        raise DataError(
            f"there is no action {action!r}.", code="argument-invalid", remedy="pocketrec delta make"
        )
    if is_changes(new) != (bundle is not None):
        raise DataError(
            "--bundle goes with a table of changes, and a table with --bundle.",
            code="argument-invalid",
            remedy="pocketrec delta make OLD CHANGES.csv OUT --bundle NEW",
        )
    key = None if sign_key is None else signing.read_key(sign_key)
    counts = None
    if bundle is not None:
        refuse_existing(out, False)
        columns = None if text_columns is None else [name for name in text_columns.split(",") if name]
        counts = write_next(old, new, bundle, text_columns=columns, sign_key=key)
        new = bundle
    path = make_delta(old, new, out, sign_key=key)
    if as_json:
        done = {} if counts is None else {"bundle": str(bundle), "changes": counts}
        print_json({"path": str(path), "bytes": path.stat().st_size, **done})
        return
    if counts is not None:
        typer.echo(f"{bundle}: " + ", ".join(f"{name} {count}" for name, count in counts.items() if count))
    typer.echo(f"{path}: {human_bytes(path.stat().st_size)}")
