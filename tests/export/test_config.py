"""Configuration: defaults, then the file, then the command line; nothing misspelt is ignored."""

from __future__ import annotations

from pathlib import Path

import pytest

from pocketrec.errors import DataError
from pocketrec_export.config import BuildConfig, TrainingConfig, load_config
from pocketrec_export.config_reference import reference
from support import ROOT


def test_defaults_are_a_recipe() -> None:
    assert load_config(None) == BuildConfig()


def test_a_file_changes_defaults_and_options_change_the_file(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text('seed = 4\n[student]\nsize = "tiny"\nlength = 20\n[duokd]\nlambda_positive = 1.0\n')
    config = load_config(file, {"student": {"size": "base"}, "seed": 9})
    assert (config.seed, config.student.size, config.student.length) == (9, "base", 20)
    assert config.duokd.lambda_positive == 1.0


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[student]\nsise = 'tiny'\n", "student.sise"),
        ("[student]\nsize = 'huge'\n", "huge"),
        ("[training]\nepochs = 0\n", "training.epochs"),
        ("[training\n", "recipe.toml"),
        ("speed = 3\n", "speed"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(text)
    with pytest.raises(DataError, match=named):
        load_config(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        load_config(tmp_path / "nowhere.toml")


def test_keys_follow_values() -> None:
    assert TrainingConfig().key() == TrainingConfig().key()
    assert TrainingConfig().key() != TrainingConfig(epochs=3).key()


def test_negatives_follow_the_catalogue() -> None:
    assert TrainingConfig().negatives_for(12_101) == 0
    assert TrainingConfig().negatives_for(1_000_000) > 0
    assert TrainingConfig(negatives=7).negatives_for(100) == 7


def test_the_reference_page_is_fresh() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == reference(), "run `make docs`"
