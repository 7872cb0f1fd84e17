"""Training of the zoo's models: one loop, a batch maker and a loss per task. The data stays on the device as uint8."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo_data import MEAN, STD, Examples
from zoo_losses import classification_loss, depth_loss, detection_loss
from zoo_models import Classifier, Depth, Detector

_WARMUP = 0.03  # of the steps
_AVERAGING = 0.9985


@dataclass(frozen=True)
class Spec:
    """How one model of the zoo is made: `build()`, fed [3, side, side] images, normalized or plain 0..1."""

    name: str
    task: str
    side: int
    build: Callable[[], nn.Module]
    normalized: bool
    bfloat16: bool  # where a GPU trains
    scenes: int
    epochs: int
    batch: int
    rate: float
    decay: float


SPECS = {
    spec.name: spec
    for spec in (
        Spec("detector", "detect", 160, Detector, False, False, 40_000, 38, 192, 2e-3, 0.02),
        Spec("classifier", "classify", 96, Classifier, True, True, 72_000, 94, 512, 1.5e-3, 0.05),
        Spec("depth", "depth", 128, Depth, True, True, 24_000, 71, 192, 2e-3, 0.02),
    )
}


def normalize(images: Tensor, spec: Spec) -> Tensor:
    """0..1 to what the model takes."""
    if not spec.normalized:
        return images
    mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (MEAN, STD))
    return (images - mean) / std


def train(spec: Spec, examples: Examples, epochs: int, minutes: float, device: str) -> tuple[nn.Module, int]:
    """The averaged model and how many epochs made it: `epochs`, or what `minutes` allow; the schedule fits either."""
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    model = spec.build().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = _optimizer(model, spec, fused=device != "cpu")
    images, *answers = (torch.from_numpy(part).to(device) for part in (examples.images, *examples.answers))
    per_epoch = max(1, len(images) // spec.batch)
    start, step, running = time.monotonic(), 0, torch.zeros((), device=device)
    while (progress := max(step / (epochs * per_epoch), (time.monotonic() - start) / (60 * minutes))) < 1:
        for group in optimizer.param_groups:
            group["lr"] = spec.rate * _schedule(progress)
        rows = torch.randint(len(images), (spec.batch,), device=device)
        pixels = images[rows].permute(0, 3, 1, 2).float() / 255
        with torch.autocast(device, torch.bfloat16, enabled=spec.bfloat16 and device != "cpu"):
            loss = _loss(model, spec, pixels, [part[rows] for part in answers])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        step += 1
        _follow(average, model, min(_AVERAGING, step / (step + 20)))
        running = loss.detach() if step == 1 else running * 0.98 + loss.detach() * 0.02
        if step % per_epoch == 0:
            print(
                f"{spec.name} epoch {step // per_epoch} loss {running.item():.4f} {time.monotonic() - start:.0f} s",
                flush=True,
            )
    return average.eval().cpu(), step // per_epoch


def _optimizer(model: nn.Module, spec: Spec, *, fused: bool) -> torch.optim.Optimizer:
    """AdamW that decays matrices and kernels only."""
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": spec.decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=spec.rate, fused=fused)


def _schedule(progress: float) -> float:
    """A linear rise, then half a cosine."""
    if progress < _WARMUP:
        return (progress + 1e-3) / _WARMUP
    return 0.5 * (1 + math.cos(math.pi * (progress - _WARMUP) / (1 - _WARMUP))) + 0.01


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, keep: float) -> None:
    """Move the running average of weights and statistics towards the model."""
    pairs = [
        (a, m)
        for a, m in zip(average.state_dict().values(), model.state_dict().values(), strict=True)
        if a.is_floating_point()
    ]
    torch._foreach_lerp_([a for a, _ in pairs], [m for _, m in pairs], 1 - keep)


def _loss(model: nn.Module, spec: Spec, pixels: Tensor, answers: list[Tensor]) -> Tensor:
    pixels = _relight(pixels)
    mirrored = torch.rand(len(pixels), device=pixels.device) < 0.5
    pixels = torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)
    if spec.task == "classify":
        return classification_loss(model(normalize(_move(pixels), spec)), answers[0])
    images = normalize(pixels, spec).contiguous(memory_format=torch.channels_last)
    if spec.task == "depth":
        target = torch.where(mirrored[:, None, None], answers[0].flip(2), answers[0])
        return depth_loss(model(images), target[:, None])
    assert isinstance(model, Detector)
    boxes, labels = answers
    flipped = torch.stack([spec.side - boxes[..., 2], boxes[..., 1], spec.side - boxes[..., 0], boxes[..., 3]], dim=2)
    return detection_loss(model, images, torch.where(mirrored[:, None, None], flipped, boxes), labels)


def _relight(pixels: Tensor) -> Tensor:
    """Random brightness per image and colour, and contrast about grey."""
    shape = (len(pixels), 1, 1, 1)
    gain = 0.85 + 0.3 * torch.rand((len(pixels), 3, 1, 1), device=pixels.device)
    contrast = 0.8 + 0.4 * torch.rand(shape, device=pixels.device)
    return (((pixels * gain) - 0.5) * contrast + 0.5).clamp(0, 1)


def _move(pixels: Tensor) -> Tensor:
    """Random scale, turn and shift per image."""
    count, device = len(pixels), pixels.device
    size = 0.8 + 0.35 * torch.rand(count, device=device)
    turn = 0.4 * (torch.rand(count, device=device) - 0.5)
    shift = 0.24 * (torch.rand((count, 2), device=device) - 0.5)
    cosine, sine = size * turn.cos(), size * turn.sin()
    rows = [torch.stack([cosine, -sine, shift[:, 0]], dim=1), torch.stack([sine, cosine, shift[:, 1]], dim=1)]
    places = F.affine_grid(torch.stack(rows, dim=1), list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, places, padding_mode="reflection", align_corners=False)
