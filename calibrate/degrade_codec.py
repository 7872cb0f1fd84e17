"""What compression does to an image: JPEG, the blocks of H.264, and pixels merged into squares."""

from __future__ import annotations

import math
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from edgeq.calibrate.draws import Draws
from edgeq.errors import DataError

Image = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int32]

_LARGEST_JPEG = 65500
_MACROBLOCK = 16
_H264_STEPS = (40, 44, 52, 56, 64, 72)
"""Quantizer steps of QP 0 to 5 in units of 1/64; six more double them (Malvar et al., 2003)."""


def jpeg(image: Image, quality: float, draws: Draws) -> Image:
    """Written as JPEG of `quality` with chroma halved on both axes, and read again. Raises DataError above 65,500."""
    if max(image.shape[:2]) > _LARGEST_JPEG:
        raise DataError("image is too large for JPEG", value=image.shape[:2], allowed=f"sides to {_LARGEST_JPEG}")
    settings = [cv2.IMWRITE_JPEG_QUALITY, int(quality)]
    settings += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)
    return cast(Image, cv2.cvtColor(cast(Image, cv2.imdecode(data, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB))


def pixelate(image: Image, side: float, draws: Draws) -> Image:
    """Squares of `side` pixels with their mean colour."""
    step, (height, width) = max(int(side), 1), image.shape[:2]
    framed = np.pad(image, ((0, -height % step), (0, -width % step), (0, 0)), mode="edge")
    rows, columns = framed.shape[0] // step, framed.shape[1] // step
    stripes = framed.reshape(rows, step, -1).sum(1, dtype=np.uint16)
    total = stripes.reshape(rows, columns, step, 3).sum(2, dtype=np.int32)
    means = ((total + step * step // 2) // (step * step)).astype(np.uint8)
    size = framed.shape[1], framed.shape[0]
    return cast(Image, cv2.resize(means, size, interpolation=cv2.INTER_NEAREST)[:height, :width])


def h264(image: Image, qp: float, draws: Draws) -> Image:
    """H.264's 4x4 transform and quantizer on every block, chroma halved; no prediction and no filter against blocks."""
    height, width = image.shape[:2]
    framed = np.pad(image, ((0, -height % _MACROBLOCK), (0, -width % _MACROBLOCK), (0, 0)), mode="edge")
    luma, *chroma = _to_ycc(framed.astype(np.int32))
    step = _H264_STEPS[int(qp) % 6] << (int(qp) // 6)
    coded = [_coded(luma, step)]
    for plane in chroma:
        small = (plane[::2, ::2] + plane[1::2, ::2] + plane[::2, 1::2] + plane[1::2, 1::2] + 2) >> 2
        coded.append(_coded(small, step).repeat(2, 0).repeat(2, 1))
    return _to_rgb(*coded)[:height, :width]


def _to_ycc(rgb: IntArray) -> list[IntArray]:
    """BT.601, full range, in 1/65536."""
    r, g, b = (rgb[..., k] for k in range(3))
    y = (19595 * r + 38470 * g + 7471 * b + 32768) >> 16
    return [y, (((b - y) * 36962 + 32768) >> 16), (((r - y) * 46727 + 32768) >> 16)]


def _to_rgb(y: IntArray, cb: IntArray, cr: IntArray) -> Image:
    r, b = y + ((cr * 91881 + 32768) >> 16), y + ((cb * 116130 + 32768) >> 16)
    g = y - ((cb * 22554 + cr * 46802 + 32768) >> 16)
    found: Image = np.clip(np.stack([r, g, b], axis=-1), 0, 255).astype(np.uint8)
    return found


_LENGTHS = (2.0, math.sqrt(10), 2.0, math.sqrt(10))
"""Of the rows of the transform."""


def _coded(plane: IntArray, step: int) -> IntArray:
    """Each 4x4 block transformed, divided by the step with H.264's dead zone of 1/3, multiplied and transformed back.

    The integer step of a coefficient carries the length of its basis vector, so quantizing is integer division.
    """
    rows, columns = plane.shape[0] // 4, plane.shape[1] // 4
    return _inverse(_forward(plane.reshape(rows, 4, columns, 4)), step).reshape(plane.shape)


def _forward(blocks: IntArray) -> list[IntArray]:
    """Sixteen planes of coefficients, vertical frequency first."""
    rows = _butterfly(*(blocks[:, k] for k in range(4)))
    return [part for row in rows for part in _butterfly(*(row[..., k] for k in range(4)))]


def _butterfly(a: IntArray, b: IntArray, c: IntArray, d: IntArray) -> list[IntArray]:
    """Rows (1 1 1 1), (2 1 -1 -2), (1 -1 -1 1), (1 -2 2 -1)."""
    s, t, u, v = a + d, b + c, b - c, a - d
    return [s + t, 2 * v + u, s - t, v - 2 * u]


def _inverse(parts: list[IntArray], step: int) -> IntArray:
    """Sixteen coefficient planes -> pixels [rows, 4, columns, 4]: sum of level * step * basis / length, rounded once."""
    levels = []
    for index, part in enumerate(parts):
        length = _LENGTHS[index // 4] * _LENGTHS[index % 4]
        size = max(round(step * length), 1)  # 1/64 of the coefficient's own unit
        level = (np.abs(part) * 64 + size // 3) // size
        real_step = max(round(step * 1024 / (64 * length)), 1)  # 1/1024 of a grey level per level and basis unit
        levels.append(np.sign(part) * level * real_step)
    columns = [_back(*levels[4 * row : 4 * row + 4]) for row in range(4)]
    pixels = [_back(*(columns[row][k] for row in range(4))) for k in range(4)]
    total = np.stack([np.stack(pixels[k], axis=1) for k in range(4)], axis=-1)
    return ((total + 512) >> 10).astype(np.int32)


def _back(a: IntArray, b: IntArray, c: IntArray, d: IntArray) -> list[IntArray]:
    """The transposed butterfly."""
    s, t, u, v = a + c, a - c, 2 * b + d, b - 2 * d
    return [s + u, t + v, t - v, s - u]
