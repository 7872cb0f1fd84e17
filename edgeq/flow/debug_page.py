"""One self-contained HTML page: layers as bars, gains, and the distribution of every class with the ends of its codes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Protocol

import numpy as np

from edgeq.calibrate.statistics import Statistics
from edgeq.formats import FloatArray
from edgeq.quantize.insight import Layer

WIDTH, HEIGHT, BINS = 360, 90, 120
MOST_DB = 60.0

_STYLE = """
body { font: 14px system-ui, sans-serif; margin: 2em; color: #222 }
table { border-collapse: collapse } td, th { padding: 2px 10px; text-align: right }
td:first-child, th:first-child { text-align: left; font-family: monospace }
figure { display: inline-block; margin: 8px } figcaption { font: 11px monospace; max-width: 360px; overflow-wrap: anywhere }
.bad { color: #b00020 } svg { background: #f6f6f6 }
"""


class Improved(Protocol):
    """What the page tells of a change."""

    @property
    def change(self) -> str: ...
    @property
    def before_db(self) -> float: ...
    @property
    def after_db(self) -> float: ...


@dataclass(frozen=True)
class Range:
    """The distribution of a class of values, and the reals `low` and `high` between which it has codes."""

    key: str
    format: str
    estimator: str
    statistics: Statistics
    low: float
    high: float

    @property
    def clipped(self) -> float:
        """Share of the elements beyond the ends."""
        counts, edges = self.statistics.histogram.counts, self.statistics.histogram.edges
        outside = counts[edges[1:] <= self.low].sum() + counts[edges[:-1] >= self.high].sum()
        return float(outside) / max(self.statistics.count, 1)


def page(
    title: str, layers: Sequence[Layer], gains: Iterable[Improved], ranges: Iterable[Range], least_db: float
) -> str:
    """The document; nothing in it is loaded from elsewhere."""
    parts = [
        f"<!doctype html><meta charset='utf-8'><title>{escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{escape(title)}</h1><h2>Layers</h2>{_layers(layers, least_db)}",
        f"<h2>What would help</h2>{_gains(gains)}<h2>Ranges</h2>",
        *map(_figure, ranges),
    ]
    return "\n".join(parts) + "\n"


def _layers(layers: Sequence[Layer], least_db: float) -> str:
    head = "<tr><th>layer<th>kind<th>weight<th>reads<th>alone dB<th>accumulated dB<th><th>share of noise</tr>"
    rows = (
        f"<tr{' class=bad' if layer.accumulated.db < least_db else ''}><td>{escape(layer.operator)}<td>{layer.kind}"
        f"<td>{escape(layer.weight)[:12]}<td>{layer.activation}<td>{layer.alone.db:.1f}<td>{layer.accumulated.db:.1f}"
        f"<td>{_bar(layer.alone.db, layer.accumulated.db)}"
        f"<td>{layer.weight_share:.1%} weights, {layer.activation_share:.1%} reads</tr>"
        for layer in layers
    )
    return f"<table>{head}{''.join(rows)}</table>"


def _bar(alone: float, accumulated: float) -> str:
    def width(db: float) -> float:
        return 200 * min(max(db, 0.0), MOST_DB) / MOST_DB

    return (
        f"<svg width='200' height='12'><rect width='{width(alone):.0f}' height='12' fill='#c9dcf5'/>"
        f"<rect y='3' width='{width(accumulated):.0f}' height='6' fill='#2b6cb0'/></svg>"
    )


def _gains(gains: Iterable[Improved]) -> str:
    rows = (
        f"<tr><td>{escape(g.change)}<td>{g.after_db:.1f} dB<td>{g.after_db - g.before_db:+.1f} dB</tr>"
        for g in sorted(gains, key=lambda g: -g.after_db)
    )
    return f"<table>{''.join(rows)}</table>"


def density(range_: Range) -> tuple[FloatArray, FloatArray]:
    """(edges, counts) of BINS even bins over what was seen and what has codes; exact zeros count where they lie."""
    histogram, statistics = range_.statistics.histogram, range_.statistics
    low, high = min(statistics.minimum, range_.low), max(statistics.maximum, range_.high)
    edges = np.linspace(low, high, BINS + 1)
    running = np.concatenate([[0.0], np.cumsum(histogram.counts)])
    counts = np.diff(np.interp(edges, histogram.edges, running))
    counts[min(max(int(np.searchsorted(edges, 0.0, side="right")) - 1, 0), BINS - 1)] += statistics.zeros
    return edges, counts


def _figure(range_: Range) -> str:
    edges, counts = density(range_)
    top = math.log1p(float(counts.max(initial=1.0)))
    heights = HEIGHT * np.log1p(counts) / max(top, 1e-9)
    step, span = WIDTH / BINS, max(float(edges[-1] - edges[0]), 1e-30)
    bars = "".join(
        f"<rect x='{k * step:.1f}' y='{HEIGHT - height:.1f}' width='{step:.1f}' height='{height:.1f}'/>"
        for k, height in enumerate(heights)
        if height > 0
    )
    lines = "".join(
        f"<line x1='{x:.1f}' x2='{x:.1f}' y1='0' y2='{HEIGHT}' stroke='#b00020'/>"
        for x in (WIDTH * (end - float(edges[0])) / span for end in (range_.low, range_.high))
    )
    caption = (
        f"{escape(range_.key)}: {range_.format} by {escape(range_.estimator)}, [{range_.low:.4g}, {range_.high:.4g}] of"
        f" [{range_.statistics.minimum:.4g}, {range_.statistics.maximum:.4g}], {range_.clipped:.3%} clipped"
    )
    picture = f"<svg width='{WIDTH}' height='{HEIGHT}'><g fill='#2b6cb0'>{bars}</g>{lines}</svg>"
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"
