"""What the `scores` teacher can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .section import Section


class ScoresConfig(Section):
    """Lists that somebody made with any model, as a teacher; docs/score-teacher.md."""

    scores: Literal["auto", "logits", "probabilities", "rank"] = Field(
        "auto",
        description="what the numbers are: of any scale, logits, probabilities, or an order and no more",
    )
    temperature: float = Field(
        1.0, gt=0, description="what logits are divided by; larger makes flatter lists"
    )
    list_length: int = Field(200, ge=1, description="best items that are kept of each list")
