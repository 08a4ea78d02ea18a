"""What a build and an export can be told. Nothing here loads torch: a wrong option is answered at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pocketrec.errors import DataError, PocketrecError

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


NAMED_TEACHERS = ("ensemble", "sequence", "none")


@dataclass(frozen=True)
class TeacherChoice:
    """What `--teacher` asks for.

    | it says | kind |
    |---|---|
    | `ensemble` | sequence models, sequential rules, item neighbours and text similarity, blended |
    | `sequence` | the sequence models alone |
    | a directory, or `llm:NAME` | a language model from there or from the hub, as a dual encoder over texts |
    | a file | lists that somebody's model made: user, item, score |
    | `none` | no teacher |
    """

    kind: str
    source: str = ""

    @classmethod
    def parse(cls, said: str) -> TeacherChoice:
        """
        Raises:
            DataError: `teacher-unknown`.
        """
        if said in NAMED_TEACHERS:
            return cls(said)
        if said.startswith("llm:") and len(said) > 4:
            return cls("llm", said[4:])
        path = Path(said)
        if path.is_dir():
            return cls("llm", said)
        if path.is_file():
            return cls("scores", said)
        raise DataError(
            f"there is no teacher {said!r}.",
            code="teacher-unknown",
            remedy=f"Choose {', '.join(NAMED_TEACHERS)}, the directory of a language model, llm:NAME for one "
            "from the hub, or a file of scores.",
        )
