"""How much an error at each position and in each channel of a value matters at the outputs: the Fisher diagonal.

The square of the gradient of randomly projected outputs (edgeq/quantize/sensitivity.py), averaged over channels for
each position of each image, and over positions and images for each channel. One projection is noisy, so both are mixed
half and half with equal weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph
from edgeq.quantize.sensitivity import Objective, backward_passes
from edgeq.reference.interpret import Device

EVEN = 0.5
"""Share of equal weights in the mixture."""


@dataclass(frozen=True)
class Importance:
    """Weights of squared errors, of mean about 1: `positions` has one channel, `channels` is one position."""

    positions: Tensor
    channels: Tensor

    @property
    def both(self) -> Tensor:
        """A weight for every element, broadcast."""
        return self.positions * self.channels

    def flat(self) -> Tensor:
        """The positions as [images, positions of one image]."""
        return self.positions.flatten(1)


def channel_axis(x: Tensor) -> int:
    """Axis of the channels of a value: 1 of four axes, else the last."""
    return 1 if x.dim() == 4 else x.dim() - 1


def measure_importance(
    graph: Graph,
    objective: Objective,
    values: Collection[o.Value],
    samples: Sequence[Mapping[o.Value, Array]],
    seed: int = 0,
    *,
    device: Device = "cpu",
) -> dict[o.Value, Importance]:
    """The importance of each of `values` that reaches the outputs, over `samples` (inputs of batch 1)."""
    positions: dict[o.Value, list[Tensor]] = {}
    channels: dict[o.Value, list[Tensor]] = {}
    for _, gradients in backward_passes(graph, objective, values, samples, seed=seed, device=device):
        for name, slope in gradients.items():
            axis = channel_axis(slope)
            square = slope.square()
            others = [k for k in range(square.dim()) if k != axis]
            positions.setdefault(name, []).append(square.mean(axis, keepdim=True))
            channels.setdefault(name, []).append(square.mean(others, keepdim=True))
    return {
        name: Importance(_mixed(torch.cat(found)), _mixed(torch.stack(channels[name]).mean(0)))
        for name, found in positions.items()
        if len(found) == len(samples)
    }


def _mixed(squares: Tensor) -> Tensor:
    mean = squares.mean().clamp_min(1e-30)
    return EVEN + (1 - EVEN) * squares / mean
