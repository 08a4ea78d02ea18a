"""The frontier: peers judged by our rule on our split, and a page that says who is ahead in what."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_data import tiny_rows, write_rows

from pocketrec_export.metrics import Metrics, pessimistic_rank
from pocketrec_export.split import Part
from pocketrec_tools import frontier_replay, frontier_worker
from pocketrec_tools.bench_report import Figure, ListFigure, write_between
from pocketrec_tools.frontier import KNN, OURS, REPLAY, REQUIREMENTS, Frontier, Way, frontier
from pocketrec_tools.frontier_page import page
from pocketrec_tools.quality_peers import write_split
from pocketrec_tools.quality_records import QualityData
from support import ROOT, not_applicable
from tiny_bundle import write_tiny_bundle


@pytest.fixture
def shop(tmp_path: Path) -> QualityData:
    """Shoppers of the tiny bundle, and every odd case."""
    return QualityData.load(write_rows(tmp_path / "shop", tiny_rows()))


@pytest.mark.parametrize("part", ["validation", "test"])
def test_peers_are_asked_about_our_users_and_targets(shop: QualityData, tmp_path: Path, part: Part) -> None:
    write_split(shop.split, tmp_path / "split.csv")
    histories, targets = frontier_worker.held_out(str(tmp_path / "split.csv"), part)
    split, items = shop.split, shop.dataset.items
    users = split.users_for(part)
    assert targets.tolist() == split.target_items(part).tolist()
    assert len(histories) == len(users)
    for user, history in zip(users.tolist(), histories, strict=True):
        assert history.tolist() == items[split.history(user, part)].tolist()


@given(
    scores=st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=6, max_size=6),
    seen=st.lists(st.integers(0, 5), min_size=1, max_size=8),
    target=st.integers(0, 5),
)
def test_their_targets_rank_by_our_rule(scores: list[float], seen: list[int], target: int) -> None:
    made, history, wanted = np.array(scores, np.float32), np.array(seen), np.array([target])
    want = pessimistic_rank(made[None].copy(), wanted, [history]).tolist()
    assert frontier_worker.ranks(lambda _: made.copy(), [history], wanted) == want


@given(lengths=st.lists(st.integers(2, 60), min_size=1, max_size=200), size=st.integers(1, 16))
def test_every_history_is_in_one_batch(lengths: list[int], size: int) -> None:
    histories = [np.full(length, at) for at, length in enumerate(lengths)]
    made = frontier_replay.batches(histories, size, np.random.default_rng(0))
    assert sorted(history[0] for part in made for history in part) == list(range(len(lengths)))
    assert all(len(part) <= size for part in made)


def figure(value: float) -> Figure:
    return Figure(value, value, value)


def way(ndcg: float, size: int, ms: float, peak: float) -> Way:
    return Way(
        metrics=Metrics(1000, 10, 2 * ndcg, ndcg, ndcg),
        bytes=size,
        detail=f"model {size / 1e6:.2f}",
        ms=ListFigure(ms, ms, ms, ms, ms),
        ready_ms=figure(100),
        first_ms=figure(5),
        cpu_ms=figure(ms),
        peak_bytes=figure(peak),
    )


def test_the_page_says_who_is_ahead_in_what_and_what_a_list_is_made_of(tmp_path: Path) -> None:
    found = Frontier(
        ways={
            OURS: way(0.07, 10_000_000, 0.6, 100e6),
            REPLAY: way(0.05, 13_000_000, 0.5, 400e6),
            KNN: way(0.04, 9_000_000, 0.1, 50e6),
        },
        trained={
            "epochs": 22,
            "best_epoch": 21,
            "best": 0.06,
            "minutes": 2.0,
            "processor_minutes": 3.5,
            "stopped": "minutes",
            "threads": 2,
        },
        neighbours={"kind": "TFIDFRecommender", "neighbours": 400, "recency": True},
        parts={
            "inputs_ms": ListFigure(0.05, 0.05, 0.05, 0.05, 0.05),
            "graph_ms": ListFigure(0.3, 0.3, 0.3, 0.3, 0.3),
            "scan_ms": ListFigure(0.1, 0.1, 0.1, 0.1, 0.1),
        },
        runs=3,
        lists=50,
        data="shop",
        bundle="`shop`, int8",
        versions={"replay-rec": "0.22.0"},
    )
    text = page(found, "the command")
    assert f"| {OURS} | 0.0700 | 0.1400 | 10.00 | 0.600 |" in text
    assert f"{REPLAY}: ahead in quality, bytes and memory, behind in milliseconds" in text
    assert f"{KNN}: ahead in quality, behind in bytes, milliseconds and memory" in text
    assert "`rank` in all is 1.50 × the bare engine and the bare scan." in text
    assert "22 epochs, the best of them the 21st" in text
    target = tmp_path / "page.md"
    target.write_text("<!-- measured -->\n<!-- end -->\n")
    write_between(target, text)
    assert text in target.read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_peers_are_trained_and_served_by_their_own_packages(shop: QualityData, tmp_path: Path) -> None:
    """One epoch, in the environment that an earlier benchmark made: it is gigabytes large."""
    there = ROOT / "runs" / "frontier" / "replay-0.22.0"
    if not (there / "complete").exists() or (there / "complete").read_text() != "\n".join(REQUIREMENTS):
        not_applicable(
            "the environment of the peers is what `make bench-frontier` made, which was not run here"
        )
    work = tmp_path / "work"
    work.mkdir()
    (work / "replay-0.22.0").symlink_to(there)
    bundle = write_tiny_bundle(tmp_path / "bundle")
    found = frontier(bundle, shop.path, work, runs=1, lists=5, minutes=0.0)
    assert found.trained["epochs"] == 1
    assert json.loads((work / shop.name / "knn.json").read_text()) == found.neighbours
    for figures in found.ways.values():
        assert figures.metrics.users == len(shop.split.users_for("test"))
        assert figures.bytes > 0
        assert figures.ms.median > 0
