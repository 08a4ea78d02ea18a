"""A history that is read where it grew gives the lists of one that is read whole, whatever happened to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pocketrec import Recommender
from pocketrec.events import Event
from pocketrec.history import History
from pocketrec.incremental import StoredHistory
from tiny_bundle import ITEMS, item_id, write_tiny_bundle

steps = st.lists(
    st.one_of(
        st.tuples(st.just("record"), st.integers(0, ITEMS + 3), st.sampled_from([None, 5, 100, 90_000])),
        st.tuples(st.just("elsewhere"), st.integers(0, ITEMS + 3), st.sampled_from([None, 7])),
        st.tuples(st.just("forget"), st.integers(0, ITEMS + 3), st.none()),
        st.tuples(st.just("forget elsewhere"), st.integers(0, ITEMS + 3), st.none()),
        st.tuples(st.just("clear"), st.none(), st.none()),
        st.tuples(st.just("rank"), st.none(), st.none()),
    ),
    max_size=25,
)


@pytest.fixture(scope="module")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("incremental") / "bundle")


def same(recommender: Recommender) -> None:
    grown = recommender.recommend(5)
    whole = recommender.rank(recommender.events(), 5)
    assert (grown.to_dict(), grown.fallback, grown.skipped) == (
        whole.to_dict(),
        whole.fallback,
        whole.skipped,
    )
    kept, read = recommender._stored.known(), recommender._known(recommender.events(), None)
    for name in ("positions", "types", "times", "timed"):
        assert getattr(kept, name).tolist() == getattr(read, name).tolist()
        assert getattr(kept, name).dtype == getattr(read, name).dtype


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_whatever_happens_the_lists_are_those_of_the_whole_history(
    steps: list[Any], bundle_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("steps") / "me.db"
    with (
        Recommender.open(bundle_path, History(file, max_events=8), engine="numpy") as recommender,
        History(file, max_events=8) as elsewhere,
    ):
        same(recommender)
        for what, item, time in steps:
            name = item_id(item) if item is not None and item < ITEMS else f"unknown {item}"
            if what == "record":
                recommender.history.record_many([(name, "", time)])
            elif what == "elsewhere":
                elsewhere.record_many([(name, "view", time)])
            elif what == "forget":
                recommender.forget(name)
            elif what == "forget elsewhere":
                elsewhere.forget(name)
            elif what == "clear":
                recommender.clear()
            else:
                same(recommender)
        same(recommender)


def test_only_what_is_new_is_read() -> None:
    read: list[int] = []
    with History() as history:
        history.record_many([("a", "", 1), ("b", "", 2)])
        news = history.news()
        assert (news.events, news.whole) == ([Event("a", "", 1), Event("b", "", 2)], True)
        assert history.news(news).events == []
        history.record("c", "", 3)
        later = history.news(news)
        assert (later.events, later.whole) == ([Event("c", "", 3)], False)
        assert history.news(later.without_events()).events == []
        history.forget("b")
        assert [event.item_id for event in history.news(later).events] == ["a", "c"]
        history.clear()
        empty = history.news(later)
        assert (empty.events, empty.whole) == ([], True)
        history.record("d", "", 4)
        assert history.news(empty).events == [Event("d", "", 4)]

        def count(events: list[Event]) -> Any:
            from pocketrec.inputs import Known

            read.append(len(events))
            ones = np.ones(len(events), dtype=np.int64)
            return Known(ones, ones, ones, ones.astype(bool), 0)

        stored = StoredHistory(history, count)
        assert len(stored.known()) == 1
        history.record_many([("e", "", 5), ("f", "", 6)])
        assert len(stored.known()) == 3
        assert len(stored.known()) == 3
        stored.drop()
        assert len(stored.known()) == 3
        assert read == [1, 2, 3]
