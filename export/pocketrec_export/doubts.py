"""What whoever built a student should hear before shipping it: that it loses to what it should beat, or that
its training was cut short. Read off the figures of a build; nothing is measured here."""

from __future__ import annotations

from typing import Any


def doubts(figures: dict[str, Any], *, alike: bool) -> list[str]:
    """Sentences; none for a student with nothing against it.

    Members of the teacher are held against the student on validation, where all choices are made; popularity
    on test, where alone it is measured.

    Args:
        figures: see `build.BuildResult`.
        alike: whether the teacher's sequence models are of the student's shape; larger ones may be ahead.
    """
    behind = _loses_to_popularity(figures) + _loses_to_members(figures, alike)
    return behind + _cut_short(figures["student"])


def _loses_to_popularity(figures: dict[str, Any]) -> list[str]:
    own, popular = figures["student"]["test"]["ndcg@10"], figures["popularity"]["ndcg@10"]
    if own > popular:
        return []
    return [
        f"The student ranks no better than popularity (NDCG@10 on test {own:.4f}, popularity {popular:.4f}): "
        "look at what the build said of the data, give it more events, or more time."
    ]


def _loses_to_members(figures: dict[str, Any], alike: bool) -> list[str]:
    """The best member that is ahead, if one is. Untrained members were judged on the validation users that
    the blend was fitted on, the others on all."""
    own = figures["student"]["validation"]["ndcg@10"]
    ahead = []
    for member in figures.get("teacher", {}).get("members", ()):
        trained = "validation" in member
        value = (member["validation"] if trained else member["fitted"])["ndcg@10"]
        if value > own and (alike or not trained):
            ahead.append((value, member["name"], trained))
    if not ahead:
        return []
    value, name, trained = max(ahead)
    remedy = (
        "`--teacher none` builds without it; in the same work directory, and with no dropout set, in seconds"
        if trained
        else "more time, or more events, may mend that"
    )
    return [
        f"On validation the student (NDCG@10 {own:.4f}) is behind a member of its teacher, "
        f"{name} ({value:.4f}): {remedy}."
    ]


def _cut_short(student: dict[str, Any]) -> list[str]:
    last = student["epochs"] - 1  # epochs are numbered from 0
    if not student["stopped"].startswith("time limit") or student["best_epoch"] < last:
        return []
    return [
        f"The time limit ended training while the student was still getting better (after "
        f"{student['epochs']} epochs): with a larger --max-minutes, or none, it may rank better."
    ]
