"""What the `llm` teacher can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .section import Section

SCRATCH = "scratch"


class LLMConfig(Section):
    """A language model over texts as a teacher; docs/llm-teacher.md."""

    checkpoint: str = Field(
        SCRATCH,
        min_length=1,
        description="directory or hub name of a causal language model; `scratch` makes a small one with "
        "random weights",
    )
    history_items: int = Field(20, ge=1, description="items of a history that it reads")
    max_item_tokens: int = Field(32, ge=1, description="tokens of an item's text that it reads")
    history_prompt: str = Field(
        "A user chose, oldest first:\n", description="what stands before the items of a history"
    )
    item_prompt: str = Field("An item:\n", description="what stands before the text of an item to rank")
    lora_rank: int = Field(16, ge=0, description="rank of the adapters; 0 trains all weights")
    lora_alpha: float = Field(32.0, gt=0, description="scale of the adapters, divided by their rank")
    lora_dropout: float = Field(0.05, ge=0, lt=1, description="of what goes into an adapter")
    temperature: float = Field(
        0.05, gt=0, le=1, description="what cosines are divided by at the start; it is learned"
    )
    learning_rate: float = Field(
        0.0,
        ge=0,
        description="of AdamW, after the warm-up; 0 chooses: 2e-4 for adapters, 1e-3 for random weights, "
        "2e-5 for all weights of a trained model",
    )
    warmup_steps: int = Field(100, ge=1, description="batches in which the rate rises from 0")
    weight_decay: float = Field(0.01, ge=0, description="of matrices, decoupled")
    averaging: float = Field(
        0.99, ge=0, lt=1, description="decay of the moving average of what is trained; 0 is off"
    )
    epochs: int = Field(20, ge=1, description="at most; early stopping usually ends sooner")
    patience: int = Field(2, ge=1, description="epochs without a better validation NDCG@10 before it stops")
    batch: int = Field(32, ge=1, description="histories in a batch, on each device")
    negatives: int = Field(
        256,
        ge=0,
        description="uniform negatives of a batch beside the targets in it; the whole catalogue where it is "
        "no larger",
    )
    gradient_checkpointing: bool = Field(
        False, description="computes twice what it then need not keep in memory"
    )
    validation_users: int = Field(1000, ge=1, description="at most, drawn by the seed")
    mixed_precision: Literal["auto", "no", "bf16"] = Field(
        "auto", description="auto is bf16 where the processor multiplies in it"
    )
    save_steps: int = Field(200, ge=1, description="batches between two states from which a kill is survived")
    read_tokens: int = Field(
        16384, ge=1, description="tokens that are read at a time where nothing is learned"
    )
    scratch_width: int = Field(256, ge=16, multiple_of=16, description="width of the model of `scratch`")
    scratch_layers: int = Field(4, ge=1, description="its depth")
