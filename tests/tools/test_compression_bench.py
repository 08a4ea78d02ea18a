"""The compression benchmark: everything is measured and adds up, and a run that was stopped goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pocketrec_export.build import build
from pocketrec_export.config import BuildConfig
from pocketrec_export.options import ExportOptions
from pocketrec_tools.batched_ranks import ranks_of
from pocketrec_tools.compression_bench import ARMS, KEPT, run
from pocketrec_tools.compression_page import write_page
from pocketrec_tools.demo_data import make_demo_data
from pocketrec_tools.evaluate import evaluate

QUICK = {
    "student": {"size": "tiny", "length": 8, "dropout": 0.1},
    "training": {"epochs": 1, "positions": 256, "warmup_steps": 5, "mixed_precision": "no"},
}


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint, and its data."""
    root = tmp_path_factory.mktemp("bench")
    data = make_demo_data(root / "data", seed=3, users=120, items=60)
    config = BuildConfig.model_validate(QUICK)
    return build(data, root / "bundle", config, ExportOptions(targets=()), teacher="none").checkpoint, data


def test_all_arms_are_measured_and_the_page_has_them(student: tuple[Path, Path], tmp_path: Path) -> None:
    arms = ["fp32", "int8", "low rank 0.5 + int8"]
    assert set(arms) < set(ARMS)

    def again() -> dict[str, object]:
        return run(*student, tmp_path, "shop", users=50, runs=1, arms=arms, seed=1, engines=("numpy",))

    found = again()
    assert json.loads((tmp_path / "shop.json").read_text()) == found
    sizes = {name: arm["bytes"] for name, arm in found["arms"].items()}  # type: ignore[attr-defined]
    for size in sizes.values():
        assert sum(value for part, value in size.items() if part != "total") == size["total"]
    assert sizes["fp32"]["total"] > sizes["int8"]["total"] > sizes["low rank 0.5 + int8"]["total"]
    for name, arm in found["arms"].items():  # type: ignore[attr-defined]
        mean, low, high = arm["change"]
        assert low <= mean <= high
        assert arm["ndcg@10"] == pytest.approx(arm["of"] + mean)
        assert name != "fp32" or mean == 0
        assert 0 < arm["times"]["numpy"]["rank_ms"]["median"] < 10_000
    sweep = found["sweep"]
    assert {row["kept"] for row in sweep} == {1.0, *KEPT}  # type: ignore[attr-defined]
    assert all(np.isfinite(row["divergence"]) for row in sweep)  # type: ignore[attr-defined]
    # Nothing is exported again: the second run takes what is there.
    before = (tmp_path / "shop" / "int8" / "manifest.json").stat().st_mtime_ns
    assert again()["sweep"] == sweep
    assert (tmp_path / "shop" / "int8" / "manifest.json").stat().st_mtime_ns == before
    write_page(tmp_path / "page.md", tmp_path)
    page = (tmp_path / "page.md").read_text()
    for arm in arms:
        assert page.count(f"\n| {arm} |") == 2, "sizes, then times"
    assert "## shop" in page
    assert page.count("plain SVD") == len(KEPT)


def test_many_users_at_once_rank_as_the_runtime_does(student: tuple[Path, Path], tmp_path: Path) -> None:
    """With what the app shows alone, a narrow arm, and no times."""
    arms = ["fp32", "int8", "half as wide + int4", "low rank 0.5 + int8"]
    found = run(
        *student,
        tmp_path,
        "shop",
        users=1000,
        runs=0,
        arms=arms,
        seed=1,
        engines=("numpy",),
        display=["title"],
        batched=True,
        swept=False,
    )
    assert "sweep" not in found
    sizes = {name: arm["bytes"]["total"] for name, arm in found["arms"].items()}
    assert sizes["fp32"] > sizes["int8"] > sizes["half as wide + int4"]
    for name in arms:
        bundle = tmp_path / "shop" / found["arms"][name]["bundle"]
        report = evaluate(bundle, student[1], engine="numpy", progress=False)
        ranks = ranks_of(bundle, student[1], None, 0)
        assert len(ranks) == report.users > 100
        # One user in fifty may change places with a neighbour: an activation on a rounding border.
        assert np.mean(ranks != report.ranks) <= (0.0 if name == "fp32" else 0.02)
        assert np.abs(ranks - report.ranks).max() <= 2
    write_page(tmp_path / "page.md", tmp_path)
    page = (tmp_path / "page.md").read_text()
    assert "display columns: title" in page
    assert "by torch, many users at once" in page
    assert "| half as wide + int4 |" in page
