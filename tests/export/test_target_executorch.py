"""`model.pte`: whole in XNNPACK, each weight once, nothing of this machine in it.

Lowering is slow, so it is done once.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from pocketrec.errors import PocketrecError
from pocketrec_export.backbone import Backbone, backbone_tensors
from pocketrec_export.precision import fp32
from pocketrec_export.target_executorch import operators_executorch, to_executorch
from pocketrec_export.targets import check_artifact
from tiny_backbone import patchwork, random_backbone, tiny_shape


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone(tiny_shape(layers=1))


@pytest.fixture(scope="module")
def program(backbone: Backbone) -> bytes:
    return to_executorch(backbone, patchwork)


def test_agrees_with_the_numpy_engine(backbone: Backbone, program: bytes) -> None:
    agreement = check_artifact("executorch", program, backbone, backbone_tensors(backbone, patchwork))
    assert agreement.median <= 1e-5
    assert agreement.exact > 0.7


def test_xnnpack_takes_the_whole_graph(program: bytes) -> None:
    assert operators_executorch(program) == {"delegate::XnnpackBackend": 1}


def test_the_file_stands_alone(backbone: Backbone, program: bytes) -> None:
    for trace in (str(Path.cwd()), str(Path.home()), sys.prefix, ".py"):
        assert trace.encode() not in program, trace
    weights = sum(t.nbytes for t in backbone_tensors(backbone, patchwork).values())
    assert len(program) < weights + 40_000


def test_what_xnnpack_leaves_is_named() -> None:
    class Leaky(Backbone):
        def forward(self, rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return super().forward(rows, mask) + torch.cumsum(rows[:, -1], dim=-1)

    with pytest.raises(PocketrecError, match=r"cumsum.*backbone\.py") as error:
        to_executorch(Leaky(tiny_shape(layers=0), 8, 32), fp32)
    assert error.value.code == "export-failed"
