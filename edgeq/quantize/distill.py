"""What training minimizes: the distance of the rounded network from its own float original, and the labels' loss.

The float network answers for every image, so training needs no labels. Distances count as the noise that ranges are
chosen by: at the outputs as the task weighs them, and at the end of the integer part. A classifier is compared by its
distribution (Hinton et al., Distilling the Knowledge in a Neural Network, 2015).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.passes.together import Together
from edgeq.quantize.distance import Loss
from edgeq.quantize.plan import Plan
from edgeq.quantize.sensitivity import Objective
from edgeq.quantize.units import units

BLOCK_LAYERS = 3
"""A block has up to so many layers."""


@dataclass(frozen=True)
class Follows:
    """What a network under rounding is led by: the float `teacher`, and more.

    `loss` compares the outputs instead of what is usual for the task, and `judge` those of images held out (None: `loss`).
    `hints` are values inside that have to stay near, too, by their relative squared error times `weight`: they say far
    more about an image than its few outputs, so that few images are not learned by heart (FitNets, arXiv 1412.6550; for
    rounding BRECQ, arXiv 2102.05426).
    """

    teacher: Graph
    loss: Loss | None = None
    judge: Loss | None = None
    hints: tuple[o.Value, ...] = ()
    weight: float = 0.0


class Teacher:
    """The float network: gives the values of `objective` for a batch of images."""

    def __init__(self, graph: Graph, objective: Objective, device: torch.device) -> None:
        self.objective, self._together = objective, Together(graph, device)

    @torch.no_grad()
    def __call__(self, inputs: Mapping[o.Value, Tensor]) -> list[Tensor]:
        """Values of the objective's outputs, in order."""
        found: dict[o.Value, Tensor] = {}

        def keep(value: o.Value, tensor: Tensor) -> None:
            if value in self.objective.outputs:
                found[value] = tensor

        self._together(inputs, keep)
        return [found[value] for value in self.objective.outputs]


def block_exits(graph: Graph, plan: Plan) -> tuple[o.Value, ...]:
    """What leaves the blocks of `graph`, each of up to BLOCK_LAYERS layers, besides its outputs."""
    exits = (name for unit in units(graph, plan.weights.keys(), BLOCK_LAYERS).values() for name in unit.exits)
    return tuple(name for name in exits if name not in graph.outputs and graph.types[name].is_real)


def noise(objective: Objective, wanted: Sequence[Tensor], found: Sequence[Tensor]) -> Tensor:
    """Weighed squared distance of `found` from the teacher's `wanted`, relative to the signal."""
    total = torch.zeros((), device=wanted[0].device)
    for y, target, weight in zip(found, wanted, objective.weigh(wanted), strict=True):
        if target.is_floating_point():
            total = total + (weight * (y.float() - target)).square().sum()
    return total


def classification_loss(wanted: Tensor, found: Tensor, labels: Tensor | None, *, probabilities: bool) -> Tensor:
    """Mean cross entropy [N, classes] against the teacher's distribution and, in equal parts, the `labels`."""
    scores = found.float()
    log_share = scores.clamp_min(1e-12).log() if probabilities else scores.log_softmax(1)
    share = wanted if probabilities else wanted.softmax(1)
    distilled = -(share * log_share).sum(1).mean()
    return distilled if labels is None else (distilled + F.nll_loss(log_share, labels)) / 2
