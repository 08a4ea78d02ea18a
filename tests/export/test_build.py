"""The main job: data in, verified bundle out; killed at any point it goes on, and no half bundle is ever
there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pocketrec import Recommender
from pocketrec.errors import DataError, PocketrecError
from pocketrec.verify import verify
from pocketrec_export.build import BuildResult, build
from pocketrec_export.checkpoint import load_checkpoint
from pocketrec_export.config import BuildConfig
from pocketrec_export.data import load_dataset
from pocketrec_export.doubts import doubts
from pocketrec_export.exporting import export_checkpoint
from pocketrec_export.options import ExportOptions
from pocketrec_export.student import SIZES
from support import ROOT

QUICK = """
seed = 5
[student]
size = "tiny"
length = 8
[training]
epochs = 2
positions = 256
warmup_steps = 5
mixed_precision = "no"
[teacher]
size = "tiny"
dropouts = [0.1, 0.3]
top_k = 30
"""
ONNX = ExportOptions(targets=("onnx",))


@pytest.fixture(scope="module")
def built(shop: Path, quick: BuildConfig, tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    return build(shop, tmp_path_factory.mktemp("built") / "bundle", quick, ONNX)


def test_a_build_ends_in_a_bundle_that_verifies_and_ranks(built: BuildResult, shop: Path) -> None:
    verification = verify(built.bundle)
    assert verification.ok
    assert {"numpy", "onnxruntime"} <= {c.name for c in verification.checks if c.status == "ok"}
    with Recommender.open(built.bundle) as recommender:
        history = list(load_checkpoint(built.checkpoint).item_ids[:3])
        ranking = recommender.rank(history, 5)
    assert len(ranking) == 5
    assert not ranking.fallback
    assert not {r.item_id for r in ranking} & set(history)


def test_the_manifest_carries_the_figures(built: BuildResult) -> None:
    figures = json.loads((built.bundle / "manifest.json").read_text())["figures"]
    assert figures["seed"] == 5
    for model in ("teacher", "student"):
        assert 0 <= figures[model]["test"]["ndcg@10"] <= 1
    assert figures["data"]["users"] == 150


def test_nobodys_history_is_in_the_bundle(built: BuildResult, shop: Path) -> None:
    """Golden histories come from the catalogue alone: no user's own sequence of three stands in them."""
    dataset = load_dataset(shop)
    triples = set()
    for user in range(dataset.num_users):
        where = dataset.user_slice(user)
        times = dataset.timestamps[where].tolist()
        own = [(dataset.item_ids[i], t) for i, t in zip(dataset.items[where], times, strict=True)]
        triples |= set(zip(own, own[1:], own[2:], strict=False))
    golden = json.loads((built.bundle / "golden.json").read_text())
    for case in golden["cases"]:
        pairs = [(item, when) for item, _, when in case["history"]]
        assert not set(zip(pairs, pairs[1:], pairs[2:], strict=False)) & triples


def test_nobodys_id_is_in_the_bundle(shop: Path, quick: BuildConfig, tmp_path: Path) -> None:
    """Warnings about the data name people on the terminal, and not in what every app gets."""
    data = shutil.copytree(shop, tmp_path / "data")
    with (data / "interactions.csv").open("a", encoding="utf-8") as log:
        log.write(f"jane.doe,{load_dataset(shop).item_ids[0]},1700000000,view\n")
    dataset = load_dataset(data)
    assert "jane.doe" in str(dataset.report)
    config = quick.model_copy(
        update={
            "student": quick.student.model_copy(update={"dropout": 0.1}),
            "training": quick.training.model_copy(update={"epochs": 1}),
        }
    )
    made = build(data, tmp_path / "bundle", config, ExportOptions(targets=()), teacher="none")
    figures = json.loads((made.bundle / "manifest.json").read_text())["figures"]
    assert len(figures["data"]["warnings"]) == len(dataset.report.warnings)
    assert any("1 user has 1 event" in warning for warning in figures["data"]["warnings"])
    for file in made.bundle.iterdir():
        content = file.read_bytes()
        assert not [user for user in dataset.user_ids if f'"{user}"'.encode() in content], file.name
        assert b"jane.doe" not in content, file.name


def test_a_second_build_takes_the_stages_that_are_there(
    built: BuildResult, shop: Path, quick: BuildConfig, tmp_path: Path
) -> None:
    work = built.bundle.with_name("bundle.build")
    before = {f: f.stat().st_mtime_ns for f in work.rglob("*") if f.is_file()}
    again = build(shop, tmp_path / "again", quick, ONNX, work_dir=work)
    assert {f: f.stat().st_mtime_ns for f in work.rglob("*") if f.is_file()} == before
    same = ("model.onnx", "items.safetensors", "backbone.safetensors", "golden.json", "catalogue.safetensors")
    for name in same:
        assert (again.bundle / name).read_bytes() == (built.bundle / name).read_bytes(), name


def test_without_a_teacher_it_is_another_student(
    built: BuildResult, shop: Path, quick: BuildConfig, tmp_path: Path
) -> None:
    alone = build(shop, tmp_path / "alone", quick, ONNX, teacher="none")
    assert "teacher" not in alone.figures
    assert (alone.bundle / "items.safetensors").read_bytes() != (
        built.bundle / "items.safetensors"
    ).read_bytes()


def test_students_of_every_size_learn_from_one_larger_teacher(
    shop: Path, quick: BuildConfig, tmp_path: Path
) -> None:
    values = quick.model_dump()
    values["teacher"] |= {"size": "auto", "dropouts": [0.1]}
    taught = [stage + "-*" for stage in ("sequence", "cache")]
    work, found = tmp_path / "work", {}
    for size in ("tiny", "small"):
        values["student"]["size"] = size
        made = build(shop, tmp_path / size, BuildConfig.model_validate(values), ONNX, work_dir=work)
        assert load_checkpoint(made.checkpoint).item_rows.shape[1] == SIZES[size].dim
        member = next(m for m in made.figures["teacher"]["members"] if m["name"] == "sequence 1")
        files = {file for pattern in taught for file in work.glob(pattern)}
        found[size] = (member["parameters"], {file: file.stat().st_mtime_ns for file in files})
    assert found["tiny"] == found["small"]


def test_without_a_teacher_no_larger_model_is_trained(shop: Path, quick: BuildConfig, tmp_path: Path) -> None:
    values = quick.model_dump()
    values["teacher"]["size"] = "small"
    made = build(shop, tmp_path / "alone", BuildConfig.model_validate(values), ONNX, teacher="none")
    trained = [json.loads(file.read_text()) for file in (tmp_path / "alone.build").glob("sequence-*.json")]
    assert {one["parameters"] for one in trained} == {made.figures["student"]["parameters"]}


def test_the_device_makes_the_row_of_an_unseen_item_from_its_text(built: BuildResult, shop: Path) -> None:
    from pocketrec.bundle import Bundle
    from pocketrec.text import TextRows

    checkpoint, dataset = load_checkpoint(built.checkpoint), load_dataset(shop)
    cold = np.flatnonzero(checkpoint.seen == 0)
    assert len(cold) > 0
    with Bundle.open(built.bundle) as bundle:
        texts = TextRows(bundle)
        for position in cold:
            row = texts.row(dataset.texts[position])
            stored = bundle.tables["items"].rows(np.array([position]))[0]
            assert np.abs(row - stored).max() < 0.02 * np.abs(stored).max()
        assert not texts.row("").any()


@pytest.mark.parametrize("precision", ["fp32", "int4", "mixed"])
def test_a_checkpoint_is_exported_in_every_precision(
    built: BuildResult, precision: str, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    options = ExportOptions(targets=("onnx",), precision=precision, licences={"data": "CC0-1.0"})
    assert export_checkpoint(load_checkpoint(built.checkpoint), out, options).ok
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["precision"] == precision
    assert manifest["licences"] == {"data": "CC0-1.0"}


def test_an_existing_bundle_is_refused_before_anything_is_trained(
    built: BuildResult, shop: Path, quick: BuildConfig, tmp_path: Path
) -> None:
    with pytest.raises(PocketrecError, match="--force") as caught:
        build(shop, built.bundle, quick, ONNX, work_dir=tmp_path / "work")
    assert caught.value.code == "exists"
    assert not (tmp_path / "work").exists()


def test_data_without_targets_is_refused(tmp_path: Path, quick: BuildConfig) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "interactions.csv").write_text("user_id,item_id,timestamp\na,x,1\nb,y,2\n")
    with pytest.raises(DataError, match="three events"):
        build(tmp_path / "data", tmp_path / "out", quick)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--teacher", "oracle"], "oracle"),
        (["--precision", "int3"], "int3"),
        (["--targets", "onnx,coreml"], "coreml"),
        (["--licence", "MIT"], "MIT"),
        (["--max-minutes", "-1"], "-1"),
        (["--size", "huge"], "huge"),
    ],
)
def test_bad_options_are_named(shop: Path, tmp_path: Path, arguments: list[str], named: str) -> None:
    from typer.testing import CliRunner

    from pocketrec.cli import app

    result = CliRunner().invoke(app, ["build", str(shop), "--out", str(tmp_path / "out"), *arguments])
    text = result.output + str(result.exception)
    assert named in text
    assert not (tmp_path / "out").exists()
    assert isinstance(result.exception, PocketrecError) or result.exit_code == 2


def test_a_build_ends_with_its_figures_and_what_speaks_against_them(
    built: BuildResult, shop: Path, tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from pocketrec.cli import app

    out, recipe = tmp_path / "out", tmp_path / "recipe.toml"
    recipe.write_text(QUICK)
    work = built.bundle.with_name(built.bundle.name + ".build")
    command = ["build", str(shop), "--out", str(out), "--config", str(recipe), "--targets", "onnx"]
    result = CliRunner().invoke(app, [*command, "--work-dir", str(work)])
    assert result.exit_code == 0, result.output
    test = built.figures["student"]["test"]
    assert f"student {test['hr@10']:.4f}, {test['ndcg@10']:.4f}" in result.output
    assert built.doubts == tuple(doubts(built.figures, alike=True))
    assert all(doubt in result.output for doubt in built.doubts)


def _start(shop: Path, out: Path, recipe: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pocketrec", "build", str(shop), "--out", str(out)]
    command += ["--config", str(recipe), "--targets", "onnx", "--json"]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ}
    )


@pytest.mark.slow
def test_kill_at_any_point_and_the_same_command_goes_on(
    shop: Path, built: BuildResult, tmp_path: Path
) -> None:
    out, recipe = tmp_path / "bundle", tmp_path / "recipe.toml"
    work = tmp_path / "bundle.build"
    recipe.write_text(QUICK)

    def there(pattern: str) -> Callable[[], bool]:
        return lambda: any(tmp_path.glob(pattern))

    # In a sequence model's training, in the writing of its lists, in the student's, and while the bundle is
    # written.
    for moment in (
        "*.build/sequence-*.state",
        "*.build/cache-*/ids.npy",
        "*.build/student-*.state",
        ".bundle.new-*",
    ):
        process = _start(shop, out, recipe)
        reached = there(moment)
        while process.poll() is None and not reached():
            time.sleep(0.002)
        assert process.poll() is None, f"ended before {moment}"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not out.exists()
    process = _start(shop, out, recipe)
    answer, _ = process.communicate()
    assert process.returncode == 0
    assert json.loads(answer)["verification"]["ok"]
    assert verify(out).ok
    assert not list(tmp_path.glob(".bundle.*"))
    assert work.is_dir()
    # The same student as the one that was never disturbed.
    for name in ("items.safetensors", "backbone.safetensors"):
        assert (out / name).read_bytes() == (built.bundle / name).read_bytes(), name
