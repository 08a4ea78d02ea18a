"""`model.onnx`: the arithmetic of the format to the bit, each weight once, nothing of this machine in it."""

from __future__ import annotations

import copy
import sys
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from pocketrec.engine_numpy import NumpyEngine
from pocketrec.engine_onnxruntime import OnnxRuntimeEngine, session_options
from pocketrec.errors import PocketrecError
from pocketrec.quantise import linear_int4, linear_int8, pack_nibbles
from pocketrec_export import target_onnx
from pocketrec_export.backbone import Backbone, BackboneShape, backbone_tensors
from pocketrec_export.precision import RECIPES
from pocketrec_export.target_onnx import Int4Linear, Int8Linear, operators_onnx, to_onnx
from pocketrec_export.targets import check_artifact
from tiny_backbone import DIM, LENGTH, history, random_backbone, tiny_shape

# Exporting takes seconds a layer; one layer has every kind of linear, and reads rows in five places:
# keys and values, the last query, what attention gives, gate and up, down.
PLACES = 5


def backbone() -> Backbone:
    return random_backbone(tiny_shape(layers=1))


@cache
def exported(precision: str) -> bytes:
    return to_onnx(backbone(), RECIPES[precision])


@pytest.mark.parametrize("precision", RECIPES)
def test_agrees_with_the_numpy_engine(precision: str) -> None:
    tensors = backbone_tensors(backbone(), RECIPES[precision])
    agreement = check_artifact("onnx", exported(precision), backbone(), tensors)
    assert agreement.median <= 1e-5
    assert agreement.exact > 0.7


@pytest.mark.parametrize(
    ("precision", "int8", "int4"), [("fp32", 0, 0), ("int8", 7, 0), ("int4", 0, 7), ("mixed", 4, 3)]
)
def test_operators(precision: str, int8: int, int4: int) -> None:
    operators = operators_onnx(exported(precision))
    assert operators["MatMulInteger"] == int8
    assert operators["com.microsoft::MatMulNBits"] == int4
    # One for the zero points and one for the rows: linears that read the same rows share them.
    assert operators["QuantizeLinear"] == (0 if precision == "fp32" else 2 * PLACES)
    assert not {"Constant", "Identity", "CastLike", "If", "Loop"} & set(operators)
    assert {name for name in operators if "::" in name} <= {"com.microsoft::MatMulNBits"}


@pytest.mark.parametrize("precision", RECIPES)
def test_the_file_stands_alone(precision: str) -> None:
    data = exported(precision)
    for trace in (str(Path.cwd()), str(Path.home()), sys.prefix, ".py", "torch", "site-packages"):
        assert trace.encode() not in data, trace
    model = onnx.load_from_string(data)
    assert not any(t.external_data for t in model.graph.initializer)
    assert (model.producer_name, model.ir_version) == ("pocketrec", 10)
    assert {o.domain: o.version for o in model.opset_import}[""] == 18


def test_equal_input_gives_equal_bytes() -> None:
    assert to_onnx(backbone(), RECIPES["mixed"]) == exported("mixed")


def test_weights_that_stay_in_float_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = random_backbone(BackboneShape(1, heads=4, kv_heads=4, head_dim=64, intermediate=512), dim=256)
    monkeypatch.setattr(target_onnx, "_for_onnx", lambda backbone, tensors: copy.deepcopy(backbone))
    with pytest.raises(PocketrecError, match="stored twice or unpacked") as error:
        to_onnx(wide, RECIPES["int8"])
    assert error.value.code == "export-failed"


def test_rows_without_spread_of_one_sign_and_of_any_size() -> None:
    engine = OnnxRuntimeEngine(exported("int8"), LENGTH, DIM)
    reference = NumpyEngine(backbone_tensors(backbone(), RECIPES["int8"]), backbone().shape, LENGTH, DIM)
    rows, mask = history(8)
    rows[0, 3] = 0  # an item whose row is zeros, in the middle
    rows[0, 4] = 2.5
    rows[0, 5] = -np.abs(rows[0, 5])
    rows[0, 6] *= 1e-12
    rows[0, 7] *= 1e6
    expected = reference.run(rows, mask)
    np.testing.assert_allclose(
        engine.run(rows, mask), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max()
    )


def run_linear(linear: nn.Module, x: np.ndarray) -> np.ndarray:
    """The linear alone, exported and run by ONNX Runtime."""
    program = torch.onnx.export(
        linear.eval(), (torch.from_numpy(x),), dynamo=True, opset_version=18, verbose=False, optimize=False
    )
    assert program is not None
    data = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, session_options(1), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    return np.asarray(y)


@pytest.mark.parametrize("width", [256, 1056])
def test_int8_is_exact_where_others_saturate(width: int) -> None:
    """The largest integers of both sides in a row, past 16 bits at once and past float32 over all 1,056."""
    random = np.random.default_rng(0)
    x = random.normal(size=(9, width)).astype(np.float32)
    x[0] = 1.0
    x[1] = -1.0
    x[2] = random.choice([0.0, 1.0], width)
    x[3] = 0.0
    q = random.integers(-128, 128, (24, width), dtype=np.int8)
    q[0], q[1] = 127, -128
    q[2] = np.where(np.arange(width) % 2, 127, -128)
    scale = random.random(24, dtype=np.float32) * np.float32(0.01)
    assert np.array_equal(run_linear(Int8Linear(q, scale), x), linear_int8(x, q, scale))


def test_int4_sums_exact_products() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(9, 256)).astype(np.float32)
    x[0] = 1.0
    q = random.integers(-8, 8, (24, 256), dtype=np.int8)
    q[0] = -8
    scale = (random.integers(128, 256, (24, 8)) * 2.0**-12).astype(np.float32)  # 8 bits, as bfloat16 has them
    packed = pack_nibbles(q)
    got, expected = run_linear(Int4Linear(packed, scale), x), linear_int4(x, packed, scale)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=2e-6 * np.abs(expected).max())
