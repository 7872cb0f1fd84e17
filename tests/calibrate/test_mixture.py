"""Which images are degraded does not depend on their order; every degraded image is recorded by its pixels."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeq.calibrate.degrade import parse_degradation
from edgeq.calibrate.mixture import DegradedImage, Mixture, cover, entry, mixed, parse_mixture
from edgeq.calibrate.severity import STUDY
from edgeq.datasets.folder import ImageFile, pixel_sha256, read_images
from edgeq.errors import UsageError
from tests.pictures import picture

NAMES = [f"{k:04}.jpg" for k in range(700)]


def files(folder: Path, count: int) -> list[ImageFile]:
    for index in range(count):
        assert cv2.imwrite(str(folder / f"{index}.png"), picture(48, f"file {index}"))
    return read_images(sorted(folder.iterdir()))[0]


def test_half_are_degraded_evenly_among_seven() -> None:
    parts = parse_mixture("study").assign(NAMES)
    counts = Counter(part.name for part in parts if part is not None)
    assert sum(counts.values()) == 350 and counts.keys() == STUDY.keys()
    assert max(counts.values()) < 75 and min(counts.values()) > 30


def test_names_and_seed_decide_not_the_order() -> None:
    mixture = parse_mixture("study")
    forward = dict(zip(NAMES, mixture.assign(NAMES), strict=True))
    assert forward == dict(zip(NAMES[::-1], mixture.assign(NAMES[::-1]), strict=True))
    assert list(forward.values()) != parse_mixture("study", seed=1).assign(NAMES)


def test_weights_are_kept() -> None:
    parts = parse_mixture("blur:2=3,noise-low", share=1.0).assign(NAMES)
    counts = Counter(part.name for part in parts if part is not None)
    assert counts.total() == 700 and abs(counts["blur:2"] - 525) < 45


@pytest.mark.parametrize("text", ["", "blur:2=", "blur:2=0", "blur:2=-1", "blur:2=nan", "blur:2,blur:2", "blur"])
def test_what_cannot_be_read_is_told(text: str) -> None:
    with pytest.raises(UsageError):
        parse_mixture(text)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_a_share_out_of_range_is_told(share: float) -> None:
    with pytest.raises(UsageError, match="share"):
        parse_mixture("study", share)


def test_degraded_images_are_what_their_digest_says(tmp_path: Path) -> None:
    images = files(tmp_path, 6)
    found = mixed(images, Mixture((parse_degradation("blur-low"), parse_degradation("noise:2"))))
    changed = [image for image in found if isinstance(image, DegradedImage)]
    assert len(found) == 6 and len(changed) == 3
    for image in changed:
        assert image.sha256 == pixel_sha256(image.read()) != image.source.sha256
        record = entry(image)
        assert record["degradation"] == image.degradation.name and record["level"] == image.level > 0
    assert [image.path for image in found] == [image.path for image in images]


def test_copies_stand_beside_the_clean_images(tmp_path: Path) -> None:
    found = mixed(files(tmp_path, 4), parse_mixture("blur:3"), keep=True)
    assert [isinstance(image, DegradedImage) for image in found].count(True) == 2 and len(found) == 6
    for before, image in pairwise(found):
        assert not isinstance(image, DegradedImage) or before == image.source


def test_every_class_is_shown() -> None:
    rng = np.random.default_rng(0)
    classes = [frozenset(rng.choice(4, 2).tolist()) for _ in range(100)]
    for rare in range(4, 12):
        classes[rng.integers(100)] |= {rare}
    chosen = cover(classes, 12)
    assert len(chosen) == 12 == len(set(chosen)) and chosen == sorted(chosen)
    assert frozenset().union(*(classes[k] for k in chosen)) == frozenset().union(*classes)
    assert cover(classes, 1000) == list(range(100))
    assert len(cover([frozenset()] * 10, 4)) == 4
