"""The compression benchmark: everything is measured and adds up, and a run that was stopped goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pocketrec.errors import DataError
from pocketrec_export.build import build
from pocketrec_export.config import BuildConfig
from pocketrec_export.options import ExportOptions
from pocketrec_tools.batched_ranks import ranks_of
from pocketrec_tools.compression_bench import ARMS, KEPT, other_arm, run
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


def test_a_smaller_student_is_held_to_the_same_reference_and_seeds_are_pooled(
    student: tuple[Path, Path], tmp_path: Path
) -> None:
    checkpoint, data = student
    smaller = build(
        data,
        tmp_path / "bundle",
        BuildConfig.model_validate({**QUICK, "seed": 9}),
        ExportOptions(targets=()),
        teacher="none",
    ).checkpoint
    name, arm = other_arm(f"another seed={smaller}:int8")
    told = []
    for seed, first in enumerate((checkpoint, smaller)):
        found = run(
            first,
            data,
            tmp_path / "work",
            f"shop-{seed}",
            users=1000,
            runs=0,
            arms=["fp32", "int8"],
            seed=1,
            engines=("numpy",),
            batched=True,
            swept=False,
            others={name: arm},
            pool="shop",
            results=tmp_path / "results",
        )
        told.append(found["arms"])
    assert told[0][name]["ndcg@10"] == told[1][name]["ndcg@10"] == told[1]["int8"]["ndcg@10"]
    (tmp_path / "results" / "old.md").write_text("## old\n\nas it was\n")
    write_page(tmp_path / "page.md", tmp_path / "results")
    page = (tmp_path / "page.md").read_text()
    pooled = next(
        line for line in page.split("## shop: 2 seeds together")[1].splitlines() if "| int8" in line
    )
    mean = np.mean([each["int8"]["ndcg@10"] for each in told])
    assert f"| {mean:.4f} |" in pooled
    assert page.index("## shop: 2") < page.index("## old\n\nas it was\n") < page.index("## shop-0")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("tiny", "names no student"),
        ("tiny=.:int9", "no precision 'int9'"),
        ("tiny=nowhere:int8", "no checkpoint at nowhere"),
        ("int8=.:int8", "name of an arm"),
    ],
)
def test_what_is_no_other_student_is_named(text: str, named: str) -> None:
    with pytest.raises(DataError, match=named):
        other_arm(text)


def test_a_student_of_another_catalogue_is_refused(student: tuple[Path, Path], tmp_path: Path) -> None:
    data = make_demo_data(tmp_path / "data", seed=3, users=60, items=70)
    config = BuildConfig.model_validate(QUICK)
    made = build(data, tmp_path / "bundle", config, ExportOptions(targets=()), teacher="none").checkpoint
    with pytest.raises(DataError, match="its 70 items are not those"):
        run(
            *student,
            tmp_path / "work",
            "shop",
            users=50,
            runs=0,
            arms=["fp32"],
            seed=1,
            engines=("numpy",),
            others=dict([other_arm(f"other={made}:int8")]),
        )


def test_a_section_whose_figures_are_gone_is_not_shadowed(student: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "shop.md").write_text("## shop\n")
    with pytest.raises(DataError, match=r"shop\.md") as raised:
        run(*student, tmp_path / "out", "shop", users=20, runs=0, arms=["fp32"], seed=0, results=tmp_path)
    assert raised.value.code == "name-taken"


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
