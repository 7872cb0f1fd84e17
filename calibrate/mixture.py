"""Which images of a set are degraded, and how: a share of them, each by one of several degradations.

Image names and a seed decide, never the order of the images: names are ranked by what is drawn for them and the first
of the ranking are degraded. The study's mixture is half of the images, its seven degradations, seed 42.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.calibrate.degrade import Degradation, parse_degradation, study
from edgeq.calibrate.draws import Draws
from edgeq.datasets.folder import ImageFile, pixel_sha256
from edgeq.errors import UsageError

STUDY_SEED = 42
_WHOLE = 1 << 30


@dataclass(frozen=True)
class Mixture:
    """`share` of the images get one of `parts`, drawn by `weights` (even when empty)."""

    parts: tuple[Degradation, ...]
    share: float = 0.5
    weights: tuple[float, ...] = ()
    seed: int = STUDY_SEED

    def assign(self, names: Sequence[str]) -> list[Degradation | None]:
        """The degradation of the image of each name, or None."""
        degraded = round(self.share * len(names))
        drawn = [Draws("mixture", self.seed, name).below(_WHOLE, 2).tolist() for name in names]
        ranking = sorted(range(len(names)), key=lambda k: (drawn[k][0], names[k], k))
        chosen = set(ranking[:degraded])
        return [self._part(drawn[k][1] / _WHOLE) if k in chosen else None for k in range(len(names))]

    def _part(self, position: float) -> Degradation:
        weights = np.array(self.weights or [1.0] * len(self.parts))
        ends = np.cumsum(weights) / weights.sum()
        return self.parts[min(int(np.searchsorted(ends, position, side="right")), len(self.parts) - 1)]

    def document(self) -> dict[str, Any]:
        """As plain JSON values."""
        parts = [part.document() for part in self.parts]
        return {"parts": parts, "share": self.share, "weights": list(self.weights), "seed": self.seed}


def parse_mixture(text: str, share: float = 0.5, seed: int = STUDY_SEED) -> Mixture:
    """study, or degradations separated by commas, each with a weight behind = if not 1; raises UsageError.

    >>> parse_mixture("blur:2=3,noise-low").weights
    (3.0, 1.0)
    """
    if not 0 < share <= 1:
        raise UsageError("the share of degraded images is out of range", value=share, allowed="above 0, at most 1")
    if text == "study":
        return Mixture(study(), share, (), seed)
    parts, weights = [], []
    for item in text.split(","):
        name, equals, weight = item.strip().partition("=")
        parts.append(parse_degradation(name))
        weights.append(_weight(weight if equals else "1", item))
    if len({part.name for part in parts}) < len(parts):
        raise UsageError("a degradation is named twice", value=text)
    return Mixture(tuple(parts), share, tuple(weights), seed)


def _weight(text: str, item: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = 0.0
    if not 0 < weight <= 1e6:
        raise UsageError("the weight of a degradation cannot be read", value=item, allowed="above 0, such as blur:2=3")
    return weight


@dataclass(frozen=True)
class DegradedImage:
    """A degraded image: its source, what is done to it, and the SHA-256 of the pixels that come out."""

    source: ImageFile
    degradation: Degradation
    seed: int
    sha256: str

    @property
    def path(self) -> Path:
        """Of the source."""
        return self.source.path

    @property
    def level(self) -> float:
        """What was drawn for this image."""
        return self.degradation.level(self.path.name, self.seed)

    def read(self) -> npt.NDArray[np.uint8]:
        """RGB uint8 [height, width, 3]."""
        return self.degradation.apply(self.source.read(), self.path.name, self.seed)


def degraded(source: ImageFile, degradation: Degradation, seed: int) -> DegradedImage:
    """`source` degraded; its pixels are made once for the digest, and again whenever they are read."""
    pixels = degradation.apply(source.read(), source.path.name, seed)
    return DegradedImage(source, degradation, seed, pixel_sha256(pixels))


def mixed(images: Sequence[ImageFile], mixture: Mixture, *, keep: bool = False) -> list[ImageFile | DegradedImage]:
    """`images` with a share of them degraded; with `keep` the clean image stays in front of its degraded copy."""
    found: list[ImageFile | DegradedImage] = []
    parts = mixture.assign([image.path.name for image in images])
    for image, part in zip(images, parts, strict=True):
        if part is None or keep:
            found.append(image)
        if part is not None:
            found.append(degraded(image, part, mixture.seed))
    return found


def cover(classes: Sequence[frozenset[int]], limit: int) -> list[int]:
    """At most `limit` indices of images, ascending, that show as many classes as they can; `classes` by image.

    The rarest class not yet shown is next, by the image that adds most classes; what is left of the limit is spread
    evenly over the other images.

    >>> cover([frozenset({0}), frozenset({0, 1}), frozenset({0}), frozenset({0}), frozenset({2})], 3)
    [0, 1, 4]
    """
    if limit >= len(classes):
        return list(range(len(classes)))
    holders: dict[int, list[int]] = {}
    for index, shown in enumerate(classes):
        for label in shown:
            holders.setdefault(label, []).append(index)
    chosen: dict[int, None] = {}
    seen: set[int] = set()
    for label in sorted(holders, key=lambda label: (len(holders[label]), label)):
        if label not in seen and len(chosen) < limit:
            best = max(holders[label], key=lambda index: (len(classes[index] - seen), -index))
            chosen[best] = None
            seen |= classes[best]
    rest, missing = [k for k in range(len(classes)) if k not in chosen], limit - len(chosen)
    return sorted([*chosen, *(rest[k * len(rest) // missing] for k in range(missing))])


def group_of(image: ImageFile | DegradedImage) -> str:
    """What was done to an image: the name of its degradation, or clean."""
    return image.degradation.name if isinstance(image, DegradedImage) else "clean"


def entry(image: ImageFile | DegradedImage) -> dict[str, Any]:
    """How a manifest records a calibration image."""
    found: dict[str, Any] = {"name": image.path.name, "sha256": image.sha256}
    if isinstance(image, DegradedImage):
        return found | {"degradation": image.degradation.name, "level": image.level}
    return found
