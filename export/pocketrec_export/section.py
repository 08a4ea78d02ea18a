"""What all sections of a configuration have in common."""

from __future__ import annotations

import hashlib

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Unknown keys are refused: a misspelt option must not be ignored in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def key(self) -> str:
        """Twelve hex digits that differ when any value differs; names stages and their files."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]
