"""Greedy non-maximum suppression: the best box stays and removes what overlaps it, until `keep` boxes stay.

The arithmetic is float32 in the order of torchvision's CPU kernel, so that the same boxes survive. Stopping
at `keep` boxes bounds the work: one vectorised pass over the remaining boxes for each box that stays.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_CLASS_OFFSET_PX = 7680  # Ultralytics' offset; larger than any image, so boxes of two classes never overlap

Boxes = npt.NDArray[np.float32]


def nms(boxes: Boxes, scores: npt.NDArray[np.float32], iou: float, keep: int) -> npt.NDArray[np.intp]:
    """Indices of the boxes that stay, best score first (the earlier index first among equal scores).

    `boxes` is [n, 4] as x0 y0 x1 y1. A box is removed when its intersection over union with a better one
    that stays is greater than `iou`.

    >>> boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 3], [5, 5, 6, 6]], np.float32)
    >>> nms(boxes, np.array([0.5, 0.9, 0.1], np.float32), 0.5, 300).tolist()
    [1, 2]
    """
    order = np.argsort(-scores, kind="stable")
    x0, y0, x1, y1 = boxes[order].T
    areas = (x1 - x0) * (y1 - y0)
    rest = np.arange(len(order))
    kept: list[int] = []
    while len(rest) and len(kept) < keep:
        best, rest = rest[0], rest[1:]
        kept.append(order[best])
        width = np.minimum(x1[best], x1[rest]) - np.maximum(x0[best], x0[rest])
        height = np.minimum(y1[best], y1[rest]) - np.maximum(y0[best], y0[rest])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        with np.errstate(invalid="ignore", divide="ignore"):  # two empty boxes: 0 / 0 is not an overlap
            overlap = shared / (areas[best] + areas[rest] - shared)
        rest = rest[~(overlap.astype(np.float64) > iou)]
    return np.array(kept, np.intp)


def nms_by_class(
    boxes: Boxes,
    scores: npt.NDArray[np.float32],
    classes: npt.NDArray[np.int64],
    iou: float,
    keep: int,
) -> npt.NDArray[np.intp]:
    """`nms` in which only boxes of the same class suppress each other; `keep` bounds all classes together."""
    offset = classes.astype(np.float32)[:, None] * np.float32(_CLASS_OFFSET_PX)
    return nms(boxes + offset, scores, iou, keep)
