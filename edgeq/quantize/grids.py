"""Grids that learn more than a scale: offsets, binary points, a scale for every image, and several widths at once.

Each is a `Grid`: it rounds while training, and says by `learned_type` which type the integer graph takes over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from edgeq.errors import UsageError
from edgeq.formats import Fixed, Int
from edgeq.ir.graph import Type
from edgeq.quantize.fake import Grid, fake_quantize, round_to

NESTED_RATES = {8: 1.0, 6: 1.0, 4: 0.1, 2: 0.01}
"""By width, how much slower than others its scales are learned: large steps of coarse grids disturb the fine ones."""

STRATEGIES = ("offsets", "adaptive", "binary-points")


@dataclass(frozen=True)
class Strategy:
    """What is learned beside weights, biases and scales.

    `offsets`: zero points of activations (LSQ+). `adaptive`: activations scaled for each image (ASQ). `binary_points`:
    scales are powers of two (QFX). `nested`: weights serve these widths besides their eight bits (Double Rounding).
    Without `weights` those that are rounded keep their codes. Without `weight_scales` their scales stay, unless they are
    one of these.
    """

    offsets: bool = False
    adaptive: bool = False
    binary_points: bool = False
    nested: tuple[int, ...] = ()
    weights: bool = True
    weight_scales: bool = True

    @classmethod
    def named(cls, names: str) -> Strategy:
        """Of a list such as `offsets,binary-points`. Raises UsageError for an unknown name, or two that exclude another."""
        chosen = tuple(name for name in names.split(",") if name)
        if unknown := [name for name in chosen if name not in STRATEGIES]:
            raise UsageError("nothing of this name can be learned", value=unknown[0], allowed=", ".join(STRATEGIES))
        if len(chosen) > 1:
            raise UsageError("only one of these is learned at a time", value=names, allowed=", ".join(STRATEGIES))
        return cls("offsets" in chosen, "adaptive" in chosen, "binary-points" in chosen)

    def value_grid(self, type_: Type, elements: int, channels: int, *, learned: bool) -> Grid:
        """The grid of an activation with so many channels; prescribed grids are not `learned`."""
        if not learned:
            return Grid(type_, elements, learned=False)
        if self.binary_points:
            return BinaryGrid(type_, elements)
        if self.adaptive and channels:
            return AdaptiveGrid(type_, elements, channels)
        moves = self.offsets and isinstance(type_.format, Int) and type_.format.bits <= 8
        return OffsetGrid(type_, elements) if moves else Grid(type_, elements)

    def weight_grid(self, type_: Type, elements: int) -> Grid:
        """The grid of a weight."""
        if self.binary_points or isinstance(type_.format, Fixed):
            return BinaryGrid(type_, elements)
        whole = isinstance(type_.format, Int) and type_.format.bits == 8
        if self.nested and whole:
            return NestedGrid(type_, elements, self.nested)
        return Grid(type_, elements, learned=self.weight_scales)


class OffsetGrid(Grid):
    """A grid whose zero point is learned too (Bhalgat et al., LSQ+, 2020), rounded so that zero stays a level.

    low = lowest code - z, high = highest code - z: outside its range a value moves z by the step.
    """

    def __init__(self, type_: Type, elements: int) -> None:
        super().__init__(type_, elements)
        self.shift = nn.Parameter(torch.zeros(()))

    @property
    def zero_point(self) -> Tensor:
        """The zero point as it is now, a whole number; steps of the shift count as a share of the range."""
        format = self._format
        wanted = self.planned.zero_point + self.shift * (format.high - format.low)
        inside = wanted.clamp(format.low, format.high)
        return wanted + (torch.round(inside) - wanted).detach()

    @property
    def _format(self) -> Int:
        assert isinstance(self.planned.format, Int), self.planned
        return self.planned.format

    def forward(self, x: Tensor, passed: Tensor | None = None) -> Tensor:
        """`x` rounded to the grid, but for the elements that are `passed` over."""
        zero = self.zero_point
        return round_to(x, self.spread(), None, self._format.low - zero, self._format.high - zero, passed)

    def learned_type(self) -> Type:
        """The type with the scale and the zero point learned so far."""
        return replace(super().learned_type(), zero_point=int(self.zero_point.detach()))


class BinaryGrid(Grid):
    """A grid whose scales are powers of two, of which the exponent is learned (QFX, arXiv 2401.17544).

    scale = 2^-F, F = round(f) with straight-through gradients: df = -ln 2 scale dscale.
    """

    def __init__(self, type_: Type, elements: int) -> None:
        super().__init__(type_, elements)
        self.growth.requires_grad_(True)

    @property
    def scale(self) -> Tensor:
        """The scales as they are now, exact powers of two."""
        exponent = torch.log2(self.start) + self.growth
        damped = self.growth * self.damping
        nearest = torch.round(exponent).detach()
        return torch.exp2(nearest) * torch.exp(math.log(2) * (damped - damped.detach()))

    def learned_type(self) -> Type:
        """The type with the exponents learned so far; of a fixed-point format they are its binary point."""
        found = super().learned_type()
        if not isinstance(found.format, Fixed):
            return found
        return replace(found, format=replace(found.format, fraction=-round(math.log2(found.scale[0]))))


class AdaptiveGrid(Grid):
    """A grid whose step follows each image (ASQ, arXiv 2504.17263): step = scale beta, beta from the means of channels.

    The integer graph has one scale: beta is frozen to its mean over the training images, `usual`.
    """

    usual: Tensor

    def __init__(self, type_: Type, elements: int, channels: int) -> None:
        super().__init__(type_, elements)
        self.channels = channels
        inner = channels // 4
        layers = (
            [nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, 1)] if channels >= 8 else [nn.Linear(channels, 1)]
        )
        self.regulator = nn.Sequential(*layers)
        last = layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.weight, std=0.01)
        nn.init.ones_(last.bias)
        self.register_buffer("usual", torch.ones(()))

    def beta(self, x: Tensor) -> Tensor:
        """The factor of each image [N, 1, 1, 1]."""
        means = x.float().mean((2, 3))
        found: Tensor = self.regulator(means).relu().clamp_min(1e-8)
        return found[:, :, None, None]

    def forward(self, x: Tensor, passed: Tensor | None = None) -> Tensor:
        """`x` rounded to the grid of each image; what has lost its places is rounded to the usual one."""
        if x.dim() != 4 or x.shape[1] != self.channels:
            return self.rounded(x, self.spread() * self.usual, passed)
        beta = self.beta(x)
        if self.training:
            with torch.no_grad():
                self.usual.lerp_(beta.mean(), 0.01)
        return self.rounded(x, self.spread() * beta, passed)

    def lasting(self) -> Tensor:
        """The scale at the usual factor."""
        return self.scale * self.usual


class NestedGrid(Grid):
    """Weights of eight bits whose codes also serve fewer bits (Double Rounding, arXiv 2502.01986).

    q8 = round(w / s8);  q_b = clamp(round(q8 / 2^(8 - b)));  w_b = q_b s_b with a learned s_b. `width` says which is
    used; scales of a width are learned while it is.
    """

    def __init__(self, type_: Type, elements: int, widths: tuple[int, ...]) -> None:
        super().__init__(type_, elements)
        self.width = 8
        count = len(type_.scale)
        self.narrower = nn.ParameterDict({str(bits): nn.Parameter(torch.zeros(count)) for bits in widths if bits < 8})

    @staticmethod
    def format(bits: int) -> Int:
        """The format of the codes at a width: as many below zero as above."""
        return Int(bits, narrow=True)

    def forward(self, x: Tensor, passed: Tensor | None = None) -> Tensor:
        """The weight rounded to the grid of the width in use."""
        if self.width == 8:
            return super().forward(x, passed)
        narrow, one = self.format(self.width), torch.ones((), device=x.device)
        codes = fake_quantize(x / self.spread().detach(), one, self.planned.format)
        found = fake_quantize(codes * 2.0 ** (self.width - 8), one, narrow)
        return found * self._spread(self._scale_at(self.width))

    def _scale_at(self, bits: int) -> Tensor:
        return self.start * 2.0 ** (8 - bits) * torch.exp(self.narrower[str(bits)])

    def _spread(self, scale: Tensor) -> Tensor:
        return scale[0] if len(scale) == 1 else scale[self.index]

    def lasting(self) -> Tensor:
        """The scales at the width in use."""
        return super().lasting() if self.width == 8 else self._scale_at(self.width)

    def learned_type(self) -> Type:
        """The type at the width in use."""
        found = super().learned_type()
        return found if self.width == 8 else replace(found, format=self.format(self.width))

    def at_eight(self) -> Type:
        """The type of the eight-bit codes, which the narrower ones are rounded from."""
        return replace(self.planned, scale=tuple(self.scale.detach().cpu().double().tolist()))


def nested_codes(codes: Tensor, bits: int) -> Tensor:
    """Codes of `bits` from codes of eight bits: the second rounding, on integers (ties to even)."""
    format = NestedGrid.format(bits)
    return torch.round(codes.double() * 2.0 ** (bits - 8)).clamp(format.low, format.high).long()


def rate_of(name: str) -> float:
    """How fast the parameter of this name is learned beside others."""
    parts = name.split(".")
    return NESTED_RATES.get(int(parts[-1]), 1.0) if "narrower" in parts else 1.0
