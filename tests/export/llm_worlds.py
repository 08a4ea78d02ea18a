"""Tiny language models with tokenizers of their own, and a catalogue whose order can be learnt from texts."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from pocketrec_export.data import load_dataset
from pocketrec_export.llm_config import LLMConfig
from pocketrec_export.model import Material

SERIES = ["red", "green", "blue", "black", "white", "grey"]
PARTS = ["lamp", "tent", "stove", "rope", "knife"]
ITEMS = len(SERIES) * len(PARTS)


def text(item: int) -> str:
    return f"{SERIES[item // len(PARTS)]} {PARTS[item % len(PARTS)]}"


def walk(directory: Path, users: int = 60, events: int = 9) -> Material:
    """Users who walk through six series of five parts, each from a place of their own: popularity knows
    nothing, and the next item's text follows from the last one's."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = ["user_id,item_id,timestamp"]
    lines += [
        f"u{u},i{(u * 7 + t) % ITEMS},{1_600_000_000 + t * 90}" for u in range(users) for t in range(events)
    ]
    (directory / "interactions.csv").write_text("\n".join(lines) + "\n")
    rows = ["item_id,title", *(f"i{i},{text(i)}" for i in range(ITEMS))]
    (directory / "items.csv").write_text("\n".join(rows) + "\n")
    return Material(load_dataset(directory), 100)


@cache
def tokenizer(bos: bool) -> PreTrainedTokenizerFast:
    """Words of the catalogue, lower-cased; with `bos` every text starts with a token, as Llama's and Gemma's
    do."""
    from tokenizers.processors import TemplateProcessing

    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<pad>", "<unk>", "<s>", "</s>"]
    texts = [text(i) for i in range(ITEMS)] + ["a user chose oldest first an item : ,"]
    words.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=special, show_progress=False))
    if bos:
        words.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


SHAPE = {
    "vocab_size": 40,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
}

CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "qwen3": lambda: Qwen3Config(**SHAPE, tie_word_embeddings=True),
    # Of its two layers the first sees a window only, as in the large ones.
    "gemma": lambda: Gemma3TextConfig(
        **SHAPE,
        query_pre_attn_scalar=16,
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=16,
    ),
    "gpt2": lambda: GPT2Config(vocab_size=40, n_positions=256, n_embd=64, n_layer=2, n_head=4),
}


def checkpoint(directory: Path, family: str, *, weights: bool = True, seed: int = 0) -> Path:
    """A Hugging Face checkpoint of a family of `CONFIGS`, with random weights or with none."""
    config = CONFIGS[family]()
    if weights:
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    else:
        config.save_pretrained(directory)
    tokenizer(family != "qwen3").save_pretrained(directory)
    return directory


def quick(path: Path | str, **changes: object) -> LLMConfig:
    """A recipe that takes seconds."""
    values = {
        "checkpoint": str(path),
        "history_items": 6,
        "max_item_tokens": 4,
        "lora_rank": 8,
        "learning_rate": 1e-2,
        "warmup_steps": 5,
        "averaging": 0.9,
        "epochs": 8,
        "patience": 8,
        "batch": 16,
        "negatives": 16,
        "mixed_precision": "no",
        "save_steps": 3,
        **changes,
    }
    return LLMConfig.model_validate(values)
