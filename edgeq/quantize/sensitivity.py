"""How much each rounding disturbs the network: noise at the outputs of the integer part, to first order.

A small error e of a value moves the outputs by J e. With n a standard normal vector, the mean of (n' J e)^2 is
|J e|^2, and J' n is one backward pass, which serves every value and every weight at once (Hutchinson's estimator).
Errors of different channels are taken as uncorrelated, which steadies the estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from edgeq.formats import Int
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph, Type, trimmed
from edgeq.passes.batch import Batches
from edgeq.passes.together import Together
from edgeq.quantize.fake import fake_quantize
from edgeq.quantize.operators import weight_of
from edgeq.quantize.plan import Plan
from edgeq.quantize.scale import dequantize_weight
from edgeq.quantize.structure import Structure
from edgeq.reference.interpret import Device


@dataclass
class Noise:
    """Output noise power over signal power that each rounding causes: activations by class, weights by operator."""

    activations: dict[o.Value, float] = field(default_factory=dict)
    weights: dict[o.Value, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """The sum of all, as if they were independent."""
        return sum(self.activations.values()) + sum(self.weights.values())


def integer_outputs(structure: Structure) -> tuple[o.Value, ...]:
    """Results of integer operators that are handed to real ones as they are: where noise is measured."""
    graph = structure.graph
    computed = [o.results(op)[0] for op in graph.ops if structure.runs_on_codes(op)]
    leaving = [value for value in computed if value not in structure.key and value not in structure.held]
    return tuple(leaving) or graph.outputs


def rounded(x: Tensor, format: Int, scale: float, zero_point: int) -> Tensor:
    """The real x (float32) rounded to the levels of a grid and back, in one fresh tensor: most of the time goes there."""
    levels = torch.div(x, scale).round_()
    return levels.clamp_(format.low - zero_point, format.high - zero_point).mul_(scale)


def rounding_error(x: Tensor, type_: Type) -> Tensor:
    """Q(x) - x for the grid of `type_` (one scale)."""
    (scale,) = type_.scale
    if not isinstance(type_.format, Int):
        return fake_quantize(x, torch.full((), scale, dtype=x.dtype, device=x.device), type_.format) - x
    return rounded(x, type_.format, scale, type_.zero_point).sub_(x)


def power_by_channel(gradient: Tensor, error: Tensor) -> Tensor:
    """Sum over channels (axis 1) of (sum over the rest of gradient error)^2; `error` is used up."""
    product = error.mul_(gradient)
    # Rows are summed much faster than several axes at once.
    sums = product.movedim(1, 0).flatten(1).sum(1) if product.dim() > 1 else product.sum()
    return sums.square().sum()


Weigh = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""From the outputs to the weight of an error at each of their elements: noise is the sum of (weight * error)^2."""


def relative_power(outputs: Sequence[Tensor]) -> list[Tensor]:
    """Weights under which noise counts relative to the power of its own output, averaged over the outputs."""
    return [torch.rsqrt(y.detach().square().sum().clamp_min(1e-20) * len(outputs)).expand_as(y) for y in outputs]


@dataclass(frozen=True)
class Objective:
    """Where noise is measured, and how an error at each element counts."""

    outputs: tuple[o.Value, ...]
    weigh: Weigh = relative_power


def backward_passes(
    graph: Graph,
    objective: Objective,
    kept: Collection[o.Value],
    samples: Iterable[Mapping[o.Value, Array]],
    *,
    watched: Collection[o.Value] = (),
    weights: Collection[o.Value] = (),
    seed: int = 0,
    device: Device = "cpu",
) -> Iterator[tuple[dict[o.Value, Tensor], dict[o.Value, Tensor]]]:
    """For each sample the values `kept`, and the gradients of a random projection of the outputs by value.

    A sample holds one image, or several where the graph can be batched: gradients are those of each image then, but for
    the `weights`, which have the sum over the images.
    The values `watched` are shown without gradients; `weights` are constants whose gradients are wanted too. A value
    that does not reach the outputs has no gradient.
    """
    part = replace(trimmed(graph, [*objective.outputs, *watched]), outputs=objective.outputs)
    together, axes = Together(part, device), Batches(part).axes
    generator = torch.Generator().manual_seed(seed)
    for sample in samples:
        count = together.count(sample)
        interpreter = together.of(count)
        constants = interpreter.constants
        leaves = {name: constants[name].requires_grad_() for name in weights if name in constants}
        values: dict[o.Value, Tensor] = {}

        def keep(name: o.Value, tensor: Tensor, values: dict[o.Value, Tensor] = values) -> None:
            if name in kept or name in watched:
                values[name] = tensor
            if name in kept and tensor.is_floating_point() and not tensor.requires_grad:
                tensor.requires_grad_()  # the first on the way, so that nothing before it is differentiated

        inputs = {name: torch.as_tensor(array).to(device).detach() for name, array in sample.items()}
        found = list(interpreter(inputs, keep).values())
        along = [axes.get(name, 0) for name in objective.outputs]
        with torch.no_grad():
            importance = _of_each(objective.weigh, found, along, count)
        sloped = {name: value for name, value in values.items() if name in kept}
        wanted = {name: value for name, value in (sloped | leaves).items() if value.requires_grad}
        projected = _projected(found, importance, along, count, generator)
        slopes: dict[o.Value, Tensor | None] = {}
        if wanted and projected.requires_grad:
            found_slopes = torch.autograd.grad(projected, list(wanted.values()), allow_unused=True)
            slopes = dict(zip(wanted, found_slopes, strict=True))
        yield values, {name: slope for name, slope in slopes.items() if slope is not None}


def measure_noise(
    graph: Graph,
    plan: Plan,
    samples: Iterable[Mapping[o.Value, Array]],
    objective: Objective | None = None,
    seed: int = 0,
    *,
    device: Device = "cpu",
) -> Noise:
    """The noise of every narrow class and every quantized weight of `plan`, averaged over a few `samples`.

    Wide values are left out: their rounding is negligible beside the narrow ones'.
    """
    measured, errors = _measured_values(plan), _weight_errors(graph, plan, device)
    readers = {weight_of(op): o.results(op)[0] for op in plan.structure.graph.ops if weight_of(op)}
    powers: dict[tuple[str, o.Value], list[Tensor]] = {}
    count = 0
    objective = objective or Objective(integer_outputs(plan.structure))
    passes = backward_passes(graph, objective, measured, samples, weights=errors, seed=seed, device=device)
    for values, gradients in passes:
        count += 1
        with torch.no_grad():
            for name, slope in gradients.items():
                if name in errors:
                    power = (slope * errors[name]).flatten(1).sum(1).square().sum()
                    powers.setdefault(("weights", readers[name]), []).append(power)
                else:
                    power = power_by_channel(slope, rounding_error(values[name], plan.types[name]))
                    powers.setdefault(("activations", measured[name]), []).append(power)
    found = Noise()
    sums = torch.stack([torch.stack(part).double().sum() for part in powers.values()]).tolist() if powers else []
    for (part, key), total in zip(powers, sums, strict=True):
        getattr(found, part)[key] = total / count
    return found


def _measured_values(plan: Plan) -> dict[o.Value, o.Value]:
    """Class key of each value that is computed (not moved) and narrow."""
    structure = plan.structure
    return {
        value: key
        for key in structure.members
        for value in structure.sources(key)
        if plan.types[value].format.bits <= 8 and value not in structure.graph.constants  # type: ignore[union-attr]
    }


def _weight_errors(graph: Graph, plan: Plan, device: Device) -> dict[o.Value, Tensor]:
    errors: dict[o.Value, Tensor] = {}
    for op in graph.ops:
        weight = weight_of(op)
        if weight is not None and o.results(op)[0] in plan.weights:
            out, exact = o.results(op)[0], graph.constants[weight].astype(np.float32)
            rounded = dequantize_weight(plan.weight_codes(out, exact), plan.weights[out])
            errors[weight] = torch.from_numpy(rounded - exact).to(device)
    return errors


def _of_each(weigh: Weigh, outputs: Sequence[Tensor], axes: Sequence[int], count: int) -> Sequence[Tensor]:
    """The weights of every image, which lie along `axes` of the outputs."""
    if count == 1:
        return weigh(outputs)
    images = zip(*(y.chunk(count, axis) for y, axis in zip(outputs, axes, strict=True)), strict=True)
    found = zip(*map(weigh, images), strict=True)
    return [torch.cat(parts, axis) for parts, axis in zip(found, axes, strict=True)]


def _projected(
    outputs: Sequence[Tensor], weights: Sequence[Tensor], axes: Sequence[int], count: int, generator: torch.Generator
) -> Tensor:
    """The sum of all outputs, each element times its weight and a number that is drawn image by image."""
    real = [k for k, y in enumerate(outputs) if y.is_floating_point()]
    shapes = {k: outputs[k].chunk(count, axes[k])[0].shape for k in real}
    drawn = [{k: torch.randn(shapes[k], generator=generator) for k in real} for _ in range(count)]
    total = torch.zeros((), device=outputs[0].device)
    for k in real:
        factors = torch.cat([image[k] for image in drawn], axes[k])  # drawn on the CPU: the same on every device
        total = total + (factors.to(total.device) * weights[k] * outputs[k]).sum()
    return total
