"""Where the language model comes from: a local directory, a model hub, or nowhere (random weights).

    checkpoint = open_checkpoint("Qwen/Qwen3-0.6B")          # or a directory; only its small files are read
    decoder = load_decoder(checkpoint, torch.float32, seed=0)

A directory that holds config.json and a tokenizer but no weights is started at random, with a warning;
`write_scratch` makes one. No code of a checkpoint is ever run.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from pocketrec.errors import DataError

from .text import SPECIAL_TOKENS

log = logging.getLogger(__name__)

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".index.json")
# What else of a directory can change what a model says.
DESCRIBED_BY = (".json", ".model", ".txt", ".jinja")


@dataclass(frozen=True)
class LanguageModel:
    """A checkpoint whose configuration and tokenizer were read, its weights not yet.

    Attributes:
        name: what it was asked for by.
        fingerprint: stands for its contents: a digest of the files, or the commit of the hub.
        trained: whether it has weights.
    """

    name: str
    fingerprint: str
    trained: bool
    config: Any
    tokenizer: Any

    @property
    def label(self) -> str:
        """Its name without what is above it, for people."""
        return Path(self.name).name

    @property
    def max_positions(self) -> int | None:
        """Tokens that it can read; None when its configuration does not say."""
        value = getattr(self.config.get_text_config(decoder=True), "max_position_embeddings", None)
        return int(value) if value else None


def open_checkpoint(name: str) -> LanguageModel:
    """Read configuration and tokenizer.

    Args:
        name: an existing directory, or else a name on the hub (or in its local cache).

    Raises:
        DataError: `llm-checkpoint`: it is not there, the hub cannot be reached, or its files cannot be read;
            `llm-not-causal`: it is no causal language model; `llm-tokenizer`: its tokenizer is missing.
    """
    local = Path(name).expanduser().is_dir()
    source = str(Path(name).expanduser()) if local else name
    if not local and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        _refuse(f"the directory {name} does not exist", "Give a directory, or a name on the model hub.")
    try:
        config = AutoConfig.from_pretrained(source)
    except Exception as error:  # the library raises nearly everything here
        if local and not (Path(source) / "config.json").is_file():
            _refuse(f"{name} has no config.json", "Give the directory of a Hugging Face checkpoint.")
        if local or isinstance(error, ValueError):
            _refuse(
                f"{name}: {_first_line(error)}",
                "Give a checkpoint that this version of transformers knows without running code of its own.",
            )
        _refuse(
            f"{name} is no directory here, and the model hub does not give it: {_first_line(error)}",
            "Give a directory; or reach the hub once (without HF_HUB_OFFLINE), after which it is kept.",
        )
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        _refuse_not_causal(name, f"its type is {config.model_type!r}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:
        raise DataError(
            f"{name}: its tokenizer cannot be loaded: {_first_line(error)}.",
            code="llm-tokenizer",
            remedy="Put the model's tokenizer.json and tokenizer_config.json beside its config.json.",
        ) from None
    trained = not local or any(file.name.endswith(WEIGHTS) for file in Path(source).iterdir())
    if not trained:
        log.warning(
            "%s holds no weights: the model starts at random and all of it is trained. "
            "It knows nothing but what the data teach it.",
            name,
        )
    fingerprint = _digest(Path(source)) if local else f"{name}@{getattr(config, '_commit_hash', None)}"
    return LanguageModel(source, fingerprint, trained, config, tokenizer)


def load_decoder(model: LanguageModel, dtype: torch.dtype, seed: int) -> nn.Module:
    """The model without its head: token ids [B, T] to final hidden states, in evaluation mode.

    Args:
        dtype: of the weights.
        seed: of random weights.

    Raises:
        DataError: `llm-checkpoint` when weights are missing or do not fit; `llm-not-causal` when states
            depend on what comes later.
    """
    if model.trained:
        try:
            whole, found = AutoModelForCausalLM.from_pretrained(
                model.name, dtype=dtype, output_loading_info=True
            )
        except Exception as error:
            _refuse(f"{model.name}: {_first_line(error)}", "Fetch or copy the checkpoint again.")
        missing = sorted(key for key in found["missing_keys"] if "lm_head" not in key)
        if missing:
            _refuse(
                f"{model.name}: its files lack {len(missing)} tensors of the model, such as {missing[0]}",
                "Copy the checkpoint again; without any weights file it would start at random.",
            )
    else:
        torch.manual_seed(seed)
        whole = AutoModelForCausalLM.from_config(model.config, dtype=dtype)
    decoder = whole.get_decoder()
    if decoder is whole:  # families in which the library does not find it
        decoder = whole.base_model
    decoder.eval()
    _check_causal(decoder, model.name)
    return decoder


@torch.no_grad()
def _check_causal(decoder: nn.Module, name: str) -> None:
    """A query must not depend on what comes after it."""
    vocab = decoder.get_input_embeddings().num_embeddings
    ids = torch.arange(8)[None] % vocab
    other = ids.clone()
    other[:, 4:] = (ids[:, 4:] + 3) % vocab
    first, second = (
        decoder(input_ids=i, use_cache=False).last_hidden_state[:, :4].float() for i in (ids, other)
    )
    if not torch.allclose(first, second, rtol=0, atol=1e-4 * float(first.abs().max())):
        _refuse_not_causal(name, "the state of a token depends on the tokens after it")


def write_scratch(directory: Path, tokenizer: Tokenizer, width: int, layers: int, length: int) -> Path:
    """A checkpoint of a small Qwen3 without weights; the directory appears whole or is there already.

    Args:
        tokenizer: with the special tokens of `text.SPECIAL_TOKENS`.
        length: tokens that it must be able to read.
    """
    if directory.exists():
        return directory
    heads = max(1, width // 64)
    while width % heads or width // heads % 2:
        heads -= 1
    pad, unk, bos, eos = SPECIAL_TOKENS
    config = Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=width // heads,
        max_position_embeddings=length,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.token_to_id(bos),
        eos_token_id=tokenizer.token_to_id(eos),
        architectures=["Qwen3ForCausalLM"],
    )
    partial = directory.with_name(f".{directory.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    config.save_pretrained(partial)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, unk_token=unk, bos_token=bos, eos_token=eos
    ).save_pretrained(partial)
    os.replace(partial, directory)
    return directory


def _digest(directory: Path) -> str:
    """sha256 over names and contents of the files that matter; the directory may have any name."""
    digest = hashlib.sha256()
    for file in sorted(directory.iterdir()):
        if file.is_file() and file.name.endswith(WEIGHTS + DESCRIBED_BY):
            with file.open("rb") as content:
                digest.update(f"{file.name}\0{hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _refuse(problem: str, remedy: str) -> NoReturn:
    raise DataError(f"llm.checkpoint: {problem}.", code="llm-checkpoint", remedy=remedy) from None


def _refuse_not_causal(name: str, why: str) -> NoReturn:
    raise DataError(
        f"llm.checkpoint: {name} is no causal language model: {why}.",
        code="llm-not-causal",
        remedy="Give one that AutoModelForCausalLM opens, such as a Llama, Qwen3 or Gemma checkpoint.",
    ) from None
