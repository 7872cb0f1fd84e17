"""Errors of a detector's outputs count by what they do to scores and boxes, whatever the layout of the head."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edgeq.calibrate.importance import detection_importance
from edgeq.datasets.detection import DetectionHead

SIDE = 64
BOXES = torch.tensor([[20.0, 30.0, 10.0, 40.0], [8.0, 8.0, 4.0, 4.0], [40.0, 40.0, 20.0, 20.0]])  # centre, size
SCORES = torch.tensor([[0.9, 0.1], [0.25, 0.5], [0.001, 0.0]])


def rows_of(kind: str) -> Tensor:
    """The same three boxes as each kind of head writes them, [1, 3, channels]."""
    centre, size = BOXES[:, :2], BOXES[:, 2:]
    corners = torch.cat([centre - size / 2, centre + size / 2], 1)
    best, label = SCORES.max(1, keepdim=True)
    match kind:
        case "yolov8":
            rows = torch.cat([BOXES, SCORES], 1)
        case "one2one":
            rows = torch.cat([corners, SCORES], 1)
        case "end2end":
            rows = torch.cat([corners, best, label.float()], 1)
        case "yolov5":
            rows = torch.cat([BOXES, torch.ones(3, 1), SCORES], 1)
        case _:
            rows = torch.cat([centre / 8, (size / 8).log(), torch.ones(3, 1), SCORES], 1)
    return rows[None]


def weights_of(kind: str, *, channels_last: bool = True) -> Tensor:
    head = DetectionHead(kind, 2, channels_last=channels_last)  # type: ignore[arg-type]
    rows = rows_of(kind)
    (found,) = detection_importance(head, [rows if channels_last else rows.transpose(1, 2)], SIDE)
    return found[0] if channels_last else found[0].T


@pytest.mark.parametrize("kind", ["yolov8", "one2one", "end2end", "yolov5", "yolox"])
def test_a_shift_by_a_tenth_of_the_size_counts_by_the_best_score(kind: str) -> None:
    weights = weights_of(kind)
    size = BOXES[:, 2:].prod(1).sqrt()
    shift = torch.zeros_like(weights)
    shift[:, 0] = 0.1 * size / (8 if kind == "yolox" else 1)
    shift[:, 2] = 0.1 * size if kind in ("one2one", "end2end") else 0
    counted = (weights * shift).square().sum(1)
    best = SCORES.amax(1)
    assert counted / counted[0] == pytest.approx(best / best[0], rel=1e-4)
    assert counted[0] > 1000 * counted[2] * 0.8


@pytest.mark.parametrize("kind", ["yolov8", "one2one", "yolov5", "yolox"])
def test_errors_of_scores_count_alike_for_all_boxes(kind: str) -> None:
    weights = weights_of(kind)
    classes = weights[:, -2:]
    assert torch.allclose(classes, classes[0, 0].expand_as(classes)) and classes[0, 0] > 0


def test_loss_of_everything_is_about_one() -> None:
    weights = weights_of("yolov8")
    gone = torch.zeros_like(weights)
    gone[:, 4:] = SCORES
    gone[:, 0] = BOXES[:, 2:].prod(1).sqrt()
    assert float((weights * gone).square().sum()) == pytest.approx(1.0, rel=1e-5)


def test_layout_and_separate_outputs() -> None:
    plain = weights_of("yolov8")
    assert torch.allclose(weights_of("yolov8", channels_last=False), plain)
    rows = rows_of("yolov8")
    head = DetectionHead("yolov8", 2, outputs=(1, 0), channels_last=True)
    scores, boxes, other = detection_importance(head, [rows[..., 4:], rows[..., :4], torch.ones(1, 5)], SIDE)
    assert torch.allclose(torch.cat([boxes, scores], 2)[0], plain)
    assert not other.any()


def test_unit_boxes_are_seen_in_pixels() -> None:
    head = DetectionHead("end2end", 2, channels_last=True, unit_boxes=True)
    rows = rows_of("end2end")
    (pixels,) = detection_importance(head, [rows], SIDE)
    unit = torch.cat([rows[..., :4] / SIDE, rows[..., 4:]], 2)
    (fractions,) = detection_importance(head, [unit], SIDE)
    assert torch.allclose(fractions[..., :4], pixels[..., :4] * SIDE, rtol=1e-4)
