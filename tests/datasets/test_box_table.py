"""True boxes lie where the pixels do that they are about, also after both have moved."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from edgeq.datasets.box_table import NOTHING, box_table
from edgeq.datasets.coco import BoxLabels
from edgeq.datasets.dataset import Sample
from edgeq.datasets.folder import read_image
from edgeq.datasets.preprocess import Preprocess
from edgeq.flow.augment import mirrored, shifted


def samples(folder: Path) -> list[Sample[BoxLabels]]:
    """Images of 60 x 40 pixels with none, one or two bright boxes, and a crowd."""
    found = []
    for count in range(3):
        pixels, boxes = np.zeros((40, 60, 3), np.uint8), np.array([[6.0, 10, 22, 30], [36, 4, 54, 18]])[:count]
        for x0, y0, x1, y1 in boxes.astype(int):
            pixels[y0:y1, x0:x1] = 255
        path = folder / f"{count}.png"
        assert cv2.imwrite(str(path), pixels)
        label = BoxLabels(boxes / [60, 40, 60, 40], np.arange(count), unit=True)
        if count == 2:
            label = BoxLabels(
                np.vstack([boxes, [[0, 0, 60, 40]]]), np.array([0, 1, 5]), crowd=np.array([0, 0, 1], bool)
            )
        found.append(Sample(path, label))
    return found


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
def test_boxes_follow_their_pixels(resize: str, tmp_path: Path) -> None:
    data, preprocess = samples(tmp_path), Preprocess((96, 96), resize, pad=0)  # type: ignore[arg-type]
    table = box_table(data, preprocess)
    assert table.shape == (3, 2, 5) and (table[..., 0] == NOTHING).sum(1).tolist() == [2, 1, 0]
    images = torch.from_numpy(np.concatenate([preprocess.apply(read_image(sample.path)) for sample in data]))
    torch.manual_seed(0)
    places = set()
    for _ in range(12):
        moved, boxes = mirrored(images, table)
        moved, boxes = shifted(moved, boxes)
        assert boxes is not None
        for image, rows in zip(moved, boxes, strict=True):
            inside = torch.zeros(96, 96, dtype=torch.bool)
            for _, x0, y0, x1, y1 in rows[rows[:, 0] >= 0].round().int().tolist():
                inside[y0:y1, x0:x1] = True
                places.add(x0)
            border = torch.zeros_like(inside)
            border[1:-1, 1:-1] = True
            assert ((image[0] > 0.5) == inside)[border].float().mean() > 0.97
    assert len(places) > 12


def test_what_leaves_the_image_counts_no_more() -> None:
    torch.manual_seed(0)
    table = torch.tensor([[[1, 0.0, 0, 3, 3]]]).repeat(64, 1, 1)
    _, boxes = shifted(torch.zeros(64, 1, 32, 32), table)
    assert boxes is not None
    gone = boxes[..., 0] == NOTHING
    assert 0 < int(gone.sum()) < 64 and bool((boxes[..., 1:] >= 0).all())
    kept = boxes[~gone]
    assert bool(((kept[:, 3:] - kept[:, 1:3]) >= 1).all()) and bool((kept[:, 0] == 1).all())
