"""From a detector's raw outputs to boxes, for the ways in which YOLO networks write them.

    yolov8    [1, 4+nc+extra, N]   centre x y, width height in input pixels, class scores
    one2one   [1, 4+nc+extra, N]   x0 y0 x1 y1, class scores; needs no suppression
    yolov5    [1, N, 5+nc+extra]   the same boxes, objectness, class scores; score = objectness * class
    yolox     [1, N, 5+nc]         undecoded: xy = (xy + cell) * stride, wh = exp(wh) * stride
    end2end   [1, K, 6+extra]      x0 y0 x1 y1, score, class; the best K are chosen

N is the number of cells of the strides (three anchors each for yolov5). `extra` channels (mask coefficients,
keypoints) do not matter for boxes. Each kind keeps the thresholds of its published accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgeq.datasets.nms import nms_by_class
from edgeq.errors import UsageError

Kind = Literal["yolov8", "one2one", "yolov5", "yolox", "end2end"]
Array = npt.NDArray[np.float32]

_MOST_CANDIDATES = 30000  # for each image, best scores first, as Ultralytics


@dataclass(frozen=True)
class DetectionHead:
    """What the outputs of a detector mean.

    nc: number of classes. strides: of the cells (empty for end2end). extra: channels after the classes.
    outputs: the indices of the outputs that hold it; two of them (boxes, scores) are joined along their
    channels. channels_last: [1, N, channels] instead of [1, channels, N]. unit_boxes: coordinates are
    fractions of the input. names: class names by index, empty when unknown.
    """

    kind: Kind
    nc: int
    strides: tuple[int, ...] = (8, 16, 32)
    extra: int = 0
    outputs: tuple[int, ...] = (0,)
    channels_last: bool = False
    unit_boxes: bool = False
    names: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Thresholds:
    """score: the least that counts. iou: overlap that suppresses, or None. most: boxes kept in one image.

    multi_label: a box counts once for each class above `score`, else for its best class only.
    """

    score: float = 0.001
    iou: float | None = 0.7
    most: int = 300
    multi_label: bool = True


# The settings of each project's own validation.
PROTOCOLS: dict[Kind, Thresholds] = {
    "yolov8": Thresholds(iou=0.7),
    "one2one": Thresholds(iou=None),
    "yolov5": Thresholds(iou=0.6),
    "yolox": Thresholds(iou=0.65, multi_label=False),
    "end2end": Thresholds(iou=None),
}


@dataclass(frozen=True)
class Detections:
    """Boxes float32 [n, 4] (x0 y0 x1 y1), scores float32 [n], classes int64 [n], best score first."""

    boxes: Array
    scores: Array
    classes: npt.NDArray[np.int64]

    def above(self, score: float) -> Detections:
        """Those with a greater score."""
        return self[self.scores > score]

    def __getitem__(self, rows: npt.NDArray[np.intp] | npt.NDArray[np.bool_] | slice) -> Detections:
        return Detections(self.boxes[rows], self.scores[rows], self.classes[rows])

    def __len__(self) -> int:
        return len(self.scores)


def detect(
    head: DetectionHead,
    outputs: Sequence[Array],
    input_size: tuple[int, int],
    thresholds: Thresholds | None = None,
) -> Detections:
    """The detections in one image, boxes in input pixels. `input_size` is (height, width).

    Thresholds default to the kind's `PROTOCOLS`. Rows with a value that is not finite are dropped. Raises
    UsageError when the outputs do not have the head's shape.
    """
    limits = thresholds or PROTOCOLS[head.kind]
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is dropped below
        found = _candidates(head, _rows(head, outputs), input_size, limits)
    if head.unit_boxes:
        height, width = input_size
        pixels = found.boxes * np.array([width, height] * 2, np.float32)
        found = Detections(pixels, found.scores, found.classes)
    finite = np.isfinite(found.boxes).all(axis=1) & np.isfinite(found.scores)
    found = found[finite & (found.scores > limits.score)]
    if limits.iou is None:
        return found[np.argsort(-found.scores, kind="stable")[: limits.most]]
    return found[nms_by_class(found.boxes, found.scores, found.classes, limits.iou, limits.most)]


def _rows(head: DetectionHead, outputs: Sequence[Array]) -> Array:
    """One row of channels for each cell or box: float32 [n, channels]."""
    parts = []
    for index in head.outputs:
        if index >= len(outputs) or outputs[index].ndim != 3 or outputs[index].shape[0] != 1:
            shapes = [list(output.shape) for output in outputs]
            raise UsageError("outputs do not fit the detection head", where=head, value=shapes)
        part = np.asarray(outputs[index][0], np.float32)
        parts.append(part if head.channels_last else part.T)
    rows = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    least = {"yolov8": 4 + head.nc, "one2one": 4 + head.nc, "end2end": 6}.get(head.kind, 5 + head.nc)
    if rows.shape[1] < least:
        raise UsageError("too few channels for the detection head", where=head, value=rows.shape[1], allowed=least)
    return rows


def _candidates(head: DetectionHead, rows: Array, input_size: tuple[int, int], limits: Thresholds) -> Detections:
    """Boxes with a class above the least score, one for each such class under `multi_label`."""
    if head.kind == "end2end":
        return Detections(rows[:, :4], rows[:, 4], np.nan_to_num(rows[:, 5]).astype(np.int64))
    if head.kind == "yolox":
        rows = _decode_grid(rows, head.strides, input_size)
    if head.kind in ("yolov5", "yolox"):
        rows = rows[rows[:, 4] > limits.score]
        scores = rows[:, 5 : 5 + head.nc] * rows[:, 4:5]
    else:
        scores = rows[:, 4 : 4 + head.nc]
    if limits.multi_label and head.nc > 1:
        row, classes = np.nonzero(scores > limits.score)
    else:
        row, classes = np.arange(len(rows)), scores.argmax(axis=1)
    best = scores[row, classes]
    if len(best) > _MOST_CANDIDATES:
        chosen = np.argsort(-best, kind="stable")[:_MOST_CANDIDATES]
        row, classes, best = row[chosen], classes[chosen], best[chosen]
    boxes = rows[row, :4]
    return Detections(boxes if head.kind == "one2one" else _corners(boxes), best, classes.astype(np.int64))


def _corners(boxes: Array) -> Array:
    """Centre x y, width height -> x0 y0 x1 y1."""
    centre, half = boxes[:, :2], boxes[:, 2:] / np.float32(2)
    return np.concatenate([centre - half, centre + half], axis=1)


def _decode_grid(rows: Array, strides: tuple[int, ...], input_size: tuple[int, int]) -> Array:
    """YOLOX: offsets within a cell and log sizes -> input pixels. Cells run by stride, then row, then
    column.
    """
    grid = grid_cells(strides, input_size)
    if len(grid) != len(rows):
        raise UsageError("rows do not fit the strides", where=strides, value=len(rows), allowed=len(grid))
    stride_px = grid[:, 2:]
    sizes = np.exp(rows[:, 2:4]) * stride_px
    return np.concatenate([(rows[:, :2] + grid[:, :2]) * stride_px, sizes, rows[:, 4:]], axis=1)


def grid_cells(strides: tuple[int, ...], input_size: tuple[int, int]) -> Array:
    """Column, row and stride of every cell [cells, 3], by stride, then row, then column."""
    cells = []
    for stride in strides:
        height, width = grid_size(input_size, stride)
        y, x = np.mgrid[:height, :width].reshape(2, -1)
        cells.append(np.stack([x, y, np.full_like(x, stride)], axis=1))
    return np.concatenate(cells).astype(np.float32)


def grid_size(input_size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Rows and columns of cells; a side that the stride does not divide has one more, partly outside."""
    return -(-input_size[0] // stride), -(-input_size[1] // stride)
