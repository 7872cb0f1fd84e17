"""Fake quantization: rounding to a grid in real arithmetic, with gradients for the value and for its scale.

    v = x / s;  y = s round(clamp(v, lowest level, highest level))

Rounding passes gradients straight through, which makes dy/dx 1 inside the range and 0 outside, and dy/ds the
rounding error round(v) - v inside and the level itself outside. (Esser et al., Learned Step Size Quantization, 2020.)
The expression is plain tensor arithmetic, so a compiler fuses it into its neighbours.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from edgeq.formats import Codebook, Fixed, Float, Format, level_range, level_table
from edgeq.ir.graph import Type


@lru_cache(maxsize=64)
def _levels(format: Format) -> tuple[Tensor, Tensor]:
    """Ascending levels of a table format, and the middles between them."""
    levels = np.unique(level_table(format)).astype(np.float32)
    return torch.from_numpy(levels), torch.from_numpy((levels[1:] + levels[:-1]) / 2)


def fake_quantize(x: Tensor, scale: Tensor, format: Format, zero_point: int = 0) -> Tensor:
    """`x` on the grid of `format`: scale times a level, ties to even (to the lower level between those of a table)."""
    low, high = level_range(format, zero_point)
    inside = torch.clamp(x / scale, low, high)
    if isinstance(format, Float | Codebook):
        levels, middles = (part.to(x.device) for part in _levels(format))
        nearest = levels[torch.bucketize(inside.detach(), middles)].to(inside.dtype)
    else:
        nearest = torch.round(inside.detach())
    return (inside + (nearest - inside).detach()) * scale


class Grid(nn.Module):
    """The grid of one value or weight, whose scales are learned.

    scale = start * e^growth [scales of the type], with `growth` the parameter: scales stay positive, and one learning
    rate suits large and small ones. `elements` is how many numbers share one scale: gradients are multiplied by
    1 / sqrt(elements highest level), which keeps the steps of scales and weights comparable under plain SGD.
    """

    start: Tensor
    index: Tensor

    def __init__(self, type_: Type, elements: int, *, learned: bool = True) -> None:
        super().__init__()
        self.planned = type_
        self.register_buffer("start", torch.tensor(type_.scale, dtype=torch.float32))
        learned = learned and not isinstance(type_.format, Fixed)
        self.growth = nn.Parameter(torch.zeros(len(type_.scale)), requires_grad=learned)
        # One scale per channel, or per block of a channel, broadcasts as the type says.
        places = replace(type_, scale=tuple(range(len(type_.scale)))).scales.astype(np.int64)
        self.register_buffer("index", torch.from_numpy(places), persistent=False)
        low, high = level_range(type_.format, type_.zero_point)
        self.damping = 1 / math.sqrt(max(elements, 1) * max(abs(low), high))

    @property
    def scale(self) -> Tensor:
        """The scales as they are now [scales of the type], with damped gradients."""
        damped = self.growth * self.damping
        return self.start * torch.exp(damped + (self.growth - damped).detach())

    def forward(self, x: Tensor) -> Tensor:
        """`x` rounded to the grid."""
        scale = self.scale.to(x.dtype)
        spread = scale[0] if len(scale) == 1 else scale[self.index]
        return fake_quantize(x, spread, self.planned.format, self.planned.zero_point)

    def learned_type(self) -> Type:
        """The type with the scales learned so far, as float32 numbers."""
        return replace(self.planned, scale=tuple(self.scale.detach().cpu().double().tolist()))
