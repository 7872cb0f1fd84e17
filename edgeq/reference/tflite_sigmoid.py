"""LOGISTIC and TANH of 16-bit codes as TFLite's reference kernels compute them: linear interpolation in one table.

The table holds the sigmoid at 0, 1/24, 2/24, … 255/24 in units of 2^-16, each entry raised by a sixteenth of the second
difference so that chords lie about the curve. tanh(x) is 2 sigmoid(2 x) - 1, hence the same table at twice the step.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from edgeq.formats import IntArray

_ENTRIES = 256
_STEPS_PER_UNIT = 24
_LARGEST_16 = (1 << 15) - 1


@lru_cache(maxsize=1)
def _table() -> IntArray:
    sigmoid = 1 / (1 + np.exp(-np.arange(_ENTRIES) / _STEPS_PER_UNIT))
    curvature = sigmoid * (1 - sigmoid) * (2 * sigmoid - 1) / _STEPS_PER_UNIT**2
    table: IntArray = np.floor(65536 * (sigmoid + curvature / 16) + 0.5).astype(np.int64)
    table[-1] = 65535
    return table


def _positions(levels: IntArray, scale: float) -> IntArray:
    """Levels in units of 1 / (24 * 512): the multiplier 2^12 * 3 s has as many of 15 bits as it can, ties upward."""
    multiplier, shift = float(np.float32(scale) * np.float32(4096.0) * np.float32(3.0)), 0
    while multiplier <= _LARGEST_16 / 2 and shift <= 30:
        multiplier, shift = 2 * multiplier, shift + 1
    half = (1 << shift) >> 1
    positions: IntArray = (levels * int(multiplier) + half) >> shift
    return positions


def _interpolated(positions: IntArray, bits: int, limit: int) -> IntArray:
    """2^bits times the table at |positions| / 2^bits, or `limit` beyond its end."""
    magnitude = np.abs(positions)
    index = np.minimum(magnitude >> bits, _ENTRIES - 2)
    below, above = _table()[index], _table()[index + 1]
    inside = (below << bits) + (magnitude & ((1 << bits) - 1)) * (above - below)
    found: IntArray = np.where(magnitude >> bits >= _ENTRIES - 1, limit, inside)
    return found


def logistic_of_16_bits(levels: IntArray, scale: float) -> IntArray:
    """Levels of sigmoid(scale level) in units of 2^-15."""
    positions = _positions(levels, scale)
    value = _interpolated(positions, 9, _LARGEST_16 << 10)
    found: IntArray = np.where(positions >= 0, value + (1 << 9), (1 << 25) - value + (1 << 9) - 1) >> 10
    return found


def tanh_of_16_bits(levels: IntArray, scale: float) -> IntArray:
    """Levels of tanh(scale level) in units of 2^-15."""
    positions = _positions(levels, scale)
    value = _interpolated(positions, 8, 0xFFFF << 8) - (1 << 23)
    found: IntArray = np.where(positions >= 0, value + (1 << 7), -value + (1 << 7) - 1) >> 8
    return found
