"""Tables fitted to the weights themselves, with integer levels: k-means in one dimension, and power laws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeq.catalogue import TOP_LEVEL, power_law
from edgeq.formats import Codebook, FloatArray, IntArray, decode, encode

LARGEST_LEVEL = 2047
"""Half precision holds every integer up to here, so a table of such levels is stored exactly."""

EXPONENTS = tuple(round(0.2 + 0.05 * k, 2) for k in range(17))
"""Exponents of power laws that are tried: 1 is the integer grid."""

ROUNDS = 300
_BINS = 4096
_BIN_VALUES = 32
"""Values that a bin of the density has on average, so that it is a density and not the values themselves."""


@dataclass(frozen=True)
class _Sorted:
    """Values in ascending order, and running sums of their weights times 1, x and x^2."""

    x: FloatArray
    mass: FloatArray
    moment: FloatArray
    power: FloatArray

    @classmethod
    def of(cls, values: FloatArray, importance: FloatArray) -> _Sorted:
        order = np.argsort(values, kind="stable")
        x, weight = values[order], importance[order]
        return cls(x, _running(weight), _running(weight * x), _running(weight * np.square(x)))

    def ends(self, centers: FloatArray) -> IntArray:
        """Where the values nearest to each of the ascending `centers` begin, and where the last ones end."""
        between = np.searchsorted(self.x, (centers[1:] + centers[:-1]) / 2)
        found: IntArray = np.concatenate([[0], between, [len(self.x)]])
        return found

    def moved(self, centers: FloatArray) -> FloatArray:
        """Each center in the middle of its values; one without any stays."""
        ends = self.ends(centers)
        held, moment = np.diff(self.mass[ends]), np.diff(self.moment[ends])
        found: FloatArray = np.where(held > 0, moment / np.where(held > 0, held, 1.0), centers)
        return found

    def error(self, centers: FloatArray) -> float:
        """Sum of weights times squared distances to the nearest center."""
        ends = self.ends(centers)
        parts = (np.diff(sums[ends]) for sums in (self.power, self.moment, self.mass))
        power, moment, mass = parts
        return float(np.sum(power - 2 * centers * moment + np.square(centers) * mass))


def k_means(values: FloatArray, importance: FloatArray, bits: int) -> Codebook:
    """The codebook of 2^bits levels that is near `values`, numbers from -1 to 1 that level / LARGEST_LEVEL stands for.

    Lloyd's rule on squared errors weighted by `importance`, from several starts, of which the best is taken: the density
    of an ideal quantizer (the cube root of the values' own), uniform grids and power laws, so that it is worse than none
    of those. Clusters that meet in one level count once, so there may be fewer. Values that are zero stay zero,
    whatever their number, if there are more than two levels.
    """
    data, count = _Sorted.of(values, importance), 1 << bits
    starts = [_first_centers(values, importance, count), np.linspace(-1, 1, count), np.linspace(-1, 1, count - 1)]
    if bits > 2:
        starts.append(np.asarray(fitted_power(values, importance, bits).table) / TOP_LEVEL)
    tables = [_as_levels(centers, values) for start in starts for centers in (start, _settled(data, start))]
    best = min(tables, key=lambda levels: data.error(levels / LARGEST_LEVEL)).tolist()
    return Codebook("kmeans", tuple(best if len(best) > 1 else sorted({0, LARGEST_LEVEL, *best})))


def _settled(data: _Sorted, centers: FloatArray) -> FloatArray:
    """Lloyd's rule until centers stand still."""
    for _ in range(ROUNDS):
        moved = data.moved(centers)
        if np.max(np.abs(moved - centers)) * LARGEST_LEVEL < 0.01:
            return moved
        centers = moved
    return centers


def _as_levels(centers: FloatArray, values: FloatArray) -> IntArray:
    found: IntArray = np.unique(_with_zero(np.rint(centers * LARGEST_LEVEL).astype(np.int64), values))
    return found


def fitted_power(values: FloatArray, importance: FloatArray, bits: int) -> Codebook:
    """The power law (edgeq/catalogue.py) that is nearest to `values` from -1 to 1, by squared errors times `importance`."""

    def error(book: Codebook) -> float:
        found = decode(book, encode(book, values * TOP_LEVEL)) / TOP_LEVEL
        return float(np.sum(importance * np.square(found - values)))

    return min((power_law(bits, exponent) for exponent in reversed(EXPONENTS)), key=error)


def _with_zero(levels: IntArray, values: FloatArray) -> IntArray:
    if len(levels) > 2 and bool(np.any(values == 0)):
        levels[np.argmin(np.abs(levels))] = 0
    return levels


def _running(numbers: FloatArray) -> FloatArray:
    return np.concatenate([[0.0], np.cumsum(numbers)])


def _first_centers(values: FloatArray, weight: FloatArray, count: int) -> FloatArray:
    bins = min(max(len(values) // _BIN_VALUES, 4), _BINS)
    density, edges = np.histogram(values, bins=bins, weights=weight)
    share = _running(np.cbrt(density))
    wanted = (np.arange(count) + 0.5) / count * share[-1]
    centers: FloatArray = np.interp(wanted, share, edges)
    return centers
