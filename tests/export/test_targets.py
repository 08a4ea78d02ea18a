"""An artifact counts only when it was run and agreed: broken ones are refused, each with what to do."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pocketrec.errors import BundleError, PocketrecError
from pocketrec_export.backbone import Backbone, backbone_tensors
from pocketrec_export.precision import fp32, int4, int8
from pocketrec_export.target_onnx import operators_onnx, to_onnx
from pocketrec_export.targets import check_artifact, export_target, random_samples
from support import require_package
from tiny_backbone import LENGTH, history, random_backbone, tiny_shape


class Unmasked(Backbone):
    def forward(self, rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return super().forward(rows, mask * 0 + 1)


def broken(how: str, layers: int) -> Backbone:
    backbone = random_backbone(tiny_shape(layers))
    if how == "a transposed weight":
        weight = backbone.linears()["layers.0.q_proj"].weight
        weight.data = weight.data.T.contiguous()
    elif how == "recency from the wrong end":
        backbone.recency.data = backbone.recency.data.flip(0)
    elif how == "padding is attended to":
        unmasked = Unmasked(backbone.shape, backbone.length, backbone.dim)
        unmasked.load_state_dict(backbone.state_dict())
        return unmasked
    return backbone


@pytest.mark.parametrize(
    ("how", "layers"),
    [("a transposed weight", 1), ("padding is attended to", 1), ("recency from the wrong end", 0)],
)
def test_a_broken_export_is_refused(how: str, layers: int) -> None:
    right = random_backbone(tiny_shape(layers))
    precision = int8 if layers else fp32
    with pytest.raises(PocketrecError, match="differs from the numpy engine") as error:
        check_artifact(
            "onnx", to_onnx(broken(how, layers), precision), right, backbone_tensors(right, precision)
        )
    assert error.value.code == "artifact-disagrees"
    assert "--targets" in error.value.remedy


def test_float_graphs_must_agree_to_the_digits() -> None:
    right = random_backbone(tiny_shape(layers=0))
    wrong = random_backbone(tiny_shape(layers=0))
    wrong.norm.weight.data *= 1.001  # would pass for rounding in a quantised graph
    with pytest.raises(PocketrecError, match="differs from the numpy engine"):
        check_artifact("onnx", to_onnx(wrong, fp32), right, backbone_tensors(right, fp32))


def test_another_length_is_refused() -> None:
    artifact = to_onnx(random_backbone(tiny_shape(layers=0), length=6), fp32)
    right = random_backbone(tiny_shape(layers=1))
    with pytest.raises(BundleError, match=r"model\.onnx"):
        check_artifact("onnx", artifact, right, backbone_tensors(right, fp32))


def test_export_gives_the_bytes_and_how_well_they_agree() -> None:
    backbone = random_backbone(tiny_shape(layers=1))
    samples = [history(3, seed=seed) for seed in range(5)]
    artifact, agreement = export_target("onnx", backbone, int8, samples)
    assert operators_onnx(artifact)["MatMulInteger"] == 7
    assert 0 <= agreement.median <= agreement.worst <= 0.05
    assert 0 < agreement.exact <= 1
    with pytest.raises(PocketrecError, match=r"coreml.*onnx, executorch") as error:
        export_target("coreml", backbone, int8)
    assert error.value.code == "target-unknown"


@pytest.mark.parametrize("target", ["onnx", "executorch"])
def test_heads_may_be_wider_than_the_rows(target: str) -> None:
    """As in a student that was cut to fewer numbers in each row."""
    if target == "executorch":
        require_package("executorch")
    shape = dataclasses.replace(tiny_shape(layers=1), head_dim=32)
    backbone = random_backbone(shape)
    assert shape.heads * shape.head_dim > backbone.dim
    _, agreement = export_target(target, backbone, int4)
    assert agreement.worst <= 0.05


def test_samples_cover_every_length() -> None:
    samples = list(random_samples(random_backbone(), count=24))
    lengths = {int(mask.sum()) for _, mask in samples}
    assert lengths == set(range(1, LENGTH + 1))
    for rows, mask in samples:
        assert not rows[mask == 0].any()
        assert np.all(np.diff(mask[0]) >= 0), "padding is on the left"
