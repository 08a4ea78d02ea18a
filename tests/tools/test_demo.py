"""The demo in miniature: every step real, on a shop of 150 people."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pocketrec_tools.demo as module
from pocketrec.cli import main
from pocketrec.errors import DataError
from pocketrec.verify import verify
from pocketrec_tools.demo import DemoSettings, demo
from pocketrec_tools.demo_report import HEADERS, DemoReport
from pocketrec_tools.evaluate import evaluate

pytestmark = pytest.mark.slow

# One graph: lowering for ExecuTorch alone takes longer than the rest.
SHOP: dict[str, Any] = {"users": 150, "items": 80, "targets": ("onnx",)}
QUICK = {
    "student": {"size": "tiny", "length": 8},
    "training": {"epochs": 2, "positions": 256, "warmup_steps": 5, "mixed_precision": "no"},
    "teacher": {"size": "tiny", "dropouts": [0.1], "top_k": 30},
}


@pytest.fixture(scope="module", autouse=True)
def quick_recipe() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RECIPE", QUICK)
        yield


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def report(out: Path) -> DemoReport:
    return demo(out, DemoSettings(**SHOP))


def test_the_table_has_every_ranker(report: DemoReport) -> None:
    names = [row.name for row in report.rows]
    assert names == [
        "popularity",
        "teacher, float32",
        "student, float32",
        "int8 bundle, onnxruntime",
        "int8 bundle, numpy",
    ]
    for row in report.rows:
        assert row.users > 100
        assert 0 < row.ndcg <= row.hr <= 1
        assert len(row.cells()) == len(HEADERS)
    popularity, teacher, student, ort, reference = report.rows
    assert popularity.bytes is None
    assert teacher.bytes is not None
    assert teacher.bytes > 0
    for row in (student, ort, reference):
        assert row.ms_per_list is not None
        assert row.ms_per_list > 0
    assert student.bytes is not None
    assert ort.bytes == report.bundle_bytes < student.bytes
    assert reference.bytes == ort.bytes - (report.bundle / "model.onnx").stat().st_size


def test_the_figures_are_those_of_evaluate(report: DemoReport) -> None:
    found = evaluate(report.bundle, report.data, engine="onnxruntime", progress=False)
    row = report.rows[3]
    assert (row.users, row.hr, row.ndcg) == (found.users, found.metrics.hr, found.metrics.ndcg)
    assert report.rows[0].ndcg == found.popularity.ndcg


def test_the_bundle_is_whole(report: DemoReport) -> None:
    assert verify(report.bundle).ok
    assert report.checkpoint.is_dir()
    assert not report.reused


def test_the_list_changes_without_network(report: DemoReport) -> None:
    first, *_, last = report.session.lists
    assert first.fallback
    assert not last.fallback
    assert {item for item, _, _ in first.items} != {item for item, _, _ in last.items}
    assert not {item for item, _, _ in last.items} & {item for item, _, _ in report.person}
    assert "192.0.2.1" in report.session.probe


def test_it_tells_the_story_and_what_to_type_next(report: DemoReport) -> None:
    story = "\n".join(report.story())
    for item, _, _ in report.person:
        assert f"{report.titles[item]} [{item}]" in story
    assert report.next_item[0] in story
    assert report.session.guard in story
    commands = [line.split() for line in report.next_steps() if line.startswith("  pocketrec ")]
    assert [words[1] for words in commands] == [
        "rank",
        "rank",
        "evaluate",
        "inspect",
        "bench",
        "simulate",
        "build",
    ]


def test_what_it_says_to_type_works(report: DemoReport, capsys: pytest.CaptureFixture[str]) -> None:
    for line in report.next_steps():
        words = line.split()
        if words[:2] in (["pocketrec", "rank"], ["pocketrec", "inspect"], ["pocketrec", "evaluate"]):
            with pytest.raises(SystemExit) as left:
                main(words[1:])
            assert not left.value.code, line
            assert capsys.readouterr().out


def test_again_it_takes_the_bundle_that_is_there(
    report: DemoReport, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = (report.bundle / "manifest.json").stat().st_mtime_ns
    arguments = ["--users", "150", "--items", "80", "--targets", "onnx", "--json"]
    with pytest.raises(SystemExit) as left:
        main(["demo", "--out", str(out), *arguments])
    said = capsys.readouterr()
    found: dict[str, Any] = json.loads(said.out)
    assert not left.value.code
    assert found["reused"]
    assert (report.bundle / "manifest.json").stat().st_mtime_ns == made
    assert [row["name"] for row in found["table"]] == [row.name for row in report.rows]
    assert [row["ndcg@10"] for row in found["table"]] == [row.ndcg for row in report.rows]
    assert found["offline"]["lists"][-1]["items"][0][0] == report.session.lists[-1].items[0][0]
    assert len(found["seconds"]) == 4
    assert "[4/4]" in said.err


def test_other_settings_do_not_overwrite(
    report: DemoReport, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["demo", "--out", str(out), "--seed", "1", "--json"])
    assert left.value.code == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "demo-exists"
    assert verify(report.bundle).ok


def test_somebody_elses_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(DataError, match="not a demo"):
            demo(tmp_path, DemoSettings(**SHOP), force=force)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_damaged_bundle_is_not_taken(
    report: DemoReport, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    checkpoint = report.checkpoint.relative_to(out)
    assert module._claim(copy, DemoSettings(**SHOP), force=False) == copy / checkpoint
    with open(copy / "bundle" / "model.onnx", "ab") as graph:
        graph.write(b"!")
    assert module._claim(copy, DemoSettings(**SHOP), force=False) is None
    assert "built again" in capsys.readouterr().err
    assert (copy / checkpoint).is_dir()  # from which it is built again


def test_force_starts_over(report: DemoReport, out: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    assert module._claim(copy, DemoSettings(seed=9, **SHOP), force=True) is None
    assert not (copy / "bundle.build").exists()
    with pytest.raises(DataError, match="other settings"):
        module._claim(copy, DemoSettings(**SHOP), force=False)
