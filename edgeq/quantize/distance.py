"""What learned rounding minimises: how far a unit's quantized outputs are from its float ones.

Every loss is relative, so that 1 is about as bad as an output that does not depend on the image, and the same settings
serve every unit and network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from edgeq.quantize.sensitivity import Weigh

Loss = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor | None]], Tensor]
"""From quantized outputs, float outputs and weights of squared errors (broadcast; None: all alike) to a number."""

_FLOOR = 1e-12


def squared_error(outputs: Sequence[Tensor], targets: Sequence[Tensor], importance: Sequence[Tensor | None]) -> Tensor:
    """Weighted squared error over the targets' variance, averaged over the outputs."""
    parts = []
    for y, t, weight in zip(outputs, targets, importance, strict=True):
        if t.is_floating_point():
            error, power = (y - t).square(), (t - t.mean()).square()
            if weight is not None:
                error, power = error * weight, power * weight
            parts.append(error.mean() / power.mean().clamp_min(_FLOOR))
    return torch.stack(parts).mean()


def distribution(outputs: Sequence[Tensor], targets: Sequence[Tensor], importance: Sequence[Tensor | None]) -> Tensor:
    """Squared error plus the divergence of the classes: KL(softmax(float) | softmax(quantized)) (PD-Quant, 2023)."""
    divergence = torch.stack(
        [
            torch.nn.functional.kl_div(y.log_softmax(-1), t.log_softmax(-1), log_target=True, reduction="none").sum(-1)
            for y, t in zip(outputs, targets, strict=True)
        ]
    )
    return squared_error(outputs, targets, importance) + divergence.mean()


def logarithmic(outputs: Sequence[Tensor], targets: Sequence[Tensor], importance: Sequence[Tensor | None]) -> Tensor:
    """Squared error plus the squared error of logarithms, where depths are positive: what is near counts as its share.

    The scale-invariant error of depth (Eigen et al., 2014) forgives most of a common factor, which a network that is to
    equal its float self must not be forgiven.
    """
    total = squared_error(outputs, targets, importance)
    for y, t in zip(outputs, targets, strict=True):
        floor = 1e-3 * t.abs().mean().clamp_min(_FLOOR)
        known = t > floor
        ratio = torch.where(known, torch.log(y.clamp_min(floor)) - torch.log(t.clamp_min(floor)), 0.0)
        total = total + ratio.square().mean() / known.float().mean().clamp_min(_FLOOR)
    return total


def weighed(weigh: Weigh) -> Loss:
    """Errors as the task counts them, such as the boxes that a detector is sure of (edgeq/calibrate/importance.py)."""

    def loss(outputs: Sequence[Tensor], targets: Sequence[Tensor], importance: Sequence[Tensor | None]) -> Tensor:
        total = torch.zeros((), device=targets[0].device)
        for index in range(len(targets[0])):
            one = [t[index : index + 1] for t in targets]
            for y, t, weight in zip(outputs, one, weigh(one), strict=True):
                total = total + (weight * (y[index : index + 1] - t)).square().sum()
        return total / len(targets[0]) + squared_error(outputs, targets, importance)

    return loss
