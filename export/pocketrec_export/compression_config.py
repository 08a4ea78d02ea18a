"""Settings of what happens between training and the bundle."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .section import Section


class CompressionConfig(Section):
    """How a trained student is made smaller; docs/compression.md says what each is worth."""

    width: int = Field(
        0, ge=0, description="numbers in a row, fewer than the student's, to which it is cut; 0 leaves it"
    )
    width_epochs: int = Field(
        3, ge=0, description="passes in which the narrow student learns from the wide one"
    )
    width_prefixes: int = Field(
        60_000, ge=1, description="beginnings of training histories in such a pass, at most"
    )
    width_rate: float = Field(3e-4, gt=0, description="learning rate of it, falling to 0")
    kept: float = Field(
        1.0,
        gt=0,
        le=1,
        description="numbers that the backbone's linears keep in low rank; 1 leaves them whole",
    )
    ranks: Literal["measured", "uniform"] = Field(
        "measured",
        description="measured shares one budget by error, uniform gives every linear the same part",
    )
    calibration: int = Field(
        4096, ge=1, description="beginnings of training histories that low rank is fitted on, at most"
    )
    validation_users: int = Field(
        0,
        ge=0,
        description="at most, drawn by the seed, that precisions are chosen and budgets checked on; 0 takes "
        "all, or of a very large set as many as judge the student",
    )
    finish_epochs: int = Field(
        0, ge=0, description="passes in which the rounded student learns from the float one; 0 is off"
    )
    finish_prefixes: int = Field(
        20_000, ge=1, description="beginnings of training histories in such a pass, at most"
    )
    finish_rate: float = Field(1e-4, gt=0, description="learning rate of it, falling to 0")
