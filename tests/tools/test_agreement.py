"""Agreement of engines: what counts as identical, as a tie, and as a disagreement; and a whole run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_data import tiny_rows, write_rows

from pocketrec_tools.agreement import Answers, agreement, compared, table
from tiny_bundle import write_tiny_bundle

TARGETS = np.array([3, -1])


def answers(items: list[list[int]], scores: list[list[float]], query: float = 1.0) -> Answers:
    """Lists of two histories, padded to ten."""
    padded = np.full((2, 10), -1, np.int64)
    values = np.full((2, 10), np.nan, np.float32)
    for i, (ids, said) in enumerate(zip(items, scores, strict=True)):
        padded[i, : len(ids)], values[i, : len(ids)] = ids, said
    return {
        "items": padded,
        "scores": values,
        "queries": np.full((2, 4), query, np.float32),
        "ms": np.ones(2),
    }


REFERENCE = answers([[1, 3, 5], [2, 4, 6]], [[9, 8, 7], [9, 8, 7]])


def test_identical_lists() -> None:
    found = compared(REFERENCE, REFERENCE, TARGETS, 0.1)
    assert (found["identical"], found["same_items"], found["exact"], found["exact_identical"]) == (2, 2, 2, 2)
    assert (found["ties"], found["disagree"], found["widest"], found["near"]) == (0, 0, 0, 0)
    assert found["ndcg"] == pytest.approx(1 / np.log2(3))  # the target is second; −1 has no say


def test_a_tie_within_the_tolerance() -> None:
    theirs = answers([[3, 1, 5], [2, 4, 7]], [[8.5, 8.4, 7], [9, 8, 6.9]], query=1.001)
    found = compared(REFERENCE, theirs, TARGETS, 1.0)
    assert (found["identical"], found["same_items"], found["ties"], found["disagree"]) == (0, 1, 2, 0)
    assert found["exact"] == 0
    assert found["widest"] == pytest.approx(0.5)
    assert found["near"] == pytest.approx(1.0)  # items 1 and 3 are 1 apart in the reference's own scores
    assert found["query"][1] == pytest.approx(0.001, rel=0.01)


def test_disagreements() -> None:
    stranger = answers([[1, 3, 9], [2, 4, 6]], [[9, 8, 7.5], [9, 8, 7]])
    assert compared(REFERENCE, stranger, TARGETS, 0.2)["disagree"] == 1
    shifted = answers([[1, 3, 5], [2, 4, 6]], [[9, 8, 7], [9, 8, 7.3]])
    assert compared(REFERENCE, shifted, TARGETS, 0.2)["disagree"] == 1


def test_lists_of_unlike_length_disagree() -> None:
    shorter = answers([[1, 3], [2, 4, 6]], [[9, 8], [9, 8, 7]])
    assert compared(REFERENCE, shorter, TARGETS, 10.0)["disagree"] == 1


def test_a_bundle(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    data = write_rows(tmp_path / "data", tiny_rows())
    found = agreement(bundle, data, count=60)
    assert found["histories"] == 60
    assert 0 < found["tested"] < 60
    assert list(found["engines"]) == ["numpy"]
    assert found["engines"]["numpy"]["identical"] == 60
    assert "| numpy | 100.00% | 100.00% | 0 | 0 |" in table(found)
