"""The kinds of degradation with what their level means, five severities of each, and the seven of the QRID study.

The order is that of the light path, from the scene to the file: several at once are applied in this order. The study
is AllanK24/QRID (arXiv 2508.19600); its levels are drawn evenly from a range for each image, and its "contrast"
multiplies about black, so here it is `dim`. Nothing heavy is imported, so the command line can list the names.
"""

from __future__ import annotations

from dataclasses import dataclass

MOST_SEVERE = 5


@dataclass(frozen=True)
class Scale:
    """What the level of a kind is, and its levels at severity 1 to 5; `whole` levels are integers."""

    meaning: str
    levels: tuple[float, float, float, float, float]
    whole: bool = False


SCALES: dict[str, Scale] = {
    "fog": Scale("mean opacity", (0.2, 0.3, 0.4, 0.5, 0.65)),
    "rain": Scale("streaks per 1000 pixels", (0.3, 0.6, 1.0, 1.5, 2.2)),
    "motion": Scale("length in pixels", (5, 9, 13, 19, 27), whole=True),
    "defocus": Scale("radius in pixels", (1, 2, 3, 5, 7), whole=True),
    "blur": Scale("Gaussian sigma in pixels", (0.8, 1.4, 2.0, 3.0, 4.5)),
    "over-exposure": Scale("gain", (1.4, 1.8, 2.3, 3.0, 4.0)),
    "brightness": Scale("grey levels added", (20, 40, 60, 80, 110)),
    "contrast": Scale("gain about the mean", (0.7, 0.5, 0.35, 0.25, 0.15)),
    "dim": Scale("gain about black", (0.7, 0.55, 0.4, 0.3, 0.2)),
    "low-light": Scale("gain before photon and read noise", (0.5, 0.35, 0.25, 0.17, 0.1)),
    "shot": Scale("photons at white", (400, 150, 60, 30, 15)),
    "noise": Scale("Gaussian sigma in grey levels, the same in all channels", (10, 18, 28, 40, 55)),
    "impulse": Scale("share of pixels black or white", (0.01, 0.03, 0.06, 0.1, 0.18)),
    "hot-pixels": Scale("share of pixels with a stuck channel", (0.0005, 0.001, 0.002, 0.005, 0.01)),
    "pixelate": Scale("side of a block in pixels", (2, 3, 4, 6, 8), whole=True),
    "h264": Scale("quantizer QP", (30, 34, 38, 42, 46), whole=True),
    "jpeg": Scale("quality", (50, 30, 20, 12, 7), whole=True),
}

STUDY: dict[str, tuple[str, float, float]] = {
    "noise-low": ("noise", 10, 30),
    "noise-medium": ("noise", 35, 55),
    "blur-low": ("blur", 0.8, 1.1),
    "blur-medium": ("blur", 1.4, 2.0),
    "contrast-low": ("dim", 0.4, 0.7),
    "jpeg-moderate": ("jpeg", 50, 75),
    "jpeg-heavy": ("jpeg", 20, 45),
}
"""Name -> kind and the range of its level. Blur: sigma = 0.3 ((k - 1) / 2 - 1) + 0.8 for kernels of 3-5 and 7-11."""
