"""What a build can be told about item texts."""

from __future__ import annotations

from pydantic import Field

from .section import Section


class TextConfig(Section):
    """A sentence encoder that word rows start from, and that the ensemble may ask; docs/item-text.md."""

    encoder: str = Field(
        "none",
        min_length=1,
        description="`minilm` (comes with `pocketrec[text]`), the directory or hub name of another one, "
        "`auto` for `minilm` where it is installed, or `none`: texts are read as words alone",
    )
    max_tokens: int = Field(256, ge=1, description="tokens of a text that the encoder reads, at most")
    prompt: str = Field(
        "", description="what stands before each text, for encoders that were trained with it"
    )
    floor: float = Field(
        -1.0,
        ge=-1,
        description="of whitening, in mean variances: 0 whitens fully, a large one only centres; -1 takes "
        "the one under which texts alone rank the validation targets best",
    )
