# SPDX-License-Identifier: Apache-2.0
"""A line plot as SVG, which needs no library and stands in a page as it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tokenprune_cli.compare.style import PLOT_STYLE

WIDTH, HEIGHT = 620, 400
LEFT, RIGHT, TOP, BOTTOM = 46, 150, 12, 44  # pixels around the plot; the legend stands on the right
COLORS = (
    "#4269d0", "#c98a00", "#d6453d", "#2f9e8f", "#3c8f4a", "#d3609b", "#8a56c9", "#5f8fc7", "#8c5b2e",
    "#c2410c", "#0f766e", "#a21caf", "#65820f", "#334155", "#b45309", "#be123c",
)  # fmt: skip
GREYS = ("#555555", "#8a8a8a", "#b0b0b0")


@dataclass(frozen=True)
class Point:
    """One point with the ends of its interval, and what is shown when a pointer rests on it."""

    x: float
    y: float
    low: float | None
    high: float | None
    note: str


@dataclass(frozen=True)
class Series:
    """One line. Baselines are grey and dashed; `square` marks methods that saw the question."""

    name: str
    points: tuple[Point, ...]
    is_baseline: bool = False
    square: bool = False


def svg(series: Sequence[Series], x_label: str, y_label: str, level: float | None = None) -> str:
    """Draw lines over a logarithmic x axis; y in per cent.

    Parameters
    ----------
    series
        Lines, each with at least one point, x above 0.
    x_label, y_label
        Of the axes.
    level
        Height of a dotted line across, the unpruned model's.
    """
    points = [point for one in series for point in one.points]
    xs = [point.x for point in points]
    low, high = min(xs) / 1.08, max(xs) * 1.08
    floor = 10 * math.floor(min([*(point.y for point in points), 90.0]) / 10)

    def x_of(value: float) -> float:
        share = math.log(value / low) / math.log(high / low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y_of(value: float) -> float:
        return TOP + (100 - value) / (100 - floor) * (HEIGHT - TOP - BOTTOM)

    right = WIDTH - RIGHT
    about = f"{escape(y_label)} over {escape(x_label)}"
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{about}">']
    for tick in range(int(floor), 101, 10):
        parts.append(f'<path class="grid" d="M{LEFT} {y_of(tick):.1f}H{right}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y_of(tick) + 4:.1f}" text-anchor="end">{tick}</text>')
    for value in ticks(low, high):
        parts.append(f'<path class="grid" d="M{x_of(value):.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        where = f'x="{x_of(value):.1f}" y="{HEIGHT - BOTTOM + 16}"'
        parts.append(f'<text {where} text-anchor="middle">{value:g}</text>')
    middle = (LEFT + right) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>')
    if level is not None:
        parts.append(f'<path class="level" d="M{LEFT} {y_of(level):.1f}H{right}"/>')
    ranked = sorted(series, key=lambda one: -one.points[-1].y)
    colors = _colors(series)
    for place, one in enumerate(ranked):
        color, dash = colors[one.name], ' stroke-dasharray="5 3"' if one.is_baseline else ""
        line = " ".join(f"{x_of(p.x):.1f},{y_of(p.y):.1f}" for p in one.points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}"{dash}/>')
        for p in one.points:
            if p.low is not None and p.high is not None:
                bar = f"M{x_of(p.x):.1f} {y_of(p.low):.1f}V{y_of(p.high):.1f}"
                parts.append(f'<path class="bar" stroke="{color}" d="{bar}"/>')
            parts.append(_mark(x_of(p.x), y_of(p.y), color, one.square, p.note))
        height = TOP + 10 + place * 17
        parts.append(_mark(right + 14, height - 4, color, one.square, one.name))
        parts.append(f'<text x="{right + 24}" y="{height}">{escape(one.name)}</text>')
    return "\n".join([*parts, "</svg>"])


def standalone(drawn: str) -> str:
    """Make a drawing a file of its own, with its style."""
    size = f'xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}"'
    return drawn.replace("<svg ", f"<svg {size} ", 1).replace(">", f"><style>{PLOT_STYLE}</style>", 1)


def ticks(low: float, high: float) -> list[float]:
    """Values 1, 2 or 5 times a power of ten within a range."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [step * 10.0**power for power in powers for step in (1, 2, 5)]
    return [value for value in values if low <= value <= high]


def _colors(series: Sequence[Series]) -> dict[str, str]:
    """A color for each line, the same whatever its rank."""
    lines = [one.name for one in series if not one.is_baseline]
    baselines = [one.name for one in series if one.is_baseline]
    colored = {name: COLORS[i % len(COLORS)] for i, name in enumerate(lines)}
    return colored | {name: GREYS[i % len(GREYS)] for i, name in enumerate(baselines)}


def _mark(x: float, y: float, color: str, square: bool, note: str) -> str:
    title = f"<title>{escape(note)}</title>"
    if square:
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{color}">{title}</rect>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}">{title}</circle>'
