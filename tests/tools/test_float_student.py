"""The student before quantisation, beside the bundles that were made from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pocketrec import Recommender
from pocketrec.cli import main
from pocketrec.errors import DataError
from pocketrec_export.build import BuildResult, build
from pocketrec_export.checkpoint import load_checkpoint
from pocketrec_export.config import BuildConfig
from pocketrec_export.exporting import export_checkpoint
from pocketrec_export.metrics import Metrics
from pocketrec_export.options import ExportOptions
from pocketrec_tools.demo_data import make_demo_data
from pocketrec_tools.evaluate import evaluate
from pocketrec_tools.float_student import FloatStudent, measure
from pocketrec_tools.held_out import HeldOut
from pocketrec_tools.overlap import overlap

QUICK = {
    "student": {"size": "tiny", "length": 8},
    "training": {"epochs": 1, "positions": 256, "warmup_steps": 5, "mixed_precision": "no"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo_data(tmp_path_factory.mktemp("shop"), seed=1, users=120, items=80)


@pytest.fixture(scope="module")
def built(data: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    out = tmp_path_factory.mktemp("built") / "fp32"
    options = ExportOptions(targets=(), precision="fp32")
    return build(data, out, BuildConfig.model_validate(QUICK), options, teacher="none")


def test_gives_the_lists_of_the_float32_bundle(built: BuildResult, data: Path) -> None:
    found = overlap(built.bundle, data, "numpy", str(built.checkpoint), users=60)
    assert found.names == ("numpy", "float32")
    assert found.users == 60
    assert found.mean > 0.999


def test_ranks_by_the_prior_without_a_known_event(built: BuildResult) -> None:
    with Recommender.open(built.bundle, engine="numpy") as recommender:
        student = FloatStudent(built.checkpoint, recommender.bundle.catalogue)
        for history in ([], ["nobody-knows-this"]):
            assert student.top(history, 7) == [r.position for r in recommender.rank(history, 7)]


def test_the_float32_bundle_is_as_good_as_the_student_was_in_training(built: BuildResult, data: Path) -> None:
    """Build and evaluate agree on the split, the protocol and the model, through code they do not share."""
    report = evaluate(built.bundle, data, engine="numpy", progress=False)
    trained = built.figures["student"]["test"]
    assert report.metrics.users == trained["users"]
    assert report.metrics.ndcg == pytest.approx(trained["ndcg@10"], abs=2e-3)
    assert report.popularity.to_dict() == built.figures["popularity"]
    held = evaluate(built.bundle, data, split="validation", engine="numpy", progress=False)
    assert held.metrics.ndcg == pytest.approx(built.figures["student"]["validation"]["ndcg@10"], abs=2e-3)
    assert Metrics.from_ranks(report.ranks) == report.metrics


def test_int8_is_near(built: BuildResult, data: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(built.checkpoint)
    export_checkpoint(loaded, tmp_path / "int8", ExportOptions(targets=(), precision="int8"))
    found = overlap(tmp_path / "int8", data, "numpy", str(built.checkpoint), users=60)
    assert 0.8 < found.mean <= 1


def test_refuses_the_bundle_of_another_catalogue(built: BuildResult, data: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(built.checkpoint)
    other = dataclasses.replace(loaded, item_ids=loaded.item_ids[::-1])
    export_checkpoint(other, tmp_path / "b", ExportOptions(targets=(), precision="fp32"))
    with pytest.raises(DataError, match="bundle was made from") as refused:
        overlap(tmp_path / "b", data, "numpy", str(built.checkpoint), users=5)
    assert refused.value.code == "catalogue-mismatch"


def test_measured(built: BuildResult, data: Path) -> None:
    size, milliseconds = measure(built.checkpoint, built.bundle, data)
    files = ("model.safetensors", "pocketrec.safetensors")
    assert size == sum((built.checkpoint / name).stat().st_size for name in files)
    assert milliseconds > 0


def test_from_the_command_line(built: BuildResult, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["evaluate", str(built.bundle), str(data), "--engine", "numpy", "--users", "30",
              "--against", str(built.checkpoint)])  # fmt: skip
    assert not left.value.code
    assert "numpy and float32 share" in capsys.readouterr().out


def test_the_split_is_not_empty(built: BuildResult, data: Path) -> None:
    """The figures above mean something: hits and misses are there."""
    with Recommender.open(built.bundle, engine="numpy") as recommender:
        held_out = HeldOut.load(data, recommender.bundle.catalogue)
    assert len(held_out.users) > 80
    assert 0 < built.figures["student"]["test"]["hr@10"] < 1
