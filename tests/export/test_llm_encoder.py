"""Tiny Llama-, Qwen3-, Gemma- and GPT-2-shaped models as dual encoders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from llm_worlds import CONFIGS, ITEMS, checkpoint, quick, text
from transformers import AutoModel

from pocketrec_export.batches import Histories
from pocketrec_export.llm_checkpoint import open_checkpoint
from pocketrec_export.llm_config import LLMConfig
from pocketrec_export.llm_encoder import (
    DualEncoder,
    item_rows,
    linear_layers,
    make_encoder,
    position_queries,
    save_trained,
)
from pocketrec_export.llm_prompts import Prompts
from pocketrec_export.teachers import Positions

LINEAR = {
    "llama": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
    "gpt2": ["c_attn", "c_fc", "c_proj"],
}
LINEAR |= {"qwen3": LINEAR["llama"], "gemma": LINEAR["llama"]}


def made(directory: Path, family: str, **changes: object) -> tuple[DualEncoder, Prompts, LLMConfig]:
    path = directory / family
    config = quick(path if path.exists() else checkpoint(path, family), **changes)
    model = open_checkpoint(config.checkpoint)
    texts = [text(i) for i in range(ITEMS)]
    prompts = Prompts.make(texts, [str(i) for i in range(ITEMS)], model.tokenizer, config)
    return make_encoder(model, prompts, config, seed=0), prompts, config


def stirred(encoder: DualEncoder) -> DualEncoder:
    """Adapters start at zero; let them do something."""
    torch.manual_seed(1)
    for parameter in encoder.trained().values():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return encoder


@pytest.fixture(scope="module")
def histories() -> Histories:
    rng = np.random.default_rng(0)
    offsets = np.array([0, 12, 13, 20, 28])
    none = np.zeros(28, np.int32)
    return Histories(offsets, rng.integers(0, ITEMS, 28).astype(np.int32), none, none)


@pytest.mark.parametrize("family", CONFIGS)
def test_one_pass_gives_what_each_history_alone_gives(
    tmp_path: Path, family: str, histories: Histories
) -> None:
    encoder, prompts, _ = made(tmp_path, family)
    stirred(encoder)
    positions = Positions.all(histories, length=6)
    together = position_queries(encoder, prompts, positions, history_items=6, budget=150)
    assert torch.allclose(together.norm(dim=1), torch.ones(len(positions)), atol=1e-5)
    for place in range(0, len(positions), 4):
        start = positions.start[positions.window[place]]
        size = positions.index[place] - start + 1
        alone = prompts.histories(histories, np.array([start]), np.array([size]))
        assert torch.allclose(encoder.read(alone)[-1], together[place], atol=1e-4)


@pytest.mark.parametrize("family", CONFIGS)
def test_adapters_go_to_every_linear_layer(tmp_path: Path, family: str) -> None:
    encoder, _, config = made(tmp_path, family)
    whole = AutoModel.from_pretrained(config.checkpoint)
    assert linear_layers(whole) == LINEAR[family]
    layers = sum(name.rpartition(".")[2] in LINEAR[family] for name, _ in whole.named_modules())
    trained = encoder.trained()
    assert len(trained) == 2 * layers + 1
    assert {name for name in trained if "lora_" not in name} == {"log_scale"}


def test_rows_do_not_depend_on_the_batches_they_are_read_in(tmp_path: Path) -> None:
    encoder, prompts, _ = made(tmp_path, "gemma")
    items = np.array([5, 3, 29, 5, 0])
    rows = item_rows(encoder, prompts, items, budget=10_000)
    assert torch.allclose(rows, item_rows(encoder, prompts, items, budget=1), atol=1e-5)
    assert torch.equal(rows[0], rows[3])


@pytest.mark.parametrize("rank", [0, 8])
def test_what_is_saved_opens_again_and_with_the_libraries_own_loaders(tmp_path: Path, rank: int) -> None:
    encoder, prompts, config = made(tmp_path, "qwen3", lora_rank=rank)
    stirred(encoder)
    save_trained(encoder, tmp_path / "best")
    model = open_checkpoint(config.checkpoint)
    again = make_encoder(model, prompts, config, seed=9, trained=tmp_path / "best")
    assert again.scale.item() == pytest.approx(encoder.scale.item())
    tokens = prompts.rows(np.arange(ITEMS))
    assert torch.equal(again.read(tokens), encoder.read(tokens))

    if rank:
        from peft import PeftModel

        theirs = PeftModel.from_pretrained(AutoModel.from_pretrained(config.checkpoint), tmp_path / "best")
    else:
        theirs = AutoModel.from_pretrained(tmp_path / "best")
    with torch.no_grad():
        states = theirs.eval()(torch.from_numpy(tokens.ids)).last_hidden_state[tokens.row, tokens.column]
    assert torch.allclose(torch.nn.functional.normalize(states, dim=1), encoder.read(tokens), atol=1e-6)


def test_gradient_checkpointing_changes_no_gradient(tmp_path: Path) -> None:
    gradients = []
    for changes in ({}, {"gradient_checkpointing": True}):
        encoder, prompts, _ = made(tmp_path, "llama", lora_dropout=0.0, **changes)
        stirred(encoder).train()
        assert encoder.decoder.is_gradient_checkpointing == bool(changes)
        tokens = prompts.rows(np.arange(ITEMS))
        places = [torch.from_numpy(a) for a in (tokens.ids, tokens.row, tokens.column)]
        encoder.states(*places)[:, 0].sum().backward()
        gradients.append([p.grad for n, p in encoder.trained().items() if n != "log_scale"])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert plain is not None
        assert checkpointed is not None
        assert torch.allclose(plain, checkpointed, atol=1e-6)
    assert any(g is not None and g.abs().sum() > 0 for g in gradients[1])


def test_bf16_halves_what_is_frozen_and_says_nearly_the_same(tmp_path: Path) -> None:
    exact, prompts, _ = made(tmp_path, "llama")
    rough, _, _ = made(tmp_path, "llama", mixed_precision="bf16")
    kinds = {p.dtype for n, p in rough.named_parameters() if not p.requires_grad}
    assert kinds == {torch.bfloat16}
    assert {p.dtype for p in rough.trained().values()} == {torch.float32}
    tokens = prompts.rows(np.arange(ITEMS))
    cosines = (exact.read(tokens) * rough.read(tokens)).sum(1)
    assert float(cosines.min()) > 0.999
    everything, _, _ = made(tmp_path, "llama", mixed_precision="bf16", lora_rank=0)
    assert {p.dtype for p in everything.parameters()} == {torch.float32}


def test_a_configuration_of_the_adapter_is_the_one_asked_for(tmp_path: Path) -> None:
    encoder, _, _ = made(tmp_path, "llama", lora_rank=4, lora_alpha=12.0)
    save_trained(encoder, tmp_path / "best")
    said = json.loads((tmp_path / "best" / "adapter_config.json").read_text())
    assert (said["r"], said["lora_alpha"], sorted(said["target_modules"])) == (4, 12.0, LINEAR["llama"])
