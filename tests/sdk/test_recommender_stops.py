"""One recommender under many hands: deadlines, cancelling, closing while it is busy, and what is counted."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pocketrec import History, PocketrecError, Recommender, StoppedError
from pocketrec.engines import FloatArray
from pocketrec.gate import Gate
from tiny_bundle import ITEMS, item_id


@pytest.fixture
def rec(tiny_bundle_dir: Path) -> Iterator[Recommender]:
    with Recommender.open(tiny_bundle_dir, engine="numpy") as opened:
        yield opened


class Held:
    """Holds the real engine in the middle of a run until it is let go."""

    def __init__(self, rec: Recommender) -> None:
        self.entered, self.go = threading.Event(), threading.Event()
        engine = rec._engine
        run = engine.run

        def held(rows: FloatArray, mask: FloatArray) -> FloatArray:
            self.entered.set()
            assert self.go.wait(30)
            return run(rows, mask)

        engine.run = held  # type: ignore[method-assign]


def test_a_deadline_that_passed(rec: Recommender) -> None:
    rec.record(item_id(1))
    for call in (lambda: rec.rank([item_id(1)], deadline=0.0), lambda: rec.recommend(deadline=-1.0)):
        with pytest.raises(StoppedError) as caught:
            call()
        assert caught.value.code == "deadline-exceeded"
    assert rec.rank([item_id(1)], deadline=600.0) == rec.rank([item_id(1)])
    assert rec.recommend(5, deadline=600.0) == rec.recommend(5)


def test_cancelling_ends_a_call_that_is_under_way(rec: Recommender) -> None:
    held, cancel = Held(rec), threading.Event()
    caught: list[str] = []

    def rank() -> None:
        with pytest.raises(StoppedError) as error:
            rec.rank([item_id(1)], cancel=cancel)
        caught.append(error.value.code)

    thread = threading.Thread(target=rank)
    thread.start()
    assert held.entered.wait(30)
    cancel.set()
    held.go.set()
    thread.join()
    assert caught == ["cancelled"]
    assert len(rec.rank([item_id(1)], 3)) == 3  # nothing else was harmed
    calls = rec.calls
    assert (calls.active, calls.finished, calls.failed, calls.stopped) == (0, 1, 1, 1)
    with pytest.raises(StoppedError):
        rec.recommend(cancel=cancel)  # a token that is set ends whatever it is given to


def test_closing_waits_for_calls_and_refuses_new_ones(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    states: list[str] = []
    rec = Recommender.open(tiny_bundle_dir, tmp_path / "me.db", "numpy", on_state=states.append)
    held = Held(rec)
    lists: list[int] = []
    ranker = threading.Thread(target=lambda: lists.append(len(rec.rank([item_id(1)], 4))))
    ranker.start()
    assert held.entered.wait(30)
    closers = [threading.Thread(target=rec.close) for _ in range(3)]
    for closer in closers:
        closer.start()
    while rec.state != "closed":
        closers[0].join(0.001)
    with pytest.raises(PocketrecError) as caught:
        rec.rank([item_id(1)])
    assert caught.value.code == "closed"
    assert all(closer.is_alive() for closer in closers)  # each returns when all is let go of, not before
    assert rec.calls.active == 1
    held.go.set()
    for thread in (ranker, *closers):
        thread.join(30)
        assert not thread.is_alive()
    assert lists == [4]
    assert states == ["loading", "ready", "closed"]
    with pytest.raises(PocketrecError):
        rec.history.events()


def test_a_history_that_closes_the_recommender(tiny_bundle_dir: Path) -> None:
    """The caller's iterables are read before the call begins, so they may do what they want."""
    rec = Recommender.open(tiny_bundle_dir, engine="numpy")

    def history() -> Iterator[str]:
        yield item_id(1)
        rec.close()

    with pytest.raises(PocketrecError) as caught:
        rec.rank(history())
    assert caught.value.code == "closed"


def test_states_of_an_opening_that_fails(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    states: list[str] = []
    with pytest.raises(PocketrecError):
        Recommender.open(tmp_path / "nothing", on_state=states.append)
    assert states == ["loading", "closed"]
    with pytest.raises(ZeroDivisionError):  # the app's own mistake: nothing stays open
        Recommender.open(tiny_bundle_dir, tmp_path / "me.db", "numpy", on_state=lambda _: void(1 / 0))


def void(_: object) -> None:
    """Nothing."""


def test_a_gate_counts_every_call_once() -> None:
    gate = Gate()
    with pytest.raises(PocketrecError), gate.call():
        pass
    gate.move("ready")

    def calls(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(300):
            try:
                with gate.call():
                    if (what := chance.random()) < 0.2:
                        raise ValueError
                    if what < 0.3:
                        raise StoppedError("stopped")
            except (ValueError, StoppedError):
                pass

    threads = [threading.Thread(target=calls, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    draws = [random.Random(seed) for seed in range(8)]
    values = [chance.random() for chance in draws for _ in range(300)]
    failed, stopped = sum(value < 0.3 for value in values), sum(0.2 <= value < 0.3 for value in values)
    counts = gate.calls
    assert (counts.active, counts.finished) == (0, 2400 - failed)
    assert (counts.failed, counts.stopped) == (failed, stopped)


def test_many_hands_at_once(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    """Record, forget, rank, stop: every thread's own items come out as that thread alone would have them."""
    file, wrong = tmp_path / "me.db", []
    with Recommender.open(tiny_bundle_dir, History(file, max_events=10_000), "numpy") as rec:
        want = {position: rec.rank([item_id(position)], 5) for position in range(ITEMS)}

        def work(thread: int) -> None:
            chance = random.Random(thread)
            for number in range(25):
                rec.record(f"{thread}-{number}")
                if number % 5 == 4 and rec.forget(f"{thread}-{number}") != 1:
                    wrong.append("it was not there")
                position = chance.randrange(ITEMS)
                if rec.rank([item_id(position)], 5) != want[position]:
                    wrong.append("another list")
                try:
                    rec.recommend(deadline=chance.choice([0.0, 60.0]))
                except StoppedError as error:
                    if error.code != "deadline-exceeded":
                        wrong.append(error.code)

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert wrong == []
        left = [event.item_id for event in rec.events()]
        assert not rec.history.erasure_pending
    for thread in range(8):
        own = [f"{thread}-{number}" for number in range(25) if number % 5 != 4]
        assert [item for item in left if item.startswith(f"{thread}-")] == own
