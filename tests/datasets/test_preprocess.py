"""Preprocessing: the letterbox against Ultralytics', crops against torchvision's, and boxes there and back."""

from __future__ import annotations

import json
import os

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.datasets.preprocess import PRESETS, Placement, Preprocess, preset
from edgeq.errors import DataError, UsageError

SIZES = [(426, 640), (640, 480), (375, 500), (333, 500), (1, 1), (1, 3000), (3000, 1), (7, 5), (1000, 999), (640, 640)]


def picture(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def ultralytics_letterbox(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    os.environ.update(
        YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_CONFIG_DIR=str(tmp_path_factory.mktemp("ultralytics"))
    )
    from edgeq.frontend import torchvision_shim

    torchvision_shim.install()
    pytest.importorskip("ultralytics")
    from ultralytics.data.augment import LetterBox

    return LetterBox


@pytest.mark.parametrize("size", [(640, 640), (320, 320), (384, 640), (416, 224)])
@pytest.mark.parametrize("shape", SIZES)
def test_letterbox_equals_ultralytics(ultralytics_letterbox, shape, size) -> None:  # type: ignore[no-untyped-def]
    image = picture(*shape)
    expected = ultralytics_letterbox(size, auto=False, scaleup=True)(image=image)
    tensor = Preprocess(size).apply(image)
    assert tensor.shape == (1, 3, *size) and tensor.dtype == np.float32
    assert np.array_equal(np.rint(tensor[0].transpose(1, 2, 0) * 255), expected)
    assert len(np.unique(expected)) > 2


def test_letterbox_is_placed_where_ultralytics_scales_boxes_back(ultralytics_letterbox) -> None:  # type: ignore[no-untyped-def]
    from ultralytics.utils.ops import scale_boxes

    boxes = np.random.default_rng(1).uniform(0, 640, (50, 4)).astype(np.float32)
    for shape in SIZES:
        expected = scale_boxes((640, 640), boxes.copy(), shape)
        assert np.allclose(preset("yolo").placement(*shape).to_image(boxes), expected, atol=1e-2), shape


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    size=st.tuples(st.integers(8, 96), st.integers(8, 96)),
    resize=st.sampled_from(["letterbox", "letterbox-topleft", "stretch", "crop"]),
)
def test_placement_says_where_the_picture_is(height: int, width: int, size: tuple[int, int], resize: str) -> None:
    """A white picture on black padding: what is white is what the placement says, to half a pixel."""
    process = Preprocess.from_dict({"size": list(size), "resize": resize, "pad": 0, "scale": 1.0})
    white = process.apply(np.full((height, width, 3), 255, np.uint8))[0, 0] > 0
    p = process.placement(height, width)
    x0, x1 = max(p.offset_x, 0), min(p.offset_x + p.ratio_x * width, size[1])
    y0, y1 = max(p.offset_y, 0), min(p.offset_y + p.ratio_y * height, size[0])
    expected = np.zeros(size, bool)
    expected[round(y0) : round(y1), round(x0) : round(x1)] = True
    assert np.array_equal(white, expected)


def test_boxes_go_there_and_back() -> None:
    placement = Placement(480, 640, 0.5, 0.25, 10.0, -20.0)
    image = np.array([[0, 0, 640, 480], [100.5, 20.25, 300, 400]], np.float32)
    inside = image * [0.5, 0.25, 0.5, 0.25] + [10, -20, 10, -20]
    assert np.allclose(placement.to_image(inside.astype(np.float32)), image)
    beyond = placement.to_image(np.array([[-1e6, -1e6, 1e6, 1e6]], np.float32))
    assert beyond.tolist() == [[0, 0, 640, 480]]


@pytest.mark.parametrize("shape", [(227, 227), (375, 500), (500, 375), (256, 256), (300, 301), (40, 64)])
def test_crop_equals_torchvision(shape: tuple[int, int]) -> None:
    """Exact where Pillow takes the width first or resizes nothing; else its two passes may round one level apart."""
    from PIL import Image

    from edgeq.frontend import torchvision_shim

    torchvision_shim.install()
    transforms = pytest.importorskip("torchvision.transforms")

    image = picture(*shape)
    resize = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    expected = np.asarray(resize(Image.fromarray(image)), np.float32)
    process = Preprocess((224, 224), "crop", 0.875, "bilinear-antialias", scale=1.0)
    difference = np.abs(process.apply(image)[0].transpose(1, 2, 0) - expected)
    assert difference.max() <= 1 and np.mean(difference > 0) < 0.2


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
def test_antialias_equals_pillow_axis_by_axis(kind: str) -> None:
    from PIL import Image

    from edgeq.datasets.resample import resize_antialias

    resampling = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[kind]
    rng = np.random.default_rng(0)
    for _ in range(60):
        height, width, into_h, into_w = (int(n) for n in rng.integers(1, 150, 4))
        image = picture(height, width, into_h)
        expected = Image.fromarray(image).resize((into_w, height), resampling).resize((into_w, into_h), resampling)
        assert np.array_equal(resize_antialias(image, (into_h, into_w), f"{kind}-antialias"), np.asarray(expected))


def test_antialias_survives_the_harshest_picture() -> None:
    """Black and white pixels drive the cubic's lobes to both ends of the int32 acc."""
    from PIL import Image

    from edgeq.datasets.resample import resize_antialias

    board = np.repeat((np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    for size in ((64, 301), (64, 63), (64, 3)):
        expected = np.asarray(Image.fromarray(board).resize(size[::-1], Image.Resampling.BICUBIC))
        result = resize_antialias(board, size, "bicubic-antialias")
        assert np.array_equal(result, expected)
    assert {0, 255} <= set(np.unique(resize_antialias(board, (64, 301), "bicubic-antialias")).tolist())


def test_values_colour_and_layout() -> None:
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 200
    size = (4, 4)
    rgb = Preprocess(size, scale=1.0).apply(red)
    assert rgb[0, :, 0, 0].tolist() == [200, 0, 0]
    assert Preprocess(size, scale=1.0, color="BGR").apply(red)[0, :, 0, 0].tolist() == [0, 0, 200]
    assert np.array_equal(Preprocess(size, scale=1.0, layout="NHWC").apply(red), rgb.transpose(0, 2, 3, 1))
    assert Preprocess(size, scale=1.0, color="GRAY").apply(red).shape == (1, 1, 4, 4)
    normal = Preprocess(size, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0)).apply(red)[0, :, 0, 0]
    assert np.allclose(normal, [(200 / 255 - 0.5) / 0.5, -1, 0])
    assert np.allclose(preset("tf", size).apply(red)[0, :, 0, 0], [200 / 127.5 - 1, -1, -1])


def test_yolox_keeps_the_picture_top_left_and_truncates() -> None:
    process = preset("yolox", (100, 100))
    tensor = process.apply(np.full((333, 500, 3), 7, np.uint8))
    rows = int(333 * 0.2)
    assert (tensor[0, :, :rows] == 7).all() and (tensor[0, :, rows:] == 114).all()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    process = preset(name, (64, 96))
    again = Preprocess.from_dict(json.loads(json.dumps(process.to_dict())))
    assert again == process
    image = picture(50, 70)
    assert np.array_equal(again.apply(image), process.apply(image))
    assert "64x96" in process.describe() and "\n" not in process.describe()


def test_descriptions_differ() -> None:
    assert len({process.describe() for process in PRESETS.values()}) == len(PRESETS)


@pytest.mark.parametrize(
    "values",
    [
        {"size": [0, 4]},
        {"size": [4]},
        {"size": 4},
        {"size": ["a", 4]},
        {"size": [4, 4], "resize": "letterboxx"},
        {"size": [4, 4], "scale": 0},
        {"size": [4, 4], "scale": float("nan")},
        {"size": [4, 4], "std": [1, 0, 1]},
        {"size": [4, 4], "mean": [1, 2]},
        {"size": [4, 4], "mean": 0.5},
        {"size": [4, 4], "crop": 0},
        {"size": [4, 4], "pad": 256},
        {"size": [4, 4], "colour": "RGB"},
        {},
    ],
)
def test_senseless_values_are_refused_in_one_line(values: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        Preprocess.from_dict(values)
    assert "\n" not in str(caught.value)


def test_unknown_preset_suggests_one() -> None:
    with pytest.raises(UsageError, match="Did you mean yolox"):
        preset("yoloxx")


def test_a_thread_of_pixels_cannot_be_centre_cropped() -> None:
    with pytest.raises(DataError, match="1x3000"):
        preset("imagenet").apply(picture(3000, 1))
