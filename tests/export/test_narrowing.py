"""Narrowing: a rotation changes nothing, a cut costs, and teaching brings most of it back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pocketrec.cli import app
from pocketrec.errors import DataError, PocketrecError
from pocketrec.recommender import Recommender
from pocketrec_export import learning_state, qat
from pocketrec_export.build import build
from pocketrec_export.checkpoint import Checkpoint, load_checkpoint, store_checkpoint
from pocketrec_export.compression_config import CompressionConfig
from pocketrec_export.config import BuildConfig
from pocketrec_export.data import load_dataset
from pocketrec_export.exporting import export_checkpoint
from pocketrec_export.narrowing import BATCH_EVENTS, cut, narrow, principal_axes
from pocketrec_export.options import ExportOptions
from pocketrec_export.precision import fp32
from pocketrec_export.precision_graph import HistoryGraph
from pocketrec_export.precision_quality import Judge

NUMPY = ExportOptions(targets=())
WIDTH = 64  # of the tiny student's 96


@pytest.fixture(scope="module")
def judge(shop: Path, quick: BuildConfig, tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """A trained student of the shop."""
    root = tmp_path_factory.mktemp("narrowing")
    config = quick.model_copy(update={"student": quick.student.model_copy(update={"dropout": 0.1})})
    made = build(shop, root / "bundle", config, NUMPY, teacher="none")
    return Judge(load_checkpoint(made.checkpoint), load_dataset(shop))


def even(checkpoint: Checkpoint) -> Checkpoint:
    """The student with a last norm and recency that are the same in every column: what a rotation keeps."""
    backbone = type(checkpoint.backbone)(checkpoint.backbone.config)
    backbone.load_state_dict(checkpoint.backbone.state_dict())
    with torch.no_grad():
        backbone.norm.weight.fill_(1.25)
    recency = np.repeat(checkpoint.recency.mean(1, keepdims=True), checkpoint.recency.shape[1], axis=1)
    return dataclasses.replace(checkpoint, backbone=backbone.eval(), recency=recency)


def test_a_rotation_changes_no_answer(judge: Judge) -> None:
    checkpoint = even(judge.checkpoint)
    width = checkpoint.item_rows.shape[1]
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(width, width)))[0]
    reference = judge.of(checkpoint)
    turned = judge.of(cut(checkpoint, turn))
    expected = reference.queries(reference_graph(reference), reference.tables[0])
    found = turned.queries(reference_graph(turned), turned.tables[0])
    scale = float(expected.abs().max())
    np.testing.assert_allclose(found.numpy(), expected.numpy() @ turn, atol=1e-4 * scale)
    scores = (expected @ reference.tables[0].T).numpy()
    np.testing.assert_allclose((found @ turned.tables[0].T).numpy(), scores, atol=1e-4 * np.abs(scores).max())


def reference_graph(judge: Judge) -> HistoryGraph:
    return HistoryGraph(judge.float_backbone)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12))
def test_axes_are_orthonormal_and_hold_the_most(seed: int, width: int) -> None:
    random = np.random.default_rng(seed)
    spread = random.uniform(0.1, 3, 12)
    items, queries = ((random.normal(size=(40, 12)) * spread).astype(np.float32) for _ in range(2))
    axes = principal_axes(items, queries, width)
    assert axes.shape == (12, width)
    np.testing.assert_allclose(axes.T @ axes, np.eye(width), atol=1e-10)

    def kept(columns: np.ndarray) -> float:
        parts = [
            ((rows @ columns) ** 2).sum() / (rows.astype(np.float64) ** 2).sum() for rows in (items, queries)
        ]
        return float(sum(parts))

    other = np.linalg.qr(random.normal(size=(12, width)))[0]
    assert kept(axes) >= kept(other) - 1e-6
    assert kept(principal_axes(items, queries, 12)) == pytest.approx(2)


def test_teaching_brings_back_what_the_cut_took(judge: Judge) -> None:
    axes = principal_axes(judge.checkpoint.item_rows, judge.reference.numpy(), WIDTH)
    bare = judge.of(cut(judge.checkpoint, axes))
    before = bare.judge(bare.float_backbone, fp32, bare.checkpoint.item_rows).divergence
    taught = narrow(judge, CompressionConfig(width=WIDTH, width_epochs=3, width_rate=1e-3))
    rows = taught.checkpoint.item_rows
    after = taught.judge(taught.float_backbone, fp32, rows).divergence
    assert 0 < after < 0.7 * before
    assert rows.shape == (judge.dataset.num_items, WIDTH)
    assert taught.float_student().ndcg == judge.float_student().ndcg, "the reference stays the wide student"
    # Rows that are made from texts alone, on the device too, stay what the word table makes of them.
    cold = judge.checkpoint.seen == 0
    assert cold.any()
    np.testing.assert_allclose(rows[cold], (judge.checkpoint.item_rows[cold] @ axes), atol=1e-6)
    np.testing.assert_allclose(taught.checkpoint.words, judge.checkpoint.words @ axes, atol=1e-5)


def test_a_narrow_student_is_a_checkpoint_like_any_other(judge: Judge, tmp_path: Path) -> None:
    taught = narrow(judge, CompressionConfig(width=WIDTH, width_epochs=1))
    store_checkpoint(tmp_path / "narrow", taught.checkpoint)
    again = judge.of(load_checkpoint(tmp_path / "narrow"))
    found, expected = (
        each.judge(each.float_backbone, fp32, each.checkpoint.item_rows) for each in (again, taught)
    )
    assert found.divergence == expected.divergence
    assert again.checkpoint.tokenizer == judge.checkpoint.tokenizer
    assert again.checkpoint.columns == judge.checkpoint.columns
    assert again.checkpoint.meta == judge.checkpoint.meta
    with pytest.raises(DataError, match="there already"):
        store_checkpoint(tmp_path / "narrow", taught.checkpoint)


def test_a_narrow_bundle_runs_and_says_how_it_was_made(judge: Judge, tmp_path: Path) -> None:
    options = dataclasses.replace(NUMPY, precision="int4")
    settings = CompressionConfig(width=WIDTH, width_epochs=1)
    told = export_checkpoint(judge.checkpoint, tmp_path / "narrow", options, settings=settings, judge=judge)
    assert told.ok
    manifest = json.loads((tmp_path / "narrow" / "manifest.json").read_text())
    assert manifest["requires"] == []
    assert manifest["graph"]["dim"] == WIDTH
    assert manifest["tables"]["items"]["dim"] == manifest["tables"]["words"]["dim"] == WIDTH
    shape = judge.float_backbone.shape
    assert manifest["backbone"]["head_dim"] == shape.head_dim
    path = manifest["figures"]["compression"]["path"]
    assert [step["stage"] for step in path][:3] == ["student", f"{WIDTH} wide", "quantised"]
    assert path[0]["ndcg@10"] == pytest.approx(judge.float_student().ndcg)
    export_checkpoint(judge.checkpoint, tmp_path / "wide", options, judge=judge)
    sizes = [(tmp_path / name / "items.safetensors").stat().st_size for name in ("narrow", "wide")]
    assert sizes[0] < 0.7 * sizes[1]
    with Recommender.open(tmp_path / "narrow") as narrow_one:
        seen = judge.checkpoint.item_ids[:3]
        assert len(narrow_one.rank(seen, k=5)) == 5


def weights(judge: Judge) -> dict[str, np.ndarray]:
    checkpoint = judge.checkpoint
    found = {name: value.numpy() for name, value in checkpoint.backbone.state_dict().items()}
    return found | {"items": checkpoint.item_rows, "recency": checkpoint.recency}


def test_narrowing_that_was_killed_goes_on(
    judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a pass and in the middle of one; what comes out is what a run without kills makes."""
    settings = CompressionConfig(width=WIDTH, width_epochs=2, width_prefixes=600)
    expected = weights(narrow(judge, settings))
    monkeypatch.setattr(learning_state, "SAVE_SECONDS", 0.0)
    real, steps, last = qat._loss, 0, 0

    def stopping(*arguments: Any) -> Any:
        nonlocal steps
        if steps == last:
            raise KeyboardInterrupt
        steps += 1
        return real(*arguments)

    monkeypatch.setattr(qat, "_loss", stopping)
    batches = len(list(judge.calibration(settings.width_prefixes).batches(*judge.tables, most=BATCH_EVENTS)))
    for killed in (1, batches + 1):
        last = killed
        with pytest.raises(KeyboardInterrupt):
            narrow(judge, settings, tmp_path)
        assert [file.suffix for file in sorted(tmp_path.glob("narrow-*"))] == [".npy", ".state"]
    last = -1
    found = weights(narrow(judge, settings, tmp_path))
    assert steps == 2 * batches, "no step is done twice"
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)
    assert [file.suffix for file in sorted(tmp_path.glob("narrow-*"))] == [".npy", ".safetensors"]
    again = weights(narrow(judge, settings, tmp_path))
    assert steps == 2 * batches, "what was learnt is there"
    for name, value in found.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)
    narrow(judge, settings.model_copy(update={"width_epochs": 1}), tmp_path)
    assert steps == 3 * batches, "other settings are another lesson"


def test_an_export_keeps_what_it_learns_beside_the_bundle(judge: Judge, shop: Path, tmp_path: Path) -> None:
    """Narrowing and finishing; the second export learns nothing and writes the same weights."""
    store_checkpoint(tmp_path / "student", judge.checkpoint)
    (tmp_path / "finish.toml").write_text(
        "[compression]\nwidth_epochs = 1\nwidth_prefixes = 300\nfinish_epochs = 1\nfinish_prefixes = 300\n"
    )
    said = ["export", str(tmp_path / "student"), "--out", str(tmp_path / "out"), "--targets", ""]
    said += ["--data", str(shop), "--width", str(WIDTH), "--precision", "int4"]
    said += ["--config", str(tmp_path / "finish.toml"), "--force"]
    written, times = [], []
    for _ in range(2):
        result = CliRunner().invoke(app, said)
        assert result.exit_code == 0, result.output
        written.append((tmp_path / "out" / "backbone.safetensors").read_bytes())
        kept = sorted((tmp_path / "out.build").iterdir())
        assert [file.name.split("-")[0] + file.suffix for file in kept] == [
            "finished.safetensors", "narrow.npy", "narrow.safetensors"
        ]  # fmt: skip
        times.append([file.stat().st_mtime_ns for file in kept])
    assert written[0] == written[1]
    assert times[0] == times[1]


@pytest.mark.parametrize("width", [96, 128, 50])
def test_widths_that_do_not_go_are_refused(judge: Judge, width: int) -> None:
    with pytest.raises(PocketrecError, match=f"{width} wide") as error:
        narrow(judge, CompressionConfig(width=width))
    assert error.value.code == "width-invalid"
    assert "32" in error.value.remedy
