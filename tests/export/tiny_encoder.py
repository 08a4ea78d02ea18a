"""A sentence encoder small enough to make in a test: a causal language model with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from pocketrec_export.text import train_tokenizer


def save_tiny_encoder(directory: Path, texts: list[str], *, vocab: int = 90) -> Path:
    """Save a model of width 24 and a tokenizer, trained on `texts`, that has no padding token."""
    tokenizer = train_tokenizer(texts, vocab)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")
    fast.padding_side = "left"
    fast.save_pretrained(directory)
    torch.manual_seed(3)
    config = Qwen3Config(
        vocab_size=len(fast), hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=12, intermediate_size=32, max_position_embeddings=64,
        eos_token_id=3, bos_token_id=2,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(directory)
    return directory
