"""What air and lens do to an image: fog, rain, motion, defocus, Gaussian blur.

Kernels are integers and sums stay below 2**24, where float32 is exact, so the order of summation and the width of a
machine's vectors do not matter.
"""

from __future__ import annotations

import math
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from edgeq.calibrate.draws import Draws

Image = npt.NDArray[np.uint8]

_WEIGHT_SUM = 256
_AIR = 225
"""Grey level of thick fog."""
_DIRECTIONS = 64
_FOG_GRIDS = (3, 9)
"""Cells of the two octaves of fog along an image's side."""


def gaussian_weights(sigma: float) -> list[int]:
    """Integer weights that sum to 256, three sigmas to each side; the middle one takes what rounding leaves.

    >>> gaussian_weights(0.8)
    [0, 6, 58, 128, 58, 6, 0]
    """
    reach = max(math.ceil(3 * sigma), 1)
    exact = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-reach, reach + 1)]
    weights = [round(_WEIGHT_SUM * weight / sum(exact)) for weight in exact]
    weights[reach] += _WEIGHT_SUM - sum(weights)
    return weights


def blur(image: Image, sigma: float, draws: Draws) -> Image:
    """Gaussian blur of `sigma` pixels."""
    kernel = np.array(gaussian_weights(sigma), np.float32)
    border = cv2.BORDER_REFLECT_101 if min(image.shape[:2]) > len(kernel) // 2 else cv2.BORDER_REPLICATE
    total = cv2.sepFilter2D(image, cv2.CV_32F, kernel, kernel, borderType=border)
    return cast(Image, cv2.convertScaleAbs(total, alpha=1 / _WEIGHT_SUM**2).reshape(image.shape))


def _framed(image: Image, reach: int) -> Image:
    return cast(Image, cv2.copyMakeBorder(image, reach, reach, reach, reach, cv2.BORDER_REPLICATE))


def motion(image: Image, length: float, draws: Draws) -> Image:
    """The mean over `length` pixels along a line whose direction is drawn."""
    count, turn = max(int(length), 2), math.pi * int(draws.below(_DIRECTIONS, 1)[0]) / _DIRECTIONS
    steps = [k - count // 2 for k in range(count)]
    reach, (height, width) = count, image.shape[:2]
    framed = _framed(image, reach)
    total = np.full(image.shape, count // 2, np.uint16)
    for step in steps:
        y, x = reach + round(step * math.sin(turn)), reach + round(step * math.cos(turn))
        total += framed[y : y + height, x : x + width]
    return (total // np.uint16(count)).astype(np.uint8)


def defocus(image: Image, radius: float, draws: Draws) -> Image:
    """The mean over a disk of `radius` pixels, row by row from running sums."""
    reach, (height, width) = max(int(radius), 1), image.shape[:2]
    running = np.cumsum(np.pad(_framed(image, reach), ((0, 0), (1, 0), (0, 0))), axis=1, dtype=np.int32)
    total, area = np.zeros(image.shape, np.int32), 0
    for dy in range(-reach, reach + 1):
        half = math.isqrt(reach * reach - dy * dy)
        rows = running[reach + dy : reach + dy + height]
        total += rows[:, reach + half + 1 : reach + half + 1 + width] - rows[:, reach - half : reach - half + width]
        area += 2 * half + 1
    return ((total + area // 2) // area).astype(np.uint8)


def fog(image: Image, opacity: float, draws: Draws) -> Image:
    """Air light mixed in, 0.6 to 1.4 times the mean `opacity` in clouds of two sizes."""
    height, width = image.shape[:2]
    clouds = np.zeros((height, width), np.uint16)
    for cells in _FOG_GRIDS:
        grid = (draws.sixteens(cells, cells) >> 8).astype(np.uint8)
        clouds += cast(Image, cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR_EXACT))
    share = np.minimum(round(opacity * 256 * 0.6) + ((clouds.astype(np.int32) * round(opacity * 256 * 0.8)) >> 9), 256)
    mixed = np.repeat(share.astype(np.uint16)[..., None], 3, axis=2)
    found: Image = ((image * (256 - mixed) + (_AIR * mixed + 128)) >> 8).astype(np.uint8)
    return found


def rain(image: Image, density: float, draws: Draws) -> Image:
    """`density` bright streaks per 1000 pixels, nearly parallel, over an image that loses a tenth of its light."""
    height, width = image.shape[:2]
    count = max(round(density * height * width / 1000), 1)
    lean, length = int(draws.below(9, 1)[0]) - 4, max(min(height, width) // 24, 2)
    x, y = draws.below(width, count), draws.below(height, count)
    longer = length + draws.below(length, count)
    ends = np.stack([np.stack([x, y], 1), np.stack([x + longer * lean // 16, y + longer], 1)], 1).astype(np.int32)
    streaks = np.zeros((height, width), np.uint8)
    cv2.polylines(streaks, list(ends), False, 255, 1, cv2.LINE_8)
    soft = cv2.boxFilter(streaks, cv2.CV_16U, (1, 3), normalize=False, borderType=cv2.BORDER_REPLICATE)
    light = ((soft.reshape(height, width).astype(np.uint16) * np.uint16(33)) >> 8).astype(np.uint8)
    darker = (np.arange(256) * 230 >> 8).astype(np.uint8)
    return cast(Image, cv2.add(cv2.LUT(image, darker), cv2.merge([light] * 3).reshape(image.shape)))
