"""How far a detector's boxes and scores are from those of its teacher, and from labels, for training.

Boxes correspond place by place, so nothing needs to be assigned: every place of the teacher says what it sees and how
sure it is. Scores count by their cross entropy, boxes by the overlap that they lack (generalized IoU, arXiv
1902.09630), each in proportion to the teacher's best score there; the sum is per object that the teacher sees.

True boxes go to the places where the teacher answers them best, by score^(1/2) IoU^6 (the task alignment of TOOD, arXiv
2108.07755; that a teacher assigns is LAD's idea, arXiv 2108.10520), so that no layout of places has to be known. The
target there is the alignment, as a share of the best one, times the best IoU. Objects that the teacher does not meet at
all are nobody's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from edgeq.datasets.detection import DetectionHead, grid_cells

BOX_WEIGHT = 5.0
PLACES = 10
"""That answer one true box."""
_LEAST = 1e-6
_MOST_EXPONENT = 8.0


def corresponds(head: DetectionHead) -> bool:
    """Whether the rows of two outputs stand for the same places; the chosen rows of an end-to-end head do not."""
    return head.kind != "end2end"


Corners = tuple[Tensor, Tensor]
"""Two opposite corners [..., 2] each, the lower one first."""


def detection_distance(head: DetectionHead, wanted: Sequence[Tensor], found: Sequence[Tensor]) -> Tensor:
    """The distance of the outputs `found` from the teacher's `wanted` (those of `head`); 0 where they are equal."""
    goal, own = _rows(head, wanted), _rows(head, found)
    return _distance(_scores(head, goal), _corners(head, goal), _scores(head, own), _corners(head, own))


def label_distance(
    head: DetectionHead, wanted: Sequence[Tensor], found: Sequence[Tensor], truth: Tensor, size: tuple[int, int]
) -> Tensor:
    """The distance of the outputs `found` from true boxes, given to places by the teacher's outputs `wanted`.

    truth [N, M, 5]: class (-1 for none), x0 y0 x1 y1 in pixels of the input, whose height and width are `size`.
    """
    goal, own = _rows(head, wanted), _rows(head, found)
    target, boxes = _answers(_scores(head, goal), _pixels(head, goal, size), truth)
    return _distance(target, boxes, _scores(head, own), _pixels(head, own, size))


def _distance(target: Tensor, goal: Corners, scores: Tensor, corners: Corners) -> Tensor:
    best = target.amax(2)
    total = best.sum().clamp_min(1.0)
    boxes = (best * (1 - _overlap(corners, goal))).sum()
    return ((_cross_entropy(target, scores) - _cross_entropy(target, target)).sum() + BOX_WEIGHT * boxes) / total


def _answers(scores: Tensor, corners: Corners, truth: Tensor) -> tuple[Tensor, Corners]:
    """What each place should say: scores [N, places, classes], and the corners of its true box."""
    classes, boxes = truth[..., 0].long(), (truth[..., 1:3], truth[..., 3:5])
    iou = _overlap((corners[0][:, None], corners[1][:, None]), (boxes[0][:, :, None], boxes[1][:, :, None]))
    iou = iou.clamp_min(0) * (classes >= 0)[..., None]  # [N, M, places]
    own = scores.transpose(1, 2).gather(1, classes.clamp_min(0)[..., None].expand_as(iou))
    aligned = own.sqrt() * iou**6
    least = aligned.topk(min(PLACES, aligned.shape[2]), dim=2).values[..., -1:]
    chosen = (aligned >= least) & (aligned > 0)
    owner = torch.where(chosen, iou, -1.0).argmax(1)  # of each place
    strength = aligned / aligned.amax(2, keepdim=True).clamp_min(1e-12) * iou.amax(2, keepdim=True)
    share = torch.where(chosen, strength, 0.0).gather(1, owner[:, None])[:, 0]
    owned = classes.clamp_min(0).gather(1, owner)[..., None] == torch.arange(scores.shape[2], device=scores.device)
    target = owned * share[..., None]
    low, high = (corner.gather(1, owner[..., None].expand(-1, -1, 2)) for corner in boxes)
    return target, (low, high)


def _rows(head: DetectionHead, outputs: Sequence[Tensor]) -> Tensor:
    parts = [outputs[index].float() for index in head.outputs]
    return torch.cat([part if head.channels_last else part.transpose(1, 2) for part in parts], dim=2)


def _scores(head: DetectionHead, rows: Tensor) -> Tensor:
    if head.kind in ("yolov5", "yolox"):
        return (rows[..., 4:5] * rows[..., 5 : 5 + head.nc]).clamp(0, 1)
    return rows[..., 4 : 4 + head.nc].clamp(0, 1)


def _pixels(head: DetectionHead, rows: Tensor, size: tuple[int, int]) -> Corners:
    """Two opposite corners in pixels of the input."""
    a, b = _corners(head, rows)
    if head.kind == "yolox":
        cells = _cells(tuple(head.strides), size, rows.device, rows.dtype)
        return tuple((corner + cells[:, :2]) * cells[:, 2:] for corner in (a, b))  # type: ignore[return-value]
    if head.unit_boxes:
        return _enlarged(a, size), _enlarged(b, size)
    return a, b


@lru_cache(maxsize=16)
def _cells(strides: tuple[int, ...], size: tuple[int, int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Column, row and stride of every place [places, 3], kept where it is used."""
    return torch.from_numpy(grid_cells(strides, size)).to(device, dtype)


def _enlarged(corner: Tensor, size: tuple[int, int]) -> Tensor:
    x, y = corner.unbind(-1)
    return torch.stack([x * size[1], y * size[0]], dim=-1)


def _corners(head: DetectionHead, rows: Tensor) -> Corners:
    """Two opposite corners, up to the shift and scale of the place, which do not change an overlap."""
    a, b = rows[..., 0:2], rows[..., 2:4]
    if head.kind == "one2one":
        return a, b
    size = b.clamp(-_MOST_EXPONENT, _MOST_EXPONENT).exp() if head.kind == "yolox" else b.clamp_min(0)
    return a - size / 2, a + size / 2


def _overlap(one: Corners, other: Corners) -> Tensor:
    """Generalized IoU, from -1 to 1."""
    inner = _area((torch.minimum(one[1], other[1]) - torch.maximum(one[0], other[0])).clamp_min(0))
    hull = _area((torch.maximum(one[1], other[1]) - torch.minimum(one[0], other[0])).clamp_min(_LEAST))
    areas = [_area((far - near).clamp_min(0)) for near, far in (one, other)]
    union = (areas[0] + areas[1] - inner).clamp_min(_LEAST**2)
    return inner / union - (hull - union).clamp_min(0) / hull


def _area(sides: Tensor) -> Tensor:
    width, height = sides.unbind(-1)  # the gradient of a general product waits for the device
    return width * height


def _cross_entropy(target: Tensor, scores: Tensor) -> Tensor:
    share = scores.clamp(_LEAST, 1 - _LEAST)
    return -(target * share.log() + (1 - target) * (1 - share).log())
