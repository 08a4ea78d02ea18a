"""The exportable backbone is transformers' Qwen3Model or LlamaModel, and the numpy engine is both."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pocketrec.engine_numpy import NumpyEngine, linear_shapes
from pocketrec.errors import PocketrecError
from pocketrec_export.backbone import Backbone, BackboneShape, backbone_tensors
from pocketrec_export.precision import RECIPES, fp32
from tiny_backbone import history, random_backbone, random_decoder, tiny_shape

LENGTH = 10
SHAPES = {
    "grouped": (BackboneShape(layers=2, heads=4, kv_heads=2, head_dim=16, intermediate=96), 64),
    "one key head": (BackboneShape(layers=3, heads=3, kv_heads=1, head_dim=8, intermediate=40), 32),
    "as many keys": (
        BackboneShape(layers=1, heads=2, kv_heads=2, head_dim=32, intermediate=64, rope_theta=1e6),
        32,
    ),
    "wide heads": (
        BackboneShape(layers=2, heads=2, kv_heads=2, head_dim=64, intermediate=64, rms_eps=1e-5),
        32,
    ),
    "llama": (
        BackboneShape(2, heads=3, kv_heads=1, head_dim=32, intermediate=96, architecture="llama"),
        96,
    ),
}


@pytest.fixture(scope="module", params=SHAPES, ids=lambda name: name.replace(" ", "-"))
def pair(request: pytest.FixtureRequest) -> tuple[torch.nn.Module, Backbone]:
    shape, dim = SHAPES[request.param]
    model = random_decoder(shape, dim)
    recency = torch.randn(LENGTH, dim, generator=torch.Generator().manual_seed(1)) * 0.3
    return model, Backbone.from_decoder(model, recency)


@pytest.mark.parametrize("used", [1, 2, 7, LENGTH])
def test_equals_transformers(pair: tuple[torch.nn.Module, Backbone], used: int) -> None:
    model, backbone = pair
    rows, mask = history(used, LENGTH, backbone.dim, seed=used)
    with torch.no_grad():
        hidden = model(
            inputs_embeds=torch.from_numpy(rows), attention_mask=torch.from_numpy(mask).long()
        ).last_hidden_state[0, -1]
        query = backbone(torch.from_numpy(rows), torch.from_numpy(mask))
    expected = hidden.numpy() + (backbone.recency.numpy() * rows[0]).sum(axis=0)
    assert query.shape == (1, backbone.dim)
    np.testing.assert_allclose(query[0].numpy(), expected, rtol=0, atol=1e-5)
    engine = NumpyEngine(backbone_tensors(backbone, fp32), backbone.shape, LENGTH, backbone.dim)
    np.testing.assert_allclose(engine.run(rows, mask), expected, rtol=0, atol=1e-5)


def test_a_model_in_half_precision_becomes_float32() -> None:
    shape, dim = SHAPES["one key head"]
    backbone = Backbone.from_decoder(random_decoder(shape, dim).bfloat16(), torch.zeros(4, dim))
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
@pytest.mark.parametrize("precision", RECIPES)
def test_tensors_are_those_of_the_format(precision: str, architecture: str) -> None:
    backbone = random_backbone(tiny_shape(architecture=architecture))
    tensors = backbone_tensors(backbone, RECIPES[precision])
    NumpyEngine(tensors, backbone.shape, backbone.length, backbone.dim)  # checks every name, shape and type
    linears = linear_shapes(backbone.shape, backbone.dim)
    assert list(backbone.linears()) == list(linears)
    norms = ("input_norm", "post_norm", *(("q_norm", "k_norm") if architecture == "qwen3" else ()))
    others = {"norm", "recency"} | {f"layers.{i}.{n}" for i in range(2) for n in norms}
    stems = {name.removesuffix(".q").removesuffix(".scale") for name in tensors}
    assert stems == others | set(linears)


def test_what_the_format_lacks_is_refused() -> None:
    shape, dim = SHAPES["one key head"]
    model = random_decoder(shape, dim)
    with pytest.raises(PocketrecError, match="32 wide") as error:
        Backbone.from_decoder(model, torch.zeros(LENGTH, 64))
    assert error.value.code == "bad-shape"
    for key, value in {"hidden_act": "gelu", "rope_scaling": {"rope_type": "linear", "factor": 2.0}}.items():
        model = random_decoder(shape, dim)
        setattr(model.config, key, value)
        with pytest.raises(PocketrecError, match=key) as error:
            Backbone.from_decoder(model, torch.zeros(LENGTH, dim))
        assert error.value.code == "backbone-unsupported"


def test_other_architectures_are_named() -> None:
    shape, dim = SHAPES["llama"]
    for key, value in {"model_type": "mamba", "mlp_bias": True, "attention_bias": True}.items():
        model = random_decoder(shape, dim)
        setattr(model.config, key, value)
        with pytest.raises(PocketrecError, match=str(value)) as error:
            Backbone.from_decoder(model, torch.zeros(LENGTH, dim))
        assert error.value.code == "backbone-unsupported"


def test_positions_are_relative() -> None:
    """A history means the same in a longer window: RoPE depends on distances, the padding is masked."""
    long = random_backbone(length=12)
    short = random_backbone(length=5)
    state = long.state_dict()
    short.load_state_dict(state | {"recency": state["recency"][-5:]})
    rows, mask = history(5, 12)
    with torch.no_grad():
        in_long = long(torch.from_numpy(rows), torch.from_numpy(mask))
        in_short = short(torch.from_numpy(rows[:, -5:].copy()), torch.ones(1, 5))
    np.testing.assert_allclose(in_long.numpy(), in_short.numpy(), rtol=0, atol=1e-5)
