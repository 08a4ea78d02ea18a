"""What a build and an export can be told. Nothing here loads torch: a wrong option is answered at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pocketrec.errors import DataError, PocketrecError

from .precision import recipe

T = TypeVar("T")

# target -> (engine, file in the bundle); also the order in which a build writes them.
TARGETS = {"onnx": ("onnxruntime", "model.onnx"), "executorch": ("executorch", "model.pte")}


# A precision that is found under a budget, instead of a named one.
SEARCH = "search"


@dataclass(frozen=True)
class Budget:
    """What a bundle may cost; None is no limit.

    Attributes:
        max_bytes: of all its files.
        max_ndcg_loss: the part of the float32 student's NDCG@10 that may be lost, on validation users.
        max_ms: median milliseconds of a ranked list, one thread, on the machine that builds.
    """

    max_bytes: int | None = None
    max_ndcg_loss: float | None = None
    max_ms: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("max-bytes", self.max_bytes), ("max-ms", self.max_ms)):
            if value is not None and not value > 0:
                raise PocketrecError(
                    f"--{name} {value:g} is not positive.",
                    code="budget-invalid",
                    remedy="Give a limit above 0.",
                )
        if self.max_ndcg_loss is not None and not 0 <= self.max_ndcg_loss < 1:
            raise PocketrecError(
                f"--max-ndcg-loss {self.max_ndcg_loss:g} is no part of 1.",
                code="budget-invalid",
                remedy="Give a part, such as 0.01 for one percent.",
            )

    def __bool__(self) -> bool:
        return (self.max_bytes, self.max_ndcg_loss, self.max_ms) != (None, None, None)

    def __str__(self) -> str:
        parts = []
        if self.max_bytes is not None:
            parts.append(f"at most {self.max_bytes:,} bytes")
        if self.max_ndcg_loss is not None:
            parts.append(f"at most {self.max_ndcg_loss:.2%} of NDCG@10 lost")
        if self.max_ms is not None:
            parts.append(f"at most {self.max_ms:g} ms a list")
        return ", ".join(parts) or "no limit"


@dataclass(frozen=True)
class ExportOptions:
    """What a bundle is to be.

    Attributes:
        targets: graphs to write, of `TARGETS`; the numpy engine needs none.
        precision: a recipe of `precision.RECIPES`, or "search": the mix that loses least within
            `budget.max_bytes`, or else the smallest that keeps to `budget.max_ndcg_loss`.
        budget: what the finished bundle is held to.
        licences: SPDX expressions by what they cover.
        sign_key: Ed25519 private key, PEM; None leaves the bundle unsigned.
        display: columns of the catalogue that the app shows; None takes all. Texts are read for training and
            word rows all the same, the others are only not carried along.
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
    budget: Budget = Budget()
    display: Sequence[str] | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.targets) - set(TARGETS))
        if unknown:
            raise PocketrecError(
                f"there is no target {unknown[0]!r}.",
                code="target-unknown",
                remedy=f"Choose from {','.join(TARGETS)}.",
            )
        if self.precision != SEARCH:
            recipe(self.precision)  # raises what there is no recipe for
        elif self.budget.max_bytes is None and self.budget.max_ndcg_loss is None:
            raise PocketrecError(
                f"--precision {SEARCH} needs something to search for.",
                code="budget-invalid",
                remedy="Give --max-bytes, --max-ndcg-loss or both.",
            )

    def shown(self, columns: Mapping[str, T]) -> dict[str, T]:
        """Those of the catalogue's columns that the bundle is to hold, in their own order.

        Raises:
            DataError: `display-unknown`, `display` names a column that is not there.
        """
        wanted = set(columns if self.display is None else self.display)
        unknown = sorted(wanted - set(columns))
        if unknown:
            raise DataError(
                f"the catalogue has no column {unknown[0]!r} to show.",
                code="display-unknown",
                remedy=f"Choose from {', '.join(columns) or 'none: it has no columns'}.",
            )
        return {name: column for name, column in columns.items() if name in wanted}


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
