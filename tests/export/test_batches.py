"""Windows and packing: every next item is predicted once, and nothing is mixed up on the way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketrec_export.batches import Batch, Epoch, Histories, pack

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def histories(lengths: list[int]) -> Histories:
    """Users with these many events; item ids equal event indices, so that every event is recognisable."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    total = int(offsets[-1])
    zeros = np.zeros(total, np.int64)
    return Histories.from_events(offsets, np.arange(total), zeros, np.arange(total) * 100, (60, 3600))


def batches_of(hist: Histories, length: int, positions: int, rng: np.random.Generator | None) -> list[Batch]:
    epoch = Epoch(hist, length, positions, rng)
    return [epoch.batch(number)[0] for number in range(len(epoch))]


def predicted(lengths: list[int]) -> list[int]:
    """Input events that have a next one, by definition."""
    ends = np.cumsum(lengths).tolist()
    return [i for i in range(ends[-1]) if i + 1 not in ends]


@given(LENGTHS, st.integers(2, 9), st.none() | st.integers(0, 5))
def test_windows_predict_every_next_item_once(lengths: list[int], length: int, seed: int | None) -> None:
    rng = None if seed is None else np.random.default_rng(seed)
    start, size = histories(lengths).windows(length, rng)
    assert size.size == 0 or (size.min() >= 1 and size.max() <= length)
    covered = [int(s) + i for s, n in zip(start, size, strict=True) for i in range(n)]
    assert sorted(covered) == predicted(lengths)


@given(LENGTHS, st.integers(2, 9))
def test_covering_windows_predict_once_with_half_the_context(lengths: list[int], length: int) -> None:
    hist = histories(lengths)
    start, size, skip = hist.covering_windows(length)
    covered: list[int] = []
    for s, n, k in zip(start.tolist(), size.tolist(), skip.tolist(), strict=True):
        assert n <= length
        begin = int(hist.offsets[np.searchsorted(hist.offsets, s, side="right") - 1])
        for i in range(k, n):
            covered.append(s + i)
            assert i >= min(length // 2, s + i - begin)
    assert sorted(covered) == predicted(lengths)


@given(st.lists(st.integers(1, 10), min_size=1, max_size=60))
def test_packed_windows_do_not_overlap(sizes: list[int]) -> None:
    row, column = pack(np.array(sizes), 10)
    places = [(r, c + i) for r, c, n in zip(row, column, sizes, strict=True) for i in range(n)]
    assert len(set(places)) == sum(sizes)
    assert column.min() >= 0
    assert (column + np.array(sizes)).max() <= 10


@pytest.mark.parametrize("seed", [None, 3])
def test_an_epoch_is_every_event_with_its_own_successor(seed: int | None) -> None:
    lengths = [1, 30, 2, 7, 16, 3]
    hist = histories(lengths)
    rng = None if seed is None else np.random.default_rng(seed)
    seen: list[int] = []
    for batch in batches_of(hist, 8, 20, rng):
        valid = batch.segments > 0
        assert np.array_equal(batch.items[valid], hist.items[batch.index[valid]])
        assert np.array_equal(batch.targets[valid], hist.items[batch.index[valid] + 1])
        assert np.array_equal(batch.gaps[valid], hist.gaps[batch.index[valid]])
        for name in ("items", "targets", "gaps", "events", "index"):
            assert not getattr(batch, name)[~valid].any()
        # Within a segment the events follow one another.
        for segment in np.unique(batch.segments[valid]):
            index = batch.index[batch.segments == segment]
            assert np.array_equal(index, np.arange(index[0], index[0] + len(index)))
        seen += batch.index[valid].tolist()
    assert sorted(seen) == predicted(lengths)


def test_batches_follow_the_generator() -> None:
    hist = histories([30, 9, 14, 22])
    first = [b.index for b in batches_of(hist, 8, 20, np.random.default_rng(1))]
    again = [b.index for b in batches_of(hist, 8, 20, np.random.default_rng(1))]
    other = [b.index for b in batches_of(hist, 8, 20, np.random.default_rng(2))]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(a.shape == b.shape and np.array_equal(a, b) for a, b in zip(first, other, strict=False))


def test_gaps_are_those_of_the_format() -> None:
    offsets = np.array([0, 3, 5])
    times = np.array([0, 59, 119, 7200, 7000])
    hist = Histories.from_events(offsets, np.arange(5), np.zeros(5), times, (60, 3600))
    assert hist.gaps.tolist() == [
        0,
        1,
        2,
        0,
        1,
    ]  # a first event; 59 s; 60 s; a first event; a clock that ran backwards
