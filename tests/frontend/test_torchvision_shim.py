"""torchvision imports beside a CPU torch, and its non-maximum suppression keeps the boxes that the rule says."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from edgeq.frontend import torchvision_shim
from edgeq.frontend.torchvision_shim import nms


def plain_nms(boxes: list[list[float]], scores: list[float], threshold: float) -> list[int]:
    """Keeps a box when no kept box of a higher score overlaps it by more than the threshold."""
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if all(overlap(boxes[i], boxes[k]) <= threshold for k in kept):
            kept.append(i)
    return kept


def overlap(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    total = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (total - width * height)


def random_boxes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Boxes on whole pixels, so that areas are exact, and scores with many ties."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 40, (count, 2), generator=generator).double()
    size = torch.randint(1, 30, (count, 2), generator=generator).double()
    scores = torch.randint(0, 50, (count,), generator=generator).double()
    return torch.cat((corner, corner + size), dim=1), scores


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("count", [0, 1, 200])
def test_nms_keeps_the_boxes_of_the_rule(count: int, threshold: float) -> None:
    boxes, scores = random_boxes(count, seed=count)
    kept = nms(boxes, scores, threshold)
    assert kept.dtype == torch.int64
    assert kept.tolist() == plain_nms(boxes.tolist(), scores.tolist(), threshold)
    assert count < 200 or threshold == 1.0 or 5 < len(kept) < 200


def test_torchvision_uses_it() -> None:
    torchvision_shim.install()
    torchvision_shim.install()
    from torchvision.ops import batched_nms
    from torchvision.ops import nms as torchvision_nms

    boxes, scores = random_boxes(100, seed=1)
    assert torchvision_nms(boxes, scores, 0.4).tolist() == plain_nms(boxes.tolist(), scores.tolist(), 0.4)
    assert len(batched_nms(boxes, scores, torch.arange(100), 0.4)) == 100


def test_packages_that_need_torchvision_import_after_it() -> None:
    code = "from edgeq.frontend import torchvision_shim as s; s.install(); import torchvision, timm"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_checkpoint_of_ultralytics_is_read_without_torchvision_which_still_imports_afterwards() -> None:
    code = (
        "import sys; from edgeq.frontend.ultralytics import find_network;"
        "assert find_network('ultralytics.nn.tasks', 'DetectionModel') is not None;"
        "assert not {'torchvision', 'torch._dynamo'} & set(sys.modules); import torchvision"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
