"""The quantized network on real tensors: what lowering will compute, but differentiable and in batches.

Values are rounded to the levels of their planned types and weights to theirs, between them the real operators run.
It differs from the integer graph by the rounding of near-ties in requantization only. Rounding passes gradients
straight through inside the range and none outside; a scale that is learned gets the gradient of Esser et al. (LSQ).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from edgeq.formats import Codebook, Float, Format, level_range, level_table
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph
from edgeq.passes.batch import Batches
from edgeq.quantize.fake import fake_quantize
from edgeq.quantize.operators import weight_of
from edgeq.quantize.plan import Plan
from edgeq.quantize.scale import dequantize_weight
from edgeq.reference.meaning import evaluate

Read = Callable[[o.Value], Tensor]


def straight(rounded: Tensor, x: Tensor) -> Tensor:
    """`rounded` with the gradient of x."""
    return x + (rounded - x).detach()


def sorted_levels(format: Format) -> Tensor:
    """The levels of a table format in ascending order, float64."""
    return torch.from_numpy(np.unique(level_table(format)).astype(np.float64))


@lru_cache(maxsize=64)
def _levels_on(format: Format, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The sorted levels, and the middles between them."""
    levels = sorted_levels(format).to(device, dtype)
    return levels, (levels[1:] + levels[:-1]) / 2


def nearest_level(v: Tensor, format: Format, zero_point: int = 0) -> Tensor:
    """The level nearest to each v (a real over its scale), saturating."""
    if isinstance(format, Float | Codebook):
        levels, middles = _levels_on(format, v.device, v.dtype)
        return levels[torch.bucketize(v, middles)]
    return torch.round(v).clamp_(*level_range(format, zero_point))


@dataclass
class Simulation:
    """One quantized network on `device`.

    `weights` and `biases` of operators on codes are as they will be dequantized, by the operators' results; `scales`
    are learned scales of classes of values, which stand in for the planned ones. `drop` is the share of elements that
    rounding passes over at random (QDrop), for learning only.
    """

    graph: Graph
    plan: Plan
    device: torch.device
    weights: dict[o.Value, Tensor] = field(default_factory=dict)
    biases: dict[o.Value, Tensor] = field(default_factory=dict)
    scales: dict[o.Value, Tensor] = field(default_factory=dict)
    constants: dict[o.Value, Tensor] = field(default_factory=dict)
    drop: float = 0.0
    generator: torch.Generator | None = None

    @cached_property
    def batches(self) -> Batches:
        """How operators run on several images at once."""
        return Batches(self.graph)

    @classmethod
    def of(cls, graph: Graph, plan: Plan, device: torch.device) -> Simulation:
        """The simulation of `plan` as it is."""
        found = cls(graph, plan, device)
        found.constants = {name: _on(array, device) for name, array in graph.constants.items()}
        for op in graph.ops:
            weight, out = weight_of(op), o.results(op)[0]
            if weight is not None and out in plan.weights:
                codes = plan.weight_codes(out, graph.constants[weight])
                found.weights[out] = _on(dequantize_weight(codes, plan.weights[out]), device)
                if out in plan.biases:
                    found.biases[out] = _on(planned_bias(plan, op), device)
        return found

    def rounded(self, value: o.Value, x: Tensor) -> Tensor:
        """x on the grid of `value`."""
        type_, scale = self.plan.types[value], self.scales.get(self.plan.structure.key[value])
        step = torch.full((), type_.scale[0], dtype=x.dtype, device=x.device) if scale is None else scale
        found = fake_quantize(x, step, type_.format, type_.zero_point)
        return self.mixed(found, x) if self.drop else found

    def mixed(self, rounded: Tensor, exact: Tensor) -> Tensor:
        """`rounded`, but for the share `drop` of elements, which stay `exact`."""
        chance = torch.rand(exact.shape, generator=self.generator, device=exact.device)
        return torch.where(chance < self.drop, exact, rounded)

    def outputs(self, images: Mapping[o.Value, Tensor], *, real: bool = False) -> list[Tensor]:
        """The outputs for `images`, of the `real` network or of the quantized one; values are forgotten on the way."""
        values, step = dict(images), self.real if real else self.quantized
        for op in self.graph.ops:
            values.update(zip(o.results(op), step(op, values.__getitem__), strict=True))
            for name in {name for name in o.operands(op) if self._last[name] is op} - {*self.graph.outputs}:
                values.pop(name, None)
        return [values[name] for name in self.graph.outputs]

    @cached_property
    def _last(self) -> dict[o.Value, o.Op]:
        """By value the operator that reads it last."""
        return {value: op for op in self.graph.ops for value in o.operands(op)}

    def real(self, op: o.Op, read: Read) -> tuple[Tensor, ...]:
        """Results of `op` in float."""
        return self._evaluated(op, self._reading(read), read)

    def _evaluated(self, op: o.Op, operand: Read, read: Read) -> tuple[Tensor, ...]:
        """Results of `op` for as many images as `read` holds, from what `operand` makes of them."""
        *before, last = self.batches.of(op, lambda name: tuple(read(name).shape))
        made: dict[o.Value, Tensor] = {}

        def known(name: o.Value) -> Tensor:
            return made[name] if name in made else operand(name)

        for extra in before:
            made.update(zip(o.results(extra), evaluate(extra, known), strict=True))
        return evaluate(last, known)

    def quantized(self, op: o.Op, read: Read) -> tuple[Tensor, ...]:
        """Results of `op` in the quantized network, given what came before there."""
        if not self.plan.structure.runs_on_codes(op):
            return self.real(op, read)
        (out, *_), types = o.results(op), self.plan.types
        learned = {weight_of(op): self.weights.get(out), getattr(op, "bias", None): self.biases.get(out)}

        def operand(name: o.Value) -> Tensor:
            known = learned.get(name)
            return self.operand(name, read) if known is None else known

        found = self._evaluated(op, operand, read)
        return tuple(
            self.rounded(name, x) if name in types else x for name, x in zip(o.results(op), found, strict=True)
        )

    def operand(self, name: o.Value, read: Read) -> Tensor:
        """What an operator on codes reads as `name`: results of real operators are rounded on the way."""
        x, maker = self._reading(read)(name), self.graph.producer.get(name)
        if name not in self.plan.types or (maker is not None and self.plan.structure.runs_on_codes(maker)):
            return x
        return self.rounded(name, x)

    def _reading(self, read: Read) -> Read:
        return lambda name: self.constants[name] if name in self.constants else read(name)


def _on(array: Array, device: torch.device) -> Tensor:
    wide = array.astype(np.float32) if array.dtype.kind == "f" else array
    return torch.from_numpy(np.array(wide, order="C")).to(device)


def planned_bias(plan: Plan, op: o.Op) -> Array:
    """The real bias that the planned codes stand for."""
    (out, *_) = o.results(op)
    assert isinstance(op, o.Conv | o.ConvTranspose | o.Linear), op
    real: Array = plan.biases[out] * np.array(plan.weights[out].scale) * plan.types[op.x].scale[0]
    return real.astype(np.float32)
