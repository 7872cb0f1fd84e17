"""Degradations of images: what a camera, the weather and a codec do, seeded by the file's name.

An image keeps its size and gets the same pixels on every machine and in every order: the level and all noise come
from draws under a key made of the seed, the degradation and the file's name (edgeq/calibrate/draws.py), and the
arithmetic is on integers. Levels are in edgeq/calibrate/severity.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.calibrate.degrade_codec import h264, jpeg, pixelate
from edgeq.calibrate.degrade_optics import blur, defocus, fog, motion, rain
from edgeq.calibrate.degrade_sensor import (
    brightness,
    contrast,
    dim,
    hot_pixels,
    impulse,
    low_light,
    noise,
    over_exposure,
    shot,
)
from edgeq.calibrate.draws import Draws
from edgeq.calibrate.severity import MOST_SEVERE, SCALES, STUDY
from edgeq.errors import UsageError, did_you_mean

Image = npt.NDArray[np.uint8]

_APPLY: dict[str, Callable[[Image, float, Draws], Image]] = {
    "fog": fog,
    "rain": rain,
    "motion": motion,
    "defocus": defocus,
    "blur": blur,
    "over-exposure": over_exposure,
    "brightness": brightness,
    "contrast": contrast,
    "dim": dim,
    "low-light": low_light,
    "shot": shot,
    "noise": noise,
    "impulse": impulse,
    "hot-pixels": hot_pixels,
    "pixelate": pixelate,
    "h264": h264,
    "jpeg": jpeg,
}


@dataclass(frozen=True)
class Degradation:
    """One kind of damage whose level is drawn evenly from `low` to `high` for each image.

    `name` is what reports call it: blur:3, or noise-low of the study.
    """

    name: str
    kind: str
    low: float
    high: float

    def level(self, file_name: str, seed: int) -> float:
        """The level for the image of this name (without folders)."""
        if self.low == self.high:
            return self.low
        draws = Draws("level", seed, self.name, file_name)
        if SCALES[self.kind].whole:
            return float(int(self.low) + int(draws.below(int(self.high - self.low) + 1, 1)[0]))
        return draws.uniform(self.low, self.high)

    def apply(self, image: Image, file_name: str, seed: int) -> Image:
        """The degraded image: uint8 [h, w, 3], RGB in and out."""
        draws = Draws("pixels", seed, self.name, file_name)
        return _APPLY[self.kind](image, self.level(file_name, seed), draws)

    def document(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dict(vars(self))


def degrade_all(image: Image, degradations: Sequence[Degradation], file_name: str, seed: int) -> Image:
    """Several in the order given."""
    for degradation in degradations:
        image = degradation.apply(image, file_name, seed)
    return image


def at_severity(kind: str, severity: int) -> Degradation:
    """`kind` at the fixed level of a severity from 1 to 5. Raises UsageError for any other."""
    if kind not in SCALES:
        hint = did_you_mean(kind, [*SCALES, *STUDY])
        raise UsageError("unknown degradation", value=kind, allowed=", ".join([*SCALES, *STUDY]), next_step=hint)
    if not 1 <= severity <= MOST_SEVERE:
        raise UsageError("no such severity", where=kind, value=severity, allowed=f"1 to {MOST_SEVERE}")
    level = float(SCALES[kind].levels[severity - 1])
    return Degradation(f"{kind}:{severity}", kind, level, level)


def parse_degradation(text: str) -> Degradation:
    """blur:3 (a kind at a severity) or blur-low (of the study); raises UsageError.

    >>> parse_degradation("jpeg:2").low, parse_degradation("jpeg-heavy").high
    (30.0, 45.0)
    """
    if text in STUDY:
        kind, low, high = STUDY[text]
        return Degradation(text, kind, float(low), float(high))
    kind, colon, severity = text.partition(":")
    if not colon:
        at_severity(kind, 1)  # an unknown name is told first
        raise UsageError("a degradation needs its severity", value=text, allowed=f"{kind}:1 to {kind}:{MOST_SEVERE}")
    return at_severity(kind, int(severity) if severity.isascii() and severity.isdigit() else 0)


def study() -> tuple[Degradation, ...]:
    """The seven of the study."""
    return tuple(map(parse_degradation, STUDY))
