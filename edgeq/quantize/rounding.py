"""Learnable rounding: three ways to write a weight as levels that gradients can move.

All start from latent levels v (reals near the levels that a fit chose) and end in levels of the format: AdaRound picks
the level below or above v (Nagel et al., 2020), FlexRound divides the weight by learned factors before rounding (Lee
et al., 2023), AdaQuant moves v itself (Hubara et al., 2021). Below and above are neighbours in any format, so each
works for integers, minifloats and codebooks alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from edgeq.formats import Codebook, Float, Format, level_range
from edgeq.quantize.simulate import nearest_level, sorted_levels, straight

Method = Literal["adaround", "flexround", "adaquant"]

ZETA, GAMMA = 1.1, -0.1
LEAN = 0.25
"""Latent levels lie so far from their level towards the real weight: a level that was chosen well is left late."""


def latent(levels: Tensor, wanted: Tensor, format: Format) -> Tensor:
    """Reals that round to `levels` and lean towards `wanted`, both in units of the scale."""
    below, above = neighbours(levels, wanted, format)
    gap = torch.where(wanted > levels, above - levels, levels - below)
    return levels + LEAN * gap * ((wanted - levels) / gap.clamp_min(1e-12)).clamp(-1, 1)


def neighbours(levels: Tensor, towards: Tensor, format: Format) -> tuple[Tensor, Tensor]:
    """(below, above): `levels` and the next one on the side of `towards`; equal at the ends of the format."""
    up = towards > levels
    if isinstance(format, Float | Codebook):
        table = sorted_levels(format).to(levels)
        index = torch.searchsorted(table, levels.contiguous())
        lower = torch.where(up, index, index - 1).clamp_min(0)
        upper = torch.where(up, index + 1, index).clamp_max(len(table) - 1)
        return table[lower], table[upper]
    low, high = level_range(format)
    below = torch.where(up, levels, levels - 1).clamp(low, high)
    return below, torch.where(up, levels + 1, levels).clamp(low, high)


@dataclass
class Rounding:
    """A weight of `format` under optimisation: `theta` are the parameters, `levels()` what it is now."""

    method: Method
    format: Format
    below: Tensor
    above: Tensor
    start: Tensor
    theta: list[Tensor]

    @classmethod
    def of(cls, method: Method, levels: Tensor, wanted: Tensor, format: Format) -> Rounding:
        """Start from `levels`, which lie near the real `wanted` (both in units of the scale, weight shape)."""
        start = latent(levels, wanted, format)
        below, above = neighbours(levels, start, format)
        if method == "adaround":
            share = ((start - below) / (above - below).clamp_min(1e-12)).clamp(0.01, 0.99)
            sigmoid = (share - GAMMA) / (ZETA - GAMMA)
            theta = [torch.log(sigmoid / (1 - sigmoid))]
        elif method == "flexround":
            theta = [torch.zeros_like(start), start.new_zeros(start.shape[0], *(1,) * (start.dim() - 1))]
        else:
            theta = [torch.zeros_like(start)]
        return cls(method, format, below, above, start, [t.requires_grad_() for t in theta])

    def share(self) -> Tensor:
        """AdaRound's h in [0, 1]: how far each weight is from `below` to `above`."""
        return torch.clamp(torch.sigmoid(self.theta[0]) * (ZETA - GAMMA) + GAMMA, 0, 1)

    def levels(self, *, hard: bool = False) -> Tensor:
        """The levels now; `hard` ones are of the format, soft ones carry gradients."""
        if self.method == "adaround":
            share = (self.share() >= 0.5).to(self.below) if hard else self.share()
            return self.below + share * (self.above - self.below)
        if self.method == "adaquant":
            v = self.start + self.theta[0] * (self.above - self.below).clamp_min(1)
        else:
            v = self.start / torch.exp(self.theta[0] + self.theta[1])
        low, high = level_range(self.format)
        inside = v.clamp(low, high)
        return straight(nearest_level(inside, self.format), inside)

    def penalty(self, beta: float) -> Tensor:
        """AdaRound's 1 - |2h - 1|^beta, averaged: zero when every weight has decided."""
        if self.method != "adaround":
            return self.start.new_zeros(())
        return (1 - (2 * self.share() - 1).abs().pow(beta)).mean()

    @property
    def rate(self) -> float:
        """The usual step of its parameters: latent levels, logits and logarithms need different ones."""
        return {"adaround": 1e-2, "flexround": 1e-3, "adaquant": 3e-3}[self.method]
