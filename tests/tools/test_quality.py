"""The quality benchmark as a whole, on a small shop: records, resuming, failures, page, command line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pocketrec.errors import DataError
from pocketrec_export.data import load_dataset
from pocketrec_export.metrics import Metrics
from pocketrec_export.split import leave_one_out
from pocketrec_tools import quality
from pocketrec_tools.demo_data import make_demo_data
from pocketrec_tools.evaluate import evaluate
from pocketrec_tools.quality import Outcome, Plan, run_quality
from pocketrec_tools.quality_intervals import read_intervals
from pocketrec_tools.quality_records import QualityData, Store
from pocketrec_tools.quality_report import Expected, page
from pocketrec_tools.quality_runs import ARMS, Arm, Recipe

RECIPE = """
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
rankers = ["sequence", "neighbours"]
dropouts = [0.2]
top_k = 30
"""
QUICK_PEERS = ("popularity", "text", "item-knn")
RUNS = {"popularity-0", "text-0", "item-knn-0", "duokd-0", "teacher-0", "cold-0"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo_data(tmp_path_factory.mktemp("quality") / "shop", seed=3, users=120, items=100)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    recipe = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    recipe.write_text(RECIPE)
    return Plan(Expected(("duokd", "teacher"), QUICK_PEERS, (0,), (0,), (0,)), Recipe(recipe))


@pytest.fixture(scope="module")
def done(shop: Path, plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Outcome, Path]:
    folder = tmp_path_factory.mktemp("done")
    store = Store(folder / "quality", folder / "work")
    outcome = run_quality([shop], plan, store, folder / "quality.md")
    return store, outcome, folder / "quality.md"


def test_every_run_leaves_a_record(done: tuple[Store, Outcome, Path], shop: Path) -> None:
    store, outcome, _ = done
    assert not outcome.failed
    # The default recipe has noted its teacher down, so that it was there when its turn came.
    assert outcome.found == ["shop teacher 0"]
    assert {file.stem for file in (store.results / "shop").glob("*.json")} == {*RUNS, "intervals"}
    dataset = load_dataset(shop)
    for record in store.records("shop"):
        assert record.data.fingerprint == dataset.fingerprint
        assert record.data.users == 120
        assert record.commit
        assert record.machine["cores"]
        assert record.minutes > 0
        assert 0 <= record.test["ndcg@10"] <= record.test["hr@10"] <= 1
        if record.arm == "duokd":
            assert record.training["student"] > 0


def test_figures_are_those_of_the_bundle_and_of_its_ranks(
    done: tuple[Store, Outcome, Path], shop: Path
) -> None:
    store, _, _ = done
    report = evaluate(store.work / "shop" / "bundles" / "duokd-0", shop, progress=False)
    record = store.find("shop", "duokd", 0)
    assert record is not None
    ranks = store.ranks(record)
    assert ranks is not None
    assert ranks.dtype == np.int32
    assert ranks.tolist() == np.minimum(report.ranks, 11).tolist()
    assert record.test == report.metrics.to_dict()
    teacher = store.find("shop", "teacher", 0)
    assert teacher is not None
    ranks = store.ranks(teacher)
    assert ranks is not None
    assert teacher.test == Metrics.from_ranks(ranks).to_dict()
    assert record.details["bundle_bytes"] == report.bundle_bytes


def test_head_and_tail_are_parts_of_the_whole(done: tuple[Store, Outcome, Path], shop: Path) -> None:
    store, _, _ = done
    split = leave_one_out(load_dataset(shop))
    counts = split.train_counts
    head = sorted(range(len(counts)), key=lambda item: (-counts[item], item))
    head = head[: -(-int(np.count_nonzero(counts)) // 5)]
    inside = np.isin(split.target_items("test"), head)
    for record in store.records("shop"):
        if record.ranks:
            ranks = store.ranks(record)
            assert ranks is not None
            assert record.data.head_items == len(head)
            assert record.head == Metrics.from_ranks(ranks[inside]).to_dict()
            assert record.tail == Metrics.from_ranks(ranks[~inside]).to_dict()


def test_what_is_there_is_not_made_again(
    done: tuple[Store, Outcome, Path], shop: Path, plan: Plan, tmp_path: Path
) -> None:
    store, _, _ = done
    before = {file: file.read_bytes() for file in store.results.rglob("*.json")}
    again = run_quality([shop], plan, store, None)
    assert again.made == []
    assert len(again.found) == len(RUNS)
    assert {file: file.read_bytes() for file in store.results.rglob("*.json")} == before
    quick = replace(plan, runs=Expected((), QUICK_PEERS, (0,), (0,), ()))
    # Gone, as after a kill; and of other data.
    store.file("shop", "popularity", 0).unlink()
    other = store.file("shop", "text", 0)
    other.write_text(other.read_text().replace('"fingerprint": "', '"fingerprint": "0'))
    assert run_quality([shop], quick, store, None).made == ["shop popularity 0", "shop text 0"]
    # A quick one also for want of its ranks, which the intervals need.
    record = store.find("shop", "item-knn", 0)
    assert record is not None
    store.ranks_file(record).unlink()
    assert run_quality([shop], quick, store, None).made == ["shop item-knn 0"]
    assert run_quality([shop], replace(quick, redo=True), store, None).found == []


def test_the_page_has_the_figures_and_says_what_is_missing(done: tuple[Store, Outcome, Path]) -> None:
    store, _, file = done
    text = file.read_text(encoding="utf-8")
    assert "## shop" in text
    for record in store.records("shop"):
        assert f"{record.test['ndcg@10']:.4f}".lstrip("0") in text, record.arm
    missing = next(line for line in text.splitlines() if line.startswith("**Not measured here**"))
    for name in ("none", "positives", "negatives", "no-reliability", "kl", "sasrec", "esasrec"):
        assert f" {name} (seed 0)" in missing
    for name in ("duokd", "teacher", "popularity", "item-knn", "cold"):
        assert f" {name} (seed 0)" not in missing
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    for title in ("What distillation adds", "DuoKD against each", "Head and tail", "Cold items"):
        assert f"### {title} on shop" in text
    assert {i.theirs for i in read_intervals(store, "shop")} == {"teacher", *QUICK_PEERS}


def test_a_page_of_nothing_and_of_one_arm(done: tuple[Store, Outcome, Path], tmp_path: Path) -> None:
    store, _, _ = done
    assert "Nothing has been measured" in page(Store(tmp_path, tmp_path), Expected())
    named = page(Store(tmp_path, tmp_path), Expected(), ["later"])
    assert "## later" in named
    assert "duokd (seed 0, 1, 2)" in named
    one = Store(tmp_path / "one", store.work)
    one.file("shop", "duokd", 0).parent.mkdir(parents=True)
    one.file("shop", "duokd", 0).write_bytes(store.file("shop", "duokd", 0).read_bytes())
    text = page(one, Expected())
    assert "none (seed 0, 1, 2)" in text
    assert "duokd (seed 1, 2)" in text
    assert "No interval" not in text
    one.file("shop", "text", 0).write_bytes(store.file("shop", "text", 0).read_bytes())
    assert "**No interval** against text" in page(one, Expected())


def test_the_page_alone_drops_the_interval_of_a_record_that_is_gone(
    done: tuple[Store, Outcome, Path], tmp_path: Path
) -> None:
    store, _, _ = done
    here = Store(shutil.copytree(store.results, tmp_path / "quality"), store.work)
    file = tmp_path / "quality.md"
    folders = ("--results", str(here.results), "--work", str(here.work), "--page", str(file))

    def report() -> set[str]:
        assert CliRunner().invoke(quality.app, ["--report-only", *folders]).exit_code == 0
        return {i.theirs for i in read_intervals(here, "shop")}

    assert report() == {"teacher", *QUICK_PEERS}
    assert "`popularity`" in file.read_text()
    here.file("shop", "popularity", 0).unlink()
    assert report() == {"teacher", *QUICK_PEERS} - {"popularity"}
    assert "`popularity`" not in file.read_text()


def test_cold_items_are_in_the_catalogue_and_nowhere_else(
    done: tuple[Store, Outcome, Path], shop: Path
) -> None:
    from pocketrec_export.checkpoint import load_checkpoint
    from pocketrec_tools.quality_cold import hold_out

    store, _, _ = done
    whole = load_dataset(shop)
    cold = hold_out(whole, 0)
    reduced = load_dataset(store.work / "shop" / "cold-0" / "data")
    assert reduced.item_ids == whole.item_ids
    assert reduced.texts == whole.texts
    assert not np.isin(reduced.items, cold.items).any()
    assert reduced.num_events == whole.num_events - cold.events
    (checkpoint,) = (store.work / "shop" / "cold-0" / "seed-0").glob("student-*/")
    assert (load_checkpoint(checkpoint).seen[cold.items] == 0).all()
    record = store.find("shop", "cold", 0)
    assert record is not None
    assert record.test["users"] == len(cold.users)
    for name in ("random", "text", "popularity"):
        mean, low, high = record.details[name]["gain"]
        assert low <= mean <= high
        assert mean == pytest.approx(record.test["ndcg@10"] - record.details[name]["ndcg@10"])


def test_a_run_that_fails_does_not_stop_the_others(
    shop: Path, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ARMS, "broken", Arm("broken", changes={"duokd": {"no_such_setting": 1}}))
    runs = Expected(("broken",), ("popularity",), (0,), (0,), ())
    store = Store(tmp_path / "quality", tmp_path / "work")
    outcome = run_quality([shop], replace(plan, runs=runs), store, tmp_path / "page.md")
    assert outcome.made == ["shop popularity 0"]
    assert list(outcome.failed) == ["shop broken 0"]
    assert "no_such_setting" in outcome.failed["shop broken 0"]
    with pytest.raises(DataError, match=r"no arm 'nobody'.*none,duokd"):
        run_quality([shop], replace(plan, runs=Expected(("nobody",), ())), store, None)
    with pytest.raises(DataError, match=r"no peer 'nobody'.*popularity"):
        run_quality([shop], replace(plan, runs=Expected((), ("nobody",))), store, None)


def test_command_line(shop: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        folders = ["--results", str(tmp_path / "r"), "--work", str(tmp_path / "w"), "--page", str(page_file)]
        result = CliRunner().invoke(quality.app, [*arguments, *folders])
        return result.exit_code, f"{result.output}{result.exception}"

    page_file = tmp_path / "quality.md"
    quick = ("--arms", "", "--peers", "popularity", "--cold-seeds", "")
    assert run(str(shop), *quick)[0] == 0
    record = json.loads((tmp_path / "r" / "shop" / "popularity-0.json").read_text())
    assert f"{record['test']['ndcg@10']:.4f}"[1:] in page_file.read_text()
    page_file.unlink()
    assert run("--report-only")[0] == 0
    assert "## shop" in page_file.read_text()
    for arguments, said in (
        (("nowhere",), "nowhere"),
        ((str(shop), "--seeds", "one"), "'one'"),
        ((str(shop), "--arms", "nobody"), "nobody"),
    ):
        status, output = run(*arguments)
        assert status != 0
        assert said in output


def test_data_is_found_by_path_and_by_name(shop: Path) -> None:
    assert quality.find_data(str(shop)) == shop
    assert quality.find_data("shop", shop.parent) == shop
    with pytest.raises(DataError, match="POCKETREC_SHARED_DATA"):
        quality.find_data("shop", shop)
    assert QualityData.load(shop).name == "shop"
