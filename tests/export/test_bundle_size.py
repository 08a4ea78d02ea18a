"""What a bundle carries besides weights: no white space, no columns that the app does not show."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pocketrec.bundle import Bundle
from pocketrec.errors import DataError
from pocketrec.verify import verify
from pocketrec_export.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pocketrec_export.content import compact_json
from pocketrec_export.data import load_dataset
from pocketrec_export.exporting import export_checkpoint
from pocketrec_export.model import Material
from pocketrec_export.options import ExportOptions
from pocketrec_export.student import SIZES

NUMPY = ExportOptions(targets=())
LENGTH = 8


@pytest.fixture(scope="module")
def checkpoint(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """An untrained student of the shop: what is looked at here does not depend on weights."""
    material = Material(load_dataset(shop), SIZES["tiny"].vocab)
    student = material.model(
        SIZES["tiny"], length=LENGTH, seed=1, kappa=2.0, recency_heads=4, input_dropout=0, hidden_dropout=0
    )
    directory = tmp_path_factory.mktemp("size") / "student"
    save_checkpoint(
        directory,
        student,
        material.tokenizer,
        idf=material.features.idf,
        seen=material.seen,
        item_ids=material.dataset.item_ids,
        columns=material.dataset.columns,
        events=material.dataset.events,
        meta={"data": material.dataset.fingerprint},
    )
    return load_checkpoint(directory)


def test_the_tokenizer_is_the_same_in_fewer_bytes(checkpoint: Checkpoint, tmp_path: Path) -> None:
    export_checkpoint(checkpoint, tmp_path / "bundle", NUMPY)
    stored = (tmp_path / "bundle" / "tokenizer.json").read_bytes()
    assert len(stored) < 0.6 * len(checkpoint.tokenizer)
    before, after = Tokenizer.from_buffer(checkpoint.tokenizer), Tokenizer.from_buffer(stored)
    assert before.get_vocab() == after.get_vocab()
    texts = [" ".join(row) for row in zip(*checkpoint.columns.values(), strict=True)]
    texts += ["Ünïcode — 東京 \U0001f600", "never seen before 12345", ""]
    for text in texts:
        assert before.encode(text).ids == after.encode(text).ids
    # White space is only left out between tokens: once more changes nothing.
    assert compact_json(stored) == stored


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT


@given(st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner)))
def test_compact_json_says_the_same(value: object) -> None:
    indented = json.dumps(value, indent=2).encode()
    assert json.loads(compact_json(indented)) == value
    assert len(compact_json(indented)) <= len(json.dumps(value, indent=2, ensure_ascii=False).encode()) + 1


def test_only_the_columns_that_are_shown_are_carried(checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert {"title", "categories"} <= set(checkpoint.columns)
    export_checkpoint(checkpoint, tmp_path / "all", NUMPY)
    export_checkpoint(checkpoint, tmp_path / "few", dataclasses.replace(NUMPY, display=["title"]))
    export_checkpoint(checkpoint, tmp_path / "none", dataclasses.replace(NUMPY, display=[]))
    sizes = [(tmp_path / name / "catalogue.safetensors").stat().st_size for name in ("all", "few", "none")]
    assert sizes[0] > sizes[1] > sizes[2]
    with Bundle.open(tmp_path / "all") as everything, Bundle.open(tmp_path / "few") as few:
        assert everything.manifest.display == tuple(checkpoint.columns)
        assert few.manifest.display == ("title",)
        assert [few.catalogue.text("title", i) for i in range(few.catalogue.n)] == checkpoint.columns["title"]
        # What is shown changes no list: rows, and all else that a score is made of, are the same bytes.
        for name in ("items.safetensors", "words.safetensors", "backbone.safetensors", "tokenizer.json"):
            assert everything.manifest.files[name] == few.manifest.files[name]
        np.testing.assert_array_equal(everything.catalogue.prior, few.catalogue.prior)
    assert all(verify(tmp_path / name).ok for name in ("all", "few", "none"))


def test_a_column_that_is_not_there_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'colour'") as error:
        export_checkpoint(
            checkpoint, tmp_path / "out", dataclasses.replace(NUMPY, display=["title", "colour"])
        )
    assert error.value.code == "display-unknown"
    assert "title" in error.value.remedy
    assert not list(tmp_path.iterdir())
