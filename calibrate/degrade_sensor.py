"""What exposure and sensor do to an image: gains, noise, stuck pixels.

What depends on the grey level alone is a look-up. Noise is a look-up of its sigma times normal numbers; both are
integers whose products are exact in float32, so OpenCV's vectors give the same pixels everywhere.
"""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from edgeq.calibrate.draws import UNIT, Draws

Image = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]

_SIGMA_UNIT = 64
_STRIP = 64
_MOST_SIGMA = 63.0
"""Grey levels; more would leave float32."""
_GREY: FloatArray = np.arange(256, dtype=np.float64)
_READ_NOISE = 2.0
_PHOTONS_AT_WHITE = 1000.0
_BLOOM = 24
"""Highlights spread over this part of the shorter side."""


def _rounded(x: FloatArray) -> Image:
    return np.clip(np.floor(x + 0.5), 0, 255).astype(np.uint8)


def _mapped(image: Image, table: Image) -> Image:
    return cast(Image, cv2.LUT(image, table))


def _disturbed(image: Image, sigma: FloatArray, draws: Draws, channels: int) -> Image:
    """v + sigma[v] times a normal number for each grey level v; one number per pixel or per channel.

    Sigma is rounded to 1/64. Rows are taken in strips, which bounds the memory of large images.
    """
    table = np.rint(np.minimum(sigma, _MOST_SIGMA) * _SIGMA_UNIT).astype(np.int16)
    found = np.empty_like(image)
    for top in range(0, len(image), _STRIP):
        strip = image[top : top + _STRIP]
        normals = np.repeat(draws.normals(*strip.shape[:2], channels), 3 // channels, axis=2)
        added = cv2.multiply(cv2.LUT(strip, table), normals, scale=1 / (_SIGMA_UNIT * UNIT), dtype=cv2.CV_16S)
        found[top : top + _STRIP] = cv2.add(strip, added.reshape(strip.shape), dtype=cv2.CV_8U).reshape(strip.shape)
    return found


def noise(image: Image, sigma: float, draws: Draws) -> Image:
    """Gaussian noise of `sigma` grey levels, the same in the three channels of a pixel."""
    return _disturbed(image, np.full(256, sigma), draws, 1)


def shot(image: Image, photons: float, draws: Draws) -> Image:
    """Photon noise of a sensor that counts `photons` at white: variance proportional to the signal."""
    return _disturbed(image, np.sqrt(_GREY * 255 / photons), draws, 3)


def low_light(image: Image, gain: float, draws: Draws) -> Image:
    """Less light, the same gain of the sensor: darker, with the photon and read noise of a short exposure."""
    darker = _mapped(image, _rounded(_GREY * gain))
    return _disturbed(darker, np.sqrt(_GREY * 255 / _PHOTONS_AT_WHITE + _READ_NOISE**2), draws, 3)


def impulse(image: Image, share: float, draws: Draws) -> Image:
    """Salt and pepper: `share` of the pixels turn black or white."""
    drawn = draws.sixteens(*image.shape[:2])
    limit = np.uint16(max(round(share * 65536), 2))
    found, struck = image.copy(), np.nonzero(drawn < limit)
    found[struck] = (255 * (drawn[struck] & 1)).astype(np.uint8)[:, None]
    return found


def hot_pixels(image: Image, share: float, draws: Draws) -> Image:
    """`share` of the pixels (at least one) have one channel stuck at white, which demosaicking smears to neighbours."""
    height, width = image.shape[:2]
    count = max(round(share * height * width), 1)
    y, x, channel = draws.below(height, count), draws.below(width, count), draws.below(3, count)
    found = image.copy()
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        beside = np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1), channel
        found[beside] = np.maximum(found[beside], 128)
    found[y, x, channel] = 255
    return found


def brightness(image: Image, added: float, draws: Draws) -> Image:
    """`added` grey levels everywhere."""
    return _mapped(image, _rounded(_GREY + added))


def contrast(image: Image, gain: float, draws: Draws) -> Image:
    """`gain` about the image's mean grey level."""
    mean = float(round(int(image.sum(dtype=np.int64)) / image.size))
    return _mapped(image, _rounded(mean + gain * (_GREY - mean)))


def dim(image: Image, gain: float, draws: Draws) -> Image:
    """`gain` about black."""
    return _mapped(image, _rounded(gain * _GREY))


def over_exposure(image: Image, gain: float, draws: Draws) -> Image:
    """`gain`, clipped at white; what is beyond white spreads around the highlights as bloom."""
    side = max(min(image.shape[:2]) // _BLOOM, 1) | 1
    beyond = _mapped(image, _rounded(np.maximum(_GREY * gain - 255, 0) / 4))
    spread = cv2.boxFilter(beyond, cv2.CV_32F, (side, side), normalize=False, borderType=cv2.BORDER_REFLECT)
    bloom = (spread.reshape(image.shape) * np.float32(1 / side**2)).astype(np.uint8)
    return cast(Image, cv2.add(_mapped(image, _rounded(_GREY * gain)), bloom))
