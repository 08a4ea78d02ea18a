"""The plots of a run, as SVG that reads in light and dark and is the same for the same figures."""

from __future__ import annotations

import html
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _GRID = "#010203", "#040506"
"""Stand-ins, replaced by what the reader's theme says."""

_COLOURS = ("#2a7de1", "#d9822b", "#2e9e5b", "#a854c7", "#c2405a", "#7a7a7a")
_THEME = (
    "<style>:root{--ink:#1b1f24;--grid:#d0d4d9}"
    "@media (prefers-color-scheme:dark){:root{--ink:#e6e8eb;--grid:#3a3f46}}</style>"
)
_BREADTH = ("coverage", "gini", "popular_share", "diversity", "kept_share")


@dataclass(frozen=True)
class Plot:
    """One plot: the name of its file, a title, and the picture in words for who cannot see it."""

    name: str
    title: str
    words: str
    svg: str


def draw_plots(document: dict[str, Any], folder: Path) -> list[Plot]:
    """Draw the plots that a document has figures for, and write them into the folder."""
    arms, k = document["arms"], document["k"]
    ndcg, hr = f"ndcg@{k}", f"hr@{k}"
    named = list(zip(_labels(arms), arms, strict=True))
    plots = []
    if any(arm["over_time"] for arm in arms):
        plots.append(
            _lines("time", f"NDCG@{k} over time", named, lambda arm: arm["over_time"], ndcg, turned=True)
        )
    for name, title, key in (
        ("history", f"NDCG@{k} by events so far", ndcg),
        ("session_position", f"NDCG@{k} by place in the session", ndcg),
    ):
        if any(name in arm["slices"] for arm in arms):
            plots.append(_lines(name, title, named, lambda arm, name=name: arm["slices"].get(name, []), key))
    for name, title in (
        ("part", f"HR@{k} by part of the split"),
        ("target", f"HR@{k} by popularity of the item"),
    ):
        rows = {label: {row["value"]: row[hr] for row in arm["slices"].get(name, [])} for label, arm in named}
        plots.append(_bars(name, title, rows))
    # With one list a person there is no list before it, and so no share that was kept.
    shown = [key for key in _BREADTH if any(arm["all"][key] is not None for arm in arms)]
    breadth = {label: {key: arm["all"][key] for key in shown} for label, arm in named}
    plots.append(_bars("breadth", "What the lists show", breadth))
    if document["differences"]:
        plots.append(_forest(document["differences"]))
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    for plot in plots:
        partial = folder / f".{plot.name}.part"
        partial.write_text(plot.svg, encoding="utf-8")
        os.replace(partial, folder / f"{plot.name}.svg")
    return plots


def _labels(arms: Sequence[dict[str, Any]]) -> list[str]:
    """Of the legend: arms by name, and with several bundles the bundle's name, too."""
    bundles = [arm.get("bundle", {}).get("name", "") for arm in arms]
    several = len(set(bundles)) > 1
    return [f"{a['name']}: {b}" if several else a["name"] for a, b in zip(arms, bundles, strict=True)]


def _lines(
    name: str, title: str, named: Sequence[tuple[str, Any]], rows_of: Any, key: str, turned: bool = False
) -> Plot:
    values = list(dict.fromkeys(str(row["value"]) for _, arm in named for row in rows_of(arm)))
    words = []

    def draw(axes: Axes) -> None:
        for number, (label, arm) in enumerate(named):
            found = {str(row["value"]): row[key] for row in rows_of(arm)}
            heights = [found.get(value, float("nan")) for value in values]
            colour = _COLOURS[number % len(_COLOURS)]
            axes.plot(range(len(values)), heights, marker="o", ms=3, lw=1.4, color=colour, label=label)
            if found:
                low, high = min(found.values()), max(found.values())
                words.append(f"{label}: {low:.4f} to {high:.4f}, at last {list(found.values())[-1]:.4f}")
        short = [value.split(" ")[0] if turned else value for value in values]
        step = max(1, len(values) // 8)
        axes.set_xticks(range(0, len(values), step), short[::step])
        axes.set_ylim(bottom=0)

    return _plot(name, title, draw, words, len(named) > 1)


def _bars(name: str, title: str, rows: dict[str, dict[str, float | None]]) -> Plot:
    values = list(dict.fromkeys(value for row in rows.values() for value in row))
    words = []

    def draw(axes: Axes) -> None:
        width = 0.8 / max(1, len(rows))
        for number, (arm, row) in enumerate(rows.items()):
            heights = [row.get(value) or 0.0 for value in values]
            places = [place + (number - (len(rows) - 1) / 2) * width for place in range(len(values))]
            axes.bar(places, heights, width * 0.92, color=_COLOURS[number % len(_COLOURS)], label=arm)
            words.append(f"{arm}: " + ", ".join(f"{v} {h:.4f}" for v, h in zip(values, heights, strict=True)))
        axes.set_xticks(range(len(values)), [value.replace("_", " ") for value in values])

    return _plot(name, title, draw, words, len(rows) > 1)


def _forest(differences: list[dict[str, Any]]) -> Plot:
    rows = [row for row in differences if row["metric"] != "diversity"]
    words = [
        f"{row['ours']} minus {row['theirs']}, {row['metric']}, {row['over']}: {row['mean']:+.4f} "
        f"({row['low']:+.4f} to {row['high']:+.4f})"
        for row in rows
    ]

    def draw(axes: Axes) -> None:
        for place, row in enumerate(reversed(rows)):
            colour = _COLOURS[0] if row["decided"] else _COLOURS[5]
            axes.plot([row["low"], row["high"]], [place, place], color=colour, lw=2)
            axes.plot([row["mean"]], [place], "o", color=colour, ms=5)
        axes.axvline(0, color=_INK, lw=0.8)
        names = [f"{r['ours']} − {r['theirs']}  {r['metric']}, {r['over']}" for r in reversed(rows)]
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(-0.6, len(rows) - 0.4)

    return _plot("differences", "Differences, with 95 % intervals over users", draw, words, False)


def _plot(name: str, title: str, draw: Any, words: list[str], legend: bool) -> Plot:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 9,
        "font.family": "sans-serif",
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
        "axes.edgecolor": _GRID,
        "grid.color": _GRID,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(6.4, 2.9), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        axes.set_axisbelow(True)
        axes.grid(True, lw=0.5)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.set_title(title, loc="left", fontsize=10)
        draw(axes)
        if legend:
            axes.legend(frameon=False, fontsize=8)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    said = "; ".join(words)
    return Plot(name, title, said, _themed(out.getvalue(), title, said))


def _themed(svg: str, title: str, words: str) -> str:
    """The picture alone, with colours of the reader's theme and words for who cannot see it."""
    svg = svg[svg.index("<svg") :]
    svg = svg.replace(_INK, "var(--ink)").replace(_GRID, "var(--grid)")
    svg = re.sub(r"font: [^;\"]*'sans-serif'[^;\"]*", lambda m: m[0].split("'")[0] + "sans-serif", svg)
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    said = f"<title>{html.escape(title)}</title><desc>{html.escape(words)}</desc>"
    # Text without an explicit colour is black in SVG.
    return (
        f'{head} role="img">{said}{_THEME}<g fill="var(--ink)">{rest.replace("</svg>", "</g></svg>")}'.strip()
        + "\n"
    )
