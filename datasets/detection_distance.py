"""How far a detector's boxes and scores are from those of its teacher, for training one by the other.

Boxes correspond place by place, so nothing needs to be assigned: every place of the teacher says what it sees and how
sure it is. Scores count by their cross entropy, boxes by the overlap that they lack (generalized IoU, arXiv
1902.09630), each in proportion to the teacher's best score there; the sum is per object that the teacher sees.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgeq.datasets.detection import DetectionHead

BOX_WEIGHT = 5.0
_LEAST = 1e-6
_MOST_EXPONENT = 8.0


def corresponds(head: DetectionHead) -> bool:
    """Whether the rows of two outputs stand for the same places; the chosen rows of an end-to-end head do not."""
    return head.kind != "end2end"


def detection_distance(head: DetectionHead, wanted: Sequence[Tensor], found: Sequence[Tensor]) -> Tensor:
    """The distance of the outputs `found` from the teacher's `wanted` (those of `head`); 0 where they are equal."""
    goal, own = _rows(head, wanted), _rows(head, found)
    target, scores = _scores(head, goal), _scores(head, own)
    best = target.amax(2)
    total = best.sum().clamp_min(1.0)
    boxes = (best * (1 - _overlap(_corners(head, own), _corners(head, goal)))).sum()
    return ((_cross_entropy(target, scores) - _cross_entropy(target, target)).sum() + BOX_WEIGHT * boxes) / total


def _rows(head: DetectionHead, outputs: Sequence[Tensor]) -> Tensor:
    parts = [outputs[index].float() for index in head.outputs]
    return torch.cat([part if head.channels_last else part.transpose(1, 2) for part in parts], dim=2)


def _scores(head: DetectionHead, rows: Tensor) -> Tensor:
    if head.kind in ("yolov5", "yolox"):
        return (rows[..., 4:5] * rows[..., 5 : 5 + head.nc]).clamp(0, 1)
    return rows[..., 4 : 4 + head.nc].clamp(0, 1)


def _corners(head: DetectionHead, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Two opposite corners, up to the shift and scale of the place, which do not change an overlap."""
    a, b = rows[..., 0:2], rows[..., 2:4]
    if head.kind == "one2one":
        return a, b
    size = b.clamp(-_MOST_EXPONENT, _MOST_EXPONENT).exp() if head.kind == "yolox" else b.clamp_min(0)
    return a - size / 2, a + size / 2


def _overlap(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
    """Generalized IoU, from -1 to 1."""
    inner = (torch.minimum(one[1], other[1]) - torch.maximum(one[0], other[0])).clamp_min(0).prod(-1)
    hull = (torch.maximum(one[1], other[1]) - torch.minimum(one[0], other[0])).clamp_min(_LEAST).prod(-1)
    areas = [(far - near).clamp_min(0).prod(-1) for near, far in (one, other)]
    union = (areas[0] + areas[1] - inner).clamp_min(_LEAST**2)
    return inner / union - (hull - union).clamp_min(0) / hull


def _cross_entropy(target: Tensor, scores: Tensor) -> Tensor:
    share = scores.clamp(_LEAST, 1 - _LEAST)
    return -(target * share.log() + (1 - target) * (1 - share).log())
