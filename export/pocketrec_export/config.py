"""What a build can be told, with its defaults; a TOML file holds the same tables, such as `[training]`.

The defaults are the recipe. They were chosen on the validation parts of real data sets, never on their tests.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from pocketrec.errors import DataError

from .compression_config import CompressionConfig
from .llm_config import LLMConfig
from .score_config import ScoresConfig
from .section import Section
from .text_config import TextConfig

RankerName = Literal["sequence", "rules", "neighbours", "text", "llm"]
# What a graph's length is chosen from.
LENGTHS = (50, 100, 200)

SizeName = Literal["tiny", "small", "base"]


class StudentConfig(Section):
    """How the student is made."""

    size: SizeName = Field("small", description="depth, width and heads together")
    length: int = Field(
        0, ge=0, le=512, description="events that the graph reads; 0 chooses by the lengths of the histories"
    )
    kappa: float = Field(2.0, gt=0, description="interactions at which the gate of behaviour is one half")
    recency_heads: int = Field(
        4, ge=1, description="independent recency curves, each over its slice of the width"
    )
    dropout: float = Field(
        -1.0,
        ge=-1,
        lt=1,
        description="of history rows and of what attention and MLP add; -1 takes that of `teacher.dropouts` "
        "which validation prefers",
    )

    def length_for(self, lengths: np.ndarray) -> int:
        """Events to read when training histories have these lengths: what three in four need, within
        bounds."""
        if self.length:
            return self.length
        wanted = float(np.quantile(lengths, 0.75)) if len(lengths) else 0.0
        return next((length for length in LENGTHS if length >= wanted), LENGTHS[-1])


class TrainingConfig(Section):
    """Next-item training, for students and teachers alike."""

    epochs: int = Field(60, ge=1, description="at most; early stopping usually ends sooner")
    patience: int = Field(4, ge=1, description="epochs without a better validation NDCG@10 before it stops")
    learning_rate: float = Field(1e-3, gt=0, description="of Adam, after the warm-up")
    warmup_steps: int = Field(100, ge=1, description="batches in which the rate rises from 0")
    weight_decay: float = Field(0.0, ge=0, description="of matrices and tables, decoupled")
    positions: int = Field(2048, ge=1, description="next-item predictions in a batch")
    negatives: int = Field(
        -1,
        ge=-1,
        description="uniform negatives shared by the batch; 0 the whole catalogue; -1 chooses by its size",
    )
    behaviour_dropout: float = Field(
        0.1, ge=0, lt=1, description="share of items reduced to their text, per batch"
    )
    averaging: float = Field(
        1.0,
        ge=0,
        description="epochs over which the weights are averaged, within 10 to 2000 batches; 0 is off",
    )
    validation_users: int = Field(5000, ge=1, description="at most, drawn by the seed")
    mixed_precision: Literal["auto", "no", "bf16"] = Field(
        "auto", description="auto is bf16 where it is measured to be faster"
    )

    def decay_for(self, batches: int) -> float:
        """Decay per batch of the moving average of the weights, for epochs of so many batches."""
        return 1 - 1 / min(max(self.averaging * batches, 10), 2000) if self.averaging else 0.0

    def negatives_for(self, items: int) -> int:
        """Negatives to draw for a catalogue of this size; 0 means the full softmax."""
        if self.negatives >= 0:
            return self.negatives
        return 0 if items <= 20_000 else 4096


class TeacherConfig(Section):
    """The teachers that come with the build: sequence models, and rankers that only count."""

    rankers: tuple[RankerName, ...] = Field(
        ("sequence", "rules", "neighbours", "text"), min_length=1, description="members of the ensemble"
    )
    dropouts: tuple[float, ...] = Field(
        (0.2, 0.4), min_length=1, description="one sequence model is trained with each"
    )
    size: Literal["auto", SizeName] = Field(
        "auto", description="of the sequence models; auto takes the student's, and never less than small"
    )
    validation_users: int = Field(
        4000, ge=1, description="at most, that settings and weights of the ensemble are fitted on"
    )
    top_k: int = Field(100, ge=1, description="length of the cached lists")
    newest: int = Field(
        0, ge=0, description="lists for so many of each user's newest events; 0 for all of them"
    )


class DuoKDConfig(Section):
    """The DuoKD loss; docs/duokd.md says what each name stands for."""

    method: Literal["duokd", "kl"] = Field(
        "duokd", description="kl is the plain divergence from the teacher's list, to compare with"
    )
    positives: Literal["ranking", "list"] = Field(
        "ranking", description="ranking puts them in the teacher's order, list gives each its share"
    )
    lambda_kl: float = Field(0.4, ge=0, description="weight of the divergence, with `method` kl")
    top_k: int = Field(10, ge=1, description="teacher items among the positives")
    negatives: int = Field(40, ge=0, description="negatives of a position, half over-rated, half uniform")
    student_top: int = Field(
        50, ge=1, description="the student's own top items that over-rated negatives come from"
    )
    beta: float = Field(1.0, gt=0, description="ranks over which a positive's weight falls to a third")
    gamma_position: float = Field(0.3, ge=0, description="share of the teacher's rank in a positive's weight")
    gamma_confidence: float = Field(0.5, ge=0, description="share of the teacher's confidence in it")
    gamma_overlap: float = Field(0.1, ge=0, description="share of the student's agreement in it")
    epsilon: float = Field(0.1, gt=0, description="how fast a rank gap becomes certainty of being over-rated")
    guard: float = Field(
        0.0,
        ge=0,
        description="items that the teacher puts above the target or this close below are no negatives",
    )
    beta_negative: float = Field(
        1.0, gt=0, description="how sharply the negative loss looks at its worst items"
    )
    margin: float = Field(
        0.1, ge=0, description="scale of the teacher's log-probability gap used as a margin"
    )
    margin_cap: float = Field(1.0, ge=0, description="gap beyond which a margin grows no more")
    lambda_positive: float = Field(0.3, ge=0, description="weight of the positive loss")
    lambda_negative: float = Field(0.1, ge=0, description="weight of the negative loss")
    reliability: bool = Field(
        True, description="scale by how much better the teacher ranks the target; off: 1"
    )


class BuildConfig(Section):
    """A whole build."""

    seed: int = 0
    student: StudentConfig = StudentConfig()
    text: TextConfig = TextConfig()
    training: TrainingConfig = TrainingConfig()
    teacher: TeacherConfig = TeacherConfig()
    duokd: DuoKDConfig = DuoKDConfig()
    llm: LLMConfig = LLMConfig()
    scores: ScoresConfig = ScoresConfig()
    compression: CompressionConfig = CompressionConfig()

    @property
    def teacher_size(self) -> SizeName:
        """Of the sequence models that teach; see `teacher.size`."""
        if self.teacher.size != "auto":
            return self.teacher.size
        return "small" if self.student.size == "tiny" else self.student.size


def load_config(path: Path | None, overrides: dict[str, Any] | None = None) -> BuildConfig:
    """The defaults, changed by a TOML file, changed by `overrides` (nested like the file).

    Raises:
        DataError: the file cannot be read, or holds a key or value that is not allowed; names it.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise DataError(
                f"{path}: {error}.", code="config-invalid", remedy="Give a readable TOML file."
            ) from None
    for section, value in (overrides or {}).items():
        if isinstance(value, dict) and isinstance(values.get(section), dict):
            values[section] = {**values[section], **value}
        else:
            values[section] = value
    try:
        return BuildConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"configuration: {where} = {first.get('input')!r}: {first['msg']}.",
            code="config-invalid",
            remedy="docs/configuration.md lists what can be set.",
        ) from None
