"""What a build can be told about item texts."""

from __future__ import annotations

from pydantic import Field

from .section import Section


class TextConfig(Section):
    """Item texts through a sentence encoder; docs/item-text.md."""

    encoder: str = Field(
        "auto",
        min_length=1,
        description="`minilm`, which the `text` extra brings; a directory or hub name of a sentence encoder "
        "or causal language model; `none`; `auto` is `minilm` where it is installed",
    )
    prompt: str = Field("", description="what stands before each text, such as `passage: `")
    max_tokens: int = Field(256, ge=2, description="tokens of a text that are read")
    floor: float = Field(
        0.3,
        ge=0,
        description="of whitening: what is added to the variance of each axis, in mean variances; larger "
        "changes less",
    )
