"""What stops learning where it only goes to and fro: weights that oscillate between two codes, and scales in conflict.

With few bits a weight near the middle between two levels is pushed over it again and again. Nagel et al. (Overcoming
Oscillations in Quantization-Aware Training, 2022) count the turns and fix what turns too often at its mean code.
Gupta and Asthana (Reducing the Side-Effects of Oscillations in Training of Quantized YOLO Networks, arXiv 2311.05109)
fix all codes in the end and learn a gain and a shift of every channel: here the scale of its weights and its bias.
GAQAT (arXiv 2412.05551) trains at the worst point nearby and fixes scales for which the gradients of the task and of
flatness point against each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgeq.formats import Codebook, Float
from edgeq.quantize.fake import Grid
from edgeq.quantize.grids import BinaryGrid, NestedGrid
from edgeq.quantize.qat import QatModule

MOMENTUM = 0.01
FIRST_THRESHOLD = 4.0
"""Times the threshold that codes may turn back at first; it falls along half a cosine, as in the paper."""
_PARTS = ("codes", "turn", "frequency", "mean", "fixed")


class Oscillation(nn.Module):
    """Counts how often each weight's code turns back, and fixes the codes that do so too often.

    Call `after_step` behind every optimizer step. Its buffers belong to the state of a run.
    """

    def __init__(self, module: QatModule, threshold: float, momentum: float = MOMENTUM) -> None:
        super().__init__()
        self.threshold, self.momentum = threshold, momentum
        self._weights = {name: part for name, part in module.weights_and_grids() if _counts(part[-1])}
        for name, (weight, unit, grid) in self._weights.items():
            codes = _codes(weight * unit, grid)
            zeros = torch.zeros_like(codes)
            for part, start in zip(_PARTS, (codes, zeros, zeros, codes, zeros.bool()), strict=True):
                self.register_buffer(f"{name}_{part}", start.clone())

    @torch.no_grad()
    def after_step(self, share: float = 1.0) -> None:
        """Take note of the codes that the step has led to, after this share of the training; put fixed ones back."""
        threshold = self.threshold * (1 + (FIRST_THRESHOLD - 1) * 0.5 * (1 + math.cos(math.pi * share)))
        for name, (weight, unit, grid) in self._weights.items():
            before, turn, frequency, mean, fixed = (getattr(self, f"{name}_{part}") for part in _PARTS)
            codes = torch.where(fixed, torch.round(mean), _codes(weight * unit, grid))
            direction = torch.sign(codes - before)
            moved = direction != 0
            turned = moved & (direction == -turn)
            frequency.lerp_(turned.to(frequency.dtype), self.momentum)
            turn.copy_(torch.where(moved, direction, turn))
            mean.copy_(torch.where(fixed, mean, torch.lerp(mean, codes, self.momentum)))
            before.copy_(codes)
            fixed |= frequency > threshold
            weight.copy_(torch.where(fixed, torch.round(mean) * grid.spread() / unit, weight))

    @property
    def share(self) -> float:
        """The share of weights whose codes are fixed."""
        fixed = [getattr(self, f"{name}_fixed") for name in self._weights]
        count = sum(part.numel() for part in fixed)
        return float(sum(int(part.sum()) for part in fixed) / max(count, 1))


class Settled:
    """Weights keep the codes that they have now; their scales are learned on, with biases, gains and activations.

    Call `before_step` when the gradients are there and `after_step` behind the optimizer's step. A weight is its code
    times a scale, dw / dlog(scale) = w, so that the scale learns by the gradient of the weight; scales that are powers
    of two stay. Made again from a module that it has settled, it is the same.
    """

    def __init__(self, module: QatModule) -> None:
        self._weights = [part for _, part in module.weights_and_grids() if not isinstance(part[-1], NestedGrid)]
        with torch.no_grad():
            self._codes = [
                grid.rounded(weight * unit / grid.spread(), torch.ones((), device=weight.device))
                for weight, unit, grid in self._weights
            ]
        self.after_step()

    @torch.no_grad()
    def before_step(self) -> None:
        """Hand the gradient of every weight on to its scales."""
        for weight, _, grid in self._weights:
            if isinstance(grid, BinaryGrid):
                grid.growth.grad = None
            elif weight.grad is not None and grid.growth.grad is not None:
                grid.growth.grad.add_(_by_scale(weight.grad * weight, grid), alpha=grid.damping)
            weight.grad = None

    @torch.no_grad()
    def after_step(self) -> None:
        """Let the weights follow their scales."""
        for (weight, unit, grid), codes in zip(self._weights, self._codes, strict=True):
            weight.copy_(codes * grid.spread() / unit)


def _by_scale(x: Tensor, grid: Grid) -> Tensor:
    """`x` of a weight's shape, summed over the numbers that share a scale."""
    shared = x.sum_to_size(grid.index.shape).flatten()
    return torch.zeros_like(grid.growth).index_add_(0, grid.index.flatten(), shared)


def _counts(grid: Grid) -> bool:
    return not isinstance(grid.planned.format, Float | Codebook)


def _codes(weight: Tensor, grid: Grid) -> Tensor:
    return torch.round(grid(weight) / grid.spread()).detach()


class Sharpness:
    """Gradients at the worst point within `radius` of the weights, without the scales that are in conflict.

    Over each `window` of steps it counts for every grid how often the gradient of the task and that of flatness (the
    gradient nearby less that here) have opposite signs. Scales that disagree in more than `most` of the cases keep
    their value for the next window.
    """

    def __init__(self, module: QatModule, radius: float, window: int = 50, most: float = 0.5) -> None:
        self.module, self.radius, self.window, self.most = module, radius, window, most
        self.frozen: set[str] = set()
        self._steps = 0
        self._disagreed: dict[str, float] = {}

    def backward(self, loss: Callable[[], Tensor]) -> Tensor:
        """Leave the gradients to step by; returns the loss here. `loss` is computed twice."""
        here = loss()
        here.backward()  # type: ignore[no-untyped-call]
        scales = {name: p.grad.clone() for name, p in self._scales() if p.grad is not None}
        moved = self._climb()
        loss().backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for weight, step in moved:
                weight.sub_(step)
            self._judge(scales)
        return here

    def _scales(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.module.named_parameters() if name.endswith(".growth") and p.requires_grad]

    @torch.no_grad()
    def _climb(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Move the weights up their gradient, and forget all gradients."""
        weights = [(p, p.grad) for p in self.module.trained.parameters() if p.grad is not None]
        norm = torch.stack([slope.norm() for _, slope in weights]).norm().clamp_min(1e-12)
        moved = [(p, slope * (self.radius / norm)) for p, slope in weights]
        for weight, step in moved:
            weight.add_(step)
        self.module.zero_grad(set_to_none=True)
        return moved

    def _judge(self, here: dict[str, Tensor]) -> None:
        for name, p in self._scales():
            if p.grad is None or name not in here:
                continue
            against = torch.sign(here[name]) * torch.sign(p.grad - here[name]) < 0
            self._disagreed[name] = self._disagreed.get(name, 0.0) + float(against.float().mean())
            if name in self.frozen:
                p.grad = None
        self._steps += 1
        if self._steps % self.window == 0:
            self.frozen = {name for name, count in self._disagreed.items() if count > self.most * self.window}
            self._disagreed = {}
