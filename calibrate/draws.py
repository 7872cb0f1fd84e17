"""Random numbers for one image, the same on every machine: the words of Philox-4x64-10 under a key made of names.

The generator is counter-based (Salmon et al., SC 2011) and its words are fixed by its definition, so nothing depends
on a global state, on the order of the images, or on a mathematical library. Everything drawn is an integer.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from statistics import NormalDist
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

UNIT = 1024
"""Normal numbers are integers in units of 1/UNIT standard deviations."""


class Draws:
    """A stream of random integers that only `names` decide."""

    def __init__(self, *names: object) -> None:
        digest = hashlib.sha256("\0".join(map(str, names)).encode()).digest()
        self._generator = np.random.Philox(key=int.from_bytes(digest[:16], "little"))

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """`count` evenly distributed 64-bit words."""
        return np.asarray(self._generator.random_raw(count), np.uint64)

    def sixteens(self, *shape: int) -> npt.NDArray[np.uint16]:
        """Evenly distributed 16-bit integers of this shape."""
        count = int(np.prod(shape))
        return self.words(-(-count // 4)).astype("<u8").view("<u2")[:count].reshape(shape)

    def below(self, limit: int, count: int) -> npt.NDArray[np.int64]:
        """`count` integers from 0 to limit - 1, limit at most 2**31."""
        return ((self.words(count) >> np.uint64(33)).astype(np.int64) * limit) >> 31

    def uniform(self, low: float, high: float) -> float:
        """One number from low to high, on a grid of 2**-53 of the distance."""
        return low + (high - low) * (int(self.words(1)[0]) >> 11) * 2.0**-53

    def normals(self, *shape: int) -> npt.NDArray[np.int16]:
        """Normal numbers in units of 1/UNIT: the sum of two quantiles of half the variance, each chosen by a byte."""
        table = _half_normal_quantiles()
        first, second = (cv2.LUT(byte, table) for byte in np.stack([self._bytes(shape), self._bytes(shape)]))
        return cast("npt.NDArray[np.int16]", first + second).reshape(shape)

    def _bytes(self, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        count = int(np.prod(shape))
        return self.words(-(-count // 8)).astype("<u8").view(np.uint8)[:count].reshape(1, -1)


@lru_cache(maxsize=1)
def _half_normal_quantiles() -> npt.NDArray[np.int16]:
    """256 quantiles of a normal distribution at the middles of equal shares, scaled to a variance of exactly 1/2."""
    upper = [NormalDist().inv_cdf((k + 0.5) / 256) for k in range(128, 256)]
    unit = UNIT * math.sqrt(0.5 * len(upper) / sum(x * x for x in upper))
    found = np.array([round(x * unit) for x in upper], np.int16)
    return np.concatenate([-found[::-1], found])
