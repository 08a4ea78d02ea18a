"""`pocketrec inspect`: what a bundle says of itself, after the runtime's full check of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pocketrec.bundle import Bundle
from pocketrec.engines import available_engines


@dataclass(frozen=True)
class Inspection:
    """What there is to know about a bundle.

    Attributes:
        path, form: where it is; "directory" or "zip".
        bytes: of all its files; of a ZIP, of their contents.
        signed: whether it carries a signature (which `verify --public-key` checks).
        files: size of every file by name, largest first.
        usable_engines: the engines that can run it here, in the order of preference.
        manifest: the whole of `manifest.json`.
    """

    path: str
    form: str
    bytes: int
    signed: bool
    files: dict[str, int]
    usable_engines: list[str]
    manifest: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def inspect(path: str | Path) -> Inspection:
    """Open and check the bundle at `path` and say what is in it; BundleError when it is not sound."""
    with Bundle.open(path) as bundle:
        sizes = bundle.sizes
        return Inspection(
            path=str(path),
            form="directory" if Path(path).is_dir() else "zip",
            bytes=sum(sizes.values()),
            signed=bundle.signed,
            files=dict(sorted(sizes.items(), key=lambda entry: (-entry[1], entry[0]))),
            usable_engines=available_engines(bundle),
            manifest=bundle.manifest.model_dump(mode="json"),
        )
