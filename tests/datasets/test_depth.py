"""Depth errors by hand, alignment, and the way back from the input to the picture."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeq.datasets.depth import DepthSet, align, depth_errors, depth_map, open_depth, read_depth, sample_map
from edgeq.datasets.preprocess import Preprocess
from edgeq.datasets.scenes import render, write_dataset
from edgeq.errors import DataError

PLAIN = DepthSet("hand", ())


def test_errors_by_hand() -> None:
    truth, predicted = np.array([1.0, 2.0, 4.0, 5.0]), np.array([1.0, 3.0, 4.0, 4.0])
    absrel, rmse, delta1 = depth_errors(predicted, truth, PLAIN)
    assert absrel == pytest.approx((0 + 0.5 + 0 + 0.2) / 4)
    assert rmse == pytest.approx(np.sqrt(2 / 4))
    assert delta1 == 0.5  # 5/4 is not below 1.25


def test_alignment_removes_scale_and_shift() -> None:
    truth = np.random.default_rng(0).uniform(1, 9, 500)
    assert depth_errors(truth * 7, truth, dataclasses.replace(PLAIN, alignment="median"))[0] < 1e-12
    affine = dataclasses.replace(PLAIN, alignment="affine")
    assert depth_errors(truth * 0.3 - 2, truth, affine)[0] < 1e-12
    disparity = dataclasses.replace(PLAIN, alignment="affine", quantity="disparity")
    assert depth_errors(40 / truth + 3, truth, disparity)[0] < 1e-12
    assert depth_errors(truth * 0.3 - 2, truth, PLAIN)[0] > 0.5
    constant = np.ones(500)
    assert np.isfinite(depth_errors(constant, truth, affine)).all()
    assert np.array_equal(align(np.zeros(500), truth, "median"), np.zeros(500))
    assert np.isfinite(depth_errors(np.full(500, np.nan), truth, disparity)).all()


@pytest.mark.parametrize("resize", ["letterbox", "letterbox-topleft", "stretch", "crop"])
@pytest.mark.parametrize("shape", [(48, 96), (96, 48), (60, 60)])
def test_a_map_comes_back_to_the_picture(resize: str, shape: tuple[int, int]) -> None:
    """A picture whose value is a ramp across it: after preprocessing and sampling, the ramp is where it was."""
    ramp = np.linspace(20, 220, shape[1])[None, :, None] * np.ones((shape[0], 1, 3))
    process = Preprocess.from_dict({"size": [64, 64], "resize": resize, "scale": 1.0, "pad": 0})
    tensor = process.apply(np.rint(ramp).astype(np.uint8))
    values, seen = sample_map(tensor[0, 0], process.size, process.placement(*shape), shape)
    inner = seen.copy()
    inner[:2], inner[-2:], inner[:, :2], inner[:, -2:] = False, False, False, False
    assert np.abs(values - ramp[..., 0])[inner].max() < 4
    assert seen.mean() > (0.4 if resize == "crop" else 0.99)
    coarse, _ = sample_map(tensor[0, 0, ::2, ::2].copy(), process.size, process.placement(*shape), shape)
    assert np.abs(coarse - values)[inner].mean() < 8


def test_rendered_scenes_have_no_error_against_themselves(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "scenes", 2, seed=3, size=64, kind="depth")
    dataset, process = open_depth(folder), Preprocess((64, 64))
    meter = dataset.meter(process, {})
    for i in range(2):
        meter.add(i, process.placement(64, 64), [render(3, i, 64).depth[None, None]])
    metrics = {m.name: m for m in meter.metrics()}
    assert metrics["absrel"].value < 1e-3 and metrics["delta1"].value == 1.0 and metrics["rmse"].unit == "m"
    assert all(m.n == 2 for m in metrics.values())
    meter.add(0, process.placement(64, 64), [render(3, 0, 64).depth[None, None] * 2])
    assert {m.name: m.value for m in meter.metrics()}["absrel"] == pytest.approx(1 / 3, abs=1e-3)


def test_unknown_depth_does_not_count(tmp_path: Path) -> None:
    truth = np.full((8, 8), 2000, np.uint16)
    truth[:4] = 0
    for folder, pixels in (("images", np.zeros((8, 8, 3), np.uint8)), ("depth", truth)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    process = Preprocess((8, 8))
    predicted = np.full((1, 8, 8), 2, np.float32)
    predicted[0, :3] = 99
    meter = open_depth(tmp_path).meter(process, {})
    meter.add(0, process.placement(8, 8), [predicted])
    assert meter.metrics()[0].value == 0.0
    near = dataclasses.replace(open_depth(tmp_path), farthest_m=1.0).meter(process, {})
    with pytest.raises(DataError, match="no valid pixel"):
        near.add(0, process.placement(8, 8), [predicted])


def test_metres_from_arrays_and_millimetres_from_images(tmp_path: Path) -> None:
    metres = np.random.default_rng(0).uniform(0, 60, (5, 7)).astype(np.float32)
    np.save(tmp_path / "a.npy", metres[None])
    assert np.array_equal(read_depth(tmp_path / "a.npy"), metres)
    millimetres = np.rint(metres * 1000).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", millimetres)[1].tobytes())
    assert np.allclose(read_depth(tmp_path / "a.png"), metres, atol=6e-4)


def test_unusable_maps_are_refused(tmp_path: Path) -> None:
    (tmp_path / "byte.png").write_bytes(cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1].tobytes())
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "cube.npy", np.zeros((2, 3, 4)))
    np.save(tmp_path / "object.npy", np.array([[None, 1]], object), allow_pickle=True)
    for name in ("byte.png", "text.npy", "cube.npy", "object.npy", "none.npy"):
        with pytest.raises(DataError, match=name.replace(".", r"\.")):
            read_depth(tmp_path / name)
    with pytest.raises(DataError):
        depth_map([np.zeros((1, 3, 4, 4), np.float32)])


def test_an_image_without_a_map_is_named(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "depth").mkdir()
    (tmp_path / "images/a.png").write_bytes(cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes())
    with pytest.raises(DataError, match=r"a\.png"):
        open_depth(tmp_path)
