"""Parts of the quality benchmark against their definitions, in plain loops or by hand."""

from __future__ import annotations

import gzip
import json
import math
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_data import tiny_rows, write_rows

from pocketrec.errors import DataError
from pocketrec_export.data import Dataset, load_dataset
from pocketrec_export.metrics import Metrics, ndcg_gains, pessimistic_rank
from pocketrec_export.split import leave_one_out
from pocketrec_tools.demo_data import make_demo_data
from pocketrec_tools.quality_anchors import ANCHORS, published
from pocketrec_tools.quality_cold import (
    compared,
    hold_out,
    popularity_scores,
    random_gains,
    write_without,
)
from pocketrec_tools.quality_intervals import read_intervals, update_intervals
from pocketrec_tools.quality_neighbours import (
    history_weights,
    neighbour_scores,
    text_vectors,
    user_ranks,
    user_vectors,
)
from pocketrec_tools.quality_peers import PEERS, long_histories, rectools_place, run_peer, write_split
from pocketrec_tools.quality_records import QualityData, Record, Store
from pocketrec_tools.quality_rectools import longer, pessimistic
from pocketrec_tools.quality_runs import ARMS, Recipe
from support import ROOT


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo_data(tmp_path_factory.mktemp("parts") / "shop", seed=5, users=60, items=80)


@pytest.fixture(scope="module")
def data(shop: Path) -> QualityData:
    return QualityData.load(shop)


def test_user_similarity_by_definition(data: QualityData) -> None:
    dataset, split = data.dataset, data.split
    basket = [set(dataset.items[split.train_slice(user)].tolist()) for user in range(dataset.num_users)]
    weight = [max(0.0, math.log(dataset.num_items / (1 + len(items)))) for items in basket]

    def product(a: int, b: int) -> float:
        return sum(w * w for w, items in zip(weight, basket, strict=True) if a in items and b in items)

    vectors = user_vectors(split)
    history = dataset.items[split.history(3, "test")]
    scores = neighbour_scores([history], (vectors @ vectors.T).tocsr())[0]
    for item in range(dataset.num_items):
        expected = 0.0
        for back, other in enumerate(reversed(history.tolist())):
            length = math.sqrt(product(item, item) * product(other, other))
            expected += 0.7**back * product(item, other) / length if length else 0.0
        assert scores[item] == pytest.approx(expected, abs=1e-5)
    both = neighbour_scores([history], vectors, vectors.T.tocsr())[0]
    assert both == pytest.approx(scores, abs=1e-6)


def test_recency_weights_by_hand() -> None:
    weights = history_weights([np.array([2, 0, 2]), np.array([1])], 3).toarray()
    assert weights.tolist() == [[0.7, 0.0, pytest.approx(1.49)], [0.0, 1.0, 0.0]]


def test_texts_without_words_are_like_nothing() -> None:
    vectors = text_vectors(["red tent", "", "red lamp", "green stove"])
    scores = neighbour_scores([np.array([0])], vectors, vectors.T.tocsr())[0]
    assert scores[0] == pytest.approx(1)
    assert 0 < scores[2] < 1
    assert scores[1] == scores[3] == 0
    nothing = text_vectors(["", " "])
    assert neighbour_scores([np.array([0])], nothing, nothing.T.tocsr()).tolist() == [[0, 0]]


def test_neighbours_see_no_held_out_event(tmp_path: Path) -> None:
    rows = [(f"u{n}", item, n, "") for n in range(9) for item in ("a", "b", "c")]
    rows += [("v", item, 50 + n, "") for n, item in enumerate(["x", "y", "b", "a"])]
    split = leave_one_out(load_dataset(write_rows(tmp_path, rows)))
    vectors = user_vectors(split)
    has = np.asarray((vectors > 0).sum(axis=1)).ravel()
    named = dict(zip(split.dataset.item_ids, has.tolist(), strict=True))
    assert named == {"a": 9, "b": 0, "c": 0, "x": 1, "y": 1}
    assert len(user_ranks(split, "test")) == 10


def test_the_split_goes_out_whole(data: QualityData, tmp_path: Path) -> None:
    write_split(data.split, tmp_path / "split.csv")
    frame = pl.read_csv(tmp_path / "split.csv")
    dataset, split = data.dataset, data.split
    assert frame["item"].to_numpy().tolist() == dataset.items.tolist()
    assert (frame["part"] == "train").to_numpy().tolist() == split.train_mask.tolist()
    for part in ("validation", "test"):
        rows = frame.filter(pl.col("part") == part)
        assert rows["user"].to_list() == split.users_for(part).tolist()
        assert rows["item"].to_list() == split.target_items(part).tolist()
    for user in (0, 7):
        own = frame.filter(pl.col("user") == user)
        assert own["position"].to_list() == list(range(own.height))


@given(
    users=st.lists(
        st.tuples(
            st.lists(st.sampled_from([0.0, 1.0, 2.0, -math.inf]), min_size=6, max_size=6),
            st.integers(0, 5),
            st.lists(st.integers(0, 5), max_size=8),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_the_rule_for_ranks_is_the_same_in_the_other_environment(
    users: list[tuple[list[float], int, list[int]]],
) -> None:
    scores = np.array([s for s, _, _ in users], np.float32)
    targets = np.array([t for _, t, _ in users])
    seen = [np.array(items, np.int64) for _, _, items in users]
    assert pessimistic(scores, targets, seen).tolist() == pessimistic_rank(scores, targets, seen).tolist()


def test_limits_are_the_longer_of_epochs_and_batches() -> None:
    assert longer([8, 400], 1000) == 8
    assert longer([8, 400], 7) == 58
    assert longer([8, 400], 0) == 400


def test_histories_are_long_when_fifty_events_lose_a_fifth(tmp_path: Path) -> None:
    def split_of(name: str, lengths: list[int]) -> bool:
        rows = [
            (f"u{user}", f"i{n}", n, "") for user, length in enumerate(lengths) for n in range(length + 2)
        ]
        return long_histories(leave_one_out(load_dataset(write_rows(tmp_path / name, rows))))

    assert not split_of("short", [50, 50, 10])
    assert not split_of("just", [62, 30])  # 12 of 92
    assert split_of("long", [80, 20])  # 30 of 100


@pytest.mark.slow
def test_rectools_trains_on_our_split_in_its_own_environment(shop: Path, tmp_path: Path) -> None:
    """An epoch of the real package, and another one that goes on from it; the environment of an earlier
    benchmark is taken where there is one."""
    data, store = QualityData.load(shop), Store(tmp_path / "quality", tmp_path / "work")
    there = rectools_place(ROOT / "runs" / "quality")
    if (there / "complete").exists():
        store.work.mkdir()
        rectools_place(store.work).symlink_to(there)
    record = run_peer(data, "esasrec", 1, 0.0, store)
    assert record.details["stopped"] == "minutes"
    assert record.details["epochs"] == record.details["best_epoch"] == 1
    assert record.details["versions"]["rectools"] == "0.19.0"
    assert record.settings["model"]["loss"] == "sampled_softmax"
    ranks = store.ranks(record)
    assert ranks is not None
    assert len(ranks) == len(data.split.users_for("test"))
    assert ranks.min() >= 1
    assert record.test == Metrics.from_ranks(ranks).to_dict()
    repeated = [
        data.split.target_items("test")[row] in data.dataset.items[data.split.history(int(user), "test")]
        for row, user in enumerate(data.split.users_for("test"))
    ]
    assert (ranks[repeated] > 10).all()
    (state,) = (store.work / shop.name).glob("rectools-*.ckpt")
    # Weights that no seed draws, to see that it is these that go on and not new ones.
    kept = torch.load(state, weights_only=False)
    marked = {name: 4 * weight for name, weight in kept["state_dict"].items() if weight.ndim == 2}
    torch.save(kept | {"state_dict": kept["state_dict"] | marked}, state)
    again = run_peer(data, "esasrec", 1, 0.0, store)
    assert again.details["epochs"] == 2
    assert again.training["peer"] > record.training["peer"]
    after = torch.load(state, weights_only=False)["state_dict"]
    assert marked
    for name, weight in marked.items():
        assert (after[name] - weight).norm() < 0.5 * weight.norm(), name


def record_of(data: QualityData, arm: str, seed: int, ranks: np.ndarray, store: Store) -> Record:
    """A record with these ranks, saved."""
    record = Record(
        kind="peer" if arm in PEERS else "ours",
        data=data.figures,
        arm=arm,
        seed=seed,
        settings={},
        commit="0",
        machine={},
        minutes=1,
        **data.of_ranks(ranks),
    )
    return store.save(record, ranks)


def test_intervals_pair_users_and_average_seeds(data: QualityData, tmp_path: Path) -> None:
    store = Store(tmp_path / "quality", tmp_path / "work")
    rng = np.random.default_rng(0)
    users = len(data.split.users_for("test"))
    ranks = {(arm, s): rng.integers(1, 12, users) for arm in ("duokd", "none") for s in (0, 1)}
    ranks["duokd", 2] = rng.integers(1, 3, users)
    ranks["popularity", 0] = np.full(users, 40)
    for (arm, seed), own in ranks.items():
        record_of(data, arm, seed, own, store)
    found = {(i.theirs, i.metric): i for i in update_intervals(store, data.name, "duokd", PEERS)}
    assert set(found) == {(a, m) for a in ("none", "popularity") for m in ("ndcg@10", "hr@10")}
    # Seed 2 has no counterpart in `none`; against a peer all seeds count.
    none, popularity = found["none", "ndcg@10"], found["popularity", "ndcg@10"]
    assert none.seeds == ([0, 1], [0, 1])
    assert popularity.seeds == ([0, 1, 2], [0])

    def mean(arm: str, seeds: tuple[int, ...]) -> float:
        return float(np.mean([ndcg_gains(ranks[arm, seed]) for seed in seeds]))

    assert none.mean == pytest.approx(mean("duokd", (0, 1)) - mean("none", (0, 1)))
    assert none.base == pytest.approx(mean("none", (0, 1)))
    assert none.low < none.mean < none.high
    assert popularity.mean == pytest.approx(mean("duokd", (0, 1, 2)))
    assert popularity.decided
    # Without the ranks what was computed stays; a record that was made again drops it.
    files = sorted(store.results.rglob("*.npz"))
    away = [Path(shutil.move(file, tmp_path / file.name)) for file in files]
    assert update_intervals(store, data.name, "duokd", PEERS) == list(found.values())
    record_of(data, "none", 1, np.full(users, 3), store)
    left = update_intervals(store, data.name, "duokd", PEERS)
    assert {i.theirs for i in left} == {"popularity"}
    assert read_intervals(store, data.name) == left
    for file, moved in zip(files, away, strict=True):
        if not file.exists():
            shutil.move(moved, file)
    assert {i.theirs for i in update_intervals(store, data.name, "duokd", PEERS)} == {"none", "popularity"}


def test_ranks_of_another_run_are_not_taken(data: QualityData, tmp_path: Path) -> None:
    store = Store(tmp_path / "quality", tmp_path / "work")
    ranks = np.arange(1, len(data.split.users_for("test")) + 1)
    record = record_of(data, "none", 0, ranks, store)
    assert store.ranks(record) is not None
    record_of(data, "none", 0, ranks[::-1].copy(), store)
    assert store.ranks(record) is None
    with pytest.raises(ValueError, match="3 ranks"):
        data.of_ranks(np.array([1, 2, 3]))
    store.file(data.name, "none", 0).write_text("{}")
    with pytest.raises(DataError, match="no record"):
        store.find(data.name, "none", 0)


def test_cold_items_by_hand(data: QualityData) -> None:
    dataset = data.dataset
    cold = hold_out(dataset, 1)
    assert cold.items.tolist() == hold_out(dataset, 1).items.tolist()
    assert cold.items.tolist() != hold_out(dataset, 2).items.tolist()
    counts = Counter(dataset.items.tolist())
    assert len(cold.items) == len([i for i in counts if dataset.texts[i].strip()]) // 10
    held = set(cold.items.tolist())
    scores = popularity_scores(cold)
    asked = 0
    for user in range(dataset.num_users):
        own = dataset.items[dataset.user_slice(user)].tolist()
        last = max((n for n, item in enumerate(own) if item in held), default=-1)
        if last < 0 or all(item in held for item in own[:last]):
            continue
        row, asked = asked, asked + 1
        assert cold.users[row] == user
        assert cold.items[cold.wanted[row]] == own[last]
        warm = [item for item in own[:last] if item not in held]
        assert dataset.items[cold.history(row)].tolist() == warm
        assert cold.items[cold.seen(row)].tolist() == [item for item in own[:last] if item in held]
        expected = [counts[item] - (item == own[last]) for item in cold.items.tolist()]
        assert scores[row].tolist() == expected
    assert asked == len(cold.users) > 10
    assert cold.events == sum(counts[item] for item in held)


def test_random_order_is_its_expectation(data: QualityData) -> None:
    cold = hold_out(data.dataset, 1)
    seen = [cold.seen(row) for row in range(len(cold.users))]
    found = random_gains(cold, seen)
    for row, had in enumerate(seen):
        left = np.arange(1, len(cold.items) - len(set(had.tolist())) + 1)
        missed = cold.wanted[row] in had
        assert found["ndcg@10"][row] == pytest.approx(0 if missed else ndcg_gains(left).mean())
        assert found["hr@10"][row] == pytest.approx(0 if missed else (left <= 10).mean())


def test_gains_over_others_are_paired() -> None:
    ranks = {"model": np.array([1, 1, 11]), "text": np.array([1, 3, 2])}
    random = {"ndcg@10": np.full(3, 0.1), "hr@10": np.full(3, 0.2)}
    found = compared(ranks, random)
    assert set(found) == {"text", "random"}
    assert found["text"]["hr@10"] == 1
    assert found["random"]["gain"][0] == pytest.approx(2 / 3 - 0.1)
    assert found["text"]["gain"][0] == pytest.approx((0.5 - 1 / math.log2(3)) / 3)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_events_are_taken_out_and_nothing_else(shop: Path, tmp_path: Path, suffix: str) -> None:
    source, rows = tmp_path / "data", (shop / "interactions.csv").read_bytes()
    source.mkdir()
    shutil.copyfile(shop / "items.csv", source / "items.csv")
    if suffix == ".parquet":
        pl.read_csv(rows, infer_schema=False).write_parquet(source / "interactions.parquet")
    else:
        packed = gzip.compress(rows) if suffix == ".csv.gz" else rows
        (source / f"interactions{suffix}").write_bytes(packed)
    whole = load_dataset(source)
    gone = [whole.item_ids[item] for item in whole.items[:2].tolist()]
    write_without(source, gone, tmp_path / "out")
    left = load_dataset(tmp_path / "out")
    kept = {user: [item for item in items if item not in gone] for user, items in _baskets(whole).items()}
    assert _baskets(left) == {user: items for user, items in kept.items() if items}
    assert left.item_ids == whole.item_ids


def _baskets(dataset: Dataset) -> dict[str, list[str]]:
    """User id -> item ids, oldest first."""
    return {
        dataset.user_ids[user]: [dataset.item_ids[item] for item in dataset.items[dataset.user_slice(user)]]
        for user in range(dataset.num_users)
    }


def test_data_without_texts_has_no_cold_items(tmp_path: Path) -> None:
    dataset = load_dataset(write_rows(tmp_path, tiny_rows()))
    with pytest.raises(DataError, match="--cold-seeds") as refused:
        hold_out(dataset, 0)
    assert refused.value.code == "cold-impossible"


def test_published_figures_belong_to_their_data() -> None:
    assert published("shop", 1, 1) == ()
    for name, anchors in ANCHORS.items():
        assert published(name, anchors.users, anchors.events + 1) == ()
        assert len(published(name, anchors.users, anchors.events)) == len(anchors.rows) > 5
        assert all(0 < float(row.ndcg) < float(row.hr) < 1 for row in anchors.rows)


def test_the_page_about_the_method_names_every_arm_and_peer() -> None:
    text = (ROOT / "docs" / "benchmarks" / "quality-method.md").read_text(encoding="utf-8")
    missing = [name for name in (*ARMS, *PEERS) if f"`{name}`" not in text]
    assert not missing


def test_every_arm_is_a_recipe_of_its_own() -> None:
    settings = {name: Recipe().settings(arm) for name, arm in ARMS.items()}
    assert settings["none"] == {"teacher": "none"}
    assert settings["duokd"] == settings["teacher"] == {}
    assert settings["negatives"] == {"config": {"duokd": {"lambda_positive": 0.0}}}
    others = [json.dumps(value) for name, value in settings.items() if name != "teacher"]
    assert len(set(others)) == len(ARMS) - 1
