"""A build whose word rows start from a sentence encoder, and what it is without one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_encoder import save_tiny_encoder

from pocketrec.errors import DataError
from pocketrec_export.build import build
from pocketrec_export.config import BuildConfig
from pocketrec_export.data import load_dataset
from pocketrec_export.item_text import EncodedTexts
from pocketrec_export.model import Material
from pocketrec_export.options import ExportOptions
from pocketrec_export.sentence_encoder import encode_texts
from pocketrec_export.stages import Stages, stage_key
from pocketrec_export.student import SIZES
from pocketrec_export.text_config import TextConfig
from pocketrec_export.text_rows import FLOORS, distil
from support import require_package


@pytest.fixture(scope="module")
def material(shop: Path) -> Material:
    return Material(load_dataset(shop), SIZES["tiny"].vocab)


@pytest.fixture(scope="module")
def encoder(material: Material, tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_package("sentence_transformers", "pip install 'pocketrec[text]'")
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder"), material.dataset.texts, vocab=300)


def stages(material: Material, config: BuildConfig, work: Path, **text: object) -> Stages:
    return Stages(material, config.model_copy(update={"text": TextConfig(**text)}), work, lambda: None)


def test_models_start_from_what_the_encoder_says(
    material: Material, encoder: Path, quick: BuildConfig, tmp_path: Path
) -> None:
    asked = stages(material, quick, tmp_path, encoder=str(encoder), floor=1.0)
    said = encode_texts(material.dataset.texts, str(encoder), tmp_path / "own")
    wanted = distil(material.features, said, 96, quick.seed).start_rows(1.0)
    for seed in (5, 1005):
        model = asked._model(SIZES["tiny"], 0.1, seed)
        assert np.array_equal(model.rows.words.detach().numpy(), wanted)
    assert not np.allclose(wanted, material.features.start_rows(96, quick.seed))
    assert asked.texts is not None
    assert asked.texts.told()["floor"] == {"96": 1.0}


def test_the_floor_is_chosen_on_validation(
    material: Material, encoder: Path, quick: BuildConfig, tmp_path: Path
) -> None:
    asked = stages(material, quick, tmp_path, encoder=str(encoder))
    rows = asked._model(SIZES["tiny"], 0.1, 5).rows.words.detach().numpy()
    assert asked.texts is not None
    floor = asked.texts.told()["floor"]["96"]
    positions, words = (
        asked.validation_positions(),
        distil(material.features, asked.texts.embeddings, 96, quick.seed),
    )
    tried = {f: words.ndcg(material.features, positions, f) for f in FLOORS}
    assert tried[floor] == max(tried.values())
    assert np.array_equal(rows, words.start_rows(floor))


def test_stages_are_named_after_the_encoder_not_its_place(
    material: Material, encoder: Path, quick: BuildConfig, tmp_path: Path
) -> None:
    moved = shutil.copytree(encoder, tmp_path / "moved")
    key = stages(material, quick, tmp_path, encoder=str(encoder)).data_key
    assert stages(material, quick, tmp_path, encoder=str(moved)).data_key == key
    others = {
        stages(material, quick, tmp_path, encoder=str(encoder), prompt="An item: ").data_key,
        stages(material, quick, tmp_path, encoder=str(encoder), max_tokens=4).data_key,
        stages(material, quick, tmp_path, encoder=str(encoder), floor=1.0).data_key,
        stages(material, quick, tmp_path).data_key,
    }
    assert len(others | {key}) == 5
    (moved / "config.json").write_text((moved / "config.json").read_text() + " ")
    assert stages(material, quick, tmp_path, encoder=str(moved)).data_key not in others | {key}


def test_without_an_encoder_nothing_changes(material: Material, quick: BuildConfig, tmp_path: Path) -> None:
    plain = stages(material, quick, tmp_path)
    assert plain.texts is None
    assert plain.data_key == stage_key(material.dataset.fingerprint, material.vocab, quick.seed, 8)
    rows = plain._model(SIZES["tiny"], 0.1, 5).rows.words.detach().numpy()
    assert np.array_equal(rows, material.features.start_rows(96, 5))
    assert not list(tmp_path.iterdir())


def test_no_encoder_is_asked_where_no_item_has_a_text(tmp_path: Path, quick: BuildConfig) -> None:
    (tmp_path / "interactions.csv").write_text(
        "user_id,item_id,timestamp\n"
        + "".join(f"u{u},i{(u + n) % 5},{n}\n" for u in range(4) for n in range(4))
    )
    bare = Material(load_dataset(tmp_path), 64)
    assert EncodedTexts.of(bare, TextConfig(encoder="no such thing"), tmp_path, seed=0) is None


def test_an_encoder_that_is_not_there_stops_the_build_before_training(
    shop: Path, quick: BuildConfig, tmp_path: Path
) -> None:
    config = quick.model_copy(update={"text": TextConfig(encoder=str(tmp_path / "nothing here"))})
    with pytest.raises(DataError, match=r"text\.encoder") as raised:
        build(shop, tmp_path / "bundle", config, ExportOptions(targets=()))
    assert raised.value.code == "encoder-missing"
    assert not list((tmp_path / "bundle.build").iterdir())


@pytest.mark.slow
def test_a_build_with_an_encoder(shop: Path, encoder: Path, quick: BuildConfig, tmp_path: Path) -> None:
    config = quick.model_copy(
        update={
            "text": TextConfig(encoder=str(encoder)),
            "training": quick.training.model_copy(update={"epochs": 1}),
            "teacher": quick.teacher.model_copy(update={"rankers": ("sequence", "text"), "dropouts": (0.1,)}),
        }
    )
    built = build(shop, tmp_path / "bundle", config, ExportOptions(targets=()))
    figures = json.loads((built.bundle / "manifest.json").read_text())["figures"]
    assert [member["name"] for member in figures["teacher"]["members"]] == ["sequence 1", "text", "sentences"]
    assert figures["text"]["encoder"] == encoder.name
    assert figures["text"]["width"] == 24
    assert str(encoder.parent) not in (built.bundle / "manifest.json").read_text()
    assert built.verification.ok
    # Nothing of the encoder goes to the device.
    assert not any("encoder" in file.name for file in built.bundle.iterdir())
