"""Every degradation changes an image by what its severity says, the same everywhere, whatever the image's shape."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import pytest

from edgeq.calibrate.degrade import Degradation, at_severity, degrade_all, parse_degradation, study
from edgeq.calibrate.draws import UNIT, Draws
from edgeq.calibrate.likeness import psnr, ssim
from edgeq.calibrate.severity import SCALES, STUDY
from edgeq.errors import UsageError
from tests.pictures import picture

# PSNR in dB at severity 1, 3 and 5, to 1.5 dB; SSIM at severity 3, to 0.06; SHA-256 of the pixels at severity 3.
MEASURED = {
    "fog": (19.8, 13.5, 9.5, 0.87, "1e8a0a64b5351837"),
    "rain": (25.9, 24.1, 22.6, 0.87, "43ce08e378a9676b"),
    "motion": (28.5, 24.7, 22.0, 0.85, "38137214daa0dfa5"),
    "defocus": (32.3, 27.3, 23.6, 0.89, "d82acfdc74541ec8"),
    "blur": (31.6, 26.6, 23.2, 0.88, "fb62156013ecb51f"),
    "over-exposure": (15.6, 7.8, 5.5, 0.71, "a9a2b6cef33e21c5"),
    "brightness": (22.2, 12.7, 7.7, 0.88, "6ef84d64e6f92878"),
    "contrast": (24.4, 17.7, 15.4, 0.89, "981af9ccdb8be0a1"),
    "dim": (17.4, 11.4, 8.9, 0.64, "c5c2ebd569e174bd"),
    "low-light": (12.9, 9.4, 7.8, 0.40, "f74db401138278e5"),
    "shot": (30.1, 21.9, 16.1, 0.38, "43a493a094ef1d43"),
    "noise": (28.2, 19.4, 14.1, 0.16, "0891c2fa38b94174"),
    "impulse": (25.4, 17.3, 12.6, 0.20, "c96b186368001ebd"),
    "hot-pixels": (39.7, 34.3, 27.6, 0.96, "fc2effd623db58dd"),
    "pixelate": (28.6, 25.4, 22.4, 0.87, "04c79f1a32bba0e2"),
    "h264": (28.6, 25.6, 21.0, 0.90, "829505289e0d3817"),
    "jpeg": (27.9, 26.4, 23.7, 0.90, "eabd16e6eee44e16"),
}
# PSNR over the range of the level: the ends of each of the study's seven, to 1 dB beyond.
STUDY_BANDS = {
    "noise-low": (18.8, 28.3),
    "noise-medium": (14.0, 17.7),
    "blur-low": (29.4, 31.7),
    "blur-medium": (26.5, 28.5),
    "contrast-low": (11.3, 17.5),
    "jpeg-moderate": (27.9, 29.2),
    "jpeg-heavy": (26.3, 27.8),
}
NAME = "a.png"


def test_every_kind_has_its_band() -> None:
    assert MEASURED.keys() == SCALES.keys() and STUDY_BANDS.keys() == STUDY.keys()


@pytest.mark.parametrize("kind", SCALES)
def test_severities_lie_in_their_bands_and_get_worse(kind: str) -> None:
    image = picture()
    degraded = [at_severity(kind, severity).apply(image, NAME, 0) for severity in (1, 2, 3, 4, 5)]
    found = [psnr(image, other) for other in degraded]
    assert np.abs(np.array(found[::2]) - MEASURED[kind][:3]).max() < 1.5
    assert abs(ssim(image, degraded[2]) - MEASURED[kind][3]) < 0.06
    assert all(worse < better + 0.2 for better, worse in pairwise(found))


@pytest.mark.parametrize("kind", SCALES)
def test_pixels_are_the_same_on_every_machine(kind: str) -> None:
    image = at_severity(kind, 3).apply(picture(), NAME, 0)
    assert hashlib.sha256(image.tobytes()).hexdigest()[:16] == MEASURED[kind][4]


@pytest.mark.parametrize("degradation", study(), ids=lambda d: d.name)
def test_the_studys_seven_lie_in_their_bands(degradation: Degradation) -> None:
    image = picture()
    levels = [degradation.level(f"{k}.jpg", 42) for k in range(200)]
    assert degradation.low <= min(levels) < max(levels) <= degradation.high
    width = degradation.high - degradation.low
    assert max(levels) - min(levels) > 0.9 * width and abs(np.mean(levels) - degradation.low - width / 2) < 0.1 * width
    low, high = STUDY_BANDS[degradation.name]
    for name in ("0.jpg", "1.jpg", "2.jpg"):
        assert low - 1 < psnr(image, degradation.apply(image, name, 42)) < high + 1


@pytest.mark.parametrize("kind", SCALES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (37, 2), (16, 300)])
def test_any_shape_and_any_image_survive(kind: str, shape: tuple[int, int]) -> None:
    noise = Draws("shape").sixteens(*shape, 3).astype(np.uint8)
    for severity in (1, 5):
        for image in (noise, np.zeros_like(noise), np.full_like(noise, 255)):
            kept = image.copy()
            found = at_severity(kind, severity).apply(image, NAME, 0)
            assert found.shape == image.shape and found.dtype == np.uint8
            assert np.array_equal(image, kept), "the input was changed"


def test_a_name_decides_and_the_order_does_not() -> None:
    image, degradation = picture(64), parse_degradation("noise-low")
    first = degradation.apply(image, "a.png", 0)
    other = degradation.apply(image, "b.png", 0)
    assert np.array_equal(first, degradation.apply(image, "a.png", 0))
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, degradation.apply(image, "a.png", 1))


def test_noise_is_shared_by_the_channels_and_shot_noise_is_not() -> None:
    image = np.full((64, 64, 3), 128, np.uint8)
    noise = at_severity("noise", 2).apply(image, NAME, 0)
    assert (noise[..., :1] == noise).all()
    assert abs(float(noise.std()) - 18) < 0.6 and abs(float(noise.mean()) - 128) < 1
    shot = at_severity("shot", 2).apply(image, NAME, 0)
    assert (shot[..., :1] != shot).mean() > 0.5
    assert abs(float(shot.std()) - np.sqrt(128 * 255 / 150)) < 0.6


def test_kernels_keep_a_flat_image_and_its_light() -> None:
    flat = np.full((40, 50, 3), 201, np.uint8)
    for kind in ("blur", "motion", "defocus", "pixelate", "h264", "jpeg"):
        allowed = 8 if kind in ("h264", "jpeg") else 1  # codecs round the mean of a block to their step
        assert np.abs(at_severity(kind, 3).apply(flat, NAME, 0).astype(int) - 201).max() <= allowed


def test_blur_is_the_gaussian() -> None:
    line = np.zeros((41, 41, 3), np.uint8)
    line[:, 20] = 255
    spread = at_severity("blur", 3).apply(line, NAME, 0)[20, :, 0].astype(float)
    x = np.arange(41) - 20
    assert abs(np.sqrt((spread * x**2).sum() / spread.sum()) - 2.0) < 0.1


def test_defocus_is_the_disc() -> None:
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    lit = at_severity("defocus", 5).apply(point, NAME, 0)[..., 0] > 0
    y, x = np.mgrid[-20:21, -20:21]
    assert np.array_equal(lit, x * x + y * y <= 49)


def test_several_at_once() -> None:
    image = picture(64)
    both = [at_severity("blur", 2), at_severity("jpeg", 2)]
    assert np.array_equal(degrade_all(image, both, NAME, 0), both[1].apply(both[0].apply(image, NAME, 0), NAME, 0))


def test_draws_are_those_of_the_published_generator() -> None:
    """Philox-4x64-10 of a zero key and a counter of one, from the known answers of the Random123 library's algorithm."""
    rounds_left, counter, key = 10, [1, 0, 0, 0], [0, 0]
    mask = (1 << 64) - 1
    while rounds_left:
        a, b = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
        counter = [(b >> 64) ^ counter[1] ^ key[0], b & mask, (a >> 64) ^ counter[3] ^ key[1], a & mask]
        key = [(key[0] + 0x9E3779B97F4A7C15) & mask, (key[1] + 0xBB67AE8584CAA73B) & mask]
        rounds_left -= 1
    assert [int(word) for word in np.random.Philox(key=0).random_raw(4)] == counter


def test_draws_are_even_and_normal() -> None:
    draws = Draws("even")
    below = draws.below(10, 20_000)
    assert below.min() == 0 and below.max() == 9 and np.abs(np.bincount(below) / 2000 - 1).max() < 0.1
    normals = draws.normals(200_000) / UNIT
    assert abs(normals.mean()) < 0.01 and abs(normals.std() - 1) < 0.01
    assert abs(float(np.mean(normals**4)) - 3) < 0.15 and np.abs(normals).max() > 3.5


@pytest.mark.parametrize("text", ["nose:3", "noise", "noise:0", "noise:6", "noise:x", "noise-lo", "", ":3"])
def test_what_cannot_be_read_is_told(text: str) -> None:
    with pytest.raises(UsageError, match="allowed"):
        parse_degradation(text)
