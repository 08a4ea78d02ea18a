"""Golden requests reach what tells runtimes apart: every length, unknown items, filters, near-ties."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pocketrec.golden import Case, parse_golden
from pocketrec.verify import verify
from pocketrec_export.golden_requests import UNKNOWN_ITEM, golden_requests
from tiny_bundle import EVENTS, ITEMS, LENGTH, item_id, write_tiny_bundle

IDS = [item_id(position) for position in range(ITEMS)]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, ...]:
    requests = golden_requests(IDS, np.arange(ITEMS), EVENTS, LENGTH)
    out = tmp_path_factory.mktemp("golden") / "bundle"
    bundle = write_tiny_bundle(out, golden=requests, tolerance=0.02)
    assert verify(bundle).ok
    return parse_golden((bundle / "golden.json").read_bytes()).cases


def test_lengths_and_unknown_items(cases: tuple[Case, ...]) -> None:
    lengths = {len(case.history) for case in cases}
    assert {0, 1, LENGTH - 1, LENGTH, LENGTH + 1} <= lengths
    assert max(lengths) > 2 * LENGTH
    unknown = [case for case in cases if any(item == UNKNOWN_ITEM for item, _, _ in case.history)]
    assert {case.fallback for case in unknown} == {True, False}
    assert any(case.fallback and not case.history for case in cases)


def test_filters(cases: tuple[Case, ...]) -> None:
    assert any(not case.filter_seen for case in cases)
    assert any(case.exclude for case in cases)
    assert any(case.candidates is not None for case in cases)
    assert {case.k for case in cases} >= {1, 10}
    for case in cases:
        assert not set(case.items) & set(case.exclude)
        assert case.candidates is None or set(case.items) <= set(case.candidates)
        seen = {item for item, _, _ in case.history}
        assert not (case.filter_seen and seen & set(case.items))


def test_times_and_types(cases: tuple[Case, ...]) -> None:
    events = [event for case in cases for event in case.history]
    assert {kind for _, kind, _ in events} > set(EVENTS), "and one that the bundle does not know"
    assert any(when is None for _, _, when in events)
    times = [[when for _, _, when in case.history if when is not None] for case in cases]
    assert any(later < earlier for t in times for earlier, later in itertools.pairwise(t))


def test_near_ties(cases: tuple[Case, ...]) -> None:
    """Neighbours so close that runtimes may swap them, in the middle of a list and not only at its end."""
    longest = max(cases, key=lambda case: len(case.items))
    assert len(longest.items) > ITEMS * 0.8
    gaps = -np.diff(np.asarray(longest.scores))
    assert 0 < gaps[gaps > 0].min() < 0.02
    assert (gaps < 0.02).sum() >= 3


def test_equal_seeds_give_equal_requests() -> None:
    first, second, other = (golden_requests(IDS, np.arange(ITEMS), EVENTS, LENGTH, s) for s in (0, 0, 1))
    assert first == second != other
