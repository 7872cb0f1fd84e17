"""Fake quantization: rounding to a grid in real arithmetic, with gradients for the value, its scale and its bounds.

    v = x / s;  y = s round(clamp(v, lowest level, highest level))

Rounding passes gradients straight through, which makes dy/dx 1 inside the range and 0 outside, and dy/ds the
rounding error round(v) - v inside and the level itself outside. (Esser et al., Learned Step Size Quantization, 2020.)
A bound that is learned has the gradient s outside on its side: with low = code - zero point that is the learned offset
of Bhalgat et al., LSQ+, 2020. Elements that are `passed` over stay as they are and say nothing of the scale and the
bounds (Wei et al., QDrop, 2022). Nothing but x and which these are is kept for the backward pass. The gradient of a lone
scale is summed channel by channel first, as that of a bias is, so that a compiler makes both in one pass.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgeq.formats import Codebook, Fixed, Float, Format, level_range, level_table
from edgeq.ir.graph import Type

Bound = float | Tensor
"""A lowest or highest level: a number, or a tensor of no dimensions that is learned."""
Table = tuple[Tensor, Tensor]


@lru_cache(maxsize=64)
def _table(format: Format) -> Table | None:
    """Ascending levels of a table format, and the middles between them; None for other formats."""
    if not isinstance(format, Float | Codebook):
        return None
    levels = np.unique(level_table(format)).astype(np.float32)
    return torch.from_numpy(levels), torch.from_numpy((levels[1:] + levels[:-1]) / 2)


def _nearest(inside: Tensor, table: Table | None) -> Tensor:
    if table is None:
        return torch.round(inside)
    return table[0][torch.bucketize(inside, table[1])].to(inside.dtype)


def _exact(x: Tensor) -> Tensor:
    """x in single precision at least: half precision does not hold the codes of eight bits and their halves."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _sum_to(product: Tensor, like: Tensor) -> Tensor:
    """`product` summed to the shape that was broadcast."""
    if like.numel() > 1:
        return product.sum_to_size(like.shape)
    channels = 1 if product.dim() == 4 else product.dim() - 1
    rest = [axis for axis in range(product.dim()) if axis != channels]
    return (product.sum(rest) if rest else product).sum().reshape(like.shape)


class _Rounding(torch.autograd.Function):
    """See the module's docstring. `low` and `high` are tensors where they are learned."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, low: Bound, high: Bound, table: Table | None, passed: Tensor | None
    ) -> Tensor:
        ctx.numbers, ctx.table = (low, high), table
        learned = [bound for bound in (low, high) if isinstance(bound, Tensor)]
        ctx.save_for_backward(x, scale, passed, *learned)
        inside = torch.clamp(_exact(x) / scale, low, high)  # type: ignore[arg-type]
        found = (_nearest(inside, table) * scale).to(x.dtype)
        return found if passed is None else torch.where(passed, x, found, out=found)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, passed, *learned = ctx.saved_tensors
        low, high = learned or ctx.numbers
        v, slope_ = _exact(x) / scale, _exact(slope)
        inside = (v >= low) & (v <= high)
        straight = inside if passed is None else inside | passed
        of_x = torch.where(straight, slope_, 0.0).to(x.dtype) if ctx.needs_input_grad[0] else None
        of_scale = of_low = of_high = None
        if passed is not None:
            slope_ = slope_.masked_fill(passed, 0.0)
        if ctx.needs_input_grad[1]:
            held = torch.clamp(v, low, high)
            nearest = _nearest(held, ctx.table)
            of_scale = _sum_to(slope_ * torch.where(inside, nearest - v, nearest), scale).to(scale.dtype)
        if learned:
            of_low = _sum_to(torch.where(v < low, slope_ * scale, 0.0), learned[0])
            of_high = _sum_to(torch.where(v > high, slope_ * scale, 0.0), learned[1])
        return of_x, of_scale, of_low, of_high, None, None


def _rounding(x: Tensor, scale: Tensor, low: Bound, high: Bound, table: Table | None, passed: Tensor | None) -> Tensor:
    """What _Rounding does, in operators whose own gradients are those: for compilers, which keep what they like anyway.

    torch 2.11 compiles _Rounding to gradients of zero.
    """
    if scale.numel() == 1 and x.dim() > 1:
        channels = 1 if x.dim() == 4 else x.dim() - 1
        scale = scale.reshape([1] * x.dim()).expand([x.shape[k] if k == channels else 1 for k in range(x.dim())])
    inside = torch.clamp(_exact(x) / scale, low, high)  # type: ignore[arg-type]
    found = ((inside + (_nearest(inside, table) - inside).detach()) * scale).to(x.dtype)
    return found if passed is None else torch.where(passed, x, found)


def round_to(
    x: Tensor, scale: Tensor, table: Table | None, low: Bound, high: Bound, passed: Tensor | None = None
) -> Tensor:
    """`x` on the levels of `table` (None for whole numbers) between the bounds (two numbers or two tensors), times scale,
    but for the elements that are `passed` over."""
    if torch.compiler.is_compiling():
        return _rounding(x, scale, low, high, table, passed)
    found: Tensor = _Rounding.apply(x, scale, low, high, table, passed)  # type: ignore[no-untyped-call]
    return found


def fake_quantize(x: Tensor, scale: Tensor, format: Format, zero_point: int = 0) -> Tensor:
    """`x` on the grid of `format`: scale times a level, ties to even (to the lower level between those of a table)."""
    table = _table(format)
    if table is not None:
        table = table[0].to(x.device), table[1].to(x.device)
    return round_to(x, scale, table, *level_range(format, zero_point))


class Grid(nn.Module):
    """The grid of one value or weight, whose scales are learned.

    scale = start * e^growth [scales of the type], with `growth` the parameter: scales stay positive, and one learning
    rate suits large and small ones. `elements` is how many numbers share one scale: gradients are multiplied by
    1 / sqrt(elements highest level), which keeps the steps of scales and weights comparable under plain SGD.
    """

    start: Tensor
    index: Tensor
    levels: Tensor | None
    middles: Tensor | None

    def __init__(self, type_: Type, elements: int, *, learned: bool = True) -> None:
        super().__init__()
        self.planned = type_
        self.register_buffer("start", torch.tensor(type_.scale, dtype=torch.float32))
        learned = learned and not isinstance(type_.format, Fixed)
        self.growth = nn.Parameter(torch.zeros(len(type_.scale)), requires_grad=learned)
        # One scale per channel, or per block of a channel, broadcasts as the type says.
        places = replace(type_, scale=tuple(range(len(type_.scale)))).scales.astype(np.int64)
        self.register_buffer("index", torch.from_numpy(places), persistent=False)
        levels, middles = _table(type_.format) or (None, None)
        self.register_buffer("levels", levels, persistent=False)
        self.register_buffer("middles", middles, persistent=False)
        low, high = level_range(type_.format, type_.zero_point)
        self.damping = 1 / math.sqrt(max(elements, 1) * max(abs(low), high))

    @property
    def scale(self) -> Tensor:
        """The scales as they are now [scales of the type], with damped gradients."""
        damped = self.growth * self.damping
        return self.start * torch.exp(damped + (self.growth - damped).detach())

    def spread(self) -> Tensor:
        """The scales as they broadcast against the value; without dimensions where there is one."""
        scale = self.scale
        return scale[0] if len(scale) == 1 else scale[self.index]

    def forward(self, x: Tensor, passed: Tensor | None = None) -> Tensor:
        """`x` rounded to the grid, but for the elements that are `passed` over."""
        return self.rounded(x, self.spread(), passed)

    def rounded(self, x: Tensor, scale: Tensor, passed: Tensor | None = None) -> Tensor:
        """`x` rounded to the levels, of this scale."""
        table = None if self.levels is None or self.middles is None else (self.levels, self.middles)
        return round_to(x, scale, table, *level_range(self.planned.format, self.planned.zero_point), passed)

    def lasting(self) -> Tensor:
        """The scales that the integer graph takes over [scales of the type]."""
        return self.scale

    def learned_type(self) -> Type:
        """The type with the scales learned so far, as float32 numbers."""
        return replace(self.planned, scale=tuple(self.lasting().detach().cpu().double().tolist()))
