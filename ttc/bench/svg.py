"""Small plots as SVG text: points with error bars, lines, heat maps. No library, nothing fetched."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ttc.bench.labels import placed

__all__ = ["COLORS", "MODE_COLORS", "Series", "heat_map", "legend", "plot"]

# As wide as a phone shows without shrinking the text much.
_WIDTH, _HEIGHT = 440, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 20, 48
# Colours as (on white, on black), each with 3:1 against its ground: after Okabe and Ito's.
_PAIRS = (
    *(("#0072b2", "#56b4e9"), ("#c04f00", "#ff8c42"), ("#00795a", "#2fd0a0"), ("#a8457c", "#e79bc4")),
    *(("#8a6400", "#f0c040"), ("#5b4bb5", "#b3a6ff"), ("#5f6670", "#a9b2bc"), ("#8b1a1a", "#ff8a8a")),
)
COLORS = tuple(f"light-dark({light}, {dark})" for light, dark in _PAIRS)
# One colour for a mode, wherever it is drawn.
MODE_COLORS = dict(zip(("ar", "diffusion", "lossless", "prompt-lookup"), COLORS, strict=False))


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one kind.

    Attributes:
        name: in the legend.
        points: (x, y).
        labels: beside each point; empty for none.
        x_bars, y_bars: (low, high) around each point; empty for none.
        joined: whether a line goes through the points.
        color: CSS; None for the next of `COLORS`.
    """

    name: str
    points: Sequence[tuple[float, float]]
    labels: Sequence[str] = ()
    x_bars: Sequence[tuple[float, float]] = ()
    y_bars: Sequence[tuple[float, float]] = ()
    joined: bool = False
    color: str | None = None


def plot(
    series: Sequence[Series], x_label: str, y_label: str, y_range: tuple[float, float] | None = None
) -> str:
    """Series in one frame. The x axis, and the y axis without a range, start at zero."""
    xs = [x for one in series for x, _ in one.points] + [
        v for one in series for bar in one.x_bars for v in bar
    ]
    ys = [y for one in series for _, y in one.points] + [
        v for one in series for bar in one.y_bars for v in bar
    ]
    x_axis = _Axis(min(0.0, *xs), max(xs), _LEFT, _WIDTH - _RIGHT)
    low, high = y_range or (min(0.0, *ys), max(ys))
    y_axis = _Axis(low, high, _HEIGHT - _BOTTOM, _TOP)
    parts = [*_frame(x_axis, y_axis, x_label, y_label)]
    for one, color in zip(series, _colors(series), strict=True):
        parts += _draw(one, x_axis, y_axis, color)
    parts += _labels(series, x_axis, y_axis)
    return _svg(_WIDTH, _HEIGHT, f"{y_label} against {x_label}", parts)


def legend(series: Sequence[Series]) -> str:
    """Return the names of several series beside their colours, as HTML."""
    if len(series) < 2:
        return ""
    items = (
        f'<li><i style="background: {color}"></i>{escape(one.name)}</li>'
        for one, color in zip(series, _colors(series), strict=True)
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _colors(series: Sequence[Series]) -> list[str]:
    return [one.color or COLORS[i % len(COLORS)] for i, one in enumerate(series)]


def _labels(series: Sequence[Series], x_axis: "_Axis", y_axis: "_Axis") -> list[str]:
    """Return the labels of all points, each where it lies on nothing else."""
    at = [[(x_axis.at(x), y_axis.at(y)) for x, y in one.points] for one in series]
    wanted = [
        pair for one, points in zip(series, at, strict=True) for pair in zip(one.labels, points, strict=False)
    ]
    frame = (_LEFT, 0.0, _WIDTH, _HEIGHT - _BOTTOM)
    parts = []
    for label in placed(wanted, (point for points in at for point in points), frame):
        if label.is_far:
            x, y = label.point
            parts.append(f'<path d="M{x:.1f} {y:.1f}L{label.x:.1f} {label.y - 4:.1f}" class="lead"/>')
        parts.append(_text(label.x, label.y, label.text, label.anchor))
    return parts


def heat_map(cells: Sequence[Sequence[float]], x_label: str, y_label: str) -> str:
    """cells[row][column] from 0 to 1, row 0 on top; each cell tells its value when pointed at."""
    rows, columns = len(cells), max(map(len, cells))
    size = max(6, min(24, (_WIDTH - _LEFT - _RIGHT) // columns))
    width, height = _LEFT + _RIGHT + size * columns, _TOP + _BOTTOM + size * rows
    parts = []
    for r, row in enumerate(cells):
        for c, value in enumerate(row):
            parts.append(
                f'<rect x="{_LEFT + c * size}" y="{_TOP + r * size}" width="{size - 1}" height="{size - 1}" '
                f'style="fill: {COLORS[1]}" fill-opacity="{value:.3f}" class="cell">'
                f"<title>{escape(y_label)} {r + 1}, {escape(x_label)} {c + 1}: {value:.0%}</title></rect>"
            )
    every = max(1, -(-20 // size))
    parts += [
        _text(_LEFT + (c + 0.5) * size, height - _BOTTOM + 14, str(c + 1), "middle")
        for c in range(0, columns, every)
    ]
    parts += [_text(_LEFT - 6, _TOP + (r + 0.7) * size, str(r + 1), "end") for r in range(0, rows, every)]
    parts.append(_text((_LEFT + width - _RIGHT) / 2, height - 14, x_label, "middle"))
    parts.append(_text(16, (_TOP + height - _BOTTOM) / 2, y_label, "middle", turned=True))
    return _svg(width, height, f"{y_label} by {x_label}", parts)


@dataclass(frozen=True, slots=True)
class _Axis:
    """Values [low, high] on pixels [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        span = (self.high - self.low) or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start) * 0.97

    def ticks(self) -> list[float]:
        """Round numbers, about five."""
        span = (self.high - self.low) or 1.0
        step = 10.0 ** math.floor(math.log10(span / 4))
        step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 6)
        first = math.ceil(self.low / step)
        return [n * step for n in range(first, math.floor(self.high / step) + 1)]


def _frame(x_axis: _Axis, y_axis: _Axis, x_label: str, y_label: str) -> list[str]:
    bottom, top, left, right = y_axis.start, y_axis.end, x_axis.start, x_axis.end
    parts = [f'<path d="M{left} {top}V{bottom}H{right}" class="axis"/>']
    for tick in x_axis.ticks():
        x = x_axis.at(tick)
        parts.append(f'<path d="M{x:.1f} {bottom}v5" class="axis"/>')
        parts.append(_text(x, bottom + 18, f"{tick:g}", "middle"))
    for tick in y_axis.ticks():
        y = y_axis.at(tick)
        parts.append(f'<path d="M{left} {y:.1f}H{right}" class="grid"/>')
        parts.append(_text(left - 6, y + 4, f"{tick:g}", "end"))
    parts.append(_text((left + right) / 2, bottom + 38, x_label, "middle"))
    parts.append(_text(14, (top + bottom) / 2, y_label, "middle", turned=True))
    return parts


def _draw(one: Series, x_axis: _Axis, y_axis: _Axis, color: str) -> list[str]:
    points = [(x_axis.at(x), y_axis.at(y)) for x, y in one.points]
    parts = []
    if one.joined and len(points) > 1:
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path d="M{path}" fill="none" style="stroke: {color}" stroke-width="1.5"/>')
    for (low, high), (_, y) in zip(one.x_bars, points, strict=False):
        bar = f"M{x_axis.at(low):.1f} {y:.1f}H{x_axis.at(high):.1f}"
        parts.append(f'<path d="{bar}" style="stroke: {color}"/>')
    for (low, high), (x, _) in zip(one.y_bars, points, strict=False):
        bar = f"M{x:.1f} {y_axis.at(low):.1f}V{y_axis.at(high):.1f}"
        parts.append(f'<path d="{bar}" style="stroke: {color}"/>')
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" style="fill: {color}"/>' for x, y in points]
    return parts


def _text(x: float, y: float, text: str, anchor: str, turned: bool = False) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>{escape(text)}</text>'


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'role="img"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )
