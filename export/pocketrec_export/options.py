"""What an export can be told. Nothing here loads torch, so that a wrong option is answered at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pocketrec.errors import PocketrecError

from .precision import recipe

# target -> (engine, file in the bundle); also the order in which a build writes them.
TARGETS = {"onnx": ("onnxruntime", "model.onnx"), "executorch": ("executorch", "model.pte")}


@dataclass(frozen=True)
class ExportOptions:
    """What a bundle is to be.

    Attributes:
        targets: graphs to write, of `TARGETS`; the numpy engine needs none.
        precision: a recipe of `precision.RECIPES`.
        licences: SPDX expressions by what they cover.
        sign_key: Ed25519 private key, PEM; None leaves the bundle unsigned.
    """

    targets: Sequence[str] = tuple(TARGETS)
    precision: str = "int8"
    name: str = ""
    model_version: int = 1
    catalogue_version: int = 1
    licences: dict[str, str] = field(default_factory=dict)
    sign_key: bytes | None = None
    as_zip: bool = False
    force: bool = False
    created: str | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.targets) - set(TARGETS))
        if unknown:
            raise PocketrecError(
                f"there is no target {unknown[0]!r}.",
                code="target-unknown",
                remedy=f"Choose from {','.join(TARGETS)}.",
            )
        recipe(self.precision)  # raises what there is no recipe for
