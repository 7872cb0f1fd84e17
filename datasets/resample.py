"""Antialiased resizing; each axis equals Pillow's pixel for pixel.

ImageNet accuracies are published for Pillow's filters, which widen with the reduction; OpenCV's do not. Each
axis is one pass: 22-bit integer weights, an int32 acc and a rounding shift back to uint8, so the result is
the same bytes on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

_WEIGHT_BITS = 22
_FILTERS: dict[str, tuple[Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]], float]] = {
    "bilinear-antialias": (lambda x: np.clip(1.0 - np.abs(x), 0.0, None), 1.0),
    "bicubic-antialias": (lambda x: _keys_cubic(np.abs(x)), 2.0),
}


def resize_antialias(image: npt.NDArray[np.uint8], size: tuple[int, int], kind: str) -> npt.NDArray[np.uint8]:
    """uint8 [h, w, c] resized to `size` (height, width), the width first.

    `kind` is "bilinear-antialias" or "bicubic-antialias". One axis: out = clip((sum(w_k * in_k) + 2^21) >>
    22) with w_k = round(2^22 * f((k + 0.5 - centre) / s) / sum) and s = max(in / out, 1); an axis that keeps
    its length is copied. |acc| < 2^31: the weights sum to 2^22 and the cubic's negative lobes add less than
    half of that. Pillow 13 picks the order of the axes by the sizes, earlier versions also take the width
    first.

    >>> resize_antialias(np.array([[[0], [100]]], np.uint8), (1, 1), "bilinear-antialias").tolist()
    [[[50]]]
    """
    for axis in (1, 0):
        if image.shape[axis] != size[axis]:
            image = _resize_axis(image, size[axis], axis, kind)
    return image


def _resize_axis(image: npt.NDArray[np.uint8], length: int, axis: int, kind: str) -> npt.NDArray[np.uint8]:
    first, weights = _weights(image.shape[axis], length, kind)
    last = image.shape[axis] - 1
    shape = [1, 1, 1]
    shape[axis] = length
    out_shape = (*image.shape[:axis], length, *image.shape[axis + 1 :])
    acc = np.full(out_shape, 1 << (_WEIGHT_BITS - 1), np.int32)
    for tap in range(weights.shape[1]):
        pixels = np.take(image, np.minimum(first + tap, last), axis=axis)
        acc += pixels * weights[:, tap].reshape(shape)
    acc >>= _WEIGHT_BITS
    return np.clip(acc, 0, 255).astype(np.uint8)


@lru_cache(maxsize=64)
def _weights(length_in: int, length_out: int, kind: str) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int32]]:
    """First input index [length_out], integer weights [length_out, taps]; weights beyond the edge are 0."""
    kernel, support = _FILTERS[kind]
    step = length_in / length_out
    stretch = max(step, 1.0)
    centre = (np.arange(length_out) + 0.5) * step
    reach = support * stretch
    first = np.maximum((centre - reach + 0.5).astype(np.intp), 0)
    end = np.minimum((centre + reach + 0.5).astype(np.intp), length_in)
    taps = first[:, None] + np.arange(int((end - first).max()))
    real = kernel((taps - centre[:, None] + 0.5) * (1.0 / stretch)) * (taps < end[:, None])
    real /= real.sum(axis=1, keepdims=True)
    half_away = np.copysign(0.5, real)
    return first, (real * (1 << _WEIGHT_BITS) + half_away).astype(np.int32)


def _keys_cubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keys' cubic with a = -0.5."""
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
