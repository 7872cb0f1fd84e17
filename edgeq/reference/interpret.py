"""The reference interpreter: the one definition of what a graph computes.

Real values are float32. Codes are held exactly: in float32 while every number involved is below 2**24, in float64
below 2**53, in int64 beyond; the bounds are proved (edgeq/ir/bounds.py), so integer convolutions run on the float
kernels without rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor

from edgeq.errors import UsageError
from edgeq.formats import INDEX, Codebook, Fixed, Float, Int, Real, code_range, decode, encode, level_table
from edgeq.ir import ops as o
from edgeq.ir.bounds import (
    accumulates,
    epsilon_level,
    is_codes,
    level_bounds,
    normalized_count,
    partial_sums,
)
from edgeq.ir.graph import Array, Graph, Type
from edgeq.reference.arithmetic import divide_away, requantize, round_away
from edgeq.reference.layer_norm import normalize
from edgeq.reference.meaning import evaluate
from edgeq.reference.softmax import softmax

Watch = Callable[[o.Value, Tensor], Tensor | None]
"""Told every computed value (and input) by name; a tensor that it returns takes the value's place."""

# NNPACK's convolutions may use Winograd transforms, which are not exact on integers.
torch.backends.nnpack.set_flags(False)  # type: ignore[no-untyped-call]


Device = str | torch.device


def carrier(bound: int) -> torch.dtype:
    """The cheapest dtype that holds integers of magnitude up to `bound` and their sums exactly."""
    if bound < 1 << 24:
        return torch.float32
    return torch.float64 if bound < 1 << 53 else torch.int64


def along_axis(numbers: tuple[float, ...] | tuple[int, ...], type_: Type, dtype: torch.dtype) -> Tensor:
    """`numbers` as a tensor that broadcasts against a value of `type_`: a scalar, or one entry per channel."""
    tensor = torch.tensor(numbers, dtype=dtype)
    if len(numbers) == 1 or type_.axis is None:
        return tensor.reshape(())
    shape = [1] * len(type_.shape)
    shape[type_.axis] = -1
    return tensor.reshape(shape)


def _steps(graph: Graph) -> Iterator[tuple[o.Op, tuple[o.Value, ...], tuple[o.Value, ...]]]:
    """Every operator with its results, and the values that nothing needs after it."""
    last_reader = {value: op for op in graph.ops for value in o.operands(op)}
    for op in graph.ops:
        ended = (name for name in o.operands(op) if last_reader[name] is op and name not in graph.outputs)
        yield op, o.results(op), tuple(ended)


class Interpreter:
    """Runs one graph; `constants` are its constants as tensors, prepared once."""

    def __init__(self, graph: Graph, device: Device = "cpu") -> None:
        self.graph = graph
        self.device = torch.device(device)
        self._bounds = level_bounds(graph) if any(map(is_codes, graph.types.values())) else {}
        self.constants = {name: self._constant(name, array) for name, array in graph.constants.items()}
        self._weight_levels = {name: self._levels_of_constant(name) for name in graph.constants}
        self._sums = {o.results(op)[0]: self._carrier_of_sums(op) for op in graph.ops if self._sums_levels(op)}
        self._steps = tuple(_steps(graph))

    def __call__(self, inputs: Mapping[o.Value, Tensor | Array], watch: Watch | None = None) -> dict[o.Value, Tensor]:
        """Outputs by name for `inputs` by name; see `Watch`."""
        values: dict[o.Value, Tensor] = {}
        for name in self.graph.inputs:
            values[name] = self._watched(name, self._input(name, inputs), watch)
        for op, results, read_last in self._steps:
            for name, tensor in zip(results, self._step(op, values), strict=True):
                values[name] = self._watched(name, tensor, watch)
            for name in read_last:
                values.pop(name, None)
        return {name: values[name] if name in values else self.constants[name] for name in self.graph.outputs}

    def _watched(self, name: o.Value, tensor: Tensor, watch: Watch | None) -> Tensor:
        replacement = watch(name, tensor) if watch else None
        return tensor if replacement is None else replacement.to(self.device, tensor.dtype)

    def _input(self, name: o.Value, inputs: Mapping[o.Value, Tensor | Array]) -> Tensor:
        if name not in inputs:
            raise UsageError("an input is missing", where=name, allowed=", ".join(self.graph.inputs))
        tensor = torch.as_tensor(inputs[name], device=self.device)
        type_ = self.graph.types[name]
        if tuple(tensor.shape) != type_.shape:
            raise UsageError("wrong input shape", where=name, value=tuple(tensor.shape), allowed=type_.shape)
        return tensor.to(self._dtype(name))

    def _dtype(self, name: o.Value) -> torch.dtype:
        type_ = self.graph.types[name]
        if is_codes(type_):
            return self._carrier(name)
        return torch.float32 if type_.is_real else torch.int64 if type_.format == INDEX else torch.bool

    def _carrier(self, name: o.Value) -> torch.dtype:
        type_ = self.graph.types[name]
        low, high = self._bounds[name]
        if isinstance(type_.format, Int | Fixed):
            low, high = min(low, low + type_.zero_point), max(high, high + type_.zero_point)
        return carrier(max(abs(low), abs(high)))

    def _constant(self, name: o.Value, array: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, self._dtype(name))

    def _sums_levels(self, op: o.Op) -> bool:
        return accumulates(op) and is_codes(self.graph.types[o.results(op)[0]])

    def _carrier_of_sums(self, op: o.Op) -> torch.dtype:
        """For every partial sum, in any order of summation, and for the operands' levels."""
        intervals = [partial_sums(self.graph, op, self._bounds.__getitem__)]
        intervals += [self._bounds[value] for value in o.operands(op)]
        found = carrier(max(abs(end) for interval in intervals for end in interval))
        # An accelerator may round single precision to fewer bits or transform convolutions; double it leaves alone.
        return torch.float64 if found == torch.float32 and self.device.type != "cpu" else found

    def _levels_of_constant(self, name: o.Value) -> Tensor | None:
        type_ = self.graph.types[name]
        if not is_codes(type_):
            return None
        levels = decode(type_.format, self.graph.constants[name], type_.zero_point)
        return torch.from_numpy(levels).to(self.device)

    def _step(self, op: o.Op, values: dict[o.Value, Tensor]) -> tuple[Tensor, ...]:
        def value(name: o.Value) -> Tensor:
            return values[name] if name in values else self.constants[name]

        types = self.graph.types
        match op:
            case o.Quantize():
                return (self._quantize(op, value(op.x)),)
            case o.Dequantize():
                return (self._dequantize(value(op.x), types[op.x]),)
            case o.Requantize():
                return (self._requantize(op, value(op.x)),)
            case o.DivideCodes():
                return (self._divide_codes(op, value(op.x)),)
            case o.Lookup():
                return (self._lookup(op, value(op.x), value(op.table)),)
        if not is_codes(types[o.results(op)[0]]):
            return evaluate(op, value)
        match op:
            case o.Conv() | o.ConvTranspose() | o.Linear() | o.MatMul() | o.Mul() | o.AveragePool() | o.Mean():
                return self._on_levels(op, value)
            case o.Add() | o.Sub() | o.Reduce(function="sum"):
                return self._on_levels(op, value)
            case o.Softmax():
                return (self._softmax(op, value),)
            case o.LayerNorm():
                return (self._layer_norm(op, value),)
            case o.Resize() if op.mode != "nearest":
                return self._on_levels(op, value)
            case o.Pad() if op.mode == "constant":
                return evaluate(self._pad_with_code(op), value)
            case _:
                return evaluate(op, value)

    def _on_levels(self, op: o.Op, value: Callable[[o.Value], Tensor]) -> tuple[Tensor, ...]:
        dtype = self._sums[o.results(op)[0]]
        level = partial(self._level, value=value, dtype=dtype)
        if dtype == torch.int64 and isinstance(op, o.Conv | o.ConvTranspose):
            raise UsageError("an accumulator may exceed 53 bits", where=op.out, next_step="Use fewer bits.")
        if dtype == torch.int64:  # which accelerators neither multiply as matrices nor pool
            level = partial(self._level_on_cpu, value=value)
        (result,) = evaluate(op, level, exact=True)
        return (result.to(self.device, self._dtype(o.results(op)[0])),)

    def _softmax(self, op: o.Softmax, value: Callable[[o.Value], Tensor]) -> Tensor:
        assert op.table is not None, op
        x, table = (self._level(name, value, torch.int64) for name in (op.x, op.table))
        return softmax(x, table, op.axis).to(self._dtype(op.out))

    def _layer_norm(self, op: o.LayerNorm, value: Callable[[o.Value], Tensor]) -> Tensor:
        type_ = self.graph.types[op.x]
        epsilon = epsilon_level(op.epsilon, type_.scale[0], normalized_count(op, type_.shape))
        y = normalize(self._level(op.x, value, torch.int64), op.axis, epsilon)
        y = y if op.gamma is None else y * self._level(op.gamma, value, torch.int64)
        y = y if op.beta is None else y + self._level(op.beta, value, torch.int64)
        return y.to(self._dtype(op.out))

    def _level(self, name: o.Value, value: Callable[[o.Value], Tensor], dtype: torch.dtype) -> Tensor:
        known = self._weight_levels.get(name)
        if known is not None:
            return known.to(dtype)
        type_, tensor = self.graph.types[name], value(name)
        if isinstance(type_.format, Float | Codebook):
            return torch.from_numpy(level_table(type_.format)).to(self.device, dtype)[tensor.long()]
        tensor = tensor.to(dtype)
        return tensor - type_.zero_point if type_.zero_point else tensor

    def _level_on_cpu(self, name: o.Value, value: Callable[[o.Value], Tensor]) -> Tensor:
        return self._level(name, value, torch.int64).cpu()

    def _quantize(self, op: o.Quantize, x: Tensor) -> Tensor:
        type_, dtype = self.graph.types[op.out], self._dtype(op.out)
        scale = along_axis(type_.scale, type_, torch.float32).to(x.device)
        ratio = x * (1 / scale) if op.reciprocal else x / scale
        if isinstance(type_.format, Float | Codebook):
            return torch.from_numpy(encode(type_.format, ratio.cpu().numpy())).to(x.device, dtype)
        low, high = code_range(type_.format)
        # Before rounding, so that infinities saturate; the ends are whole numbers.
        inside = torch.clamp(ratio, low - type_.zero_point, high - type_.zero_point)
        nearest = torch.round(inside) if op.ties == "even" else round_away(inside)
        return (nearest + type_.zero_point).to(dtype)

    def _dequantize(self, x: Tensor, type_: Type) -> Tensor:
        if isinstance(type_.format, Float | Codebook):
            level = torch.from_numpy(level_table(type_.format))[x.long().cpu()].to(x.device)
        else:
            level = x - type_.zero_point if type_.zero_point else x
        return level.to(torch.float32) * torch.from_numpy(type_.scales).to(x.device, torch.float32)

    def _requantize(self, op: o.Requantize, x: Tensor) -> Tensor:
        from_type, to_type = self.graph.types[op.x], self.graph.types[op.out]
        dtype = self._dtype(op.out)
        level = self._level(op.x, lambda _: x, x.dtype)
        # Zero point and clamp must be exact too, so a result beyond float32's integers is computed in int64.
        if op.rounding != "fp32rne" or dtype != torch.float32:
            level = level.to(torch.int64)
        multiplier = along_axis(op.multiplier, from_type, torch.int64).to(x.device)
        shift = along_axis(op.shift, from_type, torch.int64).to(x.device)
        code = requantize(level, multiplier, shift, op.rounding).add_(to_type.zero_point)
        return code.clamp_(op.low, op.high).to(dtype)

    def _divide_codes(self, op: o.DivideCodes, x: Tensor) -> Tensor:
        level = self._level(op.x, lambda _: x, x.dtype).to(torch.int64)
        code = divide_away(level + op.divisor * self.graph.types[op.out].zero_point, op.divisor)
        return torch.clamp(code, op.low, op.high).to(self._dtype(op.out))

    def _lookup(self, op: o.Lookup, x: Tensor, table: Tensor) -> Tensor:
        low, _ = code_range(self.graph.types[op.x].format)
        index = (x - low).to(torch.int32) if low else x.to(torch.int32)
        return table.index_select(0, index.reshape(-1)).reshape(x.shape)

    def _pad_with_code(self, op: o.Pad) -> o.Pad:
        type_ = self.graph.types[op.x]
        code = int(encode(type_.format, [op.value / type_.scale[0]], type_.zero_point)[0])
        return o.Pad(op.x, op.out, op.before, op.after, float(code), op.mode)


@torch.no_grad()
def run(graph: Graph, inputs: Mapping[o.Value, Tensor | Array], watch: Watch | None = None) -> dict[o.Value, Tensor]:
    """Outputs of `graph` by name; see `Interpreter`, which is the better choice for many inputs."""
    return Interpreter(graph)(inputs, watch)


def real_of(codes: Tensor, type_: Type) -> Tensor:
    """float32 reals that `codes` of `type_` stand for (a real value is returned unchanged)."""
    if isinstance(type_.format, Real) or not is_codes(type_):
        return codes
    level = decode(type_.format, codes.cpu().numpy().astype(np.int64), type_.zero_point)
    real = torch.from_numpy(level).to(torch.float32) * torch.from_numpy(type_.scales).to(torch.float32)
    return real.to(codes.device)
