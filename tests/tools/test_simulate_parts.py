"""Figures, policies, devices and plots of the simulator against their definitions, written out."""

from __future__ import annotations

import math
import re
import xml.dom.minidom
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_data import tiny_rows, write_rows

from pocketrec import DataError
from pocketrec.bundle import Bundle
from pocketrec_tools.simulate_cost import cost
from pocketrec_tools.simulate_devices import DEVICES, device, macs
from pocketrec_tools.simulate_lists import SMOOTH, Calibration, Yardstick, gini, head
from pocketrec_tools.simulate_plots import draw_plots
from pocketrec_tools.simulate_policies import categories, cosines, explore, rerank
from pocketrec_tools.simulate_settings import Settings, pairs, unix_time
from tiny_bundle import ITEMS, write_tiny_bundle

counts = st.lists(st.integers(0, 50), min_size=1, max_size=30)


@given(counts)
def test_gini_is_half_the_relative_mean_difference(values: list[int]) -> None:
    n, total = len(values), sum(values)
    wanted = sum(abs(a - b) for a in values for b in values) / (2 * n * total) if total else 0.0
    assert gini(np.array(values)) == pytest.approx(wanted, abs=1e-12)


@given(
    st.lists(st.lists(st.sampled_from("abc"), unique=True, max_size=3), min_size=4, max_size=12), st.data()
)
def test_calibration_is_the_divergence_of_its_definition(items: list[list[str]], data: st.DataObject) -> None:
    place = st.integers(0, len(items) + 1)  # some are beyond what has categories
    own = data.draw(st.lists(place, max_size=8))
    listed = data.draw(st.lists(place, max_size=6))
    values = [tuple(item) for item in items]
    calibration = Calibration(values)
    for event in own:
        calibration.add(event)

    def shares(places: list[int]) -> dict[str, float]:
        known = [values[p] for p in places if p < len(values) and values[p]]
        return {g: sum((g in v) / len(v) for v in known) / len(known) for g in "abc"} if known else {}

    p, q = shares(own), shares(listed)
    found = calibration.of(listed)
    if not p or not q:
        assert found is None
        return
    wanted = sum(p[g] * math.log(p[g] / ((1 - SMOOTH) * q[g] + SMOOTH * p[g])) for g in "abc" if p[g] > 0)
    assert found == pytest.approx(max(0.0, wanted), abs=1e-9)


def test_figures_of_a_list_are_their_definitions(tmp_path: Path) -> None:
    with Bundle.open(write_tiny_bundle(tmp_path / "b")) as bundle:
        yardstick = Yardstick.of(bundle, None)
        seen = np.array(bundle.catalogue.seen, dtype=np.float64)
        assert yardstick.categories is not None
        assert yardstick.categories[7] == ("cat 2",)
        assert int(yardstick.popular.sum()) == math.ceil(ITEMS / 10)
        assert seen[yardstick.popular].min() >= seen[~yardstick.popular].max()
        places = [3, 9, 40, ITEMS + 5]  # the last one is not in this bundle
        found = yardstick.figures([places, [ITEMS], []])
        rows = bundle.tables["items"].rows(np.array(places[:3])).astype(np.float64)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        pairs_of = [(0, 1), (0, 2), (1, 2)]
        assert found["diversity"][0] == pytest.approx(1 - np.mean([rows[a] @ rows[b] for a, b in pairs_of]))
        share = (seen[places[:3]] + 1) / (seen.sum() + ITEMS)
        assert found["novelty"][0] == pytest.approx(float(np.mean(-np.log2(share))))
        assert all(values[1:] == [None, None] for values in found.values())
        with pytest.raises(DataError):
            Yardstick.of(bundle, "no such column")


@given(st.integers(1, 12), st.integers(1, 12), st.floats(0, 1), st.integers(0, 99))
def test_rerank_is_maximal_marginal_relevance(m: int, k: int, weight: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, rows = np.sort(rng.normal(size=m))[::-1], rng.normal(size=(m, 4))
    found = rerank(scores, rows, k, weight).tolist()
    assert len(found) == len(set(found)) == min(k, m)
    similar, spread = cosines(rows), scores.max() - scores.min()
    worth = (scores - scores.min()) / spread if spread else np.ones(m)
    for place, item in enumerate(found):
        chosen = found[:place]

        def value(i: int, chosen: list[int] = chosen) -> float:
            nearest = max((similar[i, j] for j in chosen), default=0.0)
            return float(weight * worth[i] - (1 - weight) * nearest)

        best = max(value(i) for i in range(m) if i not in chosen)
        assert value(item) == pytest.approx(best, abs=1e-9)
    if weight == 1:
        assert found == sorted(found)


@given(st.floats(0, 1), st.integers(0, 99))
def test_exploration_shows_only_what_is_allowed_and_unseen(chance: float, seed: int) -> None:
    allowed = np.arange(60) % 3 > 0
    shown = explore([1, 2, 4, 5], chance, allowed, {7, 8}, np.random.default_rng(seed))
    assert len(set(shown)) == 4
    for slot, position in enumerate(shown):
        assert position == [1, 2, 4, 5][slot] or (allowed[position] and position not in {7, 8})
    if chance == 0:
        assert shown == [1, 2, 4, 5]


def test_the_head_is_a_tenth_rounded_up_in_catalogue_order() -> None:
    assert head(np.array([1.0, 5, 5, 0])).tolist() == [False, True, False, False]
    assert int(head(np.ones(11)).sum()) == 2


def test_categories_are_the_parts_of_a_column() -> None:
    assert categories("Beauty > Hair | Beauty, Nails;") == ("Beauty", "Hair", "Nails")
    assert categories("  ") == ()


def test_devices_follow_their_formula() -> None:
    shape = {"layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "intermediate": 128}
    facts: dict[str, Any] = {"length": 50, "dim": 64, "backbone": shape, "table_bytes": 4_000_000}
    linears = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128
    assert macs(facts) == 2 * 50 * (linears + 2 * 50 * 64)
    mine = device("mine:4:2:0.5")
    assert mine.milliseconds(facts) == pytest.approx(0.5 + macs(facts) / 4e9 * 1e3 + 4e6 / 2e9 * 1e3)
    times = [entry.milliseconds(facts) for entry in DEVICES]
    assert times == sorted(times)
    for wrong in ("mine", "mine:a:1:1", "mine:0:1:1", "mine:1:1:-1"):
        with pytest.raises(DataError):
            device(wrong)


def test_dates_and_pairs() -> None:
    assert unix_time("1970-01-02") == unix_time("86400") == unix_time("1970-01-02T01:00:00+01:00") == 86_400
    assert unix_time(None) is None
    assert pairs(["a=b=c"]) == (("a", "b=c"),)
    for wrong in ("a", "=b", "a="):
        with pytest.raises(DataError):
            pairs([wrong])


def test_plots_are_sound_the_same_twice_and_say_what_they_show(tmp_path: Path) -> None:
    row = {"value": "<b>&", "hr@10": 0.5, "ndcg@10": 0.25}
    slices = {"history": [row], "part": [row], "target": [row]}
    breadth = dict.fromkeys(("coverage", "gini", "popular_share", "diversity"), 0.5) | {"kept_share": None}
    arms = [{"name": f"<{letter}>", "over_time": [], "slices": slices, "all": breadth} for letter in "AB"]
    difference = {
        "ours": "<A>", "theirs": "<B>", "metric": "ndcg@10", "over": "last events", "mean": 0.01,
        "low": -0.01, "high": 0.02, "decided": False,
    }  # fmt: skip
    document = {"k": 10, "arms": arms, "differences": [difference]}
    first, again = (draw_plots(document, tmp_path / name) for name in ("one", "two"))
    assert [plot.svg for plot in first] == [plot.svg for plot in again]
    assert [plot.name for plot in first] == ["history", "part", "target", "breadth", "differences"]
    for plot in first:
        xml.dom.minidom.parseString(plot.svg)
        assert "prefers-color-scheme" in plot.svg
        assert not re.search(r"#0[1-6]0[1-6]0[1-6]", plot.svg)
        assert (tmp_path / "one" / f"{plot.name}.svg").read_text("utf-8") == plot.svg
    assert "0.2500" in first[0].words
    assert "kept share" not in first[3].svg  # no arm has any
    assert first[0].words.startswith("<A>: ")
    for arm, bundle in zip(arms, ("new", "old"), strict=True):
        arm["bundle"] = {"name": bundle}
    assert draw_plots(document, tmp_path / "three")[0].words.startswith("<A>: new: ")
    assert "+0.0100 (-0.0100 to +0.0200)" in first[-1].words


def test_the_cost_is_of_as_many_lists_as_there_are_events(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "b")
    data = write_rows(tmp_path / "data", tiny_rows(12))
    found = cost(bundle, data, Settings(engine="numpy"))
    own = [row[0] for row in tiny_rows(12)]
    assert found["lists"] == sum(own.count(user) for user in set(own) if own.count(user) > 1)
    assert found["chunks"] == 1
    assert found["replay_cpu_ms_per_list"] > 0 < found["engine_cpu_ms_per_list"]
    for spread in (found[name] for name in ("ratio", "replay_lists_per_second", "engine_lists_per_second")):
        assert 0 < spread["least"] <= spread["median"] <= spread["most"]
    # The graph alone is a part of what a replay does.
    assert found["ratio"]["median"] > 1
