"""A recorded step is the step itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from edgeq.datasets.detection import DetectionHead
from edgeq.datasets.detection_distance import detection_distance, label_distance
from edgeq.flow.processes import Processes
from edgeq.flow.training import Training
from edgeq.flow.training_step import UNRECORDED, Step
from edgeq.quantize.qat import QatModule
from tests.quantize.test_qat import batch, module_of

STEPS = 8 * UNRECORDED


def steps(device: str, options: Training, *, records: bool) -> tuple[list[float], QatModule, Step]:
    """Losses of a few steps, the module behind them and what made them."""
    module, _, _ = module_of()
    module.to(device).train()
    wanted = torch.randn(4, 5, generator=torch.Generator().manual_seed(1)).to(device)

    def loss(images: Tensor) -> Tensor:
        outputs = module(images)
        assert isinstance(outputs, Tensor)
        return (outputs - wanted).square().mean()

    step = Step(module, loss, options, 1e-2, Processes(), torch.device(device))
    step._records &= records
    images = batch(4).to(device)
    return [float(step(images * (1 + k % 3), None, k / STEPS)) for k in range(STEPS)], module, step


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("options", [Training(), Training(freeze=0.05), Training(settle=0.5)])
def test_a_recorded_step_is_the_step_itself(options: Training) -> None:
    wanted, plain, plainly = steps("cuda", options, records=False)
    found, recorded, step = steps("cuda", options, records=True)
    assert step._recording is not None and len(set(wanted)) == STEPS
    assert found == pytest.approx(wanted, rel=1e-3)
    for one, other in zip(plain.state_dict().values(), recorded.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    for one, other in zip(*(x.state_dict()["optimizer"]["state"].values() for x in (plainly, step)), strict=True):
        assert int(one["step"]) == int(other["step"]) in (STEPS, STEPS // 2)  # half of them where codes are settled


def test_the_rate_follows_the_share_of_the_training() -> None:
    found, _, step = steps("cpu", replace(Training(), settle=0.3), records=True)
    assert step._recording is None and step.settled is not None
    assert found[-1] < found[0]
    last = step.optimizer.param_groups[0]["lr"]
    assert 0 < last < 1e-3


def test_rounding_passes_over_less_and_less_until_codes_stay() -> None:
    _, module, step = steps("cpu", Training(drop=0.6, settle=0.5), records=True)
    assert step.settled is not None and module.unrounded is None
    module, _, _ = module_of()
    step = Step(module, lambda images: images.sum(), Training(drop=0.6), 1e-2, Processes(), torch.device("cpu"))
    shares = []
    for share in (0.0, 0.25, 1.0):
        step._begin(share)
        assert module.unrounded is not None
        shares.append(float(module.unrounded))
    assert shares == pytest.approx([0.6, 0.45, 0.0])


WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "lift_fresh")
"""Operators that need a number on the host, or bring one from there."""


class Waits(TorchDispatchMode):
    """Counts operators that a recording cannot hold."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += 1
        self.found += [str(func)] if any(name in str(func) for name in WAITS) else []
        return func(*args, **(kwargs or {}))


def detections(kind: str) -> tuple[DetectionHead, Tensor, Tensor]:
    """A head, and rows of two outputs for two images of 32 x 32 pixels."""
    head = DetectionHead(kind, nc=3, strides=(8, 16), channels_last=True)  # type: ignore[arg-type]
    rows = torch.rand(2, 2, 20, 8, generator=torch.Generator().manual_seed(3))
    return head, *rows


@pytest.mark.parametrize("kind", ["yolox", "yolov8", "one2one"])
def test_the_distances_of_detectors_wait_for_nothing(kind: str) -> None:
    head, wanted, found = detections(kind)
    found.requires_grad_()
    truth = torch.tensor([[[1.0, 2, 2, 20, 20]], [[-1.0, 0, 0, 0, 0]]])
    for _ in range(2):  # what is kept on the device comes there once
        with Waits() as waits:
            loss = detection_distance(head, [wanted], [found]) + label_distance(
                head, [wanted], [found], truth, (32, 32)
            )
            loss.backward()  # type: ignore[no-untyped-call]
    assert found.grad is not None and bool(found.grad.any()) and waits.seen > 50
    assert waits.found == []
    with Waits() as waits:
        float(loss.detach())
    assert waits.found
