"""The recommender as an app sees it: the rules of docs/bundle.md, section 7, the history, the lifecycle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pocketrec
from pocketrec import DataError, Event, History, PocketrecError, Recommender
from tiny_bundle import ITEMS, item_id

ids = st.integers(0, ITEMS - 1).map(item_id)
histories = st.lists(st.one_of(ids, st.just("unknown")), max_size=12)


@given(
    history=histories,
    k=st.integers(1, ITEMS + 5),
    candidates=st.one_of(st.none(), st.lists(ids, max_size=30)),
    exclude=st.lists(st.one_of(ids, st.just("nobody")), max_size=20),
    filter_seen=st.booleans(),
)
def test_rank_is_its_definition(
    recommender: Recommender,
    history: list[str],
    k: int,
    candidates: list[str] | None,
    exclude: list[str],
    filter_seen: bool,
) -> None:
    """Score everything, filter, sort: what `rank` must equal however it goes about it."""
    scores = recommender.scores(history)
    among = range(ITEMS) if candidates is None else [p for p in range(ITEMS) if item_id(p) in candidates]
    left = [p for p in among if item_id(p) not in exclude and not (filter_seen and item_id(p) in history)]
    want = sorted(left, key=lambda p: (-scores[p], p))[:k]
    got = recommender.rank(history, k, candidates=candidates, exclude=exclude, filter_seen=filter_seen)
    assert [r.position for r in got] == want
    assert [r.score for r in got] == [float(scores[p]) for p in want]
    assert [r.item_id for r in got] == [item_id(p) for p in want]
    assert got.skipped == scores.skipped == history.count("unknown")
    assert got.fallback == scores.fallback == all(item == "unknown" for item in history)


def test_all_forms_of_a_history_are_the_same(recommender: Recommender) -> None:
    plain = recommender.rank([item_id(1), item_id(2)])
    assert recommender.rank([Event(item_id(1)), (item_id(2), "", None)]) == plain
    assert recommender.rank(iter([item_id(1), item_id(2)])) == plain


def test_an_empty_history_ranks_by_the_prior(recommender: Recommender) -> None:
    got = recommender.rank([], 5)
    assert got.fallback
    assert got.engine == ""
    prior = recommender.bundle.catalogue.prior
    assert [r.score for r in got] == sorted(prior.tolist(), reverse=True)[:5]
    assert not recommender.rank([item_id(0)]).fallback
    assert recommender.rank([item_id(0)]).engine == "numpy"


def test_at_hides_what_came_later(recommender: Recommender) -> None:
    history = [(item_id(1), "view", 100), (item_id(2), "view", 200), (item_id(3), "view", 300)]
    assert recommender.rank(history, at=200) == recommender.rank(history[:2])
    assert recommender.rank(history, at=99).fallback
    assert recommender.rank([(item_id(1), "", None)], at=0) == recommender.rank([item_id(1)])


def test_a_recommendation_says_what_it_is(recommender: Recommender) -> None:
    best = recommender.rank([item_id(3)], 1)[0]
    assert best.title == f"Title {best.position} ünïcode"
    assert best.display == {"title": best.title, "categories": f"cat {best.position % 5}"}
    assert best.item_id == item_id(best.position)
    assert best.to_dict()["title"] == best.title


def test_candidates_with_nothing_in_them(recommender: Recommender) -> None:
    assert recommender.rank([item_id(1)], candidates=[]) == []
    assert recommender.rank([item_id(1)], candidates=[item_id(1)]) == []
    assert len(recommender.rank([item_id(1)], candidates=[item_id(1)], filter_seen=False)) == 1


@pytest.mark.parametrize(
    ("call", "code", "names"),
    [
        (lambda r: r.rank([], 0), "k-invalid", "0"),
        (lambda r: r.rank([], True), "k-invalid", "True"),
        (lambda r: r.rank([], 2.5), "k-invalid", "2.5"),
        (lambda r: r.rank([], candidates=[item_id(1), "made-up"]), "candidate-unknown", "made-up"),
        (lambda r: r.rank([], candidates="abc"), "ids-invalid", "abc"),
        (lambda r: r.rank([], exclude=[7]), "text-invalid", "7"),
        (lambda r: r.rank("abc"), "history-invalid", "abc"),
        (lambda r: r.rank([("a", "b")]), "history-invalid", "history[0]"),
        (lambda r: r.rank([("a", "", 1.5)]), "timestamp-invalid", "1.5"),
        (lambda r: r.rank([("a", "", 2**53)]), "timestamp-invalid", str(2**53)),
        (lambda r: r.rank([""]), "item-id-invalid", "empty"),
        (lambda r: r.rank(["\ud800"]), "text-invalid", "Unicode"),
        (lambda r: r.rank([], at="now"), "timestamp-invalid", "now"),
        (lambda r: r.similar_items("made-up"), "item-unknown", "made-up"),
        (lambda r: r.similar_items(item_id(1), 0), "k-invalid", "0"),
    ],
)
def test_wrong_requests_name_the_value(
    recommender: Recommender, call: Callable[[Recommender], object], code: str, names: str
) -> None:
    with pytest.raises(DataError) as caught:
        call(recommender)
    assert caught.value.code == code
    assert names in str(caught.value)


def test_numpy_integers_are_integers(recommender: Recommender) -> None:
    when, k = np.int64(5), np.int32(3)
    assert recommender.rank([(item_id(1), "", int(when))], int(k)) == recommender.rank(
        cast(Any, [(item_id(1), "", when)]), cast(Any, k)
    )


def test_similar_items_are_ordered_by_cosine(recommender: Recommender) -> None:
    rows = recommender.bundle.tables["items"].rows(np.arange(ITEMS))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = unit @ unit[4]
    got = recommender.similar_items(item_id(4), ITEMS)
    assert len(got) == ITEMS - 1
    assert item_id(4) not in [r.item_id for r in got]
    np.testing.assert_allclose([r.score for r in got], cosine[[r.position for r in got]], atol=0.02)
    assert [r.score for r in got] == sorted((r.score for r in got), reverse=True)


def test_the_stored_history(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "me.db"
    with Recommender.open(tiny_bundle_dir, file, "numpy") as rec:
        before = int(time.time())
        rec.record(item_id(1), event="view")
        rec.record("not in this catalogue", "buy", 17)
        first, second = rec.events()
        assert before <= (first.timestamp or 0) <= time.time()
        assert second == Event("not in this catalogue", "buy", 17)
        assert rec.recommend(5) == rec.rank(rec.events(), 5)
        assert rec.recommend(5).skipped == 1
    with Recommender.open(tiny_bundle_dir, file, "numpy") as rec:
        assert len(rec.events()) == 2
        assert rec.export(tmp_path / "out.jsonl") == 2
        assert rec.forget(item_id(1)) == 1
        assert rec.recommend(3).fallback
        assert rec.clear() == 1
        assert rec.events() == []


def test_a_history_of_ones_own(tiny_bundle_dir: Path) -> None:
    with Recommender.open(tiny_bundle_dir, History(max_events=2), "numpy") as rec:
        for position in range(4):
            rec.record(item_id(position))
        assert [event.item_id for event in rec.events()] == [item_id(2), item_id(3)]


def test_lifecycle(tiny_bundle_dir: Path) -> None:
    assert Recommender().state == "unloaded"
    rec = Recommender.open(tiny_bundle_dir, engine="numpy")
    states: list[str] = [rec.state]
    rec.close()
    rec.close()
    states.append(rec.state)
    assert states == ["ready", "closed"]
    calls: list[Callable[[], object]] = [
        lambda: rec.rank([]), rec.recommend, rec.events, lambda: rec.record("a"), rec.clear,
        lambda: rec.forget("a"), lambda: rec.scores([]), lambda: rec.similar_items(item_id(1)),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(PocketrecError) as caught:
            call()
        assert caught.value.code == "closed"


def test_engines_are_chosen_and_named(tiny_bundle_dir: Path) -> None:
    with Recommender.open(tiny_bundle_dir) as rec:
        assert rec.engine == "numpy"  # the only one this bundle has a graph for
    with pytest.raises(PocketrecError) as caught:
        Recommender.open(tiny_bundle_dir, engine="onnxruntime")
    assert caught.value.code == "engine-unavailable"


def test_a_failed_open_lets_go_of_everything(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database, only some text that is long enough to look at")
    with pytest.raises(PocketrecError) as caught:
        Recommender.open(tiny_bundle_dir, tmp_path / "text.db", "numpy")
    assert caught.value.code == "history-corrupt"


def test_many_threads_rank_record_and_close(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    """Every list is whole, every acknowledged event is stored, and `close` in the middle breaks nothing."""
    file = tmp_path / "me.db"
    rec = Recommender.open(tiny_bundle_dir, file, "numpy")
    want = rec.rank([item_id(1), item_id(2)])
    wrong: list[str] = []
    acknowledged: list[str] = []

    def rank() -> None:
        try:
            while True:
                if rec.rank([item_id(1), item_id(2)]) != want:
                    wrong.append("another list")
        except PocketrecError as error:
            if error.code != "closed":
                wrong.append(str(error))

    def record(thread: int) -> None:
        try:
            for number in range(100_000):
                rec.record(f"{thread}-{number}")
                acknowledged.append(f"{thread}-{number}")
        except PocketrecError as error:
            if error.code != "closed":
                wrong.append(str(error))

    threads = [threading.Thread(target=rank) for _ in range(3)]
    threads += [threading.Thread(target=record, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    while len(acknowledged) < 60:
        time.sleep(0.01)
    rec.close()
    for thread in threads:
        thread.join()
    assert not wrong
    with History(file) as stored:
        assert sorted(event.item_id for event in stored.events()) == sorted(acknowledged)


def test_every_public_name_is_there() -> None:
    assert {name for name in pocketrec.__all__ if getattr(pocketrec, name) is not None} == set(
        pocketrec.__all__
    )
    assert dir(pocketrec) == sorted(pocketrec.__all__)
    with pytest.raises(AttributeError):
        pocketrec.nothing  # noqa: B018


def test_another_person_on_the_same_bundle(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    """Histories are apart, lists are those of `rank`, and closing one person leaves the others alone."""
    with Recommender.open(tiny_bundle_dir, engine="numpy") as first:
        second = first.for_history(tmp_path / "second.db")
        third = first.for_history(History(max_events=1))
        for item in (item_id(1), item_id(2)):
            second.record(item, timestamp=5)
            third.record(item, timestamp=5)
        assert first.recommend(5).fallback
        assert second.recommend(5) == first.rank([(item_id(1), "", 5), (item_id(2), "", 5)], 5)
        assert third.recommend(5) == first.rank([(item_id(2), "", 5)], 5)
        second.close()
        with pytest.raises(PocketrecError):
            second.recommend()
        third.close()
        assert len(first.recommend(5)) == 5
    with History(tmp_path / "second.db") as stored:
        assert len(stored) == 2
    with pytest.raises(PocketrecError) as refused:
        first.for_history(":memory:")
    assert refused.value.code == "closed"
