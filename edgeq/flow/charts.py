"""Charts as inline SVG: lines with bands, dots with whiskers, bars, ranges. They scale with the page and follow its colours.

Every chart carries its figures as text too: a label that is read aloud, and titles on the marks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = 7
"""The page defines --c0 to --c6."""

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 320, 190, 34, 22, 8


@dataclass(frozen=True)
class Point:
    """A measured figure over `x` with its interval."""

    x: float
    value: float
    low: float
    high: float


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers between `low` and `high`, about `count` of them.

    >>> ticks(0, 47)
    [0.0, 20.0, 40.0]
    """
    span = max(high - low, 1e-9)
    step = 10.0 ** math.floor(math.log10(span / count))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= count)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def line_chart(series: Mapping[str, Sequence[Point]], x_names: Mapping[float, str], label: str) -> str:
    """One line per runner with the band of its intervals; `x_names` are the ticks below."""
    points = [point for line in series.values() for point in line]
    low, high = min(p.low for p in points), max(p.high for p in points)
    low, high = (0.0 if low < 0.35 * high else low), max(high, low + 1e-6)
    first, last = min(x_names), max(*x_names, min(x_names) + 1)

    def at(x: float, y: float) -> tuple[float, float]:
        inside = _WIDTH - _LEFT - 8, _HEIGHT - _BOTTOM - _TOP
        share = (x - first) / (last - first), (min(max(y, low), high) - low) / (high - low)
        return round(_LEFT + inside[0] * share[0], 1), round(_TOP + inside[1] * (1 - share[1]), 1)

    parts = [_rule(at(first, y)[1], f"{y:g}") for y in ticks(low, high)]
    parts += [
        f'<text x="{at(x, low)[0]}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(name)}</text>'
        for x, name in x_names.items()
    ]
    for index, (name, line) in enumerate(series.items()):
        ordered = sorted(line, key=lambda point: point.x)
        band = [at(p.x, p.high) for p in ordered] + [at(p.x, p.low) for p in reversed(ordered)]
        colour = f"var(--c{index % COLOURS})"
        parts.append(f'<polygon points="{_joined(band)}" fill="{colour}" opacity="0.13"/>')
        middle = [at(p.x, p.value) for p in ordered]
        parts.append(f'<polyline points="{_joined(middle)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for point, (x, y) in zip(ordered, middle, strict=True):
            shown = f"{name}: {point.value:.1f} [{point.low:.1f}, {point.high:.1f}]"
            parts.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"><title>{escape(shown)}</title></circle>')
    return _svg(parts, _WIDTH, _HEIGHT, label)


def dot_chart(rows: Mapping[str, Mapping[str, Point]], label: str) -> str:
    """One row per condition with a dot and a whisker for each runner."""
    points = [point for row in rows.values() for point in row.values()]
    low, high = min(0.0, *(p.low for p in points)), max(*(p.high for p in points), 1e-6)
    width, left = 640, 120
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    step = 9 * len(names) + 9
    height = step * len(rows) + 26

    def at(value: float) -> float:
        return round(left + (width - left - 10) * (value - low) / (high - low), 1)

    parts = []
    for value in ticks(low, high, 6):
        parts.append(f'<line x1="{at(value)}" x2="{at(value)}" y1="4" y2="{height - 20}" class="grid"/>')
        parts.append(f'<text x="{at(value)}" y="{height - 6}" text-anchor="middle">{value:g}</text>')
    for index, (condition, row) in enumerate(rows.items()):
        top = 12 + index * step
        parts.append(f'<text x="{left - 8}" y="{top + step / 2 - 2}" text-anchor="end">{escape(condition)}</text>')
        for name, point in row.items():
            place = names.index(name)
            y, colour = top + 9 * place, f"var(--c{place % COLOURS})"
            shown = f"{condition}, {name}: {point.value:.1f} [{point.low:.1f}, {point.high:.1f}]"
            parts.append(
                f'<g stroke="{colour}" fill="{colour}"><title>{escape(shown)}</title>'
                f'<line x1="{at(point.low)}" x2="{at(point.high)}" y1="{y}" y2="{y}" stroke-width="2"/>'
                f'<circle cx="{at(point.value)}" cy="{y}" r="3.5"/></g>'
            )
    return _svg(parts, width, height, label)


@dataclass(frozen=True)
class Mark:
    """A cell of a trade-off: what it costs, how good it is, whether no other beats it in both, and what it is."""

    cost: float
    quality: float
    on_front: bool
    name: str


def trade_off_chart(series: Mapping[str, Sequence[Mark]], units: tuple[str, str], label: str) -> str:
    """Quality over cost, a colour for each series; what is on the front is filled, and a line joins it."""
    marks = [mark for found in series.values() for mark in found]
    width, height, left = 480, 300, 48
    ends = [_widened([mark.cost for mark in marks]), _widened([mark.quality for mark in marks])]

    def at(cost: float, quality: float) -> tuple[float, float]:
        shares = [(value - low) / (high - low) for value, (low, high) in zip((cost, quality), ends, strict=True)]
        return round(left + (width - left - 10) * shares[0], 1), round(24 + (height - 60) * (1 - shares[1]), 1)

    parts = [f'<text x="6" y="12">{escape(units[1])}</text>']
    for value in ticks(*ends[1]):
        y = at(ends[0][0], value)[1]
        parts.append(f'<line x1="{left}" x2="{width - 10}" y1="{y}" y2="{y}" class="grid"/>')
        parts.append(f'<text x="{left - 5}" y="{y + 4}" text-anchor="end">{value:g}</text>')
    for value in ticks(*ends[0], 6):
        x = at(value, ends[1][0])[0]
        parts.append(f'<text x="{x}" y="{height - 20}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<text x="{(left + width) / 2}" y="{height - 4}" text-anchor="middle">{escape(units[0])}</text>')
    line = [at(m.cost, m.quality) for m in sorted(marks, key=lambda m: m.cost) if m.on_front]
    parts.append(f'<polyline points="{_joined(line)}" fill="none" class="grid" stroke-dasharray="4 3"/>')
    for index, found in enumerate(series.values()):
        colour = f"var(--c{index % COLOURS})"
        for mark in sorted(found, key=lambda m: m.on_front):
            x, y = at(mark.cost, mark.quality)
            shown = f"{mark.name}: {quantity(mark.quality, '')} {units[1]} at {quantity(mark.cost, '')} {units[0]}"
            style = f'fill="{colour}"' if mark.on_front else f'fill="none" stroke="{colour}" opacity="0.7"'
            parts.append(f'<circle cx="{x}" cy="{y}" r="4" {style}><title>{escape(shown)}</title></circle>')
    return _svg(parts, width, height, label)


def _widened(values: Sequence[float]) -> tuple[float, float]:
    """The range of `values` with some room, and never nothing."""
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def bar_chart(bars: Mapping[str, float], unit: str, label: str) -> str:
    """Horizontal bars from 0 with their figures behind them."""
    width, left, step = 300, 70, 24
    most = max(*bars.values(), 1e-12)
    parts = []
    for index, (name, value) in enumerate(bars.items()):
        y, length = 4 + index * step, round((width - left - 76) * max(value, 0.0) / most, 1)
        parts.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="{left}" y="{y}" width="{length}" height="17" fill="var(--c{index % COLOURS})"/>')
        parts.append(f'<text x="{left + length + 6}" y="{y + 13}">{escape(quantity(value, unit))}</text>')
    return _svg(parts, width, step * len(bars) + 6, label)


def range_bar(low: float, high: float, widest: float, label: str) -> str:
    """A range [low, high] around 0 on a logarithmic scale that ends at `widest` on both sides."""

    def at(value: float) -> float:
        share = math.log1p(1000 * abs(value) / max(widest, 1e-30)) / math.log1p(1000)
        return round(100 + math.copysign(98 * min(share, 1.0), value), 1)

    left, right = at(low), at(high)
    parts = [
        '<line x1="100" x2="100" y1="0" y2="12" class="grid"/>',
        f'<rect x="{left}" y="3" width="{max(right - left, 1)}" height="6" fill="var(--c0)"/>',
    ]
    return _svg(parts, 200, 12, label)


def share_bar(share: float, label: str) -> str:
    """A bar for a share from 0 to 1."""
    width = round(198 * min(max(share, 0.0), 1.0), 1)
    return _svg([f'<rect x="1" y="3" width="{width}" height="6" fill="var(--c1)"/>'], 200, 12, label)


def quantity(value: float, unit: str) -> str:
    """A figure with its unit, bytes in the unit that suits.

    >>> quantity(2_500_000, "B"), quantity(3.14159, "ms")
    ('2.38 MiB', '3.14 ms')
    """
    if unit == "B":
        power = min(int(math.log(max(value, 1), 1024)), 3)
        return f"{value / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB')[power]}"
    text = f"{value:.3g}" if abs(value) < 1e5 else f"{value:,.0f}"
    return f"{text} {unit}".strip()


def _rule(y: float, text: str) -> str:
    line = f'<line x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{y}" y2="{y}" class="grid"/>'
    return f'{line}<text x="{_LEFT - 5}" y="{y + 4}" text-anchor="end">{text}</text>'


def _joined(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def _svg(parts: Sequence[str], width: float, height: float, label: str) -> str:
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
    return head + "".join(parts) + "</svg>"
