"""Small plots as SVG text: points with error bars, lines, heat maps. No library, nothing fetched."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Series", "heat_map", "plot"]

_WIDTH, _HEIGHT = 560, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 16, 48
_LEGEND = 200  # width beside the frame
# Okabe and Ito's, then darker ones of theirs.
COLORS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f"),
    *("#00395a", "#6a2f00", "#004f39", "#663c53", "#735000", "#2b5a74", "#000000"),
)


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one kind.

    Attributes:
        name: in the legend.
        points: (x, y).
        labels: beside each point; empty for none.
        x_bars, y_bars: (low, high) around each point; empty for none.
        joined: whether a line goes through the points.
    """

    name: str
    points: Sequence[tuple[float, float]]
    labels: Sequence[str] = ()
    x_bars: Sequence[tuple[float, float]] = ()
    y_bars: Sequence[tuple[float, float]] = ()
    joined: bool = False


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
    for i, one in enumerate(series):
        parts += _draw(one, x_axis, y_axis, COLORS[i % len(COLORS)])
    parts += _legend([one.name for one in series])
    width = _WIDTH + (_LEGEND if len(series) > 1 else 0)
    return _svg(width, _HEIGHT, f"{y_label} against {x_label}", parts)


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
                f'fill="#0072b2" fill-opacity="{value:.3f}" stroke="#999" stroke-width="0.3">'
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
        parts.append(f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="1.5"/>')
    for (low, high), (_, y) in zip(one.x_bars, points, strict=False):
        parts.append(f'<path d="M{x_axis.at(low):.1f} {y:.1f}H{x_axis.at(high):.1f}" stroke="{color}"/>')
    for (low, high), (x, _) in zip(one.y_bars, points, strict=False):
        parts.append(f'<path d="M{x:.1f} {y_axis.at(low):.1f}V{y_axis.at(high):.1f}" stroke="{color}"/>')
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"/>' for x, y in points]
    for label, (x, y) in zip(one.labels, points, strict=False):
        # What stands near the right edge is labelled to its left.
        side, anchor = (-7, "end") if x > (x_axis.start + 3 * x_axis.end) / 4 else (7, "start")
        parts.append(_text(x + side, y - 5, label, anchor))
    return parts


def _legend(names: Sequence[str]) -> list[str]:
    if len(names) < 2:
        return []
    parts = []
    for i, name in enumerate(names):
        y = _TOP + 10 + 16 * i
        color = COLORS[i % len(COLORS)]
        parts.append(f'<circle cx="{_WIDTH + 6}" cy="{y - 4}" r="4" fill="{color}"/>')
        parts.append(_text(_WIDTH + 16, y, name, "start"))
    return parts


def _text(x: float, y: float, text: str, anchor: str, turned: bool = False) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>{escape(text)}</text>'


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'role="img"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )
