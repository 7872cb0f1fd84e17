"""How much each rounding disturbs the network: noise at the outputs of the integer part, to first order.

A small error e of a value moves the outputs by J e. With n a standard normal vector, the mean of (n' J e)^2 is
|J e|^2, and J' n is one backward pass, which serves every value and every weight at once (Hutchinson's estimator).
Errors of different channels are taken as uncorrelated, which steadies the estimate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from edgeq.formats import Int
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Editor, Graph, Type
from edgeq.quantize.plan import Plan
from edgeq.quantize.scale import dequantize_weight, quantize_weight
from edgeq.quantize.structure import weight_of
from edgeq.reference.interpret import Interpreter

PROJECTIONS = 3


@dataclass
class Noise:
    """Output noise power over signal power that each rounding causes: activations by class, weights by operator."""

    activations: dict[o.Value, float] = field(default_factory=dict)
    weights: dict[o.Value, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """The sum of all, as if they were independent."""
        return sum(self.activations.values()) + sum(self.weights.values())


def integer_outputs(graph: Graph, plan: Plan) -> tuple[o.Value, ...]:
    """Results of integer operators that are handed to real ones as they are: where noise is measured."""
    held, types = plan.structure.held, plan.types
    computed = [o.results(op)[0] for op in graph.ops if plan.structure.runs_on_codes(op)]
    leaving = [value for value in computed if value not in types and value not in held]
    return tuple(leaving) or graph.outputs


def rounding_error(x: Tensor, type_: Type) -> Tensor:
    """Q(x) - x for the grid of `type_` (integer, one scale)."""
    assert isinstance(type_.format, Int), type_
    (scale,) = type_.scale
    codes = torch.clamp(torch.round(x / scale) + type_.zero_point, type_.format.low, type_.format.high)
    return (codes - type_.zero_point) * scale - x


def _power_by_channel(gradient: Tensor, error: Tensor) -> float:
    product = gradient * error
    axes = [axis for axis in range(product.dim()) if axis != 1]
    return float(product.sum(axes).square().sum())


def _trimmed(graph: Graph, outputs: tuple[o.Value, ...]) -> Graph:
    editor = Editor.like(graph)
    for op in graph.ops:
        editor.append(op, *(graph.types[value] for value in o.results(op)))
    return editor.graph(outputs)


def measure_noise(graph: Graph, plan: Plan, samples: Iterable[Mapping[o.Value, Array]], seed: int = 0) -> Noise:
    """The noise of every narrow class and every quantized weight of `plan`, averaged over a few `samples`.

    Wide values are left out: their rounding is negligible beside the narrow ones'.
    """
    graph = _trimmed(graph, integer_outputs(graph, plan))
    measured = _measured_values(plan)
    interpreter = Interpreter(graph)
    errors = _weight_errors(graph, plan)
    for name in errors:
        interpreter.constants[name].requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    noise, count = Noise(), 0
    for sample in samples:
        values: dict[o.Value, Tensor] = {}

        def keep(name: o.Value, tensor: Tensor, values: dict[o.Value, Tensor] = values) -> None:
            if name in measured:
                values[name] = tensor

        inputs = {name: torch.as_tensor(array).requires_grad_() for name, array in sample.items()}
        outputs = interpreter(inputs, keep)
        wanted = [values[name] for name in values] + [interpreter.constants[name] for name in errors]
        for _ in range(PROJECTIONS):
            gradients = torch.autograd.grad(
                _projected(list(outputs.values()), generator), wanted, retain_graph=True, allow_unused=True
            )
            _add(noise, plan, measured, values, errors, gradients)
            count += 1
    for part in (noise.activations, noise.weights):
        for key in part:
            part[key] /= max(count, 1)
    return noise


def _measured_values(plan: Plan) -> dict[o.Value, o.Value]:
    """Class key of each value that is computed (not moved) and narrow."""
    structure = plan.structure
    return {
        value: key
        for key in structure.members
        for value in structure.sources(key)
        if plan.types[value].format.bits <= 8 and value not in structure.graph.constants  # type: ignore[union-attr]
    }


def _weight_errors(graph: Graph, plan: Plan) -> dict[o.Value, Tensor]:
    errors: dict[o.Value, Tensor] = {}
    for op in graph.ops:
        weight = weight_of(op)
        if weight is not None and o.results(op)[0] in plan.weights:
            type_, exact = plan.weights[o.results(op)[0]], graph.constants[weight].astype(np.float32)
            errors[weight] = torch.from_numpy(dequantize_weight(quantize_weight(exact, type_), type_) - exact)
    return errors


def _projected(outputs: list[Tensor], generator: torch.Generator) -> Tensor:
    total = torch.zeros(())
    for output in outputs:
        signal = output.detach().square().sum().clamp_min(1e-20) * len(outputs)
        total = total + (torch.randn(output.shape, generator=generator) * output).sum() / signal.sqrt()
    return total


def _add(
    noise: Noise,
    plan: Plan,
    measured: Mapping[o.Value, o.Value],
    values: Mapping[o.Value, Tensor],
    errors: Mapping[o.Value, Tensor],
    gradients: tuple[Tensor | None, ...],
) -> None:
    readers = {weight_of(op): o.results(op)[0] for op in plan.structure.graph.ops if weight_of(op)}
    with torch.no_grad():
        for name, gradient in zip([*values, *errors], gradients, strict=True):
            if gradient is None:
                continue
            if name in values:
                key = measured[name]
                power = _power_by_channel(gradient, rounding_error(values[name], plan.types[name]))
                noise.activations[key] = noise.activations.get(key, 0.0) + power
            else:
                power = float((gradient * errors[name]).flatten(1).sum(1).square().sum())
                reader = readers[name]
                noise.weights[reader] = noise.weights.get(reader, 0.0) + power
