"""Depth: pairs of an image and a map of metres, and the usual errors of a predicted map.

The prediction is sampled at every pixel of the true map through the input's placement, so padding,
stretching and cropping need no special case. Networks that predict depth up to a factor, or disparity up to
scale and shift, are aligned to the truth first, in the space they predict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import cv2
import numpy as np
import numpy.typing as npt

from edgeq.datasets.dataset import Metric, Outputs, Sample, Task
from edgeq.datasets.folder import decode, list_images, read_bytes, spread
from edgeq.datasets.preprocess import Placement, Preprocess
from edgeq.errors import DataError

Alignment = Literal["none", "median", "affine"]
Quantity = Literal["depth", "disparity"]
Map = npt.NDArray[np.float64]

_NEAREST_M = 1e-3
COARSE = (24, 32)
"""Rows and columns of the small map that is kept of each prediction."""


@dataclass(frozen=True)
class DepthSet:
    """Images with depth maps.

    alignment: "median" scales each prediction to the truth's median, "affine" fits scale and shift by least
    squares. quantity: what the network predicts. farthest_m: true depths beyond it do not count.
    """

    name: str
    samples: tuple[Sample[Path], ...]
    alignment: Alignment = "none"
    quantity: Quantity = "depth"
    farthest_m: float = float("inf")
    task: Task = "depth"

    def meter(self, preprocess: Preprocess, metadata: Mapping[str, str]) -> DepthMeter:
        """Accumulates errors against the true maps."""
        return DepthMeter(self, preprocess)


class DepthMeter:
    """absrel, rmse and delta1, each the mean over images of the mean over valid pixels (rmse: root of it)."""

    def __init__(self, dataset: DepthSet, preprocess: Preprocess) -> None:
        self._dataset, self._preprocess = dataset, preprocess
        self.errors: list[tuple[float, float, float]] = []
        self.maps: list[npt.NDArray[np.float32]] = []

    def add(self, index: int, placement: Placement, outputs: Outputs) -> None:
        """The predicted map for sample `index`. Raises DataError when the true map has no valid pixel in
        view.
        """
        path = self._dataset.samples[index].label
        truth = read_depth(path)
        values = depth_map(outputs)
        predicted, seen = sample_map(values, self._preprocess.size, placement, truth.shape)
        valid = seen & np.isfinite(truth) & (truth >= _NEAREST_M) & (truth <= self._dataset.farthest_m)
        if not valid.any():
            raise DataError("depth map has no valid pixel", where=path)
        self.errors.append(depth_errors(predicted[valid], truth[valid], self._dataset))
        coarse = cv2.resize(values, COARSE[::-1], interpolation=cv2.INTER_AREA)
        self.maps.append(np.asarray(coarse, np.float32))

    def metrics(self) -> list[Metric]:
        """Over the images added."""
        n = len(self.errors)
        absrel, rmse, delta1 = np.mean(self.errors, axis=0) if n else (np.nan,) * 3
        return [
            Metric("absrel", float(absrel), "fraction", n),
            Metric("rmse", float(rmse), "m", n),
            Metric("delta1", float(delta1), "fraction", n),
        ]


def depth_errors(predicted: Map, truth: Map, rule: DepthSet) -> tuple[float, float, float]:
    """(mean |p - t| / t, sqrt(mean (p - t)^2) in metres, fraction with max(p / t, t / p) < 1.25) after
    alignment.
    """
    wanted = truth if rule.quantity == "depth" else 1 / truth
    aligned = align(np.nan_to_num(predicted), wanted, rule.alignment)
    depth = aligned if rule.quantity == "depth" else 1 / np.maximum(aligned, 1 / (100 * truth.max()))
    depth = np.maximum(depth, _NEAREST_M)
    ratio = np.maximum(depth / truth, truth / depth)
    error = depth - truth
    return (
        float(np.mean(np.abs(error) / truth)),
        float(np.sqrt(np.mean(error**2))),
        float(np.mean(ratio < 1.25)),
    )


def align(predicted: Map, wanted: Map, alignment: Alignment) -> Map:
    """The prediction, scaled by the ratio of medians, or with scale and shift of least squares."""
    if alignment == "median":
        middle = float(np.median(predicted))
        return predicted * (float(np.median(wanted)) / middle) if middle else predicted
    if alignment == "affine":
        columns = np.stack([predicted, np.ones_like(predicted)], axis=1)
        scale, shift = np.linalg.lstsq(columns, wanted, rcond=None)[0].tolist()
        return predicted * float(scale) + float(shift)
    return predicted


def depth_map(outputs: Outputs) -> npt.NDArray[np.float32]:
    """The largest output as float32 [h, w]: the finest, where a network predicts several resolutions."""
    largest = max(outputs, key=lambda output: output.size)
    sides = [n for n in largest.shape if n != 1]
    if len(sides) != 2:
        raise DataError("the model's output is not a map", value=list(largest.shape), allowed="[1, 1, h, w]")
    return np.asarray(largest, np.float32).reshape(sides)


def sample_map(
    values: npt.NDArray[np.float32], input_size: tuple[int, int], placement: Placement, shape: tuple[int, ...]
) -> tuple[Map, npt.NDArray[np.bool_]]:
    """`values`, which covers the network's input, at the pixel centres of a map of the image with this shape.

    Returns float64 `shape` and where it lies inside the input. Bilinear, edges repeated.
    """
    y = (np.arange(shape[0]) + 0.5) * placement.image_height / shape[0] * placement.ratio_y + placement.offset_y
    x = (np.arange(shape[1]) + 0.5) * placement.image_width / shape[1] * placement.ratio_x + placement.offset_x
    seen = ((y >= 0) & (y <= input_size[0]))[:, None] & ((x >= 0) & (x <= input_size[1]))[None]
    rows = y * values.shape[0] / input_size[0] - 0.5
    columns = x * values.shape[1] / input_size[1] - 0.5
    grid_x, grid_y = np.meshgrid(columns.astype(np.float32), rows.astype(np.float32))
    sampled = cv2.remap(values, grid_x, grid_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cast(Map, sampled.astype(np.float64)), seen


def read_depth(path: Path) -> Map:
    """Metres, float64 [h, w]: a 16-bit PNG holds millimetres (0 = unknown), a .npy file metres."""
    if path.suffix.lower() == ".npy":
        return _read_npy(path)
    pixels = decode(path, cv2.IMREAD_UNCHANGED)
    if pixels.dtype != np.uint16 or pixels.ndim != 2:
        raise DataError("depth image is not 16-bit grey", where=path, value=f"{pixels.dtype} {pixels.shape}")
    return pixels / 1000.0


def _read_npy(path: Path) -> Map:
    import io

    try:
        values = np.load(io.BytesIO(read_bytes(path)), allow_pickle=False)
    except (ValueError, EOFError, SyntaxError) as error:
        raise DataError("depth array cannot be read", where=path, value=error) from error
    squeezed = np.squeeze(values)
    if squeezed.ndim != 2 or squeezed.dtype.kind not in "fiu":
        raise DataError("depth array is not a map", where=path, value=f"{values.dtype} {values.shape}")
    return cast(Map, squeezed.astype(np.float64))


def open_depth(path: Path, limit: int | None = None) -> DepthSet:
    """A folder with images/ and depth/, paired by name. Raises DataError naming the first image without a
    map.
    """
    images = list_images(path / "images")
    chosen = [images[i] for i in spread(len(images), limit)]
    return DepthSet(path.name, tuple(Sample(image, _depth_path(image, path)) for image in chosen))


def _depth_path(image: Path, root: Path) -> Path:
    beside = root / "depth" / image.relative_to(root / "images")
    for suffix in (".png", ".npy"):
        if beside.with_suffix(suffix).is_file():
            return beside.with_suffix(suffix)
    raise DataError("image has no depth map", where=image, allowed=f"{beside.with_suffix('.png')} or .npy")
