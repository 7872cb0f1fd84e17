"""Tables fitted to the weights themselves, with integer levels: k-means in one dimension, and power laws."""

from __future__ import annotations

import numpy as np

from edgeq.catalogue import TOP_LEVEL, power_law
from edgeq.formats import Codebook, FloatArray, IntArray, decode, encode

LARGEST_LEVEL = 2047
"""Half precision holds every integer up to here, so a table of such levels is stored exactly."""

EXPONENTS = tuple(round(0.2 + 0.05 * k, 2) for k in range(17))
"""Exponents of power laws that are tried: 1 is the integer grid."""

ROUNDS = 40
_BINS = 4096


def k_means(values: FloatArray, importance: FloatArray, bits: int) -> Codebook:
    """The codebook of 2^bits levels that is near `values`, numbers from -1 to 1 that level / LARGEST_LEVEL stands for.

    Lloyd's rule on squared errors weighted by `importance`, started from the density of an ideal quantizer (the cube
    root of the values' own). Clusters that meet in one level count once, so there may be fewer. Values that are zero
    stay zero, whatever their number, if there are more than two levels.
    """
    order = np.argsort(values, kind="stable")
    x, weight = values[order], importance[order]
    mass, moment = _running(weight), _running(weight * x)
    centers = _first_centers(x, weight, 1 << bits)
    for _ in range(ROUNDS):
        ends = np.concatenate([[0], np.searchsorted(x, (centers[1:] + centers[:-1]) / 2), [len(x)]])
        held = np.diff(mass[ends])
        centers = np.where(held > 0, np.diff(moment[ends]) / np.where(held > 0, held, 1.0), centers)
    levels = np.unique(_with_zero(np.rint(centers * LARGEST_LEVEL).astype(np.int64), values)).tolist()
    return Codebook("kmeans", tuple(levels if len(levels) > 1 else sorted({0, LARGEST_LEVEL, *levels})))


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


def _first_centers(x: FloatArray, weight: FloatArray, count: int) -> FloatArray:
    density, edges = np.histogram(x, bins=_BINS, weights=weight)
    share = _running(np.cbrt(density))
    wanted = (np.arange(count) + 0.5) / count * share[-1]
    centers: FloatArray = np.interp(wanted, share, edges)
    return centers
