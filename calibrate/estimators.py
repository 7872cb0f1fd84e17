"""Range estimators: from the statistics of a value to the range [low, high] that its codes shall cover.

All work on the histogram, never on the images. Only `Mse` looks at what is behind the value: with a function f
it minimises the error after f.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeq.calibrate.grid import Density, Map, covered, expected_errors, grid_of_range, map_of
from edgeq.calibrate.statistics import SIDE, Statistics
from edgeq.formats import FloatArray, Int

Range = tuple[float, float]


@dataclass(frozen=True)
class MinMax:
    """The observed range times `headroom`."""

    headroom: float = 1.0

    def __str__(self) -> str:
        return "minmax" if self.headroom == 1.0 else f"minmax:{self.headroom:g}"


@dataclass(frozen=True)
class Percentile:
    """The range that holds `percent` % of all elements: of |x| if symmetric, else the rest is cut half at each end."""

    percent: float = 99.99

    def __str__(self) -> str:
        return f"percentile:{self.percent:g}"


@dataclass(frozen=True)
class Entropy:
    """The clip of least Kullback-Leibler divergence between the values and their codes (TensorRT, 2017)."""

    def __str__(self) -> str:
        return "entropy"


@dataclass(frozen=True)
class Mse:
    """The clip of least squared error, both ends searched, after the function that alone reads the value."""

    def __str__(self) -> str:
        return "mse"


@dataclass(frozen=True)
class Octav:
    """The clip where rounding and clipping noise balance, by Newton's iteration (Sakr et al., ICML 2022)."""

    def __str__(self) -> str:
        return "octav"


Estimator = MinMax | Percentile | Entropy | Mse | Octav

# --- percentile -----------------------------------------------------------------------------------------------


def quantiles(statistics: Statistics, shares: list[float], *, magnitude: bool) -> FloatArray:
    """The elements (their magnitudes) below which `shares` of all lie, interpolated inside a bin; zeros count."""
    counts, edges = statistics.histogram.counts, statistics.histogram.edges
    ends = (statistics.minimum, statistics.maximum)
    if magnitude:
        counts, edges = counts[SIDE:] + counts[:SIDE][::-1], edges[SIDE:]
        below, ends = 0, (0.0, max(abs(ends[0]), abs(ends[1])))
    else:
        below = SIDE
    running = np.concatenate([[0], np.cumsum(counts)])
    # All zeros sit at edge 0, which therefore stands twice: before and after them.
    running = np.concatenate([running[: below + 1], running[below:] + statistics.zeros])
    edges = np.concatenate([edges[: below + 1], edges[below:]])
    edges = np.clip(edges, *ends)
    result: FloatArray = np.interp(np.asarray(shares) * running[-1], running, edges)
    return result


def central_width(statistics: Statistics) -> float:
    """The length of the range that holds 99.9 % of all elements and 0."""
    low, high = _percentile_range(statistics, False, 99.9)
    return high - low


def _percentile_range(statistics: Statistics, symmetric: bool, percent: float) -> Range:
    share = percent / 100
    if symmetric:
        (reach,) = quantiles(statistics, [share], magnitude=True)
        low, high = covered(statistics)
        return max(low, -reach), min(high, reach)
    low, high = quantiles(statistics, [(1 - share) / 2, (1 + share) / 2], magnitude=False)
    return min(low, 0.0), max(high, 0.0)


# --- entropy --------------------------------------------------------------------------------------------------

_BINS_PER_LEVEL = 16
_THRESHOLDS = 240
_SMALLEST_SHARE = 1e-6
_TINY = 1e-300
_AT_ONCE = 40
"""Clips whose levels stay in a processor's cache."""


def _entropy_range(statistics: Statistics, format: Int, symmetric: bool) -> Range:
    low, high = covered(statistics)
    if symmetric:
        low, high = -max(-low, high) if low < 0 else 0.0, max(-low, high)
    bins = _BINS_PER_LEVEL * (1 << format.bits)
    borders = np.linspace(low, high, bins + 1)
    density = Density.of(statistics, map_of(None))
    below = density.moments_below(borders[1:-1])[0]
    mass = np.diff(below, prepend=0.0, append=density.moments[0, -1])
    limits = max(-low, high) * np.linspace(1.0, 1.0 / _BINS_PER_LEVEL, _THRESHOLDS)
    lows, highs = np.maximum(low, -limits), np.minimum(high, limits)
    return _best(lows, highs, divergences(mass, borders, lows, highs, format, symmetric))


def divergences(
    mass: FloatArray, borders: FloatArray, lows: FloatArray, highs: FloatArray, format: Int, symmetric: bool
) -> FloatArray:
    """KL(P || Q) of each clip [lows, highs] of the histogram `mass` over evenly spaced `borders`.

    P is what lies inside, with all that is clipped in its outermost bins. Q spreads what a level receives from
    inside evenly over the bins of that level which P occupies. Per level sum h log(h / q) needs only the sums of
    h log h and h, and the number of occupied bins.
    """
    entropy = mass * np.log(np.where(mass > 0, mass, 1.0))
    running = np.zeros((3, len(mass) + 1))
    np.cumsum([mass, entropy, mass > 0], axis=1, out=running[:, 1:])
    parts = (slice(start, start + _AT_ONCE) for start in range(0, len(lows), _AT_ONCE))
    found = [_divergences(mass, borders, running, lows[k], highs[k], format, symmetric) for k in parts]
    return np.concatenate(found)


def _divergences(
    mass: FloatArray,
    borders: FloatArray,
    running: FloatArray,
    lows: FloatArray,
    highs: FloatArray,
    format: Int,
    symmetric: bool,
) -> FloatArray:
    """Those of a few clips; `running` [3, bins + 1] are the sums of h, h log h and occupied bins below each border."""
    scale, zero_point = grid_of_range(lows, highs, format, symmetric=symmetric)
    cut = np.arange(format.low, format.high + 2) - zero_point[:, None] - 0.5
    cut *= scale[:, None]
    cut -= borders[0]
    cut /= borders[1] - borders[0]
    cut = np.clip(np.rint(cut, out=cut), 0, len(mass), out=cut).astype(np.int64)
    level_mass, level_entropy, occupied = (_steps(row[cut]) for row in running)
    inside, total = level_mass.sum(axis=1), mass.sum()
    outside = {0: running[0, cut[:, 0]], -1: total - running[0, cut[:, -1]]}
    outermost = {0: mass[np.minimum(cut[:, 0], len(mass) - 1)], -1: mass[np.maximum(cut[:, -1] - 1, 0)]}
    for end in (0, -1):
        occupied[:, end] += (outside[end] > 0) & (outermost[end] == 0)
    share = level_mass / np.maximum(occupied, 1)  # what Q gives to an occupied bin, before normalization
    ends = {end: share[:, end] / np.maximum(inside, _TINY) for end in (0, -1)}
    share[share <= 0] = 1.0
    level_entropy -= np.multiply(level_mass, np.log(share, out=share), out=share)
    found: FloatArray = level_entropy.sum(axis=1) / total
    found += inside / total * np.log(np.maximum(inside, _TINY) / total)
    for end in (0, -1):
        q = np.maximum(ends[end], _SMALLEST_SHARE)
        p_raw, p = outermost[end] / total, (outermost[end] + outside[end]) / total
        found += np.where(outside[end] > 0, _divergence(p, q) - _divergence(p_raw, q), 0.0)
    return found


def _steps(running: FloatArray) -> FloatArray:
    steps: FloatArray = running[:, 1:] - running[:, :-1]
    return steps


def _divergence(p: FloatArray, q: FloatArray) -> FloatArray:
    divergence: FloatArray = p * np.log(np.where(p > 0, p, 1.0) / q)
    return divergence


# --- least squared error --------------------------------------------------------------------------------------

_COARSE = np.exp2(-np.arange(0, 9.0))
_FINE_STEPS = (0.5, 0.25, 0.1, 0.04)
_SIDES = np.array([-1, -0.5, 0, 0.5, 1])


def _mse_range(statistics: Statistics, format: Int, symmetric: bool, f: Map) -> Range:
    """Every pair of ends shrunk by powers of two, then ever finer changes of the best pair so far."""
    low, high = covered(statistics)
    density = Density.of(statistics, f)
    one_end = symmetric or low == 0 or high == 0
    best = (low, high)
    for factors in (_COARSE, *(1 + step * _SIDES for step in _FINE_STEPS)):
        a, b = (factors, factors) if one_end else (x.reshape(-1) for x in np.meshgrid(factors, factors))
        lows, highs = np.append(best[0], best[0] * a), np.append(best[1], best[1] * b)
        lows, highs = np.maximum(lows, low), np.minimum(highs, high)
        grid = grid_of_range(lows, highs, format, symmetric=symmetric)
        best = _best(lows, highs, expected_errors(density, grid, format, f))
    return best


def _best(lows: FloatArray, highs: FloatArray, errors: FloatArray) -> Range:
    k = int(np.argmin(errors))
    return float(lows[k]), float(highs[k])


# --- octav ----------------------------------------------------------------------------------------------------

_NEWTON_STEPS = 30
_SETTLED = 1e-6
"""Of the range: steps below it end the search."""


def _octav_range(statistics: Statistics, format: Int, symmetric: bool) -> Range:
    """The ends where the derivative of noise k (high - low)**2 n_inside + clipped squares vanishes.

    k is 1 / (12 steps**2). Each end moves to where its own clipped part balances the rounding noise:
    high (k n_inside + n_above) = sum_above + low k n_inside, and likewise for low. Symmetric: |x|, low = 0.
    """
    low, high = covered(statistics)
    density = Density.of(statistics, map_of(None))
    if symmetric:
        reach = max(-low, high)
        steps = grid_of_range(np.array([low]), np.array([high]), format, symmetric=True)[0]
        return _balanced(density, low, high, (reach / float(steps[0])) ** -2 / 12, symmetric=True)
    return _balanced(density, low, high, (format.high - format.low) ** -2.0 / 12, symmetric=False)


def _balanced(density: Density, low: float, high: float, k: float, *, symmetric: bool) -> Range:
    """From 0 each step moves an end to the mean of what lies beyond it, until the noise term holds it back."""
    number, total = density.moments[:2, -1]
    a = b = 0.0
    for _ in range(_NEWTON_STEPS):
        before = a, b
        (below, under_b), (sum_below, sum_under_b), _ = density.moments_below(np.array([a, b]))
        above, sum_above = number - under_b, total - sum_under_b
        noise = k * (under_b - below)
        if symmetric:
            b = (sum_above - sum_below) / max(noise + above + below, _TINY)
            a = -b
        else:
            a, b = (
                min((sum_below + b * noise) / max(noise + below, _TINY), 0.0),
                max((sum_above + a * noise) / max(noise + above, _TINY), 0.0),
            )
        if max(abs(a - before[0]), abs(b - before[1])) <= _SETTLED * (b - a):
            break
    return max(a, low), min(b, high)


# --- all ------------------------------------------------------------------------------------------------------

WIDE_BITS = 12
"""Formats of so many bits are never clipped."""


def clip_range(statistics: Statistics, format: Int, *, symmetric: bool, estimator: Estimator, through: Map) -> Range:
    """The range [low, high], 0 inside, that `estimator` wants covered; [0, 1] for a value that was always zero.

    Formats of 12 bits and more always take the whole range (with the headroom of `MinMax`): their rounding is so
    fine that clipping has nothing to win.
    """
    low, high = covered(statistics)
    if isinstance(estimator, MinMax):
        return low * estimator.headroom, high * estimator.headroom
    if format.bits >= WIDE_BITS or statistics.count == statistics.zeros:
        return low, high
    match estimator:
        case Percentile(percent):
            low, high = _percentile_range(statistics, symmetric, percent)
        case Entropy():
            low, high = _entropy_range(statistics, format, symmetric)
        case Mse():
            low, high = _mse_range(statistics, format, symmetric, through)
        case Octav():
            low, high = _octav_range(statistics, format, symmetric)
    return (low, high) if high > low else covered(statistics)
