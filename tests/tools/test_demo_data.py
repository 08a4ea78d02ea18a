"""The made-up shop: the same bytes from the same seed, with a structure that can be learned."""

from __future__ import annotations

import csv
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pocketrec.errors import DataError
from pocketrec_export.data import Dataset, load_dataset
from pocketrec_export.metrics import Metrics, pessimistic_rank, popularity_metrics
from pocketrec_export.split import Split, leave_one_out
from pocketrec_tools import demo_data
from pocketrec_tools.demo_catalogue import BRANDS, NEEDS_EACH, make_catalogue
from pocketrec_tools.demo_data import BUY, DAYS, START, DemoLog, make_demo_data, simulate

FILES = ("interactions.csv", "items.csv")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_dataset(make_demo_data(tmp_path_factory.mktemp("shop") / "data"))


@pytest.fixture(scope="module")
def log() -> DemoLog:
    """What `shop` was written from, with the ranks of the best possible ranking."""
    rng = np.random.default_rng([0, 3000, 1200])
    return simulate(make_catalogue(1200, DAYS, rng), 3000, rng)


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    one, two, other = (
        make_demo_data(tmp_path / name, seed=seed, users=80, items=120)
        for name, seed in (("one", 3), ("two", 3), ("other", 4))
    )
    for name in FILES:
        assert (one / name).read_bytes() == (two / name).read_bytes()
        assert (one / name).read_bytes() != (other / name).read_bytes()
    assert sorted(path.name for path in one.iterdir()) == sorted(FILES)


def test_what_is_there_is_not_replaced_unasked(tmp_path: Path) -> None:
    make_demo_data(tmp_path, users=20, items=60)
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    make_demo_data(tmp_path, users=20, items=60)  # the same again is fine
    with pytest.raises(DataError, match=r"interactions\.csv is already there.*force") as caught:
        make_demo_data(tmp_path, seed=1, users=20, items=60)
    assert caught.value.code == "data-exists"
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == before
    make_demo_data(tmp_path, seed=1, users=20, items=60, force=True)
    assert {name: (tmp_path / name).read_bytes() for name in FILES} != before


@pytest.mark.parametrize(("users", "items"), [(0, 100), (10, 59), (10, 50_001)])
def test_sizes_that_make_no_shop(tmp_path: Path, users: int, items: int) -> None:
    with pytest.raises(DataError, match=f"{users} users and {items} items make no shop. Ask for at least"):
        make_demo_data(tmp_path, users=users, items=items)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("users", "items"), [(1, 60), (3, 61), (50, 599), (20, 2000)])
def test_any_size_loads(tmp_path: Path, users: int, items: int) -> None:
    data = load_dataset(make_demo_data(tmp_path, users=users, items=items))
    assert (data.num_users, data.num_items) == (users, items)


def test_blocks_of_users_are_only_about_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_data, "_BLOCK", 7)
    rng = np.random.default_rng(0)
    log = simulate(make_catalogue(60, DAYS, rng), 20, rng)
    assert set(log.users.tolist()) == set(range(20))
    assert (np.diff(log.timestamps) >= 0).all()


def test_it_reads_without_a_warning_that_is_not_meant(shop: Dataset) -> None:
    kinds = {warning.kind for warning in shop.report.warnings}
    assert kinds <= {"cold-item", "one-event-user", "two-event-user"}
    assert (shop.num_users, shop.num_items) == (3000, 1200)
    assert 35_000 < shop.num_events < 50_000
    assert shop.timed
    assert START <= shop.report.first_timestamp < shop.report.last_timestamp < START + DAYS * 86_400
    assert shop.events == ["", "buy", "cart", "view"]
    assert shop.report.text_columns == ("title", "categories", "brand")


def test_catalogue_words(shop: Dataset) -> None:
    titles, categories, brands = (shop.columns[name] for name in ("title", "categories", "brand"))
    assert len(set(titles)) == shop.num_items
    assert len(set(categories)) == 120
    assert len({path.rsplit(" > ", 1)[0] for path in categories}) == 120 // NEEDS_EACH
    assert set(brands) == set(BRANDS)
    for title, path, brand in zip(titles, categories, brands, strict=True):
        assert title.startswith(f"{brand} ")
        assert path.rsplit(" > ", 1)[1].lower() in title.lower()
        assert "*" not in title + path
    # Numbers of items tell nothing: neighbours in the file are no neighbours on the shelf.
    assert shop.item_ids == sorted(shop.item_ids)
    assert sum(one == two for one, two in pairwise(categories)) < 30


def test_head_tail_cold_and_late_items(shop: Dataset) -> None:
    counts = np.bincount(shop.items, minlength=shop.num_items)
    ordered = np.sort(counts)[::-1]
    assert ordered[:240].sum() > 0.4 * ordered.sum()  # a fifth of the items, over two fifths of the events
    assert np.median(counts) < 0.75 * counts.mean()
    assert 20 <= np.count_nonzero(counts == 0) <= 60
    first = np.full(shop.num_items, np.inf)
    np.minimum.at(first, shop.items, (shop.timestamps - START) / 86_400)
    assert np.count_nonzero((first > DAYS * 0.66) & (counts > 0)) > 100


def test_sessions(shop: Dataset) -> None:
    same_user = np.ones(shop.num_events - 1, bool)
    same_user[shop.offsets[1:-1] - 1] = False
    gaps = np.diff(shop.timestamps)[same_user]
    assert (gaps >= 0).all()
    assert 0.5 < (gaps < 3600).mean() < 0.8
    assert np.median(gaps[gaps >= 3600]) > 86_400


def test_needs_follow_one_another_after_buying(shop: Dataset) -> None:
    needs = [path.rsplit(" > ", 1)[1] for path in shop.columns["categories"]]
    after_buying: Counter[str] = Counter()
    same = {event: [0, 0] for event in shop.events}
    for user in range(shop.num_users):
        span = shop.user_slice(user)
        names = [needs[item] for item in shop.items[span]]
        events = [shop.events[event] for event in shop.event_ids[span]]
        for name, event, following in zip(names, events, names[1:], strict=False):
            if (name, event) == ("Tent", "buy"):
                after_buying[following] += 1
            same[event][0] += name == following
            same[event][1] += 1
    assert after_buying.most_common(1)[0][0] == "Sleeping bag"
    assert after_buying["Sleeping bag"] > 0.3 * after_buying.total()
    share = {event: hits / total for event, (hits, total) in same.items() if total}
    assert share["view"] > 3 * share["buy"]  # who looked compares, who bought moves on


def test_people_keep_to_brands(shop: Dataset) -> None:
    brands = np.array([BRANDS.index(brand) for brand in shop.columns["brand"]])

    def favourites(items: NDArray[np.int32]) -> float:
        """Share of events that are of the brand its user turned to most."""
        users = np.repeat(np.arange(shop.num_users), np.diff(shop.offsets))
        counts = np.zeros((shop.num_users, len(BRANDS)))
        np.add.at(counts, (users, brands[items]), 1)
        return float(counts.max(axis=1).sum() / counts.sum())

    shuffled = np.random.default_rng(0).permutation(shop.items)
    assert favourites(shop.items) > 1.25 * favourites(shuffled)


def test_the_best_possible_ranking_is_good_but_far_from_perfect(log: DemoLog) -> None:
    last = len(log.users) - 1 - np.unique(log.users[::-1], return_index=True)[1]
    best = Metrics.from_ranks(log.best_ranks[last])
    assert 0.25 < best.ndcg < 0.45
    again = (log.best_ranks == 1201).mean()
    assert 0.005 < again < 0.05  # some things are bought again


def test_the_log_is_what_the_file_says(shop: Dataset, log: DemoLog, tmp_path: Path) -> None:
    make_demo_data(tmp_path)
    with open(tmp_path / "interactions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["timestamp"]) for row in rows] == log.timestamps.tolist()
    assert [int(row["user_id"][1:]) - 1 for row in rows] == log.users.tolist()
    assert [row["event"] == "buy" for row in rows] == (log.events == BUY).tolist()
    assert shop.num_events == len(rows)


def test_order_beats_company_beats_popularity(shop: Dataset) -> None:
    """What came after an item ranks better than what came along with it, and both better than the popular."""
    split = leave_one_out(shop)
    popular = popularity_metrics(shop, split, "test").ndcg
    together, following = _counts(split)
    size = np.sqrt(np.maximum(np.diag(together), 1))
    similar = together / size / size[:, None]
    np.fill_diagonal(similar, 0)
    company = _ndcg(split, similar, 0.7)
    rows = following.sum(axis=1, keepdims=True) + 2
    order = _ndcg(
        split, np.log((following + 2 * split.train_counts / split.train_counts.sum()) / rows + 1e-9), 0.5
    )
    assert popular < 0.04
    assert company > 3 * popular
    assert order > 1.4 * company
    assert order < 0.25  # counting pairs leaves room for a model


def _counts(split: Split) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How many users have both items, and how often one follows another; from training, [items, items]."""
    offsets, items, _, _ = split.train_csr()
    shop = split.dataset
    has = np.zeros((shop.num_users, shop.num_items), np.float32)
    has[np.repeat(np.arange(shop.num_users), np.diff(offsets)), items] = 1
    following = np.zeros((shop.num_items, shop.num_items))
    for gap in (1, 2, 3):
        near = np.repeat(np.arange(shop.num_users), np.diff(offsets))
        pair = near[gap:] == near[:-gap]
        np.add.at(following, (items[:-gap][pair], items[gap:][pair]), 0.5 ** (gap - 1))
    return (has.T @ has).astype(np.float64), following


def _ndcg(split: Split, table: NDArray[np.float64], decay: float) -> float:
    """NDCG@10 on the test part when each item of a history votes for others, the last the most."""
    shop = split.dataset
    seen = [shop.items[split.history(int(user), "test")] for user in split.users_for("test")]
    votes = np.zeros((len(seen), shop.num_items), np.float32)
    for row, items in zip(votes, seen, strict=True):
        recent = items[-8:]
        row[:] = decay ** np.arange(len(recent))[::-1] @ table[recent]
    return Metrics.from_ranks(pessimistic_rank(votes, split.target_items("test"), seen)).ndcg
