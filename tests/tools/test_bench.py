"""`bench` on a tiny bundle: that everything is measured, and adds up; never how long it took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_data import tiny_rows, write_rows

from pocketrec.bundle import Bundle
from pocketrec.cli import main
from pocketrec.errors import BundleError, DataError, PocketrecError
from pocketrec_tools.bench import bench, part_sizes, random_histories
from pocketrec_tools.bench_report import BenchReport, Figure, ListFigure
from support import ROOT
from tiny_bundle import EVENTS, ITEMS, LENGTH, write_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "b")


@pytest.fixture(scope="module")
def report(bundle: Path) -> BenchReport:
    return bench(bundle, runs=3, lists=7, progress=False)


def test_every_figure_is_there(report: BenchReport) -> None:
    assert list(report.engines) == ["numpy"]
    figures = report.engines["numpy"]
    assert figures.version == np.__version__
    assert figures.overhead > 0
    for name in (
        "process_ms",
        "cold_ms",
        "cpu_ms",
        "import_ms",
        "open_ms",
        "verify_ms",
        "load_ms",
        "first_ms",
        "peak_bytes",
    ):
        figure: Figure = getattr(figures, name)
        assert 0 < figure.low <= figure.median <= figure.high, name
    for name in ("rank_ms", "inputs_ms", "graph_ms", "scan_ms"):
        many: ListFigure = getattr(figures, name)
        assert 0 < many.p10 <= many.median <= many.p90, name
        assert 0 < many.low <= many.high, name
    assert figures.peak_bytes.median > 1_000_000
    assert (report.runs, report.lists, report.items, report.length) == (3, 7, ITEMS, LENGTH)
    assert set(report.unusable) == {"onnxruntime", "executorch"}
    assert "no graph" in report.unusable["onnxruntime"]


def test_sizes_add_up(bundle: Path, report: BenchReport) -> None:
    on_disk = {file.name: file.stat().st_size for file in bundle.iterdir()}
    sizes = dict(report.bytes)
    assert sizes["total"] == sum(on_disk.values())
    assert sizes["item table"] == on_disk["items.safetensors"]
    assert sizes["graph numpy"] == on_disk["backbone.safetensors"]
    assert sizes.pop("total") == sum(sizes.values())


def test_every_graph_has_its_size(tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "b", onnx=b"o" * 11, pte=b"p" * 13)
    with Bundle.open(path) as opened:
        sizes = part_sizes(opened)
    assert (sizes["graph onnxruntime"], sizes["graph executorch"]) == (11, 13)
    assert sizes.pop("total") == sum(sizes.values())


def test_made_up_histories(bundle: Path) -> None:
    with Bundle.open(bundle) as opened:
        made = random_histories(opened.catalogue, opened.manifest, 300, 5)
        assert made == random_histories(opened.catalogue, opened.manifest, 300, 5)
        assert made != random_histories(opened.catalogue, opened.manifest, 300, 6)
        drawn = np.zeros(ITEMS)
        for history in made:
            for item, event, _ in history:
                position = opened.catalogue.position(item)
                assert position is not None
                drawn[position] += 1
                assert event in EVENTS
        prior = opened.catalogue.prior
    assert {len(history) for history in made} == set(range(1, LENGTH + 1))
    for history in made:
        times = [time for _, _, time in history if time is not None]
        assert times == sorted(times)
        assert len(times) == len(history)
    assert np.corrcoef(drawn, prior)[0, 1] > 0.9


def test_figures_by_hand() -> None:
    assert Figure.of([3.0, 1.0, 8.0]) == Figure(3.0, 1.0, 8.0)
    found = ListFigure.of([[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]])
    assert (found.median, found.low, found.high) == (4.0, 2.0, 6.0)
    assert found.p10 == pytest.approx(1.5)
    assert found.p90 == pytest.approx(6.5)


def test_table_has_a_column_for_each_engine(report: BenchReport) -> None:
    headers, rows = report.table()
    assert headers == ["", f"numpy {np.__version__}"]
    assert all(len(row) == 2 for row in rows)
    assert {"warm list", "peak memory", "open"} <= {row[0] for row in rows}
    said = " ".join(report.remarks())
    assert "3 runs" in said
    assert "seed 0" in said


def test_the_page_describes_every_figure(report: BenchReport) -> None:
    page = (ROOT / "docs" / "benchmarks" / "README.md").read_text(encoding="utf-8")
    measured = set(report.to_dict()["engines"]["numpy"]) - {"version"}
    assert not [key for key in measured if f"`{key}`" not in page]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the command line."""
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    captured = capsys.readouterr()
    return int(left.value.code or 0), captured.out, captured.err


def test_json_with_the_histories_of_a_data_directory(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "data", tiny_rows())
    options = ("--engine", "numpy", "--runs", "1", "--lists", "5", "--data", str(data), "--json")
    status, out, err = run(capsys, "bench", str(bundle), *options)
    found: dict[str, Any] = json.loads(out)
    assert status == 0
    assert "run 1 of 1" in err
    assert (found["runs"], found["lists"], found["threads"], found["seed"]) == (1, 5, 1, 0)
    assert "5 test users" in found["histories"]
    assert set(found["engines"]) == {"numpy"}
    assert set(found["engines"]["numpy"]["rank_ms"]) == {"median", "p10", "p90", "low", "high"}
    assert set(found["engines"]["numpy"]["process_ms"]) == {"median", "low", "high"}
    assert found["machine"]["cores"] >= 1
    assert found["unusable"] == {}


def test_text(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "bench", str(bundle), "--runs", "1", "--lists", "2")
    assert status == 0
    assert "warm list" in out
    assert "Not measured: the bundle has no graph for the engine 'executorch'." in out


def test_the_worker_is_alone_in_its_process(bundle: Path) -> None:
    """No torch, no polars, no export in the process whose memory and time are taken."""
    code = (
        "import sys; from pocketrec_tools import bench_worker;"
        "assert not any(name in sys.modules for name in ('numpy', 'pydantic', 'pocketrec.recommender'));"
        f"job = dict(bundle={str(bundle)!r}, engine='numpy', histories=[[('i00', '', None)]]);"
        "bench_worker.measure(job);"
        "assert not any(name in sys.modules for name in ('torch', 'polars', 'pocketrec_export', 'rich'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_bad_input(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="0 runs") as few:
        bench(bundle, runs=0)
    assert few.value.code == "bench-invalid"
    with pytest.raises(BundleError):
        bench(tmp_path / "none")
    with pytest.raises(PocketrecError) as refused:
        bench(bundle, engine="onnxruntime")
    assert refused.value.code == "engine-unavailable"
    status, out, err = run(capsys, "bench", str(bundle), "--engine", "abacus", "--json")
    assert status == 2
    assert json.loads(out)["error"]["code"] == "engine-unavailable"
    assert "abacus" in err


def test_a_process_that_fails_is_an_error(tmp_path: Path) -> None:
    broken = write_tiny_bundle(tmp_path / "b", onnx=b"no graph at all")
    with pytest.raises(PocketrecError, match=r"model\.onnx") as failed:
        bench(broken, engine="onnxruntime", runs=1, lists=1, progress=False)
    assert failed.value.code == "process-failed"
