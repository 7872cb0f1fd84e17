"""How fast each parameter is learned, and how the rate goes over a training."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from edgeq.flow.training import Training
from edgeq.quantize.grids import rate_of
from edgeq.quantize.qat import QatModule

WARMUP = 0.05
"""Share of the steps over which the learning rate rises; then it falls along half a cosine."""
SETTLED_RATE = 0.1
"""Of the peak rate, from where the rate falls once codes stay."""


def groups_of(module: QatModule, options: Training) -> list[dict[str, Any]]:
    """Weights decay; scales, biases and gains do not. `share`: how fast parameters are learned beside others."""
    decayed = [p for p in module.trained.parameters() if p.requires_grad and p.dim() > 1]
    groups: dict[float, list[Tensor]] = {}
    for name, p in module.named_parameters():
        if p.requires_grad and not any(p is known for known in decayed):
            groups.setdefault(rate_of(name), []).append(p)
    others = [{"params": found, "weight_decay": 0.0, "share": share} for share, found in groups.items()]
    weights = [{"params": decayed, "weight_decay": options.decay, "share": 1.0}] if decayed else []
    return [*weights, *others]


def share_of_peak(share: float, settle: float) -> float:
    """The rate as a part of its peak: a warm-up and half a cosine, and a lower half cosine once codes stay."""
    if share >= 1 - settle < 1:
        return SETTLED_RATE * _fall((share - (1 - settle)) / settle)
    share /= 1 - settle
    return share / WARMUP if share < WARMUP else _fall((share - WARMUP) / (1 - WARMUP))


def _fall(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))
