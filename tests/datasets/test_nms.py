"""Suppression against a plain definition and against torchvision's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from edgeq.datasets.nms import nms, nms_by_class

Array = npt.NDArray[np.float32]


def crowd(n: int, seed: int, size: float = 100) -> tuple[Array, Array]:
    """Overlapping boxes and scores with ties."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, size, (n, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, size / 2, (n, 2))], axis=1)
    return boxes.astype(np.float32), (rng.integers(1, 50, n) / 50).astype(np.float32)


def overlap(a: Array, b: Array) -> float:
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    shared = max(width, np.float32(0)) * max(height, np.float32(0))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return float(shared / union)


def plain_nms(boxes: Array, scores: Array, iou: float) -> list[int]:
    """The definition: go through the boxes by score; keep one if it overlaps no kept one by more than `iou`."""
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if all(overlap(boxes[k], boxes[i]) <= iou for k in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("iou", [0.0, 0.3, 0.45, 0.7, 0.99])
@pytest.mark.parametrize("n", [0, 1, 2, 40, 120])
def test_equals_the_plain_definition(n: int, iou: float) -> None:
    boxes, scores = crowd(n, seed=n)
    kept = nms(boxes, scores, iou, keep=300)
    assert kept.tolist() == plain_nms(boxes, scores, iou)
    if n == 120 and iou < 0.9:
        assert 1 < len(kept) < n


@pytest.mark.parametrize("iou", [0.5, 0.6, 0.7])
def test_equals_torchvision_on_many_boxes(iou: float) -> None:
    from edgeq.frontend import torchvision_shim

    torchvision_shim.install()
    torchvision = pytest.importorskip("torchvision")
    boxes, scores = crowd(4000, seed=7, size=600)
    expected = torchvision.ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), iou)
    assert nms(boxes, scores, iou, keep=10**6).tolist() == expected.tolist()
    assert nms(boxes, scores, iou, keep=50).tolist() == expected[:50].tolist()
    assert len(expected) > 100


def test_overlap_equal_to_the_threshold_stays() -> None:
    boxes = np.array([[0, 0, 2, 2], [0, 0, 2, 1]], np.float32)
    scores = np.array([0.9, 0.8], np.float32)
    assert len(nms(boxes, scores, 0.5, 10)) == 2
    assert len(nms(boxes, scores, 0.4999, 10)) == 1


def test_empty_and_identical_boxes() -> None:
    points = np.zeros((3, 4), np.float32)
    assert len(nms(points, np.ones(3, np.float32), 0.5, 10)) == 3
    same = np.tile(np.array([[1, 1, 5, 5]], np.float32), (500, 1))
    assert nms(same, np.ones(500, np.float32), 0.7, 300).tolist() == [0]


def test_classes_do_not_suppress_each_other() -> None:
    boxes, scores = crowd(200, seed=3)
    classes = np.random.default_rng(4).integers(0, 5, 200)
    kept = nms_by_class(boxes, scores, classes, 0.5, 300)
    expected = [
        int(rows[i])
        for c in range(5)
        for rows in [np.nonzero(classes == c)[0]]
        for i in plain_nms(boxes[rows], scores[rows], 0.5)
    ]
    assert sorted(kept.tolist()) == sorted(expected)
    assert np.all(np.diff(scores[kept]) <= 0)
