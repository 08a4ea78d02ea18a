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
        -1.0,
        ge=-1,
        description="of whitening, in mean variances: 0 whitens fully, a large one only centres; -1 chooses "
        "by validation",
    )
