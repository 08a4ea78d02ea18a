"""What is said against a student, from the figures of its build."""

from __future__ import annotations

from typing import Any

from pocketrec_export.doubts import doubts


def figures(**student: Any) -> dict[str, Any]:
    """Of a good build, but for what is said of the student."""
    of_student = {
        "validation": {"ndcg@10": 0.09},
        "test": {"ndcg@10": 0.07},
        "best_epoch": 7,
        "epochs": 11,
        "stopped": "patience",
    }
    return {
        "popularity": {"ndcg@10": 0.005},
        "teacher": {
            "members": [
                {"name": "sequence 1", "fitted": {"ndcg@10": 0.2}, "validation": {"ndcg@10": 0.08}},
                {"name": "neighbours", "fitted": {"ndcg@10": 0.04}},
            ]
        },
        "student": of_student | student,
    }


def test_a_good_student_has_nothing_against_it() -> None:
    assert doubts(figures(), alike=True) == []


def test_a_student_without_a_teacher_is_held_against_popularity_alone() -> None:
    said = figures(test={"ndcg@10": 0.005})
    del said["teacher"]
    assert [text.split(" (")[0] for text in doubts(said, alike=True)] == [
        "The student ranks no better than popularity"
    ]


def test_the_best_member_ahead_is_named_with_what_to_do() -> None:
    both = figures(validation={"ndcg@10": 0.03})
    (told,) = doubts(both, alike=True)
    assert "sequence 1 (0.0800)" in told
    assert "--teacher none" in told
    # Larger sequence models are expected to be ahead; neighbours, which nobody trained, are not.
    (told,) = doubts(both, alike=False)
    assert "neighbours (0.0400)" in told
    assert "--teacher none" not in told
    assert doubts(figures(validation={"ndcg@10": 0.05}), alike=False) == []


def test_only_a_student_that_was_getting_better_was_cut_short() -> None:
    limit = "time limit of 60 s"
    (told,) = doubts(figures(stopped=limit, best_epoch=10), alike=True)
    assert "--max-minutes" in told
    assert doubts(figures(stopped=limit, best_epoch=9), alike=True) == []
    # Epochs are numbered from 0.
    assert doubts(figures(stopped=limit, best_epoch=10, epochs=12), alike=True) == []
