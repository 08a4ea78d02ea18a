"""From a checkpoint to a bundle under a budget: what is judged, chosen, refused, finished and reported.

Without graphs, so that nothing has to be lowered: the numpy engine runs every bundle here.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pocketrec.cli import app, main
from pocketrec.errors import DataError, PocketrecError
from pocketrec.verify import verify
from pocketrec_export import gate, precision_quality
from pocketrec_export.build import build
from pocketrec_export.checkpoint import Checkpoint, load_checkpoint
from pocketrec_export.compression_config import CompressionConfig
from pocketrec_export.config import BuildConfig
from pocketrec_export.data import load_dataset
from pocketrec_export.exporting import export_checkpoint
from pocketrec_export.gate import Attempt, BudgetError, Loss, attempts_table, doubt, measure
from pocketrec_export.metrics import ndcg_gains
from pocketrec_export.options import Budget, ExportOptions
from pocketrec_export.precision import int4, int8
from pocketrec_export.precision_plan import Planner
from pocketrec_export.precision_quality import Judge
from pocketrec_export.qat import finish
from pocketrec_export.report import file_sizes, recommendation
from pocketrec_export.report_plot import Point, frontier_plot, unbeaten

NUMPY = ExportOptions(targets=())


@dataclasses.dataclass
class World:
    """A trained student with its data, and the bundle and report that its build made."""

    directory: Path
    checkpoint: Checkpoint
    judge: Judge
    bundle: Path
    reports: Path
    figures: dict[str, Any]


@pytest.fixture(scope="module")
def world(shop: Path, quick: BuildConfig, tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("compression")
    config = quick.model_copy(update={"student": quick.student.model_copy(update={"dropout": 0.1})})
    made = build(shop, root / "bundle", config, NUMPY, teacher="none", report_dir=root / "reports")
    checkpoint = load_checkpoint(made.checkpoint)
    judge = Judge(checkpoint, load_dataset(shop))
    return World(made.checkpoint, checkpoint, judge, root / "bundle", root / "reports", made.figures)


def figures(bundle: Path) -> dict[str, Any]:
    return dict(json.loads((bundle / "manifest.json").read_text())["figures"]["compression"])


def size(bundle: Path) -> int:
    return sum(file_sizes(bundle).values())


def test_the_judge_agrees_with_the_training(world: World) -> None:
    trained = world.checkpoint.meta["trained"]["validation"]
    outcome = world.judge.float_student()
    assert len(outcome.ranks) == trained["users"]
    assert outcome.ndcg == pytest.approx(trained["ndcg@10"], abs=1e-3)
    assert outcome.divergence == 0


def test_a_build_keeps_the_path_to_the_runtime(world: World) -> None:
    found = figures(world.bundle)
    assert world.figures["compression"] == found
    assert [step["stage"] for step in found["path"]] == ["student", "quantised", "runtime, numpy"]
    student, quantised, runtime = (step["ndcg@10"] for step in found["path"])
    assert student == pytest.approx(world.judge.float_student().ndcg)
    assert quantised == pytest.approx(world.judge.judge(world.judge.float_backbone, int8, items(world)).ndcg)
    # One user in 150 whose item changes places with its neighbour.
    assert runtime == pytest.approx(quantised, abs=0.005)


def items(world: World) -> np.ndarray:
    return world.checkpoint.item_rows


def test_fewer_bits_diverge_more(world: World) -> None:
    backbone = world.judge.float_backbone
    eight, four = (world.judge.judge(backbone, p, items(world)).divergence for p in (int8, int4))
    assert 0 < eight < four / 10
    assert 0 < world.judge.word_divergence("int8") < world.judge.word_divergence("int4")
    assert world.judge.word_divergence("fp32") == 0


def test_no_held_out_event_is_calibrated_on(world: World) -> None:
    prefixes, data = world.judge.calibration(10**9), world.judge.dataset
    training = sum(max(int(n) - 2, 1) if n > 1 else int(n) for n in np.diff(data.offsets))
    assert len(prefixes) == len(prefixes.histories.items) <= training


def test_low_rank_goes_into_the_bundle(world: World, tmp_path: Path) -> None:
    settings = CompressionConfig(kept=0.6)
    told = export_checkpoint(world.checkpoint, tmp_path / "low", NUMPY, settings=settings, judge=world.judge)
    assert told.ok
    manifest = json.loads((tmp_path / "low" / "manifest.json").read_text())
    assert manifest["requires"] == ["low-rank"]
    found = figures(tmp_path / "low")
    assert [step["stage"] for step in found["path"]][:3] == ["student", "low rank", "quantised"]
    assert found["low_rank"]["kept"] <= 0.6
    backbone = "backbone.safetensors"
    assert file_sizes(tmp_path / "low")[backbone] < 0.8 * file_sizes(world.bundle)[backbone]


def test_a_search_stays_within_its_bytes_and_uses_them(world: World, tmp_path: Path) -> None:
    planner = Planner(world.checkpoint, NUMPY, CompressionConfig(), world.judge)
    small, large = (planner.simulated(name, p).bytes or 0 for name, p in (("int4", int4), ("int8", int8)))
    limit = (small + large) // 2
    options = dataclasses.replace(NUMPY, precision="search", budget=Budget(max_bytes=limit))
    export_checkpoint(world.checkpoint, tmp_path / "found", options, judge=world.judge)
    assert 0.9 * limit < size(tmp_path / "found") <= limit
    manifest = json.loads((tmp_path / "found" / "manifest.json").read_text())
    assert manifest["precision"] == "search"
    schemes = figures(tmp_path / "found")["schemes"]
    assert set(schemes) == {*world.judge.float_backbone.linears(), "tables.items", "tables.words"}
    assert manifest["tables"]["items"]["scheme"] == schemes["tables.items"]


def test_a_search_finds_the_smallest_within_a_loss(world: World, tmp_path: Path) -> None:
    options = dataclasses.replace(NUMPY, precision="search", budget=Budget(max_ndcg_loss=0.05))
    export_checkpoint(world.checkpoint, tmp_path / "found", options, judge=world.judge)
    path = figures(tmp_path / "found")["path"]
    assert path[-1]["ndcg@10"] >= 0.95 * path[0]["ndcg@10"]
    assert size(tmp_path / "found") < size(world.bundle)


@pytest.mark.parametrize(
    ("precision", "budget", "named"),
    [
        ("search", Budget(max_bytes=1000), "int4 (simulated)"),
        ("int8", Budget(max_bytes=1000), "| int8 |"),
        ("int8", Budget(max_ms=1e-6), "ms |"),
    ],
)
def test_what_cannot_be_kept_to_is_refused_with_what_was_tried(
    world: World, tmp_path: Path, precision: str, budget: Budget, named: str
) -> None:
    options = dataclasses.replace(NUMPY, precision=precision, budget=budget)
    with pytest.raises(BudgetError) as error:
        export_checkpoint(world.checkpoint, tmp_path / "out", options, judge=world.judge)
    assert error.value.code == "budget-missed"
    assert named in str(error.value)
    assert str(budget) in str(error.value)
    assert error.value.attempts
    assert not list(tmp_path.iterdir()), "nothing half is left"


def test_the_old_bundle_stays_when_the_new_one_is_refused(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_checkpoint(world.checkpoint, out, NUMPY)
    before = (out / "manifest.json").read_bytes()
    options = dataclasses.replace(NUMPY, budget=Budget(max_bytes=1000), force=True)
    with pytest.raises(BudgetError):
        export_checkpoint(world.checkpoint, out, options)
    assert (out / "manifest.json").read_bytes() == before
    assert verify(out).ok


def test_the_command_line(world: World, shop: Path, tmp_path: Path, capsys: Any) -> None:
    """Low rank, a limit that holds, and the report beside the bundle; then one that does not: status 1."""
    out = tmp_path / "bundle"
    command = ["export", str(world.directory), "--out", str(out), "--data", str(shop), "--targets", ""]
    command += ["--low-rank", "0.6", "--json"]
    with pytest.raises(SystemExit) as done:
        main([*command, "--max-bytes", "10000000"])
    assert done.value.code == 0
    printed = capsys.readouterr()
    said = json.loads(printed.out)
    assert said["verification"]["ok"]
    assert said["verification"]["path"] == said["bundle"] == str(out)
    lost = said["compression"]["lost"]
    assert lost["low"] <= lost["mean"] <= lost["high"]
    assert {file.name for file in tmp_path.iterdir()} == {
        "bundle", "bundle.report.html", "bundle.report.md"
    }  # fmt: skip
    with pytest.raises(SystemExit) as done:
        main([*command, "--force", "--max-bytes", "1000"])
    assert done.value.code == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "budget-missed"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--precision", "search"], "--max-bytes"),
        (["--low-rank", "0"], "kept"),
        (["--low-rank", "0.5"], "--data"),
        (["--width", "64"], "--data"),
        (["--max-ndcg-loss", "0.1"], "--data"),
        (["--max-ndcg-loss", "5"], "max-ndcg-loss"),
        (["--max-bytes", "0"], "max-bytes"),
        (["--max-ms", "-1"], "max-ms"),
    ],
)
def test_options_that_make_no_sense(world: World, tmp_path: Path, arguments: list[str], named: str) -> None:
    command = ["export", str(world.directory), "--out", str(tmp_path / "out"), "--targets", "", *arguments]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, PocketrecError)
    assert named in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_data_of_another_catalogue_is_refused(world: World) -> None:
    other = dataclasses.replace(world.checkpoint, item_ids=[*world.checkpoint.item_ids[1:], "another"])
    with pytest.raises(DataError) as error:
        Judge(other, world.judge.dataset)
    assert error.value.code == "catalogue-mismatch"


def test_finishing_brings_the_rounded_student_back(world: World) -> None:
    settings = CompressionConfig(finish_epochs=2)
    judge, backbone = world.judge, world.judge.float_backbone
    before = judge.judge(backbone, int4, items(world))
    finished, rows = finish(judge, backbone, int4, items(world), settings)
    after = judge.judge(finished, int4, rows)
    assert after.divergence < 0.6 * before.divergence
    assert rows.dtype == np.float32
    cold = world.checkpoint.seen == 0
    assert cold.any()
    np.testing.assert_array_equal(rows[cold], items(world)[cold])
    assert not any(p.requires_grad for p in finished.parameters())
    assert judge.judge(judge.float_backbone, int4, items(world)).divergence == before.divergence


def test_finishing_that_makes_it_worse_is_left(world: World) -> None:
    settings = CompressionConfig(finish_epochs=1, finish_rate=10.0)
    finished, rows = finish(world.judge, world.judge.float_backbone, int8, items(world), settings)
    assert finished is world.judge.float_backbone
    assert rows is items(world)


def test_the_report_of_a_build(world: World) -> None:
    page = (world.reports / "bundle.report.html").read_text()
    text = (world.reports / "bundle.report.md").read_text()
    assert page.count("<svg") == 1
    assert not re.search(r"(src|href)=|https?://|@import", page), "one file, nothing is fetched"
    for name in ("fp32", "int8", "int4", "mixed"):
        assert re.search(rf"^\| {name} \|.*simulated", text, re.MULTILINE)
    assert re.search(r"^\| int8 \|.*measured", text, re.MULTILINE)
    sizes = {name: entry.stat().st_size for name, entry in ((f.name, f) for f in world.bundle.iterdir())}
    for name, file_size in sizes.items():
        assert f"| {name} |" in text
        assert f"{file_size:,}" in text
    assert f"{sum(sizes.values()):,}" in text


def test_the_recommendation() -> None:
    tried = [
        Attempt("fp32", 100, 0.5, Loss(0.0, 0.0, 0.0, 900)),
        Attempt("int8", 30, 0.499, Loss(0.002, -0.01, 0.014, 900), 1.0, True),
        Attempt("int4", 20, 0.4, Loss(0.2, 0.1, 0.3, 900)),
        Attempt("int8", 28, 0.4, Loss(0.2, 0.1, 0.3, 900)),
    ]
    assert "int8 is the smallest: 30 bytes, 0.20% (-1.00% … 1.40%) lost (measured)" in recommendation(tried)
    assert "fp32 is what is left" in recommendation([tried[2]])
    assert "--data" in recommendation([Attempt("int8", 30, measured=True)])
    table = attempts_table(tried)
    assert "| int8 | 30 | 0.4990 | 0.20% (-1.00% … 1.40%) | 1.00 |" in table
    assert "| int4 (simulated) | 20 |" in table


def test_a_loss_has_the_interval_of_its_users() -> None:
    random = np.random.default_rng(0)
    reference = random.integers(1, 20, 4000)
    worse = np.where(random.random(4000) < 0.1, reference + 1, reference)
    many, few = Loss.of(worse, reference), Loss.of(worse[:100], reference[:100])
    assert 0 < many.low < many.part < many.high
    assert many.users == 4000
    assert few.high - few.low > 3 * (many.high - many.low)
    assert Loss.of(reference, reference) == Loss(0.0, 0.0, 0.0, 4000)
    assert Loss.of(reference, np.full(4000, 99)).part == pytest.approx(-np.mean(ndcg_gains(reference)))


def test_what_the_users_cannot_tell_is_said() -> None:
    limit = Budget(max_ndcg_loss=0.002)
    wide, clear = Loss(0.001, -0.003, 0.005, 900), Loss(0.0005, -0.0003, 0.0015, 20_000)
    told = doubt(Attempt("int8", 1, 0.5, wide, 1.0, True), limit)
    assert told is not None
    assert "900 users cannot tell 0.20%" in told
    assert "compression.validation_users" in told
    told = doubt(Attempt("int8", 1, 0.5, dataclasses.replace(wide, everyone=True), 1.0, True), limit)
    assert told is not None
    assert "all there are" in told
    assert "validation_users" not in told
    assert doubt(Attempt("int8", 1, 0.5, clear, 1.0, True), limit) is None
    assert doubt(Attempt("int8", 1, 0.5, wide, 1.0, True), Budget()) is None
    refused = Attempt("int8", 1, 0.5, Loss(0.003, -0.003, 0.006, 900), 1.0, True, ("ndcg",))
    assert "900 users cannot tell" in str(BudgetError(limit, [refused]))


def test_many_users_are_ranked_from_the_files_and_some_by_the_runtime(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reference = world.judge.float_student().ranks
    all_run = measure(world.bundle, world.judge, reference)
    assert all_run["run"] == all_run["users"] == len(world.judge.user_rows)
    monkeypatch.setattr(precision_quality, "SAMPLE", 40)
    judge = Judge(world.checkpoint, world.judge.dataset)
    mixed = measure(world.bundle, judge, reference)
    assert (mixed["run"], mixed["users"]) == (40, all_run["users"])
    assert mixed["ndcg@10"] == pytest.approx(all_run["ndcg@10"], abs=0.005)
    assert mixed["loss"].low <= mixed["loss"].part <= mixed["loss"].high
    # Batches that rank otherwise than the runtime are not believed.
    monkeypatch.setattr(gate, "bundle_ranks", lambda *_: np.full(all_run["users"], 77))
    with caplog.at_level("WARNING"):
        assert measure(world.bundle, judge, reference)["ndcg@10"] == all_run["ndcg@10"]
    assert "it ranks all" in caplog.text


def test_the_judge_compares_scores_on_a_sample(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_quality, "SAMPLE", 40)
    judge = Judge(world.checkpoint, world.judge.dataset)
    assert len(judge.sample) == 40
    outcome = judge.judge(judge.float_backbone, int4, items(world))
    assert len(outcome.ranks) == len(judge.user_rows)
    assert outcome.divergence == judge.divergence(judge.float_backbone, int4, items(world))
    whole = world.judge.judge(judge.float_backbone, int4, items(world)).divergence
    assert outcome.divergence == pytest.approx(whole, rel=0.5)


def test_the_plot() -> None:
    points = [Point("a<b", 100, 0.5, True), Point("c", 50, 0.4, False), Point("d", 80, 0.3, False)]
    assert [p.label for p in unbeaten(points)] == ["c", "a<b"]
    svg = frontier_plot(points)
    assert svg.count("<circle") == 3
    assert "a&lt;b" in svg
    assert "nan" not in frontier_plot([Point("one", 100, 0.0, True)])
