"""The native baseline computes the same student, and the page has every graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pocketrec.errors import DataError
from pocketrec_export.backbone import Backbone
from pocketrec_export.batches import Histories
from pocketrec_export.build import build
from pocketrec_export.checkpoint import load_checkpoint
from pocketrec_export.config import BuildConfig
from pocketrec_export.options import ExportOptions
from pocketrec_export.precision_graph import Prefixes
from pocketrec_tools.batched_ranks import Asked
from pocketrec_tools.demo_data import make_demo_data
from pocketrec_tools.native_bench import (
    OURS,
    REFERENCE,
    make_graphs,
    quality,
    ranked,
    times,
    write_page,
)
from pocketrec_tools.native_models import PlainDecoder, native_executorch

QUICK = {
    "student": {"size": "tiny", "length": 8, "dropout": 0.1},
    "training": {"epochs": 1, "positions": 256, "warmup_steps": 5, "mixed_precision": "no"},
}


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint, and its data."""
    root = tmp_path_factory.mktemp("native")
    data = make_demo_data(root / "data", seed=3, users=80, items=70)
    config = BuildConfig.model_validate(QUICK)
    return build(data, root / "bundle", config, ExportOptions(targets=()), teacher="none").checkpoint, data


@pytest.fixture(scope="module")
def plain(student: tuple[Path, Path]) -> tuple[PlainDecoder, Backbone, torch.Tensor, torch.Tensor]:
    """A plain decoder, the backbone of the same student, and rows and mask to run them on."""
    loaded = load_checkpoint(student[0])
    recency = torch.from_numpy(loaded.recency)
    ours = Backbone.from_decoder(loaded.backbone, recency)
    state = {k: v for k, v in loaded.backbone.state_dict().items() if not k.startswith("embed_tokens.")}
    mask = torch.zeros(1, ours.length)
    mask[:, -5:] = 1
    rows = torch.randn(1, ours.length, ours.dim, generator=torch.Generator().manual_seed(1)) * mask[..., None]
    return PlainDecoder(ours.shape, state, recency), ours, rows, mask


def test_a_plain_decoder_is_the_same_student(
    plain: tuple[PlainDecoder, Backbone, torch.Tensor, torch.Tensor],
) -> None:
    decoder, ours, rows, mask = plain
    assert torch.allclose(decoder(rows, mask), ours(rows, mask), atol=1e-5)


def test_executorchs_own_int8_is_near_it_and_not_the_same(
    plain: tuple[PlainDecoder, Backbone, torch.Tensor, torch.Tensor],
) -> None:
    pytest.importorskip("executorch", reason="needs ExecuTorch: pip install 'pocketrec[executorch]'")
    from pocketrec.engine_executorch import ExecutorchEngine

    decoder, ours, rows, mask = plain
    program = native_executorch(decoder, [(rows, mask)], int8=True)
    query = ExecutorchEngine(program, ours.length, ours.dim).run(rows.numpy(), mask.numpy())
    whole = ours(rows, mask).detach().numpy()[0]
    assert 0 < np.linalg.norm(query - whole) < 0.1 * np.linalg.norm(whole)


def test_every_graph_is_run_and_the_page_has_it(student: tuple[Path, Path], tmp_path: Path) -> None:
    engine, work = "onnxruntime", tmp_path / "work"
    files = make_graphs(*student, work, engines=(engine,))
    with pytest.raises(DataError, match="--users"):
        times(work, files, runs=1)
    found = quality(*student, work, files, users=50, seed=0)
    rows = {row["arm"]: row for row in found["graphs"]}
    assert len(rows) == 5
    assert found["users"] == 50
    assert rows[OURS]["bytes"] < rows[REFERENCE]["bytes"]
    assert rows[REFERENCE]["vs fp32"] == rows["plain, fp32"]["vs fp32"] == rows[OURS]["vs int8"] == [0, 0, 0]
    timed = times(work, files, runs=1)
    assert all(row["ms"]["median"] > 0 for row in timed["graphs"])
    page = tmp_path / "page.md"
    write_page(page, found, None)
    assert page.read_text().count(f"| {engine} |") == 5
    write_page(page, found, timed)
    assert page.read_text().count(f"| {engine} |") == 10
    assert "| 1.00 |" in page.read_text()


def test_the_best_items_leave_out_what_was_seen() -> None:
    items = np.eye(12, dtype=np.float32)
    queries = np.arange(12, dtype=np.float32)[None]
    histories = Histories(
        np.array([0, 1]), np.zeros(1, np.int32), np.zeros(1, np.int32), np.zeros(1, np.int32)
    )
    prefixes = Prefixes(histories, np.array([1]), np.array([1]))
    ranks, lists = ranked(queries, items, Asked(prefixes, np.array([9]), [np.array([11])]))
    assert ranks.tolist() == [2]
    assert lists.tolist() == [[10, 9, 8, 7, 6, 5, 4, 3, 2, 1]]
