"""Exports that went wrong the usual ways: `verify` refuses each, and says what to do."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy
import torch
from onnx import helper
from torch.nn import functional

from hostile_base import reseal
from pocketrec import Recommender, diagnosis
from pocketrec.golden import largest_difference, parse_golden
from pocketrec.manifest import Backbone as BackboneSpec
from pocketrec.verify import Check, verify
from pocketrec_export import target_executorch
from pocketrec_export.backbone import Backbone, backbone_tensors
from pocketrec_export.precision import fp32
from pocketrec_export.target_executorch import to_executorch
from pocketrec_export.target_onnx import to_onnx
from support import require_package
from tiny_backbone import DIM, LENGTH, random_backbone, tiny_shape
from tiny_bundle import ITEMS, write_tiny_bundle

VERSIONS = {"onnxruntime": {"min_version": "1.20"}, "executorch": {"min_version": "1.4"}}


def write(out: Path, backbone: Backbone, target: str, graph: bytes, most_off: float = 0) -> Path:
    """A bundle whose golden vectors are those of `backbone`, with `graph` for the target."""
    engine = {"onnx": "onnxruntime", "pte": "executorch"}[target]
    files: dict[str, Any] = {target: graph}
    return write_tiny_bundle(
        out,
        "fp32",
        backbone=BackboneSpec(**asdict(backbone.shape)),
        backbone_tensors=backbone_tensors(backbone, fp32),
        engines={engine: VERSIONS[engine]},
        tolerance=1e-3,
        most_off=most_off,
        **files,
    )


def told(bundle: Path, name: str) -> Check:
    """What `verify` says of one engine; the bundle as a whole is refused with it."""
    found = verify(bundle)
    check = next(check for check in found.checks if check.name == name)
    assert found.ok == (check.status != "failed")
    return check


@pytest.fixture(scope="module")
def right() -> Backbone:
    return random_backbone(tiny_shape(layers=1))


@pytest.fixture(scope="module")
def graph(right: Backbone) -> bytes:
    return to_onnx(right, fp32)


def test_a_right_export_passes(tmp_path: Path, right: Backbone, graph: bytes) -> None:
    check = told(write(tmp_path / "b", right, "onnx", graph), "onnxruntime")
    assert check.status == "ok", check.detail


@pytest.mark.parametrize(("most_off", "status"), [(0.0, "failed"), (1e-3, "failed"), (10.0, "ok")])
def test_vectors_allow_twice_what_an_engine_is_off_up_to_a_limit(
    tmp_path: Path, right: Backbone, most_off: float, status: str
) -> None:
    near = Backbone(right.shape, right.length, right.dim)
    near.load_state_dict({name: 1.01 * value for name, value in right.state_dict().items()})
    bundle = write(tmp_path / "b", right, "onnx", to_onnx(near, fp32), most_off)
    golden = parse_golden((bundle / "golden.json").read_bytes())
    with Recommender.open(bundle, engine="onnxruntime") as recommender:
        off = largest_difference(recommender, golden.cases)
    assert 1e-3 < off < 10
    assert golden.tolerance == (2 * off if status == "ok" else 1e-3)
    assert told(bundle, "onnxruntime").status == status


class Mirrored(Backbone):
    """Takes the newest rows to be first, and padding to be last."""

    def forward(self, rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return super().forward(rows, mask.flip(1))


def test_a_wrong_pad_side(tmp_path: Path, right: Backbone) -> None:
    wrong = Mirrored(right.shape, right.length, right.dim)
    wrong.load_state_dict(right.state_dict())
    # A flip is a slice that runs backwards, an operator that bundles may hold.
    check = told(write(tmp_path / "b", right, "onnx", to_onnx(wrong, fp32)), "onnxruntime")
    assert (check.status, check.code) == ("failed", "golden-mismatch")
    assert diagnosis.PADDING in check.detail


def test_a_transposed_weight(tmp_path: Path, right: Backbone) -> None:
    wrong = random_backbone(right.shape)
    weight = wrong.linears()["layers.0.q_proj"].weight
    weight.data = weight.data.T.contiguous()
    check = told(write(tmp_path / "b", right, "onnx", to_onnx(wrong, fp32)), "onnxruntime")
    assert (check.status, check.code) == ("failed", "golden-mismatch")
    assert diagnosis.WEIGHTS in check.detail


@pytest.mark.parametrize("how", ["of the right shape", "with its shape"])
def test_a_transposed_table(tmp_path: Path, right: Backbone, graph: bytes, how: str) -> None:
    """Written as [d, n] where [n, d] was meant, whether the shape was adapted to it or not."""
    bundle = write(tmp_path / "b", right, "onnx", graph)
    path = bundle / "items.safetensors"
    rows = safetensors.numpy.load_file(path)["rows"]
    turned = np.ascontiguousarray(rows.T)
    turned = turned.reshape(rows.shape) if how == "of the right shape" else turned
    safetensors.numpy.save_file({"rows": turned}, path)
    reseal(bundle)
    found = verify(bundle)
    assert not found.ok
    if how == "with its shape":
        assert [(check.status, check.code) for check in found.checks] == [("failed", "tensors-invalid")]
        assert f"[{DIM}, {ITEMS}]" in found.checks[0].detail
        return
    checks = {check.name: check for check in found.checks}
    assert diagnosis.NUMPY_DISAGREES in checks["numpy"].detail
    assert diagnosis.NOT_THE_GRAPH in checks["onnxruntime"].detail


def test_an_operator_that_the_runtime_lacks(tmp_path: Path, right: Backbone, graph: bytes) -> None:
    model = onnx.load_from_string(graph)
    node = next(node for node in model.graph.node if node.op_type == "Softmax")
    node.op_type, node.domain = "FlashSoftmax", "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    check = told(write(tmp_path / "b", right, "onnx", model.SerializeToString()), "onnxruntime")
    assert (check.status, check.code) == ("failed", "graph-invalid")
    assert "com.example" in check.detail
    assert "Build the bundle again" in check.detail


def test_dropout_left_on(tmp_path: Path, right: Backbone, graph: bytes) -> None:
    """The operator is refused by its name before it runs; an engine that ran it would be found out too."""
    model = onnx.load_from_string(graph)
    last = next(node for node in model.graph.node if "query" in node.output)
    last.output[0] = "before"
    for name, value in (("ratio", np.float32(0.2)), ("training", np.bool_(True))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    model.graph.node.append(helper.make_node("Dropout", ["before", "ratio", "training"], ["query"]))
    check = told(write(tmp_path / "b", right, "onnx", model.SerializeToString()), "onnxruntime")
    assert (check.status, check.code) == ("failed", "graph-invalid")
    assert "Dropout" in check.detail
    from pocketrec.engine_numpy import NumpyEngine
    from pocketrec.engine_onnxruntime import OnnxRuntimeEngine

    engine = OnnxRuntimeEngine(model.SerializeToString(), LENGTH, DIM)
    reference = NumpyEngine(backbone_tensors(right, fp32), right.shape, LENGTH, DIM)
    assert diagnosis.compare(engine, reference, LENGTH, DIM) == diagnosis.RANDOM


class Dropping(Backbone):
    """Left in training mode."""

    def forward(self, rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return super().forward(functional.dropout(rows, 0.3, training=True), mask)


class Summing(Backbone):
    """Uses an operator outside XNNPACK, which the runtime's own kernels have to bring."""

    def forward(self, rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return super().forward(rows, mask) + 0 * torch.cumsum(rows[:, -1], dim=-1)


def idle(graph: Backbone) -> Backbone:
    """The same function as `graph`, which has no layers, with a layer that adds nothing: lowering takes
    seconds for each layer, and a bundle has one at least."""
    out = random_backbone(tiny_shape(layers=1))
    out.norm.weight.data, out.recency.data = graph.norm.weight.data, graph.recency.data
    for name in ("o_proj", "down_proj"):
        out.linears()[f"layers.0.{name}"].weight.data.zero_()
    return out


def lowered(kind: type[Backbone], backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The program of a careless exporter: nobody looks what XNNPACK left over."""
    require_package("executorch")
    monkeypatch.setattr(target_executorch, "operators_executorch", lambda program: {})
    wrong = kind(backbone.shape, backbone.length, backbone.dim)
    wrong.load_state_dict(backbone.state_dict())
    return to_executorch(wrong, fp32)


def test_executorch_with_dropout_left_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = random_backbone(tiny_shape(layers=0))
    program = lowered(Dropping, right, monkeypatch)
    check = told(write(tmp_path / "b", idle(right), "pte", program), "executorch")
    assert check.status == "failed"
    # Without a kernel for it the program cannot be run at all; with one it answers at random.
    assert diagnosis.RANDOM in check.detail or check.code == "engine-failed"


def test_executorch_without_an_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = random_backbone(tiny_shape(layers=0))
    program = lowered(Summing, right, monkeypatch)
    assert program.count(b"aten::cumsum") == 1
    program = program.replace(b"aten::cumsum", b"aten::cumsux")
    check = told(write(tmp_path / "b", idle(right), "pte", program), "executorch")
    assert (check.status, check.code) == ("failed", "engine-failed")
    assert "Build the bundle again" in check.detail


def test_executorch_with_the_wrong_pad_side(tmp_path: Path) -> None:
    """The recency path is read from the wrong end."""
    require_package("executorch")
    right, wrong = random_backbone(tiny_shape(layers=0)), random_backbone(tiny_shape(layers=0))
    wrong.recency.data = wrong.recency.data.flip(0)
    check = told(write(tmp_path / "b", idle(right), "pte", to_executorch(wrong, fp32)), "executorch")
    assert (check.status, check.code) == ("failed", "golden-mismatch")
    assert diagnosis.WEIGHTS in check.detail
