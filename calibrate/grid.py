"""The grid of an integer quantizer from the range it must cover, and the error it makes on observed statistics.

Every range is widened to contain 0, so that 0.0 is exactly a level, and every scale is exactly a float32. A grid here
is a pair of arrays: the scales and zero points of several candidates at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from edgeq.calibrate.statistics import SIDE, Histogram, Statistics
from edgeq.formats import FloatArray, Int, IntArray
from edgeq.ir.ops import Function
from edgeq.quantize.scale import SCALE_CEILING, SCALE_FLOOR
from edgeq.reference.meaning import apply_function

Grid = tuple[FloatArray, IntArray]
_NARROWEST = 1e-30
"""Bins narrower than this hold one number for every scale there is."""

Map = Callable[[FloatArray], FloatArray]


def covered(statistics: Statistics) -> tuple[float, float]:
    """The observed range, widened to contain 0; [0, 1] where nothing but zeros was seen."""
    low, high = min(statistics.minimum, 0.0), max(statistics.maximum, 0.0)
    return (low, high) if high > low else (0.0, 1.0)


def centre(format: Int, *, one_sided: bool) -> int:
    """The zero point of a symmetric grid: 0, or the middle code when an unsigned format must hold negatives."""
    return 0 if format.signed or one_sided else (format.high + 1) // 2


def grid_of_range(low: FloatArray, high: FloatArray, format: Int, *, symmetric: bool) -> Grid:
    """Grids that cover [low, high] (arrays of one shape, low <= 0 <= high).

    Affine: scale = (high - low) / (codes - 1), zero point = round(low code - low / scale), so the ends move by at
    most half a step. Symmetric: the larger magnitude meets the largest code that both signs have.

    >>> scale, zero_point = grid_of_range(np.array([-1.0]), np.array([1.55]), Int(8, signed=False), symmetric=False)
    >>> round(float(scale[0]), 6), zero_point.tolist()
    (0.01, [100])
    """
    if symmetric:
        zero = centre(format, one_sided=bool(np.all(low >= 0)))
        scale = _float32(np.maximum(-low, high) / (format.high - zero))
        return scale, np.full(scale.shape, zero, dtype=np.int64)
    scale = _float32((high - low) / (format.high - format.low))
    codes = np.clip(np.rint(format.low - low / scale), format.low, format.high)
    return scale, codes.astype(np.int64)


def _float32(scale: FloatArray) -> FloatArray:
    return np.clip(scale, SCALE_FLOOR, SCALE_CEILING).astype(np.float32).astype(np.float64)


def map_of(function: Function | None) -> Map:
    """`function` on float64 arrays; the identity for None."""
    if function is None:
        return lambda x: x
    return lambda x: apply_function(function, torch.from_numpy(np.array(x, dtype=np.float64))).numpy()


@dataclass(frozen=True, eq=False)
class Density:
    """Observed nonzero values as a density that is constant inside each bin, with running moments of y = f(x).

    `edges` [bins + 1] end exactly at the smallest and largest value. f is taken as linear inside a bin, from
    `left` to `left + rise`; `moments` [3, bins + 1] are the sums of 1, y and y**2 over everything below each edge.
    """

    edges: FloatArray
    counts: FloatArray
    left: FloatArray
    rise: FloatArray
    moments: FloatArray

    @classmethod
    def of(cls, statistics: Statistics, f: Map, weighed: Histogram | None = None) -> Density:
        """The density of `statistics`, seen through f; that of weights where they are given instead of counts."""
        histogram = weighed or statistics.histogram
        occupied = np.flatnonzero(histogram.counts)
        first, last = (int(occupied[0]), int(occupied[-1])) if occupied.size else (SIDE, SIDE)
        edges = histogram.edges[first : last + 2]
        edges = np.clip(edges, statistics.minimum, statistics.maximum)
        counts = histogram.counts[first : last + 1].astype(np.float64)
        y = np.nan_to_num(f(edges), nan=0.0, posinf=0.0, neginf=0.0)  # at the ends of empty bins f may have no value
        left, right = y[:-1], y[1:]
        means = np.stack([np.ones_like(left), (left + right) / 2, (left**2 + left * right + right**2) / 3])
        running = np.cumsum(means * counts, axis=1)
        return cls(edges, counts, left, right - left, np.concatenate([np.zeros((3, 1)), running], axis=1))

    def moments_below(self, x: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Sums of 1, y and y**2 over the values below x (any shape)."""
        k = np.searchsorted(self.edges[1:-1], x, side="right")
        lower = self.edges[k]
        t = np.minimum(np.maximum((x - lower) / np.maximum(self.edges[k + 1] - lower, _NARROWEST), 0.0), 1.0)
        count, left, rise = self.counts[k] * t, self.left[k], self.rise[k] * t
        number, total, squares = (running[k] for running in self.moments)
        return (
            number + count,
            total + count * (left + rise / 2),
            squares + count * (left * (left + rise) + rise * rise / 3),
        )


def _between(below: FloatArray, all_: float) -> FloatArray:
    """Sums over what lies before, between and behind borders, from the sums `below` each of them (axis 1)."""
    found = np.empty((len(below), below.shape[1] + 1))
    found[:, :-1], found[:, -1] = below, all_
    found[:, 1:] -= below
    return found


def expected_errors(density: Density, grid: Grid, format: Int, f: Map) -> FloatArray:
    """sum (f(Q(x)) - f(x))**2 over the observed values, for each candidate of `grid`.

    The values that round to one level are an interval, so the sum over an interval is f(level)**2 n -
    2 f(level) sum f(x) + sum f(x)**2 with the running moments at its ends. Exact for a density constant inside
    each bin; zeros are exact in every grid and add nothing.
    """
    scale, zero_point = grid[0][:, None], grid[1][:, None]
    levels = (np.arange(format.low, format.high + 1) - zero_point) * scale
    below = density.moments_below(levels[:, :-1] + scale / 2)
    number, total, squares = (
        _between(moment, running[-1]) for moment, running in zip(below, density.moments, strict=True)
    )
    y = np.where(number > 0, f(levels), 0.0)
    error = (y * (y * number - 2 * total) + squares).sum(axis=1)
    finite: FloatArray = np.maximum(np.nan_to_num(error, nan=np.inf), 0.0)
    return finite
