"""True boxes of many images as one table on a device, in pixels of the network's input, moved as the images are."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgeq.datasets.coco import BoxLabels
from edgeq.datasets.dataset import Sample
from edgeq.datasets.folder import read_image
from edgeq.datasets.preprocess import Preprocess

Float32Array = npt.NDArray[np.float32]
NOTHING = -1.0
"""The class of rows that hold no box."""


def box_table(samples: Sequence[Sample[BoxLabels]], preprocess: Preprocess, workers: int = 1) -> Tensor:
    """float32 [images, most boxes of one, 5]: class, x0 y0 x1 y1; crowds are left out.

    Every image is read for its size. Raises DataError naming one that cannot be read.
    """
    with ThreadPoolExecutor(workers) as pool:
        rows = list(pool.map(lambda sample: _placed(sample, preprocess), samples))
    found = np.full((len(rows), max(1, max(map(len, rows), default=1)), 5), NOTHING, np.float32)
    for index, boxes in enumerate(rows):
        found[index, : len(boxes)] = boxes
    return torch.from_numpy(found)


def _placed(sample: Sample[BoxLabels], preprocess: Preprocess) -> Float32Array:
    height, width = read_image(sample.path).shape[:2]
    label, place = sample.label.in_pixels(height, width), preprocess.placement(height, width)
    ratio = np.array([place.ratio_x, place.ratio_y] * 2)
    boxes = label.boxes * ratio + np.array([place.offset_x, place.offset_y] * 2)
    rows = np.concatenate([label.classes[:, None], boxes], axis=1).astype(np.float32)
    return rows if label.crowd is None else rows[~label.crowd]


def mirrored_boxes(table: Tensor, chosen: Tensor, width: int) -> Tensor:
    """The boxes of the `chosen` images [N], flipped left to right."""
    kind, x0, y0, x1, y1 = table.unbind(2)
    return torch.where(chosen[:, None, None], torch.stack([kind, width - x1, y0, width - x0, y1], dim=2), table)


def shifted_boxes(table: Tensor, dx: Tensor, dy: Tensor, size: tuple[int, int]) -> Tensor:
    """The boxes of each image moved by dx and dy pixels [N] and cut at its edges; what has left it counts no more."""
    moved = table[..., 1:] + torch.stack([dx, dy, dx, dy], dim=1)[:, None]
    sides = (size[1], size[0], size[1], size[0])
    moved = torch.stack([end.clamp(0, side) for end, side in zip(moved.unbind(2), sides, strict=True)], dim=2)
    gone = ((moved[..., 2:] - moved[..., :2]).amin(2) < 1)[..., None]
    return torch.cat([torch.where(gone, NOTHING, table[..., :1]), moved], dim=2)
