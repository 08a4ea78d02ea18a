"""The tables of docs/benchmarks/frontier.md, in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pocketrec_tools.bench_report import Figure, ListFigure
from pocketrec_tools.machine import machine

if TYPE_CHECKING:
    from pocketrec_tools.frontier import Frontier, Way

_COLUMNS = (
    "",
    "NDCG@10",
    "HR@10",
    "MB shipped",
    "ms a list",
    "p10–p90",
    "medians of runs",
    "processor ms",
    "peak memory, MB",
    "ready in ms",
    "first list, ms",
)


def page(found: Frontier, command: str) -> str:
    """The tables, what they were made with, and who is ahead in what."""
    about = machine()
    lines = [
        f"{found.data}; {found.bundle}. {about['processor']}, {about['cores']} cores, one thread; "
        f"Python {about['python']}; {found.runs} runs in turns, {found.lists} test users' lists in each. "
        f"`{command}`.",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        "|---" * len(_COLUMNS) + "|",
    ]
    for name, way in found.ways.items():
        cells = [
            name,
            f"{way.metrics.ndcg:.4f}",
            f"{way.metrics.hr:.4f}",
            f"{way.bytes / 1e6:.2f}",
            f"{way.ms.median:.3f}",
            f"{way.ms.p10:.3f}–{way.ms.p90:.3f}",
            f"{way.ms.low:.3f}–{way.ms.high:.3f}",
            f"{way.cpu_ms.median:.3f}",
            _spread(way.peak_bytes, 1e-6, 0),
            _spread(way.ready_ms, 1, 0),
            f"{way.first_ms.median:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    users = next(iter(found.ways.values())).metrics.users
    lines += [
        "",
        f"Quality: all {users:,} test users. " + _shipped(found.ways),
        "",
        _standing(found.ways),
        "",
    ]
    trained = found.trained
    lines += [
        f"RePlay's model: {trained['epochs']} epochs, the best of them the {_ordinal(trained['best_epoch'])} "
        f"(NDCG@10 on validation {trained['best']:.4f}), {trained['processor_minutes']:.1f} minutes "
        f"of processor time; stopped by {trained['stopped']}. "
        f"Item-kNN, chosen on validation: {found.neighbours['kind']}, "
        f"{found.neighbours['neighbours']} neighbours, "
        f"{'later items weigh more' if found.neighbours['recency'] else 'all items weigh the same'}. "
        + ", ".join(f"{name} {version}" for name, version in found.versions.items())
        + ".",
        "",
        *_parts(found),
    ]
    return "\n".join(lines)


def _parts(found: Frontier) -> list[str]:
    """`rank` beside what it cannot do without."""
    ours, parts = next(iter(found.ways.values())).ms, found.parts
    bare = parts["graph_ms"].median + parts["scan_ms"].median
    names = {"inputs_ms": "history to rows", "graph_ms": "bare engine", "scan_ms": "bare scan"}
    rows = [(names[name], figure) for name, figure in parts.items()] + [("`rank` in all", ours)]
    return [
        "| a list of ours | ms | p10–p90 | medians of runs |",
        "|---|---|---|---|",
        *(
            f"| {name} | {figure.median:.3f} | {figure.p10:.3f}–{figure.p90:.3f} "
            f"| {figure.low:.3f}–{figure.high:.3f} |"
            for name, figure in rows
        ),
        "",
        f"`rank` in all is {ours.median / bare:.2f} × the bare engine and the bare scan.",
        "",
    ]


def _standing(ways: dict[str, Way]) -> str:
    """For each peer, in what the first way is ahead of it and in what behind."""
    (name, ours), *peers = ways.items()
    said = []
    for peer, way in peers:
        better = {
            "quality": ours.metrics.ndcg > way.metrics.ndcg,
            "bytes": ours.bytes < way.bytes,
            "milliseconds": ours.ms.median < way.ms.median,
            "memory": ours.peak_bytes.median < way.peak_bytes.median,
        }
        ahead = [what for what, is_better in better.items() if is_better]
        behind = [what for what, is_better in better.items() if not is_better]
        said.append(f"{peer}: ahead in {_and(ahead)}, behind in {_and(behind)}")
    return f"{name} against " + "; ".join(said) + "."


def _shipped(ways: dict[str, Way]) -> str:
    return "MB: " + "; ".join(f"{name}: {way.detail}" for name, way in ways.items()) + "."


def _and(words: list[str]) -> str:
    if len(words) < 2:
        return words[0] if words else "nothing"
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _ordinal(number: int) -> str:
    ends = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if number % 100 in (11, 12, 13) else ends.get(number % 10, 'th')}"


def _spread(figure: Figure | ListFigure, factor: float, digits: int) -> str:
    low, middle, high = np.array([figure.low, figure.median, figure.high]) * factor
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"
