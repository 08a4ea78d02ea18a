"""What cases of the hostile corpus are made of, see hostile.py."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Manifest = dict[str, Any]
Header = dict[str, Any]


Stage = Literal["open", "golden", "text", "graph"]


@dataclass(frozen=True)
class Hostile:
    """One case: its name, the code of the refusal, what makes it from a good bundle, where it is refused.

    `stage` is the step that has to refuse it, at the latest: `open` (with `keys`, raw public keys, pinned),
    or a later one of what is only read when it is used: `golden` (the vectors are replayed), `text` (the
    tokenizer is loaded), `graph` (`model.onnx` is handed to ONNX Runtime).
    """

    name: str
    code: str
    make: Callable[[Path], Path]
    stage: Stage = "open"
    keys: tuple[bytes, ...] = ()


CASES: list[Hostile] = []


def case(
    code: str, name: str = "", *, stage: Stage = "open", keys: tuple[bytes, ...] = ()
) -> Callable[[Callable[[Path], Path | None]], Callable[[Path], Path | None]]:
    """Register a function that harms the bundle and returns what to open (None: the directory)."""

    def register(function: Callable[[Path], Path | None]) -> Callable[[Path], Path | None]:
        title = name or function.__name__.replace("_", "-")
        CASES.append(Hostile(title, code, lambda bundle: function(bundle) or bundle, stage, keys))
        return function

    return register


def edit_manifest(bundle: Path, change: Callable[[Manifest], object]) -> None:
    """Change the manifest as JSON; ids and hashes stay what they were."""
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest), "utf-8")


def reseal(bundle: Path) -> None:
    """Make the manifest tell the truth about the files that are there."""

    def change(manifest: Manifest) -> None:
        listing = ""
        for name in sorted(manifest["files"], key=str.encode):
            data = (bundle / name).read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            manifest["files"][name] = {"size": len(data), "sha256": digest}
            listing += f"{name} {digest}\n"
        manifest["bundle_id"] = hashlib.sha256(listing.encode()).hexdigest()

    edit_manifest(bundle, change)


def edit_tensors(bundle: Path, name: str, change: Callable[[Header, bytearray], object]) -> None:
    """Change header and data of a safetensors file, then reseal."""
    raw = (bundle / name).read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header, data = json.loads(raw[8 : 8 + size]), bytearray(raw[8 + size :])
    change(header, data)
    text = json.dumps(header).encode()
    (bundle / name).write_bytes(struct.pack("<Q", len(text)) + text + data)
    reseal(bundle)


def manifest_case(code: str, name: str, change: Callable[[Manifest], object]) -> None:
    """Register a case that changes the manifest alone."""

    def make(bundle: Path) -> Path:
        edit_manifest(bundle, change)
        return bundle

    CASES.append(Hostile(f"manifest-{name}", code, make))


def tensors_case(code: str, name: str, file: str, change: Callable[[Header, bytearray], object]) -> None:
    """Register a case that changes a tensor file, behind right hashes."""

    def make(bundle: Path) -> Path:
        edit_tensors(bundle, file, change)
        return bundle

    CASES.append(Hostile(f"tensors-{name}", code, make))
