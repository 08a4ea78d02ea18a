"""Golden vectors: computed once by the definition, replayed by everyone, and what counts as agreement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketrec.errors import BundleError
from pocketrec.gate import StoppedError
from pocketrec.golden import (
    MAX_CASE_EVENTS,
    MAX_CASES,
    Case,
    Golden,
    Request,
    compute_cases,
    disagreements,
    parse_golden,
    replay,
)
from pocketrec.recommender import Recommender
from tiny_bundle import HISTORIES, item_id

CASE = Case(history=(("a", "", None),), k=3, filter_seen=True, exclude=(), candidates=None, fallback=False,
            items=("x", "y", "z"), scores=(3.0, 2.0, 1.0))  # fmt: skip


def test_every_precision_agrees_with_its_own_vectors(tiny_bundles: dict[str, Path]) -> None:
    for path in tiny_bundles.values():
        with Recommender.open(path, engine="numpy") as rec:
            golden = parse_golden(rec.bundle.file_bytes("golden.json"))
            assert len(golden.cases) == len(HISTORIES)
            assert [case.fallback for case in golden.cases] == [False, False, True, True, False, False]
            assert replay(rec, golden) == []
            assert tuple(compute_cases(rec, HISTORIES)) == golden.cases


def test_another_model_does_not_agree(tiny_bundles: dict[str, Path]) -> None:
    golden = parse_golden((tiny_bundles["fp32"] / "golden.json").read_bytes())
    with Recommender.open(tiny_bundles["int4"], engine="numpy") as rec:
        reasons = {mismatch.reason for mismatch in replay(rec, golden)}
    assert "score" in reasons


def test_a_runtime_that_raises_does_not_agree(recommender: Recommender) -> None:
    golden = Golden(tolerance=1, cases=(CASE.model_copy(update={"candidates": ("unknown",)}),))
    (mismatch,) = replay(recommender, golden)
    assert mismatch.reason == "error"
    assert mismatch.to_dict()["case"] == 0


def test_a_fallback_that_was_not_expected(recommender: Recommender) -> None:
    (case,) = compute_cases(recommender, [Request(history=(), k=2)])
    golden = Golden(tolerance=0.1, cases=(case.model_copy(update={"fallback": False}),))
    assert [mismatch.reason for mismatch in replay(recommender, golden)] == ["fallback"]


@pytest.mark.parametrize(
    ("ranked", "reasons"),
    [
        ([("x", 3.0), ("y", 2.0), ("z", 1.0)], []),
        ([("x", 3.1), ("y", 1.9), ("z", 1.1)], []),  # within the tolerance
        ([("x", 3.0), ("y", 2.0), ("w", 0.95)], []),  # another item, tied with the last
        ([("x", 3.0), ("y", 2.0)], ["count"]),
        ([("x", 3.2), ("y", 2.0), ("z", 1.0)], ["score"]),
        ([("x", 3.0), ("w", 2.0), ("z", 1.0)], ["item"]),  # right score, but this item has no place so high
        ([("x", 3.0), ("y", float("nan")), ("z", 1.0)], ["score"]),
    ],
)
def test_what_counts_as_agreement(ranked: list[tuple[str, float]], reasons: list[str]) -> None:
    assert [reason for reason, _ in disagreements(CASE, ranked, 0.11)] == reasons


@given(shift=st.floats(-0.099, 0.099), swap=st.booleans())
def test_a_tie_in_another_order_is_no_disagreement(shift: float, swap: bool) -> None:
    tied = CASE.model_copy(update={"scores": (2.0, 2.0, 1.0)})
    ranked = [("y", 2.0 + shift), ("x", 2.0 + shift)] if swap else [("x", 2.0 + shift), ("y", 2.0 + shift)]
    assert disagreements(tied, [*ranked, ("z", 1.0)], 0.1) == []


def good() -> dict[str, Any]:
    return {"tolerance": 0.02, "cases": [json.loads(CASE.model_dump_json())]}


def test_it_reads_what_it_writes() -> None:
    assert parse_golden(json.dumps(good()).encode()).cases == (CASE,)


@pytest.mark.parametrize(
    "change",
    [
        {"tolerance": -1},
        {"tolerance": "0.1"},
        {"surprise": 1},
        {"cases": [good()["cases"][0] | {"k": 0}]},
        {"cases": [good()["cases"][0] | {"scores": [1.0]}]},
        {"cases": [good()["cases"][0] | {"k": 2}]},
        {"cases": [good()["cases"][0] | {"history": [["a", ""]]}]},
        {"cases": [good()["cases"][0] | {"surprise": 1}]},
        {"cases": [{key: value for key, value in good()["cases"][0].items() if key != "k"}]},
    ],
)
def test_other_files_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BundleError) as caught:
        parse_golden(json.dumps(good() | change).encode())
    assert caught.value.code == "golden-invalid"


def test_histories_become_requests(recommender: Recommender) -> None:
    plain, full = compute_cases(recommender, [[item_id(1)], Request(history=((item_id(1), "", None),), k=3)])
    assert plain.k == 10
    assert full.items == plain.items[:3]


def test_the_limits_admit_what_lies_on_them() -> None:
    case = good()["cases"][0]
    most = case | {"history": [["a", "", None]] * MAX_CASE_EVENTS}
    assert len(parse_golden(json.dumps(good() | {"cases": [case] * (MAX_CASES - 1) + [most]}).encode()).cases)
    for cases in ([case] * (MAX_CASES + 1), [most | {"history": [*most["history"], ["a", "", None]]}]):
        with pytest.raises(BundleError) as caught:
            parse_golden(json.dumps(good() | {"cases": cases}).encode())
        assert caught.value.code == "too-large"
        assert caught.value.remedy


def test_no_more_is_ranked_than_was_expected(recommender: Recommender) -> None:
    """A case may ask for two thousand million items; the answer is as long as the expected one, and one."""
    (case,) = compute_cases(recommender, [Request(history=(), k=3)])
    asked: list[int] = []

    class Watched(Recommender):
        def rank(self, history: Any, k: int = 10, **rest: Any) -> Any:
            asked.append(k)
            return recommender.rank(history, k, **rest)

    huge = Golden(tolerance=1, cases=(case.model_copy(update={"k": 2**31 - 1}),))
    (mismatch,) = replay(Watched(), huge)
    assert (mismatch.reason, asked) == ("count", [4])


def test_replaying_ends_in_time(recommender: Recommender) -> None:
    cases = tuple(compute_cases(recommender, [[item_id(1)], [item_id(2)]]))
    assert replay(recommender, Golden(tolerance=1, cases=cases), seconds=60) == []
    with pytest.raises(StoppedError) as caught:
        replay(recommender, Golden(tolerance=1, cases=cases), seconds=0)
    assert caught.value.code == "deadline-exceeded"
    assert "0 of 2" in str(caught.value)
