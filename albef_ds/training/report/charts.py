"""Draws line charts as SVG in the page's colours, without a drawing library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1rem 1.5rem; }
svg.chart { width: 100%; height: auto; } svg.chart text { fill: var(--muted); font-size: 11px; }
svg.chart text.title { fill: var(--ink); font-size: 12.5px; } svg.chart line { stroke: var(--line); }
svg.chart polyline { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
svg.chart .c0 { stroke: var(--first); } svg.chart .c1 { stroke: var(--second); }
svg.chart .c2 { stroke: var(--third); } svg.chart .c3 { stroke: var(--fourth); }
svg.chart line { stroke-width: 1; } svg.chart line[class] { stroke-width: 3; }
"""
MOST_POINTS = 600
"""Of a longer series only every n-th point and the last are drawn."""
_WIDTH, _HEIGHT = 420, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 26, 34
_COLOURS = 4


@dataclass(frozen=True)
class Curve:
    """One series; `label` is shown if there are several."""

    label: str
    steps: Sequence[int]
    values: Sequence[float]


def line_chart(title: str, curves: Sequence[Curve]) -> str:
    """Returns an SVG of `curves` over the steps, or '' if there is no point."""
    points = [(step, value) for curve in curves for step, value in zip(curve.steps, curve.values, strict=True)]
    if not points:
        return ""
    first, last = min(step for step, _ in points), max(step for step, _ in points)
    low, high = min(value for _, value in points), max(value for _, value in points)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    low, high, span = low - margin, high + margin, max(last - first, 1)

    def x(step: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (step - first) / span

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low)

    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">',
        f'<text class="title" x="0" y="12">{escape(title)}</text>',
    ]
    for value in ticks(low, high):
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    for step in (first, last):
        anchor = "start" if step == first else "end"
        parts.append(f'<text x="{x(step):.1f}" y="{_HEIGHT - 16}" text-anchor="{anchor}">step {step:,}</text>')
    for number, curve in enumerate(curves):
        colour = f"c{number % _COLOURS}"
        drawn = [(x(step), y(value)) for step, value in _thinned(curve)]
        if len(drawn) == 1:  # a single point would be invisible
            drawn.append((drawn[0][0] + 3, drawn[0][1]))
        parts.append(f'<polyline class="{colour}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in drawn)}"/>')
        if len(curves) > 1:
            left = _LEFT + 90 * number
            parts.append(f'<line class="{colour}" x1="{left}" x2="{left + 14}" y1="{_HEIGHT - 5}" y2="{_HEIGHT - 5}"/>')
            parts.append(f'<text x="{left + 18}" y="{_HEIGHT - 1}">{escape(curve.label)}</text>')
    return "".join([*parts, "</svg>"])


def ticks(low: float, high: float) -> list[float]:
    """Returns two to seven round numbers from `low` to `high`."""
    raw = (high - low) / 6
    size: float = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _thinned(curve: Curve) -> list[tuple[int, float]]:
    points = list(zip(curve.steps, curve.values, strict=True))
    every = -(-len(points) // MOST_POINTS)
    return points[::every] + (points[-1:] if every > 1 else [])
