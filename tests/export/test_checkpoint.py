"""A checkpoint opens with transformers, and gives back the student that was saved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from pocketrec.errors import DataError
from pocketrec_export.backbone import Backbone
from pocketrec_export.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pocketrec_export.data import load_dataset
from pocketrec_export.model import Material
from pocketrec_export.student import Shape, Student

LENGTH = 8


@pytest.fixture(scope="module")
def saved(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Student, Material]:
    material = Material(load_dataset(shop), 300)
    model = material.model(
        Shape(dim=32, layers=2, heads=4, kv_heads=2, intermediate=64, vocab=300),
        length=LENGTH,
        seed=1,
        kappa=2.0,
        recency_heads=4,
        input_dropout=0.2,
        hidden_dropout=0.2,
    )
    with torch.no_grad():
        model.event_rows.normal_()
        model.gap_rows.normal_()
        model.recency.normal_()
    directory = tmp_path_factory.mktemp("checkpoint") / "student"
    dataset = material.dataset
    for _ in range(2):  # the second replaces the first
        save_checkpoint(
            directory,
            model,
            material.tokenizer,
            idf=material.features.idf,
            seen=material.seen,
            item_ids=dataset.item_ids,
            columns=dataset.columns,
            events=dataset.events,
            meta={"note": "test"},
        )
    return directory, model, material


def test_transformers_opens_it(saved: tuple[Path, Student, Material]) -> None:
    directory, model, material = saved
    backbone = AutoModel.from_pretrained(directory)
    assert type(backbone).__name__ == "Qwen3Model"
    assert torch.equal(backbone.embed_tokens.weight, model.rows.words)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    text = material.dataset.texts[0]
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == material.tokenizer.encode(text).ids


@pytest.mark.parametrize("events", [1, 3, LENGTH])
def test_the_exported_backbone_answers_like_the_student(
    saved: tuple[Path, Student, Material], events: int
) -> None:
    directory, model, _ = saved
    checkpoint = load_checkpoint(directory)
    items = torch.randint(0, len(checkpoint.item_ids), (1, events))
    kinds, gaps = items % len(checkpoint.event_rows), items % len(checkpoint.gap_rows)
    with torch.no_grad():
        rows = model.rows(torch.arange(len(checkpoint.item_ids)))
        expected = model.queries(rows[items], kinds, gaps, torch.ones_like(items))[0, -1]
        x = np.zeros((1, LENGTH, 32), np.float32)
        i, e, g = (t[0].numpy() for t in (items, kinds, gaps))
        x[0, LENGTH - events :] = checkpoint.item_rows[i] + checkpoint.event_rows[e] + checkpoint.gap_rows[g]
        mask = (torch.arange(LENGTH) >= LENGTH - events).float()[None]
        backbone = Backbone.from_decoder(checkpoint.backbone, torch.from_numpy(checkpoint.recency))
        actual = backbone(torch.from_numpy(x), mask)[0]
    assert torch.allclose(actual, expected, atol=2e-4)


def test_the_catalogue_comes_back(saved: tuple[Path, Student, Material]) -> None:
    directory, _, material = saved
    checkpoint: Checkpoint = load_checkpoint(directory)
    assert checkpoint.item_ids == material.dataset.item_ids
    assert checkpoint.columns == material.dataset.columns
    assert np.array_equal(checkpoint.seen, material.seen)
    assert checkpoint.meta["note"] == "test"
    assert checkpoint.meta["events"] == material.dataset.events


@pytest.mark.parametrize("name", ["config.json", "pocketrec.json", "catalogue.parquet"])
def test_a_missing_file_is_named(saved: tuple[Path, Student, Material], tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in saved[0].iterdir():
        if file.name != name:
            (copy / file.name).write_bytes(file.read_bytes())
    with pytest.raises(DataError, match=name):
        load_checkpoint(copy)


def test_a_newer_format_is_refused(saved: tuple[Path, Student, Material], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in saved[0].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    meta = json.loads((copy / "pocketrec.json").read_text())
    (copy / "pocketrec.json").write_text(json.dumps(meta | {"format": 99}))
    with pytest.raises(DataError, match="99"):
        load_checkpoint(copy)
