"""Where a language model comes from, and every way in which it cannot be had."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from llm_worlds import CONFIGS, checkpoint, quick, text, tokenizer
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertLMHeadModel, T5Config

from pocketrec.errors import DataError
from pocketrec_export.llm_checkpoint import LanguageModel, load_decoder, open_checkpoint, write_scratch
from pocketrec_export.llm_encoder import make_encoder
from pocketrec_export.llm_prompts import Prompts
from pocketrec_export.text import train_tokenizer


def decoder_of(model: LanguageModel, seed: int = 0) -> torch.nn.Module:
    return load_decoder(model, torch.float32, seed)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_checkpoint_opens_without_its_head(tmp_path: Path, family: str) -> None:
    model = open_checkpoint(str(checkpoint(tmp_path / "model", family)))
    assert (model.trained, model.label, model.max_positions) == (True, "model", 256)
    decoder = decoder_of(model)
    assert decoder(torch.tensor([[1, 2, 3]])).last_hidden_state.shape == (1, 3, 64)
    assert decoder.get_output_embeddings() is None


def test_a_directory_without_weights_starts_at_random_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = checkpoint(tmp_path / "model", "llama", weights=False)
    with caplog.at_level(logging.WARNING, "pocketrec_export"):
        model = open_checkpoint(str(path))
    assert "holds no weights" in caplog.text
    assert not model.trained
    first, again, other = (decoder_of(model, seed).embed_tokens.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_without_weights_all_of_it_is_trained_whatever_the_rank(tmp_path: Path) -> None:
    config = quick(checkpoint(tmp_path / "model", "llama", weights=False), lora_rank=8)
    model = open_checkpoint(config.checkpoint)
    encoder = make_encoder(model, Prompts.make([text(0)], ["0"], model.tokenizer, config), config, seed=0)
    assert all(p.requires_grad for p in encoder.parameters())


def test_the_fingerprint_is_of_the_contents_and_not_of_the_place(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "one", "qwen3")
    first = open_checkpoint(str(path)).fingerprint
    shutil.copytree(path, tmp_path / "two")
    assert open_checkpoint(str(tmp_path / "two")).fingerprint == first
    (tmp_path / "two" / "README.md").write_text("notes")
    assert open_checkpoint(str(tmp_path / "two")).fingerprint == first
    weights = load_file(path / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, tmp_path / "two" / "model.safetensors", {"format": "pt"})
    assert open_checkpoint(str(tmp_path / "two")).fingerprint != first


def test_scratch_is_a_checkpoint_made_of_the_texts(tmp_path: Path) -> None:
    texts = [text(i) for i in range(30)]
    path = write_scratch(tmp_path / "s", train_tokenizer(texts, 60), width=48, layers=1, length=100)
    before = sorted(os.listdir(path))
    assert write_scratch(path, train_tokenizer(texts, 60), width=32, layers=1, length=100) == path
    assert sorted(os.listdir(path)) == before
    model = open_checkpoint(str(path))
    assert not model.trained
    assert model.max_positions == 100
    assert decoder_of(model).config.hidden_size == 48
    assert Prompts.make(texts, texts, model.tokenizer, quick(path)).without_text == 0


def no_directory(path: Path) -> str:
    return str(path / "absent")


def no_config(path: Path) -> str:
    checkpoint(path / "m", "llama")
    (path / "m" / "config.json").unlink()
    return str(path / "m")


def unknown_type(path: Path) -> str:
    checkpoint(path / "m", "llama")
    (path / "m" / "config.json").write_text('{"model_type": "abacus"}')
    return str(path / "m")


def encoder_decoder(path: Path) -> str:
    T5Config(vocab_size=40, d_model=16, num_layers=1).save_pretrained(path / "m")
    tokenizer(True).save_pretrained(path / "m")
    return str(path / "m")


def no_tokenizer(path: Path) -> str:
    checkpoint(path / "m", "llama")
    for file in (path / "m").glob("*token*"):
        file.unlink()
    return str(path / "m")


REFUSED: list[tuple[Callable[[Path], str], str, str]] = [
    (no_directory, "llm-checkpoint", "does not exist"),
    (no_config, "llm-checkpoint", "no config.json"),
    (unknown_type, "llm-checkpoint", "abacus"),
    (encoder_decoder, "llm-not-causal", "no causal language model: its type is 't5'"),
    (no_tokenizer, "llm-tokenizer", "its tokenizer cannot be loaded"),
    # Tests have no hub (HF_HUB_OFFLINE).
    (lambda _: "nobody/has-this-model", "llm-checkpoint", "the model hub does not give it"),
]


@pytest.mark.parametrize(("make", "code", "said"), REFUSED)
def test_what_cannot_be_opened_is_refused(
    tmp_path: Path, make: Callable[[Path], str], code: str, said: str
) -> None:
    with pytest.raises(DataError) as caught:
        open_checkpoint(make(tmp_path))
    assert caught.value.code == code
    assert said in str(caught.value)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def test_a_model_that_looks_ahead_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertLMHeadModel(config).save_pretrained(tmp_path)
    tokenizer(True).save_pretrained(tmp_path)
    with pytest.raises(DataError, match="depends on the tokens after it") as caught:
        decoder_of(open_checkpoint(str(tmp_path)))
    assert caught.value.code == "llm-not-causal"


def test_missing_tensors_are_refused_not_made_up(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "m", "llama")
    weights = load_file(path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=r"lack 1 tensors.*layers\.1\.mlp\.up_proj"):
        decoder_of(open_checkpoint(str(path)))


def test_weights_that_are_damaged_are_refused(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "m", "llama")
    (path / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(DataError) as caught:
        decoder_of(open_checkpoint(str(path)))
    assert caught.value.code == "llm-checkpoint"


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"history_items": 200}, "llm-too-long", "reads 256"),
        ({"history_prompt": "far away"}, "llm-tokenizer", "the model knows 12"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(
    tmp_path: Path, changes: dict[str, object], code: str, said: str
) -> None:
    path = checkpoint(tmp_path / "m", "llama", weights=False)
    if code == "llm-tokenizer":
        settings = (path / "config.json").read_text().replace('"vocab_size": 40', '"vocab_size": 12')
        (path / "config.json").write_text(settings)
    config = quick(path, **changes)
    model = open_checkpoint(config.checkpoint)
    prompts = Prompts.make([text(i) for i in range(30)], ["i"] * 30, model.tokenizer, config)
    with pytest.raises(DataError, match=said) as caught:
        make_encoder(model, prompts, config, seed=0)
    assert caught.value.code == code
