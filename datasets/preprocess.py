"""How an image becomes a network's input, as data that travels with the artifact.

A `Preprocess` says everything that lies between decoded RGB pixels and the float tensor: geometry, colour
order and the affine map of values. The same object serves calibration, evaluation and the written artifact,
and `placement` says where the image lies in the input, so that boxes and depth maps can be carried back.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import cv2
import numpy as np
import numpy.typing as npt

from edgeq.datasets.resample import resize_antialias
from edgeq.errors import DataError, UsageError, did_you_mean

Resize = Literal["letterbox", "letterbox-topleft", "stretch", "crop"]
Interpolation = Literal["linear", "area", "cubic", "nearest", "bilinear-antialias", "bicubic-antialias"]
Color = Literal["RGB", "BGR", "GRAY"]
Layout = Literal["NCHW", "NHWC"]
Image = npt.NDArray[np.uint8]

_CHOICES = {"resize": Resize, "interpolation": Interpolation, "color": Color, "layout": Layout}
_CV2_INTERPOLATION = {
    "linear": cv2.INTER_LINEAR,
    "area": cv2.INTER_AREA,
    "cubic": cv2.INTER_CUBIC,
    "nearest": cv2.INTER_NEAREST,
}
_LARGEST_SIDE = 32767  # of a resized image, in pixels


@dataclass(frozen=True)
class Placement:
    """Where an image lies in the network's input: input pixel = image pixel * ratio + offset, on each axis.

    Pixels are continuous coordinates (0 is the left edge of the first pixel).
    """

    image_height: int
    image_width: int
    ratio_x: float
    ratio_y: float
    offset_x: float
    offset_y: float

    def to_image(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Boxes [n, 4] (x0 y0 x1 y1) in input pixels -> image pixels, clipped to the image."""
        offset = np.array([self.offset_x, self.offset_y] * 2, np.float32)
        ratio = np.array([self.ratio_x, self.ratio_y] * 2, np.float32)
        limit = np.array([self.image_width, self.image_height] * 2, np.float32)
        inside: npt.NDArray[np.float32] = np.clip((boxes - offset) / ratio, np.float32(0), limit)
        return inside


@dataclass(frozen=True)
class Preprocess:
    """RGB pixels -> network input: `(pixel * scale - mean) / std` on the resized image.

    size: height and width of the input. resize: "letterbox" keeps the aspect ratio and pads both sides with
    `pad` (Ultralytics), "letterbox-topleft" pads right and below (YOLOX), "stretch" ignores the aspect
    ratio, "crop" makes the image just cover size / `crop` and cuts out the centre (torchvision, timm). The
    "-antialias" interpolations are Pillow's, the others OpenCV's. Raises UsageError on a value that makes no
    sense.
    """

    size: tuple[int, int]
    resize: Resize = "letterbox"
    crop: float = 1.0
    interpolation: Interpolation = "linear"
    color: Color = "RGB"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Layout = "NCHW"
    pad: int = 114

    def __post_init__(self) -> None:
        for field, allowed in _CHOICES.items():
            _require(field, getattr(self, field), getattr(self, field) in get_args(allowed), get_args(allowed))
        height, width = self.size
        in_range = 1 <= height <= _LARGEST_SIDE and 1 <= width <= _LARGEST_SIDE
        _require("size", self.size, in_range, f"1..{_LARGEST_SIDE}")
        _require("crop", self.crop, 0 < self.crop <= 1, "above 0, at most 1")
        _require("pad", self.pad, 0 <= self.pad <= 255, "0..255")
        _require("scale", self.scale, math.isfinite(self.scale) and self.scale != 0, "a finite number other than 0")
        channels = 1 if self.color == "GRAY" else 3
        for field in ("mean", "std"):
            values = getattr(self, field)
            finite = len(values) in (1, channels) and all(map(math.isfinite, values))
            _require(
                field,
                values,
                finite and not (field == "std" and 0 in values),
                f"1 or {channels} finite numbers",
            )

    def apply(self, image: Image) -> npt.NDArray[np.float32]:
        """RGB uint8 [h, w, 3] -> float32 [1, 3, h, w] ([1, 1, h, w] for GRAY; channels last for NHWC)."""
        pixels = self._arrange(image)
        if self.color == "BGR":
            pixels = pixels[..., ::-1]
        elif self.color == "GRAY":
            pixels = cast(Image, cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None])
        values = pixels.astype(np.float32)
        values *= np.float32(self.scale)
        values -= np.array(self.mean, np.float32)
        values /= np.array(self.std, np.float32)
        ordered = values.transpose(2, 0, 1) if self.layout == "NCHW" else values
        return np.ascontiguousarray(ordered[None])

    def placement(self, image_height: int, image_width: int) -> Placement:
        """Where `apply` puts an image of this size."""
        height, width = self._resized(image_height, image_width)
        top, left = self._corner(height, width)
        return Placement(image_height, image_width, width / image_width, height / image_height, left, top)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` is the inverse."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Preprocess:
        """Inverse of `to_dict`; missing keys take their defaults. Raises UsageError on a bad key or value."""
        known = {f.name for f in dataclasses.fields(Preprocess)}
        for key in values:
            if key not in known:
                raise UsageError("unknown preprocessing key", value=key, next_step=did_you_mean(key, known))
        arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        try:
            return Preprocess(**arguments)
        except (TypeError, ValueError) as error:
            raise UsageError(
                "preprocessing cannot be read", value=error, next_step="size is [height, width]."
            ) from error

    def describe(self) -> str:
        """One line for people.

        >>> preset("yolo").describe()
        '640x640 letterbox linear pad 114, RGB, x/255, NCHW'
        """
        how = {"crop": f"crop {self.crop:g}", "stretch": "stretch"}.get(self.resize, self.resize)
        pad = f" pad {self.pad}" if self.resize.startswith("letterbox") else ""
        value = "x" if self.scale == 1 else f"x/{1 / self.scale:.6g}"
        if any(self.mean):
            value += f" - ({', '.join(f'{m:g}' for m in self.mean)})"
        if any(s != 1 for s in self.std):
            value = f"({value}) / ({', '.join(f'{s:g}' for s in self.std)})"
        size = f"{self.size[0]}x{self.size[1]}"
        return f"{size} {how} {self.interpolation}{pad}, {self.color}, {value}, {self.layout}"

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing, before padding or cropping."""
        into_h, into_w = self.size
        if self.resize == "stretch":
            return into_h, into_w
        if self.resize == "crop":
            return _cover(height, width, *(math.floor(side / self.crop + 1e-6) for side in self.size))
        ratio = min(into_h / height, into_w / width)
        whole = round if self.resize == "letterbox" else int  # YOLOX truncates
        return max(whole(height * ratio), 1), max(whole(width * ratio), 1)

    def _corner(self, height: int, width: int) -> tuple[int, int]:
        """Input coordinates (y, x) of the resized image's top left pixel; negative when it is cropped."""
        spare = self.size[0] - height, self.size[1] - width
        if self.resize == "letterbox":
            return round(spare[0] / 2 - 0.1), round(spare[1] / 2 - 0.1)
        if self.resize == "crop":
            return -round(-spare[0] / 2), -round(-spare[1] / 2)
        return 0, 0

    def _arrange(self, image: Image) -> Image:
        """uint8 [h, w, 3] -> uint8 of the input's size."""
        height, width = self._resized(*image.shape[:2])
        top, left = self._corner(height, width)
        resized = _resize(image, height, width, self.interpolation)
        if self.resize == "crop":
            return resized[-top : self.size[0] - top, -left : self.size[1] - left]
        if (height, width) == self.size:
            return resized
        framed = np.full((*self.size, 3), self.pad, np.uint8)
        framed[top : top + height, left : left + width] = resized
        return framed


def _cover(height: int, width: int, least_h: int, least_w: int) -> tuple[int, int]:
    """The size of this aspect ratio that just covers least_h by least_w; the longer side is truncated."""
    if height * least_w >= width * least_h:
        covered = int(least_w * height / width), least_w
    else:
        covered = least_h, int(least_h * width / height)
    if max(covered) > _LARGEST_SIDE:
        raise DataError(
            "image is too long and thin for a centre crop",
            value=f"{width}x{height}",
            next_step='Remove it, or preprocess with resize "letterbox" or "stretch".',
        )
    return covered


def _resize(image: Image, height: int, width: int, interpolation: Interpolation) -> Image:
    if image.shape[:2] == (height, width):
        return image
    if interpolation in ("bilinear-antialias", "bicubic-antialias"):
        return resize_antialias(image, (height, width), interpolation)
    return cast(Image, cv2.resize(image, (width, height), interpolation=_CV2_INTERPOLATION[interpolation]))


def _require(field: str, value: object, holds: bool, allowed: object) -> None:
    if not holds:
        listed = ", ".join(allowed) if isinstance(allowed, tuple) else allowed
        raise UsageError(f"preprocessing {field} is not allowed", value=value, allowed=listed)


_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

PRESETS: dict[str, Preprocess] = {
    "yolo": Preprocess(size=(640, 640)),
    "yolox": Preprocess(size=(416, 416), resize="letterbox-topleft", color="BGR", scale=1.0),
    "imagenet": Preprocess(
        size=(224, 224),
        resize="crop",
        crop=0.875,
        interpolation="bilinear-antialias",
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
    ),
    # Keras' MobileNetV2 on images of 227 pixels: the central 224, not resized (top-1 0.786 against 0.769 resized).
    "tf": Preprocess(size=(224, 224), resize="crop", crop=224 / 227, scale=1 / 127.5, mean=(1.0,)),
    "cifar": Preprocess(size=(32, 32), resize="stretch", mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616)),
    # MLPerf Tiny's image classification takes pixels as they are.
    "cifar-pixels": Preprocess(size=(32, 32), resize="stretch", scale=1.0),
    # The published CIFAR-10 ResNets were trained with ImageNet's statistics.
    "cifar-resnet": Preprocess(size=(32, 32), resize="stretch", mean=_IMAGENET_MEAN, std=_IMAGENET_STD),
}


def preset(name: str, size: tuple[int, int] | None = None) -> Preprocess:
    """The preset `name` at its own or the given (height, width). Raises UsageError for an unknown name."""
    if name not in PRESETS:
        raise UsageError(
            "unknown preprocessing",
            value=name,
            allowed=", ".join(PRESETS),
            next_step=did_you_mean(name, PRESETS),
        )
    return dataclasses.replace(PRESETS[name], size=size or PRESETS[name].size)
