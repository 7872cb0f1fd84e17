"""What counts when a choice must serve many kinds of images: the risk over them, and how sure a difference is.

The mean lets easy images outvote hard ones; the worst kind of image and the conditional value at risk (the mean over
the worst quarter, Rockafellar and Uryasev, 2000) do not. Noise is measured image by image relative to the image's own
output, and where the network says nothing (nothing in sight, or all of it lost in the dark) that ratio is huge and
means nothing. So an image counts by its signal: the risk is over absolute noise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from edgeq.formats import FloatArray

RiskKind = Literal["mean", "worst", "cvar"]
RISKS: tuple[RiskKind, ...] = get_args(RiskKind)
TAIL = 0.25
RESAMPLES = 2000
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Risk:
    """How noise over images becomes one figure.

    `groups` names the kind of each image, for `worst`. `signals` is filled with the signal of each image as its noise
    is measured; empty, all count alike.
    """

    kind: RiskKind = "mean"
    groups: tuple[str, ...] = ()
    signals: list[float] = field(default_factory=list)

    def of(self, noise: FloatArray) -> FloatArray:
        """noise [images, candidates], relative to the image's signal -> [candidates]."""
        if self.signals:
            weights = np.array(self.signals[: len(noise)])
            noise = noise * (weights / max(weights.mean(), 1e-30))[:, None]
        if self.kind == "cvar":
            worst = max(round(TAIL * len(noise)), 1)
            return np.asarray(np.sort(noise, axis=0)[-worst:].mean(0))
        if self.kind == "worst" and self.groups:
            groups = np.array(self.groups[: len(noise)])
            return np.asarray(np.stack([noise[groups == name].mean(0) for name in np.unique(groups)]).max(0))
        return np.asarray(noise.mean(0))


MEAN = Risk()


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds of its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def resamples(images: int, count: int = RESAMPLES, seed: int = 0) -> FloatArray:
    """How often each of `images` is drawn in each of `count` bootstrap samples: [count, images], rows sum to images."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(images, np.full(images, 1 / images), size=count).astype(np.float64)


def interval_of(point: float, replicates: FloatArray) -> Interval:
    """The percentile interval of bootstrap `replicates` around the `point` estimate."""
    tail = 50 * (1 - _CONFIDENCE)
    low, high = np.percentile(replicates, [tail, 100 - tail])
    return Interval(float(point), float(low), float(high))


def bootstrap_mean(values: FloatArray, seed: int = 0) -> Interval:
    """The mean of `values` (one per image; of paired differences, the mean difference) with its interval."""
    weights = resamples(len(values), seed=seed)
    return interval_of(float(values.mean()), weights @ values / len(values))
