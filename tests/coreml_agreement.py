"""A saved CoreML package beside the reference, operator by operator: each gets the operands that the file computed.

The bound is half precision's and nothing else. With u = 2^-11, a file rounds every operand that it decompresses (one u
each for weight and activation) and the result (one u), and sums in float32 (less than one u for any sum here); so a
result may be off by 4 u M, where M is the operator on the magnitudes of its operands, each raised by the smallest
normal number for the sake of rounding below it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgeq.emit.coreml import emit
from edgeq.emit.coreml_writer import is_narrow
from edgeq.formats import code_range, decode
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph, Type
from edgeq.reference.meaning import apply_function, evaluate
from edgeq.runtimes.coreml import CoreMLRuntime
from edgeq.target import Target

UNIT = 2.0**-11
ROUNDINGS = 4
SMALLEST_NORMAL = 2.0**-14
STEEPEST = 1.13
"""No function that is tabulated on codes is steeper."""

FLOAT_ERROR = 2.0**-12
"""Share of x that stands for float32's own error in functions whose terms cancel, such as gelu far below zero."""

Reals = NDArray[np.float64]
_LINEAR = (o.Conv, o.ConvTranspose, o.Linear, o.MatMul, o.Mean, o.AveragePool, o.Reduce, o.Resize)


@dataclass(frozen=True)
class Comparison:
    """One value: what the reference makes of the file's operands, what the file has, and how far they may be apart."""

    value: o.Value
    reference: Reals
    found: Reals
    bound: Reals

    @property
    def share_of_bound(self) -> float:
        """The largest difference as a share of what is allowed."""
        return float((np.abs(self.found - self.reference) / self.bound).max(initial=0.0))


class _File:
    """The reals of every value of `graph` as the file has them; of codes, exactly what they stand for."""

    def __init__(self, graph: Graph, tensors: Mapping[o.Value, str], seen: Mapping[str, Array]) -> None:
        self.graph, self.tensors, self.seen = graph, tensors, seen
        self.same = {op.out: op.x for op in graph.ops if isinstance(op, o.Quantize | o.Dequantize | o.Requantize)}

    def source(self, value: o.Value) -> o.Value:
        while value not in self.tensors and value in self.same:
            value = self.same[value]
        return value

    def real(self, value: o.Value) -> torch.Tensor:
        source = self.source(value)
        type_ = self.graph.types[source]
        if source in self.graph.constants:
            content = self.graph.constants[source]
            return torch.from_numpy(_exact(content, type_) if type_.scale else _wide(content))
        found = self.seen[self.tensors[source]]
        return torch.from_numpy(_exact(found, type_) if is_narrow(type_) else _wide(found))


def _exact(codes: Array, type_: Type) -> Reals:
    reals: Reals = decode(type_.format, codes, type_.zero_point) * type_.scales
    return reals


def _wide(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def compare_locally(
    graph: Graph, target: Target, inputs: Mapping[o.Value, Array], folder: Path
) -> Iterator[Comparison]:
    """Every value that the file computes, codes in units of their scale plus zero point."""
    artifact = emit(graph, target, folder, "net", {}, {})
    runtime = CoreMLRuntime(artifact.primary, interpret=True)
    seen = runtime.watching(artifact.tensors.values()).run(inputs) if artifact.tensors else {}
    file = _File(graph, artifact.tensors, seen)
    for op in graph.ops:
        reference, bound = _meaning(op, file)
        for value, real, allowed in zip(o.results(op), reference, bound, strict=True):
            if value in artifact.tensors:
                yield _compared(op, value, real.numpy(), allowed, file)


def _compared(op: o.Op, value: o.Value, reference: Reals, bound: Reals, file: _File) -> Comparison:
    type_, found = file.graph.types[value], file.seen[file.tensors[value]].astype(np.float64)
    low, high = (op.low, op.high) if isinstance(op, o.Requantize) else (None, None)
    if is_narrow(type_):
        ends = code_range(type_.format) if low is None else (low, high)
        codes = np.clip(reference / type_.scale[0] + type_.zero_point, *ends)
        return Comparison(value, codes, found, 0.5 + bound / type_.scale[0])
    if low is not None:
        ends = tuple((code - type_.zero_point) * type_.scale[0] for code in (low, high))
        reference = np.clip(reference, *ends)
    return Comparison(value, np.asarray(reference, np.float64), found, bound)


def _meaning(op: o.Op, file: _File) -> tuple[list[torch.Tensor], list[Reals]]:
    """Results of `op` on the file's operands in double precision, and their bounds."""
    if isinstance(op, o.Quantize | o.Dequantize | o.Requantize):
        real = file.real(op.x)
        return [real], [_bound(real.abs())]
    if isinstance(op, o.Lookup):
        x = file.real(op.x)
        real = apply_function(op.function, x)
        return [real], [_bound(real.abs() + STEEPEST * x.abs())]
    results = list(evaluate(op, file.real))
    if not results[0].is_floating_point():
        return results, [np.full(result.shape, 0.5) for result in results]
    return results, [_bound(_magnitude(op, results[0], file))] + [np.full(r.shape, 0.5) for r in results[1:]]


def _bound(magnitude: torch.Tensor) -> Reals:
    bound: Reals = ROUNDINGS * UNIT * (magnitude.numpy() + SMALLEST_NORMAL)
    return bound


def _magnitude(op: o.Op, result: torch.Tensor, file: _File) -> torch.Tensor:
    def raised(value: o.Value) -> torch.Tensor:
        return file.real(value).abs() + SMALLEST_NORMAL

    match op:
        case o.Resize(mode="cubic"):
            return result.abs() + 2 * file.real(op.x).abs().max()
        case o.Resize():
            return result.abs() + file.real(op.x).abs().max()
        case o.Reduce():
            return evaluate(replace(op, function="sum") if op.function == "sum" else op, raised)[0]
        case _ if isinstance(op, _LINEAR):
            return evaluate(op, raised)[0]
        case o.Add() | o.Sub():
            return raised(op.a) + raised(op.b)
        case o.ChannelAffine() | o.LayerNorm() | o.GroupNorm():
            beta = op.shift if isinstance(op, o.ChannelAffine) else op.beta
            largest = 0.0 if beta is None else float(file.real(beta).abs().max())
            return result.abs() + 2 * largest + 1e-2
        case o.Binary(function="pow"):
            return result.abs() * (1 + raised(op.b) * raised(op.a).log().abs())
        case o.Apply():
            steepest = STEEPEST if is_narrow(file.graph.types[file.source(op.x)]) else FLOAT_ERROR
            return result.abs() + steepest * raised(op.x)
        case _:
            return result.abs()
