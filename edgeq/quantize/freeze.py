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

from edgeq.formats import Codebook, Float, level_range
from edgeq.quantize.fake import Grid
from edgeq.quantize.grids import BinaryGrid, NestedGrid
from edgeq.quantize.qat import QatModule

MOMENTUM = 0.01
FIRST_THRESHOLD = 4.0
"""Times the threshold that codes may turn back at first; it falls along half a cosine, as in the paper."""
_PARTS = ("codes", "turn", "frequency", "mean", "fixed")


class Oscillation(nn.Module):
    """Counts how often each weight's code turns back, and fixes the codes that do so too often.

    Call `begin` before every optimizer step and `after_step` behind it. Its buffers, of all weights behind one another,
    belong to the state of a run: a GPU waits longer for the start of an operation than for its end.
    """

    codes: Tensor
    turn: Tensor
    frequency: Tensor
    mean: Tensor
    fixed: Tensor
    _most: Tensor

    def __init__(self, module: QatModule, threshold: float, momentum: float = MOMENTUM) -> None:
        super().__init__()
        self.threshold, self.momentum = threshold, momentum
        named = {name: part for name, part in module.weights_and_grids() if _counts(part[-1])}
        self._weights = [(weight, grid) for weight, _, grid in named.values()]
        self._places = dict(
            zip(named, self._parts(torch.arange(sum(w.numel() for w, _ in self._weights))), strict=True)
        )
        ranges = [level_range(grid.planned.format, grid.planned.zero_point) for _, grid in self._weights]
        self._low, self._high = (
            _joined([torch.full_like(w, bound) for (w, _), bound in zip(self._weights, bounds, strict=True)])
            for bounds in (*zip(*ranges, strict=True),)
        )
        self._units = _joined([unit.expand_as(weight) for weight, unit, _ in named.values()])
        codes, *_ = self._now()
        zeros = torch.zeros_like(codes)
        for part, start in zip(_PARTS, (codes, zeros, zeros, codes, zeros.bool()), strict=True):
            self.register_buffer(part, start.clone())
        self.register_buffer("_most", torch.full((), threshold, device=codes.device), persistent=False)

    def begin(self, share: float) -> None:
        """Set how often codes may turn back after this share of the training."""
        self._most.fill_(self.threshold * (1 + (FIRST_THRESHOLD - 1) * 0.5 * (1 + math.cos(math.pi * share))))

    @torch.no_grad()
    def after_step(self) -> None:
        """Take note of the codes that the step has led to, and put fixed ones back."""
        now, weights, spreads = self._now()
        codes = torch.where(self.fixed, torch.round(self.mean), now)
        direction = torch.sign(codes - self.codes)
        moved = direction != 0
        turned = moved & (direction == -self.turn)
        self.frequency.lerp_(turned.to(self.frequency.dtype), self.momentum)
        self.turn.copy_(torch.where(moved, direction, self.turn))
        self.mean.copy_(torch.where(self.fixed, self.mean, torch.lerp(self.mean, codes, self.momentum)))
        self.codes.copy_(codes)
        self.fixed |= self.frequency > self._most
        kept = torch.where(self.fixed, torch.round(self.mean) * spreads / self._units, weights)
        torch._foreach_copy_([weight for weight, _ in self._weights], self._parts(kept))

    def fixed_of(self, field: str) -> Tensor:
        """Which codes of a weight are fixed, in its shape, by the field of its grid."""
        return self.fixed[self._places[field].to(self.fixed.device)]

    @property
    def share(self) -> float:
        """The share of weights whose codes are fixed."""
        return float(self.fixed.sum() / max(self.fixed.numel(), 1))

    @torch.no_grad()
    def _now(self) -> tuple[Tensor, Tensor, Tensor]:
        """Codes, weights in their units, and scales."""
        weights = _joined([weight for weight, _ in self._weights])
        spreads = _joined([grid.spread().expand_as(weight) for weight, grid in self._weights])
        return torch.round(torch.clamp(weights * self._units / spreads, self._low, self._high)), weights, spreads

    def _parts(self, joined: Tensor) -> list[Tensor]:
        sizes = [weight.numel() for weight, _ in self._weights]
        return [
            part.view_as(weight) for part, (weight, _) in zip(torch.split(joined, sizes), self._weights, strict=True)
        ]


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


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts]) if parts else torch.zeros(0)


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
