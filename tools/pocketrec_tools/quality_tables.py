"""The tables of the quality page, as lines of Markdown; a table without rows is empty."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pocketrec_tools.quality_anchors import published
from pocketrec_tools.quality_intervals import Interval
from pocketrec_tools.quality_peers import PEERS
from pocketrec_tools.quality_records import Record
from pocketrec_tools.quality_runs import ARMS, OURS

METRICS = ("hr@10", "ndcg@10", "mrr@10")
BARE = "none"


def main_table(records: Sequence[Record]) -> list[str]:
    """Published figures, peers, the teacher, the student without and with it."""
    data = records[0].data
    rows: list[tuple[str, ...]] = [
        (f"{row.model} — {row.source}", row.hr, row.ndcg, "", "published", "")
        for row in published(data.name, data.users, data.events)
    ]
    for arm in (*PEERS, "teacher", BARE, OURS):
        runs = _of(records, arm)
        if runs:
            label = ARMS[arm].label if arm in ARMS else PEERS[arm].label
            figures = [_spread(runs, metric) for metric in METRICS]
            rows.append((label + _stopped(runs), *figures, _seeds(runs), _minutes(runs)))
    headers = ("", "HR@10", "NDCG@10", "MRR@10", "seeds", "minutes")
    return _table(headers, rows)


def ablation_table(records: Sequence[Record]) -> list[str]:
    """All arms of ours, each as far as it was measured."""
    rows = []
    for name, arm in ARMS.items():
        runs = _of(records, name)
        if runs:
            size = runs[0].details.get("bundle_bytes")
            rows.append(
                (
                    f"`{name}`: {arm.label}",
                    *(_spread(runs, metric) for metric in METRICS),
                    _float(runs),
                    f"{size / 1e6:.1f}" if size else "",
                    _seeds(runs),
                )
            )
    headers = ("", "HR@10", "NDCG@10", "MRR@10", "NDCG@10 before int8", "bundle, MB", "seeds")
    return _table(headers, rows) if len(rows) > 1 else []


def interval_table(intervals: Sequence[Interval]) -> list[str]:
    """Paired differences; bold where the interval leaves out zero."""
    by_arm: dict[str, dict[str, Interval]] = {}
    for interval in intervals:
        by_arm.setdefault(interval.theirs, {})[interval.metric] = interval
    rows = []
    for arm in (*ARMS, *PEERS):
        if arm in by_arm:
            ndcg, hr = by_arm[arm]["ndcg@10"], by_arm[arm]["hr@10"]
            relative = f"{100 * ndcg.mean / ndcg.base:+.1f} %" if ndcg.base > 0 else ""
            seeds = " and ".join(dict.fromkeys(",".join(map(str, own)) for own in ndcg.seeds))
            rows.append((f"`{arm}`", _difference(ndcg), relative, _difference(hr), f"{ndcg.users:,}", seeds))
    headers = ("DuoKD minus", "NDCG@10", "relative", "HR@10", "users", "seeds")
    return _table(headers, rows)


def part_table(records: Sequence[Record]) -> list[str]:
    """HR@10 and NDCG@10 of head and tail, of all who have ranks."""
    rows = []
    for arm in (*PEERS, *ARMS):
        runs = _of(records, arm)
        if runs and all(run.head or run.tail for run in runs):
            cells = [_spread(runs, metric, part) for part in ("head", "tail") for metric in METRICS[:2]]
            rows.append((f"`{arm}`", *cells))
    return _table(("", "head HR@10", "head NDCG@10", "tail HR@10", "tail NDCG@10"), rows)


def cold_table(records: Sequence[Record]) -> list[str]:
    """The held-out items, a block of rows for each seed."""
    rows = []
    for record in (r for r in records if r.kind == "cold"):
        found = record.details
        what = f"{found['items']:,} items, {record.test['users']:,} users, seed {record.seed}"
        rows.append(
            (f"**the bundle**: {what}", _short(record.test["hr@10"]), _short(record.test["ndcg@10"]), "")
        )
        for name, label in (
            ("text", "TF-IDF similarity of texts"),
            ("popularity", "their true popularity"),
            ("random", "random order"),
        ):
            mean, low, high = found[name]["gain"]
            gain = _signed(mean, low, high)
            rows.append((label, _short(found[name]["hr@10"]), _short(found[name]["ndcg@10"]), gain))
    return _table(("among held-out items", "HR@10", "NDCG@10", "the bundle's gain in NDCG@10"), rows)


def _of(records: Sequence[Record], arm: str) -> list[Record]:
    return sorted((r for r in records if r.arm == arm and r.kind != "cold"), key=lambda r: r.seed)


def _spread(runs: Sequence[Record], metric: str, part: str = "test") -> str:
    """Mean ± standard deviation over seeds, "" when the part is not there."""
    found = [figures[metric] for run in runs if (figures := getattr(run, part))]
    if not found:
        return ""
    mean = _short(float(np.mean(found)))
    return mean if len(found) == 1 else f"{mean} ± {_short(float(np.std(found, ddof=1)))}"


def _float(runs: Sequence[Record]) -> str:
    found = [run.details["float_test"]["ndcg@10"] for run in runs if "float_test" in run.details]
    return _short(float(np.mean(found))) if found else ""


def _seeds(runs: Sequence[Record]) -> str:
    return ", ".join(str(run.seed) for run in runs)


def _minutes(runs: Sequence[Record]) -> str:
    """Training minutes where something is trained, else those of the run."""
    parts = ("teacher",) if runs[0].arm == "teacher" else ("teacher", "student", "peer")
    spent = [sum(run.training.get(part, 0) for part in parts) or run.minutes for run in runs]
    mean = float(np.mean(spent))
    return f"{mean:.0f}" if mean >= 10 else f"{mean:.1f}"


def _stopped(runs: Sequence[Record]) -> str:
    """A remark where training ended for want of time: more might have helped."""
    limits = [run.details["limit_minutes"] for run in runs if run.details.get("stopped") == "minutes"]
    return f" — stopped after {max(limits):g} minutes" if limits else ""


def _difference(interval: Interval) -> str:
    return _signed(interval.mean, interval.low, interval.high)


def _signed(mean: float, low: float, high: float) -> str:
    text = f"{_plus(mean)} ({_plus(low)} to {_plus(high)})"
    return f"**{text}**" if low > 0 or high < 0 else text


def _short(value: float) -> str:
    """Four digits after the point: .0531."""
    return f"{value:.4f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.4f}"


def _plus(value: float) -> str:
    return ("−" if value < 0 else "+") + _short(abs(value))


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []

    def lines() -> Iterator[str]:
        yield "| " + " | ".join(headers) + " |"
        yield "|---" + "|---:" * (len(headers) - 1) + "|"
        for row in rows:
            yield "| " + " | ".join(row) + " |"

    return list(lines())
