"""`pocketrec install`, as a person calls it."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

from pocketrec.cli import main
from pocketrec.golden import REPLAY_SECONDS
from pocketrec.signing import generate_key
from pocketrec.verbs_install import cli_install
from tiny_bundle import write_tiny_bundle


def run(arguments: list[str]) -> int:
    try:
        main(arguments)
    except SystemExit as error:
        return int(error.code or 0)
    return 0


def test_install_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys, into = generate_key(), str(tmp_path / "bundles")
    (tmp_path / "key").write_bytes(keys.raw_public)
    for number in (1, 2):
        bundle = write_tiny_bundle(
            tmp_path / f"v{number}.zip",
            seed=number,
            model_version=number,
            as_zip=True,
            sign_key=keys.private_pem,
        )
        key = ["--public-key", str(tmp_path / "key")]
        assert run(["install", str(bundle), into, *key, "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert (answer["model_version"], answer["changed"], answer["on_trial"]) == (number, True, True)
        assert run(["rank", into, "--items", "i37", *key, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["model_version"] == number
    assert run(["install", str(tmp_path / "v1.zip"), into, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "install-downgrade"
    assert run(["install", "--roll-back", into]) == 0
    assert "model 1 · catalogue 1" in capsys.readouterr().out
    assert run(["install", str(tmp_path / "v2.zip"), into]) == 2
    assert run(["install", str(tmp_path / "v2.zip"), into, "--again", "--seconds", "0", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "install-slow"
    assert run(["install", str(tmp_path / "v2.zip"), into, "--again"]) == 0
    assert "before it" in capsys.readouterr().out


def test_the_command_and_the_function_give_as_long() -> None:
    """The number is written twice, so that the command line starts without the runtime."""
    assert inspect.signature(cli_install).parameters["seconds"].default == REPLAY_SECONDS


def test_install_without_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["install", str(tmp_path)]) == 2
    assert "pocketrec install BUNDLE DIR" in capsys.readouterr().err
