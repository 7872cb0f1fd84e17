"""Functions of 16-bit codes by linear interpolation between samples: the exact integers, as a table of all codes.

The codes -32768, -32640 ... 32768 are samples (the last is no code, but the right end of the last interval). Between two
of them, out = low + floor(((high - low) part + 64) / 128) with part = code mod 128.
"""

from __future__ import annotations

import numpy as np

from edgeq.formats import IntArray

STEP = 128
LOWEST, COUNT = -(1 << 15), (1 << 16) // STEP + 1


def sample_codes() -> IntArray:
    """The codes of the samples (int64 [513])."""
    return LOWEST + STEP * np.arange(COUNT, dtype=np.int64)


def interpolated(samples: IntArray) -> IntArray:
    """The result for every 16-bit code, lowest first (int64 [65536]), from the results at the samples.

    >>> interpolated(sample_codes())[[0, 1, 32768, 65535]].tolist()
    [-32768, -32767, 0, 32767]
    """
    low, rise = samples[:-1, None], np.diff(samples)[:, None]
    found: IntArray = (low + ((rise * np.arange(STEP) + STEP // 2) >> 7)).reshape(-1)
    return found


def interpolated_from(table: IntArray) -> IntArray | None:
    """The samples (int64 [513]) from which `table` is interpolated, or None if it is not.

    The last sample is seen only in the rise to it; any that gives the table will do.
    """
    samples = np.append(table[::STEP], 0)
    seen = int(table[-1] - samples[-2])
    for rise in range((128 * seen - 64) // 127, (128 * seen + 64) // 127 + 1):
        samples[-1] = np.clip(samples[-2] + rise, -(1 << 15), (1 << 15) - 1)
        if np.array_equal(interpolated(samples), table):
            return samples
    return None
