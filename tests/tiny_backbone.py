"""Small backbones with random weights, and histories for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import LlamaConfig, LlamaModel, Qwen3Config, Qwen3Model

from pocketrec_export.backbone import Backbone, BackboneShape
from pocketrec_export.precision import Scheme

DIM, LENGTH = 32, 8


def tiny_shape(layers: int = 2, architecture: str = "qwen3") -> BackboneShape:
    return BackboneShape(
        layers=layers, heads=2, kv_heads=1, head_dim=16, intermediate=64, architecture=architecture
    )


def random_backbone(
    shape: BackboneShape | None = None, length: int = LENGTH, dim: int = DIM, seed: int = 0
) -> Backbone:
    """Weights of the size that training leaves them at: norms near 1, linears of unit gain."""
    backbone = Backbone(shape or tiny_shape(), length, dim)
    generator = torch.Generator().manual_seed(seed)
    for parameter in backbone.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = noise / parameter.shape[1] ** 0.5 if parameter.ndim == 2 else 1 + 0.1 * noise
    return backbone


def random_decoder(shape: BackboneShape, dim: int, seed: int = 0) -> Qwen3Model | LlamaModel:
    """transformers' own model of that shape, with every weight random."""
    make_config, make_model = (
        (Qwen3Config, Qwen3Model) if shape.architecture == "qwen3" else (LlamaConfig, LlamaModel)
    )
    config = make_config(
        vocab_size=2,
        hidden_size=dim,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        rms_norm_eps=shape.rms_eps,
        rope_theta=shape.rope_theta,
        max_position_embeddings=512,
        attn_implementation="eager",
    )
    model = make_model(config).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = noise / parameter.shape[1] ** 0.5 if parameter.ndim == 2 else 1 + 0.1 * noise
    return model


def history(used: int, length: int = LENGTH, dim: int = DIM, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows [1, length, dim] with `used` random events at the end, and their mask [1, length]."""
    rows = np.zeros((1, length, dim), dtype=np.float32)
    rows[:, length - used :] = np.random.default_rng(seed).normal(size=(1, used, dim))
    mask = np.zeros((1, length), dtype=np.float32)
    mask[:, length - used :] = 1
    return rows, mask


def patchwork(path: str, shape: Sequence[int]) -> Scheme:
    """All three schemes: attention in 8 bits, MLP in 4, what adds to the rows in floats."""
    if path.endswith(("o_proj", "down_proj")):
        return "fp32"
    return "int4" if path.endswith(("gate_proj", "up_proj")) else "int8"
