"""The loss that each format would cause at each weight and at each class of values: what allocation minimizes.

    noise      |J e|^2, the noise at the outputs to first order, errors of one channel summed with their signs (default)
    measured   the same of the true outputs, with one weight or class rounded at a time: slow, and exact one by one
    hessian    tr(J'J) / n |e|^2: HAWQ's mean trace of the Gauss-Newton Hessian, by Hutchinson's estimator
    fisher     sum (J'n)^2 e^2 with random n: the diagonal alone
    lrp        sum |x J'n| 2^(-2 bits): relevance by LRP's rule zero, the gradient times the value (after LRP-QViT)
    error      |e|^2 / |x|^2, a proxy that knows no network
    bits       n 2^(-2 bits), a proxy that knows no numbers

e is the rounding error, J the derivative of the weighed outputs (edgeq/quantize/sensitivity.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from edgeq.formats import Format, bits_of
from edgeq.ir.graph import Array, Type, trimmed
from edgeq.ir.ops import Value
from edgeq.quantize.assign import weight_axis
from edgeq.quantize.operators import weight_of
from edgeq.quantize.scale import dequantize_weight, quantize_weight, weight_type
from edgeq.quantize.sensitivity import Objective, backward_passes, power_by_channel, rounding_error
from edgeq.quantize.structure import Structure
from edgeq.reference.interpret import Device, Interpreter

Kind = Literal["noise", "measured", "hessian", "fisher", "lrp", "error", "bits"]
KINDS: tuple[Kind, ...] = get_args(Kind)

Samples = Iterable[Mapping[Value, Array]]
Grids = Mapping[tuple[Value, int], Type]
"""The type of a class of values, by its key, in every number of bits that is considered."""


@dataclass
class Losses:
    """Loss by (operator, format of its weights) and by (class of values, bits)."""

    weights: dict[tuple[Value, Format], float] = field(default_factory=dict)
    activations: dict[tuple[Value, int], float] = field(default_factory=dict)

    def divided(self, count: int) -> Losses:
        """The mean of `count` samples."""
        parts = ({key: loss / max(count, 1) for key, loss in part.items()} for part in (self.weights, self.activations))
        return Losses(*parts)  # type: ignore[arg-type]  # two dictionaries of unlike keys


def weight_errors(
    structure: Structure, formats: Mapping[Value, Iterable[Format]]
) -> dict[tuple[Value, Format], Tensor]:
    """Q(w) - w of the weights of every operator, by its result, in each of its `formats`."""
    found: dict[tuple[Value, Format], Tensor] = {}
    for result, choices in formats.items():
        op = structure.graph.producer[result]
        weight = weight_of(op)
        assert weight is not None, op
        exact = structure.graph.constants[weight].astype(np.float32)
        for format_ in choices:
            clip: Literal["squared_error", "largest"] = "squared_error" if bits_of(format_) < 8 else "largest"
            type_ = weight_type(exact, format_, weight_axis(op), clip=clip, where=weight)
            found[result, format_] = torch.from_numpy(dequantize_weight(quantize_weight(exact, type_), type_) - exact)
    return found


def measure_losses(
    structure: Structure,
    errors: Mapping[tuple[Value, Format], Tensor],
    grids: Grids,
    samples: Samples,
    objective: Objective,
    kind: Kind = "noise",
    *,
    device: Device = "cpu",
) -> Losses:
    """The loss of every entry of `errors` and `grids`, averaged over `samples`."""
    errors = {key: error.to(device) for key, error in errors.items()}
    if kind == "measured":
        return _one_at_a_time(structure, errors, grids, samples, objective, device)
    found, count = Losses(dict.fromkeys(errors, 0.0), dict.fromkeys(grids, 0.0)), 0
    weights = {_weight(structure, result) for result, _ in errors}
    sources = _sources(structure, grids)
    passes = backward_passes(structure.graph, objective, sources, samples, weights=weights, device=device)
    for values, slopes in passes:
        count += 1
        with torch.no_grad():
            for (result, format_), error in errors.items():
                weight = _weight(structure, result)
                array = torch.from_numpy(structure.graph.constants[weight]).to(device)
                found.weights[result, format_] += _loss(
                    kind, slopes.get(weight), error, array, bits_of(format_), axis=0
                )
            for (key, bits), type_ in grids.items():
                for value in (value for value in structure.sources(key) if value in values):
                    x = values[value]
                    loss = _loss(kind, slopes.get(value), rounding_error(x, type_), x, bits, axis=1)
                    found.activations[key, bits] += loss
    return found.divided(count)


def _weight(structure: Structure, result: Value) -> Value:
    weight = weight_of(structure.graph.producer[result])
    assert weight is not None, result
    return weight


def _sources(structure: Structure, grids: Grids) -> dict[Value, Value]:
    """Class of every computed value whose rounding is considered."""
    constants = structure.graph.constants
    return {v: key for key, _ in grids for v in structure.sources(key) if v not in constants}


def _loss(kind: Kind, slope: Tensor | None, error: Tensor, x: Tensor, bits: int, *, axis: int) -> float:
    if kind == "bits":
        return error.numel() * 4.0**-bits
    if kind == "error":
        return float(error.square().sum() / x.square().sum().clamp_min(1e-30))
    if slope is None:
        return 0.0
    match kind:
        case "hessian":
            return float(slope.square().mean() * error.square().sum())
        case "fisher":
            return float((slope * error).square().sum())
        case "lrp":
            return float((slope * x).abs().sum()) * 4.0**-bits
        case _:
            power = power_by_channel(slope, error) if axis else (slope * error).flatten(1).sum(1).square().sum()
            return float(power)


# --- one at a time ------------------------------------------------------------------------------------------------


def _one_at_a_time(
    structure: Structure,
    errors: Mapping[tuple[Value, Format], Tensor],
    grids: Grids,
    samples: Samples,
    objective: Objective,
    device: Device,
) -> Losses:
    interpreter = Interpreter(trimmed(structure.graph, objective.outputs), device)
    found, count = Losses(dict.fromkeys(errors, 0.0), dict.fromkeys(grids, 0.0)), 0
    with torch.no_grad():
        for sample in samples:
            count += 1
            wanted = list(interpreter(sample).values())
            importance = objective.weigh(wanted)

            def noise(
                outputs: Iterable[Tensor], wanted: list[Tensor] = wanted, weights: Iterable[Tensor] = importance
            ) -> float:
                triples = zip(outputs, wanted, weights, strict=True)
                return sum(float(((y - x) * w).square().sum()) for y, x, w in triples if x.is_floating_point())

            for (result, format_), outputs in _with_weights(interpreter, structure, errors, sample):
                found.weights[result, format_] += noise(outputs)
            for (key, bits), type_ in grids.items():
                found.activations[key, bits] += noise(_with_values(interpreter, structure.sources(key), type_, sample))
    return found.divided(count)


def _with_weights(
    interpreter: Interpreter,
    structure: Structure,
    errors: Mapping[tuple[Value, Format], Tensor],
    sample: Mapping[Value, Array],
) -> Iterator[tuple[tuple[Value, Format], Iterable[Tensor]]]:
    for (result, format_), error in errors.items():
        weight = _weight(structure, result)
        if weight not in interpreter.constants:
            continue
        exact = interpreter.constants[weight]
        interpreter.constants[weight] = exact + error
        outputs = interpreter(sample)
        interpreter.constants[weight] = exact
        yield (result, format_), outputs.values()


def _with_values(
    interpreter: Interpreter, sources: Iterable[Value], type_: Type, sample: Mapping[Value, Array]
) -> Iterable[Tensor]:
    rounded = frozenset(sources)
    return interpreter(sample, lambda name, x: x + rounding_error(x, type_) if name in rounded else None).values()
