"""The fuzzer that follows coverage: its parsers take what is sound, and it reaches more than the seeds do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pocketrec.errors import PocketrecError
from pocketrec_tools.fuzz import marks
from pocketrec_tools.fuzz_coverage import MARK, Covered, cover_all, main, seeds
from pocketrec_tools.fuzz_coverage_child import _parsers
from pocketrec_tools.fuzz_world import make_world
from support import not_applicable, require_package


def _atheris() -> None:
    if sys.platform != "linux" or sys.version_info >= (3, 14):
        not_applicable("there is no atheris for this system")
    require_package("atheris", "pip install 'pocketrec[fuzz]'")


def test_every_parser_takes_its_seeds(tmp_path: Path) -> None:
    (tmp_path / "world").mkdir()
    (tmp_path / "delta").mkdir()
    world = make_world(tmp_path / "world")
    for name, data in world.delta.items():
        (tmp_path / "delta" / name).write_bytes(data)
    parsers = _parsers(tmp_path)
    samples = seeds(world)
    assert samples.keys() == parsers.keys()
    for target, inputs in samples.items():
        for data in inputs:
            parsers[target](data)
        with pytest.raises(PocketrecError):
            parsers[target](b"\0nothing")


def test_a_short_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _atheris()
    page = tmp_path / "page.md"
    page.write_text("\n".join(("# Before", *marks(MARK), "")))
    corpus = tmp_path / "corpus"
    with pytest.raises(SystemExit) as ended:
        main(["--only", "graph,golden", "--runs", "600", "--corpus", str(corpus), "--page", str(page)])
    assert not ended.value.code
    found = [Covered(**one) for one in json.loads(capsys.readouterr().out)["parsers"]]
    assert [one.target for one in found] == ["golden", "graph"]
    for one in found:
        assert one.inputs >= 600
        assert one.covered > one.covered_first > 0
        assert one.target in page.read_text()
    assert list((corpus / "graph").iterdir())  # to go on from


def test_a_parser_that_breaks_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _atheris()
    monkeypatch.chdir(tmp_path)
    real = subprocess.run

    def planted(command: list[str], **settings: object) -> object:
        """The same child, but what it calls one of our errors is another class."""
        assert command[1:3] == ["-m", "pocketrec_tools.fuzz_coverage_child"]
        code = (
            "import pocketrec.errors, runpy; pocketrec.errors.PocketrecError = KeyError;"
            "runpy.run_module('pocketrec_tools.fuzz_coverage_child', run_name='__main__')"
        )
        return real([command[0], "-c", code, *command[3:]], **settings)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", planted)
    (found,) = cover_all(["golden"], 500, 1, None)
    assert "BundleError" in found.failure
    assert list((tmp_path / "runs" / "fuzz").iterdir())  # the input, to look at


def test_an_unknown_parser_is_refused() -> None:
    _atheris()
    with pytest.raises(PocketrecError, match="nothing-like-it"):
        cover_all(["nothing-like-it"], 1, 1, None)
