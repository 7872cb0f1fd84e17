"""The distance of two detectors' outputs: nothing between equal ones, and the published formulas otherwise."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from edgeq.datasets.detection import DetectionHead, detect
from edgeq.datasets.detection_distance import BOX_WEIGHT, corresponds, detection_distance, label_distance


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


def answering(kind: str) -> tuple[DetectionHead, torch.Tensor, torch.Tensor]:
    """A head of 3 classes for 32 x 32 pixels, a teacher that sees two objects and little else, and the true boxes."""
    last = kind in ("yolov5", "yolox")
    head = DetectionHead(kind, 3, strides=(8,), channels_last=last)  # type: ignore[arg-type]
    truth = torch.tensor([[[0, 2.0, 3, 12, 13], [2, 18.0, 16, 30, 31], [-1, 0, 0, 0, 0]]])
    rows = torch.full((1, 16, 5 + 3 if last else 4 + 3), 0.01)
    for place, (kind_, x0, y0, x1, y1) in zip((5, 10), truth[0, :2].tolist(), strict=True):
        box = [x0, y0, x1, y1] if kind == "one2one" else [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]
        rows[0, place, :4] = torch.tensor(box) + torch.tensor([0.5, -0.5, 0.5, -0.5])
        rows[0, place, rows.shape[2] - 3 + int(kind_)] = 0.8
        if last:
            rows[0, place, 4] = 0.9
    if kind == "yolox":
        cell = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="xy"), dim=-1).reshape(16, 2)
        rows[..., :2] = rows[..., :2] / 8 - cell
        rows[..., 2:4] = (rows[..., 2:4] / 8).log()
    return head, rows if last else rows.transpose(1, 2), truth


@pytest.mark.parametrize("kind", ["yolov8", "yolov5", "yolox", "one2one"])
def test_gradients_lead_from_the_teacher_to_the_labels(kind: str) -> None:
    head, teacher, truth = answering(kind)

    def distance(found: torch.Tensor) -> torch.Tensor:
        return label_distance(head, [teacher], [found], truth, (32, 32))

    own = teacher.clone().requires_grad_()
    start = float(distance(own).detach())
    optimizer = torch.optim.Adam([own], 0.02)
    for _ in range(300):
        optimizer.zero_grad()
        distance(own).backward()
        optimizer.step()
    end = own.detach()
    assert 0 < float(distance(end)) < 0.2 * start
    rows = end if head.channels_last else end.transpose(1, 2)
    found = detect(head, [end.numpy()], (32, 32)).above(0.5)
    assert found.classes.tolist() in ([0, 2], [2, 0]) and rows.shape[1] == 16
    wanted = truth[0, [0, 1] if found.classes[0] == 0 else [1, 0], 1:].numpy()
    assert (
        abs(found.boxes - wanted).max() < 0.3 < abs(detect(head, [teacher.numpy()], (32, 32)).boxes[:2] - wanted).max()
    )


def test_nobody_answers_where_there_is_no_box() -> None:
    head, teacher, truth = answering("yolov8")
    truth[..., 0] = -1
    found = teacher.clone().requires_grad_()
    label_distance(head, [teacher], [found], truth, (32, 32)).backward()
    assert found.grad is not None and bool((found.grad[:, 4:] > 0).all()) and not bool(found.grad[:, :4].any())
