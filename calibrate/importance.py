"""How much an error at each element of a detector's outputs matters: scores as they are, boxes by their own size.

A detector puts out thousands of boxes and nearly all of them are background. Noise there costs nothing, while a
shift of a tenth of its size spoils a box that is kept. So the noise of the outputs is counted as

    sum over boxes of   sum_c (score error_c)^2  +  best score * |box error|^2 / size^2

relative to the same sum for the loss of everything, sum score^2 + best score. Learned features beside the boxes (mask
coefficients, keypoints) do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeq.datasets.detection import DetectionHead

_LEAST_SIDE = 1.0
"""Pixels (fractions of the input for unit boxes are scaled to them); smaller boxes count as this large."""


@dataclass(frozen=True)
class DetectionWeights:
    """How errors at a detector's outputs count, and how much the detector says about an image."""

    head: DetectionHead
    input_side: int

    def __call__(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """See `detection_importance`."""
        return detection_importance(self.head, outputs, self.input_side)

    def signal(self, outputs: Sequence[Tensor]) -> float:
        """What the loss of everything would cost: sum score^2 + best score over the boxes."""
        rows = _rows(self.head, outputs)
        scores = _weigh_scores(self.head, rows, torch.zeros_like(rows))
        return float(scores.square().sum() + scores.amax(2).clamp_min(0).sum())


def _rows(head: DetectionHead, outputs: Sequence[Tensor]) -> Tensor:
    parts = [outputs[index] for index in head.outputs]
    return torch.cat([part if head.channels_last else part.transpose(1, 2) for part in parts], dim=2).detach()


def detection_importance(head: DetectionHead, outputs: Sequence[Tensor], input_side: int) -> list[Tensor]:
    """A weight for each element of `outputs`, of their shapes: noise is the sum of (weight * error)^2."""
    parts = [outputs[index] for index in head.outputs]
    rows = _rows(head, outputs)
    weights = torch.zeros_like(rows)
    scores = _weigh_scores(head, rows, weights)
    best = scores.amax(2).clamp_min(0)
    weights[..., :4] = best.sqrt()[..., None] * _box_weights(head, rows, input_side)
    total = (scores.square().sum() + best.sum()).clamp_min(1e-20).sqrt()
    weights = weights / total
    found = [torch.zeros_like(output) for output in outputs]
    start = 0
    for index, part in zip(head.outputs, parts, strict=True):
        count = part.shape[2 if head.channels_last else 1]
        piece = weights[..., start : start + count]
        found[index] = piece if head.channels_last else piece.transpose(1, 2)
        start += count
    return found


def _weigh_scores(head: DetectionHead, rows: Tensor, weights: Tensor) -> Tensor:
    """Fill the weights of the score channels and return the scores [1, N, classes]."""
    if head.kind == "end2end":
        weights[..., 4] = 1
        return rows[..., 4:5]
    if head.kind in ("yolov5", "yolox"):
        objectness, classes = rows[..., 4:5], rows[..., 5 : 5 + head.nc]
        weights[..., 4:5] = classes.square().sum(2, keepdim=True).sqrt()
        weights[..., 5 : 5 + head.nc] = objectness
        return objectness * classes
    weights[..., 4 : 4 + head.nc] = 1
    return rows[..., 4 : 4 + head.nc]


def _box_weights(head: DetectionHead, rows: Tensor, input_side: int) -> Tensor:
    """One over the size of each box, for its four numbers [1, N, 4]."""
    scale = float(input_side) if head.unit_boxes and bool((rows[..., :4] <= 2).all()) else 1.0
    a, b = rows[..., 0:2] * scale, rows[..., 2:4] * scale
    if head.kind == "yolox":  # offsets in cells, logarithms of sizes in cells
        size = b.clamp(-8, 8).exp().prod(2, keepdim=True).sqrt().clamp_min(0.1)
        return torch.cat([1 / size.expand_as(a), torch.ones_like(b)], dim=2)
    sides = b if head.kind in ("yolov8", "yolov5") else b - a
    size = sides.clamp_min(_LEAST_SIDE).prod(2, keepdim=True).sqrt()
    return (scale / size).expand_as(rows[..., :4])
