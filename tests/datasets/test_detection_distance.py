"""The distance of two detectors' outputs: nothing between equal ones, and the published formulas otherwise."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from edgeq.datasets.detection import DetectionHead
from edgeq.datasets.detection_distance import BOX_WEIGHT, corresponds, detection_distance


def outputs(seed: int, places: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes (x y w h) [2, 4, places] and scores [2, 3, places]."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(2, 4, places, generator=generator) * 50 + torch.tensor([50.0, 50, 5, 5])[None, :, None]
    return boxes, torch.rand(2, 3, places, generator=generator)


def overlap(a: list[float], b: list[float]) -> float:
    """Generalized IoU of two boxes x y w h, plainly."""
    spans = [[(box[k] - box[k + 2] / 2, box[k] + box[k + 2] / 2) for k in (0, 1)] for box in (a, b)]
    inner = hull = 1.0
    for (low, high), (low_, high_) in zip(*spans, strict=True):
        inner *= max(0.0, min(high, high_) - max(low, low_))
        hull *= max(high, high_) - min(low, low_)
    union = a[2] * a[3] + b[2] * b[3] - inner
    return inner / union - (hull - union) / hull


def test_it_is_cross_entropy_and_the_overlap_that_is_missing_per_object() -> None:
    (goal, target), (boxes, scores) = outputs(0), outputs(1)
    head = DetectionHead("yolov8", 3, outputs=(0, 1))
    found = float(detection_distance(head, (goal, target), (boxes, scores)))
    best = target.amax(1)
    lacking = sum(
        float(best[k, n]) * (1 - overlap(boxes[k, :, n].tolist(), goal[k, :, n].tolist()))
        for k in range(2)
        for n in range(boxes.shape[2])
    )
    entropy = [F.binary_cross_entropy(p, target, reduction="sum") for p in (scores, target)]
    wanted = (float(entropy[0] - entropy[1]) + BOX_WEIGHT * lacking) / float(best.sum())
    assert found == pytest.approx(wanted, rel=1e-4) and found > 1
    assert float(detection_distance(head, (goal, target), (goal, target))) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("kind", ["yolov8", "yolov5", "yolox", "one2one"])
def test_gradients_lead_to_the_teacher_in_every_layout(kind: str) -> None:
    last = kind in ("yolov5", "yolox")
    head = DetectionHead(kind, 3, channels_last=last)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(2)
    rows = torch.rand(2, 5, 8 if last else 7, generator=generator)
    rows[..., 2:4] += 1.5 if kind == "one2one" else 0.5
    goal = rows if last else rows.transpose(1, 2)
    own = (goal + 0.2 * torch.rand(goal.shape, generator=generator)).requires_grad_()
    start = detection_distance(head, [goal], [own])
    optimizer = torch.optim.Adam([own], 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        detection_distance(head, [goal], [own]).backward()
        optimizer.step()
    assert float(detection_distance(head, [goal], [own]).detach()) < 0.2 * float(start.detach())


def test_chosen_rows_do_not_correspond() -> None:
    assert not corresponds(DetectionHead("end2end", 3, ())) and corresponds(DetectionHead("yolox", 3))
