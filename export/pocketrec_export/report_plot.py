"""A plot of size against quality as one SVG element, without a script and without a library."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 20, 50


@dataclass(frozen=True)
class Point:
    """A bundle: its bytes, its NDCG@10, and whether a runtime measured it (filled) or not (hollow)."""

    label: str
    bytes: int
    ndcg: float
    measured: bool


def frontier_plot(points: Sequence[Point]) -> str:
    """The points, and a line along those that no other beats in both.

    Args:
        points: at least one.
    """
    low_x, high_x = _range([p.bytes / 1e6 for p in points])
    low_y, high_y = _range([p.ndcg for p in points])

    def x(value: float) -> float:
        return LEFT + (value - low_x) / (high_x - low_x) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low_y) / (high_y - low_y) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-size="12" font-family="sans-serif">']
    parts.append("<title>NDCG@10 against the bytes of the bundle</title>")
    for share in (0, 0.25, 0.5, 0.75, 1):
        value_x, value_y = low_x + share * (high_x - low_x), low_y + share * (high_y - low_y)
        parts.append(
            f'<path d="M{LEFT},{y(value_y):.1f}H{WIDTH - RIGHT}" stroke="#e5e5e5"/>'
            f'<text x="{LEFT - 8}" y="{y(value_y) + 4:.1f}" text-anchor="end" fill="#444">'
            f"{value_y:.4f}</text>"
            f'<text x="{x(value_x):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle" fill="#444">'
            f"{value_x:.2f}</text>"
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle">megabytes of the bundle</text>')
    parts.append(f'<text x="14" y="{TOP - 6}">NDCG@10</text>')
    best = unbeaten(points)
    line = " ".join(f"{x(p.bytes / 1e6):.1f},{y(p.ndcg):.1f}" for p in best)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#1f6feb" stroke-width="1.5"/>')
    for point in points:
        at_x, at_y = x(point.bytes / 1e6), y(point.ndcg)
        fill = "#1f6feb" if point.measured else "#fff"
        parts.append(
            f'<circle cx="{at_x:.1f}" cy="{at_y:.1f}" r="5" fill="{fill}" stroke="#1f6feb" stroke-width="2"/>'
            f'<text x="{at_x + 9:.1f}" y="{at_y - 7:.1f}">{html.escape(point.label)}</text>'
        )
    parts.append(
        f'<text x="{WIDTH - RIGHT + 20}" y="{HEIGHT - 28}" fill="#444">filled: measured</text>'
        f'<text x="{WIDTH - RIGHT + 20}" y="{HEIGHT - 10}" fill="#444">hollow: simulated</text></svg>'
    )
    return "\n".join(parts)


def unbeaten(points: Sequence[Point]) -> list[Point]:
    """Those that no other beats in both bytes and NDCG@10, smallest first."""
    found: list[Point] = []
    for point in sorted(points, key=lambda p: (p.bytes, -p.ndcg)):
        if not found or point.ndcg > found[-1].ndcg:
            found.append(point)
    return found


def _range(values: Sequence[float]) -> tuple[float, float]:
    """A little more than the values need, and never nothing."""
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin
