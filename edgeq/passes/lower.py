"""Lowering: the real graph and a plan of types become the exact integer graph.

Accumulators are explicit values and every requantization is an operator of its own. A value keeps its name; its
accumulator is `name.acc`, a quantized copy of a real value `name.q`, a dequantized copy of codes `name.r`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from edgeq.formats import (
    INT16,
    INT32,
    INT64,
    UINT16,
    FloatArray,
    Format,
    Int,
    bits_of,
    code_range,
    decode,
    encode,
    is_table,
)
from edgeq.ir import ops as o
from edgeq.ir.bounds import (
    EXPONENTIAL_ONE,
    SHARE_UNIT,
    accumulates,
    level_bounds,
    normal_fraction_bits,
    normalized_count,
    partial_sums,
    signed_bits,
)
from edgeq.ir.graph import Array, Editor, Graph, Type
from edgeq.ir.rename import with_output_names
from edgeq.quantize.operators import CLAMPS, moves_codes
from edgeq.quantize.plan import Plan
from edgeq.quantize.scale import SCALE_FLOOR, quantize_weight
from edgeq.reference import tflite, tflite_compound, tflite_tables
from edgeq.reference.arithmetic import SHIFT_MIN, WIDE_SHIFT_MIN, quantize_multiplier
from edgeq.reference.meaning import RESIZE_WEIGHT_BITS, apply_function
from edgeq.reference.samples import interpolated, sample_codes
from edgeq.reference.softmax import exponentials

# Operands of an addition meet at this many bits below the result's step, which leaves its rounding as the only one.
ADDITION_BITS = 12

NORMAL_SHIFT_LIMIT = 1 << 29
"""Largest code of a layer normalization's beta; it leaves most of 32 bits to the products."""


def _float32(scale: float) -> float:
    return float(np.float32(scale))


class _Lowering:
    def __init__(self, graph: Graph, plan: Plan) -> None:
        self.graph, self.plan, self.structure = graph, plan, plan.structure
        self.tflite = plan.kernels == "tflite"
        self.editor = Editor(graph.name, graph.inputs, {v: graph.types[v] for v in graph.inputs})
        self.codes: dict[o.Value, o.Value] = {}
        self.reals: dict[o.Value, o.Value] = {value: value for value in graph.inputs}
        self.accumulators: dict[o.Value, o.Value] = {}
        self.accumulating: dict[o.Value, tflite.Accumulating] = {}

    def run(self) -> Graph:
        # Names of the real graph are reserved, so that every value can keep its own.
        self.editor.types.update(self.graph.types)
        for op in self.graph.ops:
            if self.structure.runs_on_codes(op):
                self._integer(op)
            else:
                self._real(op)
        return self.editor.graph([self._output(value) for value in self.graph.outputs])

    def _output(self, value: o.Value) -> o.Value:
        return self.code(value) if self.plan.output_codes and value in self.codes else self.real(value)

    # --- values ---------------------------------------------------------------------------------------------

    def type(self, name: o.Value) -> Type:
        return self.editor.types[name]

    def real(self, value: o.Value) -> o.Value:
        """Name of the real form of `value`."""
        if value not in self.reals:
            if value in self.graph.constants:
                self.editor.constants[value] = self.graph.constants[value]
                self.reals[value] = value
            else:
                self.reals[value] = self._dequantize(self.codes[value], f"{value}.r")
        return self.reals[value]

    def code(self, value: o.Value) -> o.Value:
        """Name of the codes of `value`, in its planned type."""
        if value not in self.codes:
            type_ = self.plan.types[value]
            if value in self.graph.constants:
                codes = encode(type_.format, as_float64(self.graph.constants[value]) / type_.scale[0], type_.zero_point)
                self.codes[value] = self._constant(f"{value}.q", codes, type_)
            else:
                name = self.editor.fresh(f"{value}.q")
                ties: o.Ties = "away" if self.tflite else "even"
                self.codes[value] = self.editor.append(o.Quantize(self.real(value), name, ties), type_)
        return self.codes[value]

    def _constant(self, name: str, codes: Array, type_: Type) -> o.Value:
        storage = (
            np.int8 if _fits(codes, 8) else np.int16 if _fits(codes, 16) else np.int32 if _fits(codes, 32) else np.int64
        )
        return self.editor.constant(name, codes.astype(storage), type_)

    def _dequantize(self, codes: o.Value, name: str) -> o.Value:
        result = name if name in self.graph.types else self.editor.fresh(name)
        return self.editor.append(o.Dequantize(codes, result), Type(self.type(codes).shape))

    def _requantize(self, x: o.Value, to: Type, name: str, low: int | None = None, high: int | None = None) -> o.Value:
        if self.tflite:
            if x in self.accumulating:
                return tflite.settle(self.editor, self.accumulating[x], x, to, name, low, high)
            return tflite.recode(self.editor, x, to, name, low, high)
        from_type = self.type(x)
        least = SHIFT_MIN if self.plan.rounding.startswith("gemmlowp2") else WIDE_SHIFT_MIN
        ratios = [quantize_multiplier(_float32(scale / to.scale[0]), least) for scale in from_type.scale]
        multiplier, shift = zip(*ratios, strict=True)
        bottom, top = code_range(to.format)
        low, high = bottom if low is None else low, top if high is None else high
        op = o.Requantize(x, name, multiplier, shift, self.plan.rounding, low, high)
        return self.editor.append(op, replace(to, shape=from_type.shape))

    # --- operators ------------------------------------------------------------------------------------------

    def _real(self, op: o.Op) -> None:
        self.editor.append(o.rename(op, self.real, where="operands"), *(self.graph.types[v] for v in o.results(op)))
        self.reals.update({value: value for value in o.results(op)})

    def _integer(self, op: o.Op) -> None:
        match op:
            case o.Softmax() if self.tflite:
                out = self.plan.types[op.out]
                self.codes[op.out] = tflite_compound.softmax(self.editor, self.code(op.x), op.axis, out, op.out)
            case _ if self.tflite and accumulates(op) and not isinstance(op, o.Conv | o.ConvTranspose | o.Linear):
                self._accumulate_as_tflite(op)
            case o.Conv() | o.ConvTranspose() | o.Linear():
                self._weighted(op)
            case o.MatMul() | o.Mul():
                self._product(op)
            case o.Add() | o.Sub():
                self._sum(op)
            case o.AveragePool() | o.Mean():
                taps = self._averaged(op)
                self._accumulate(replace(op, x=self.code(op.x)), self._scaled(op.x, 1 / taps))
            case o.Resize() if op.mode == "linear":
                factor = 2.0 ** (-2 * RESIZE_WEIGHT_BITS)
                self._accumulate(replace(op, x=self.code(op.x)), self._scaled(op.x, factor))
            case o.Softmax():
                self._softmax(op)
            case o.LayerNorm():
                self._layer_norm(op)
            case o.Apply():
                self._apply(op)
            case o.Concat():
                self._concat(op)
            case _:
                assert moves_codes(op), op
                self._move(op)

    def _accumulate(self, op: o.Op, scale: tuple[float, ...], axis: int | None = None) -> None:
        """Append `op` computing an accumulator of `scale` and bring it to the planned type of its result."""
        result = o.results(op)[0]
        acc = self.editor.fresh(f"{result}.acc")
        op = o.rename(op, lambda _: acc, where="results")
        self.editor.append(op, Type(self.graph.types[result].shape, INT32, scale, axis=axis))
        if isinstance(op, tflite.Accumulating):
            self.accumulating[acc] = op
        self._settle(acc, result)

    def _accumulate_as_tflite(self, op: o.Op) -> None:
        result = o.results(op)[0]
        operands = {value: self.code(value) for value in o.operands(op)}
        on_codes = o.rename(op, operands.__getitem__, where="operands")
        assert isinstance(on_codes, tflite.Accumulating), op
        acc = tflite.accumulate(self.editor, on_codes, f"{result}.acc")
        self.accumulating[acc] = on_codes
        self._settle(acc, result)

    def _settle(self, acc: o.Value, result: o.Value) -> None:
        if result in self.structure.held:
            self.accumulators[result] = acc
        elif result in self.plan.types:
            self.codes[result] = self._requantize(acc, self.plan.types[result], result)
        else:
            self.reals[result] = self._dequantize(acc, result)

    def _weighted(self, op: o.Conv | o.ConvTranspose | o.Linear) -> None:
        x, weight_type = self.code(op.x), self.plan.weights[op.out]
        weight = self._weight(op.weight, weight_type, self.plan.weight_codes(op.out, self.graph.constants[op.weight]))
        (x_scale,) = self.type(x).scale
        scale = tuple(x_scale * s for s in weight_type.scale)
        axis = (len(self.graph.types[op.out].shape) - 1 if isinstance(op, o.Linear) else 1) if len(scale) > 1 else None
        bias = None
        if op.bias is not None:
            codes = self.plan.biases[op.out]
            width = INT32 if _fits(codes, 32) else INT64
            bias_type = Type(codes.shape, width, scale, axis=0 if len(scale) > 1 else None)
            bias = self._constant(f"{op.bias}.q", codes, bias_type)
        self._accumulate(replace(op, x=x, weight=weight, bias=bias), scale, axis)

    def _weight(self, name: o.Value, type_: Type, codes: Array) -> o.Value:
        for known in (f"{name}.q", *(f"{name}.q.{k}" for k in range(1, 9))):
            if self.editor.types.get(known) == type_ and np.array_equal(self.editor.constants[known], codes):
                return known
        return self._constant(f"{name}.q", codes, type_)

    def _product(self, op: o.MatMul | o.Mul) -> None:
        a, b = self.code(op.a), self.code(op.b)
        (a_scale,), (b_scale,) = self.type(a).scale, self.type(b).scale
        self._accumulate(replace(op, a=a, b=b), (a_scale * b_scale,))

    def _sum(self, op: o.Add | o.Sub) -> None:
        common = self._sum_type(op)
        a, b = (self._addend(value, common, f"{op.out}.{side}") for value, side in ((op.a, "a"), (op.b, "b")))
        self._accumulate(replace(op, a=a, b=b), common.scale)

    def _sum_type(self, op: o.Add | o.Sub) -> Type:
        planned = self.plan.types.get(self._settled(op.out))
        step = planned.scale[0] if planned else min(self._scale(op.a), self._scale(op.b))
        spare = ADDITION_BITS if planned is None or _bits(planned.format) <= 8 else ADDITION_BITS - 8
        return Type((), INT32, (_float32(step) * 2.0**-spare,))

    def _scale(self, value: o.Value) -> float:
        return max(self.type(self.accumulators.get(value) or self.code(value)).scale)

    def _settled(self, value: o.Value) -> o.Value:
        """The value at which a held accumulator is finally rounded."""
        while value in self.structure.held:
            value = o.results(self.graph.consumers[value][0])[0]
        return value

    def _addend(self, value: o.Value, common: Type, name: str) -> o.Value:
        return self._requantize(self.accumulators.get(value) or self.code(value), common, self.editor.fresh(name))

    def _averaged(self, op: o.AveragePool | o.Mean) -> int:
        if isinstance(op, o.AveragePool):
            return op.kernel[0] * op.kernel[1]
        return self.graph.types[op.x].size // self.graph.types[op.out].size

    def _scaled(self, value: o.Value, factor: float) -> tuple[float, ...]:
        return (self.type(self.code(value)).scale[0] * factor,)

    def _softmax(self, op: o.Softmax) -> None:
        x = self.code(op.x)
        low, high = code_range(self.type(x).format)
        entries = exponentials(self.type(x).scale[0], high - low + 1)
        table = self._constant(f"{op.out}.table", entries, Type(entries.shape, UINT16, (1 / EXPONENTIAL_ONE,)))
        op = replace(op, x=x, table=table)
        planned = self.plan.types.get(op.out)
        if planned is not None and (planned.format, planned.scale) == (INT16, (1 / SHARE_UNIT,)):
            self.codes[op.out] = self.editor.append(op, planned)
        else:
            self._accumulate(op, (1 / SHARE_UNIT,))

    def _layer_norm(self, op: o.LayerNorm) -> None:
        """Gamma as 16-bit codes, or coarser where a large beta would not leave room for the products."""
        shape = self.graph.types[op.x].shape
        unit = 2.0 ** -normal_fraction_bits(normalized_count(op, shape))
        gamma, beta, step = op.gamma, op.beta, 1.0
        if beta is None and gamma is None:
            self._accumulate(replace(op, x=self.code(op.x)), (unit,))
            return
        scaled = np.ones(1) if gamma is None else as_float64(self.graph.constants[gamma])
        shift = np.zeros(1) if beta is None else as_float64(self.graph.constants[beta])
        step = max(np.abs(scaled).max() / INT16.high, np.abs(shift).max() / unit / NORMAL_SHIFT_LIMIT)
        gamma_type = Type(scaled.shape, INT16, (_float32(max(step, SCALE_FLOOR)),))
        levels = quantize_weight(scaled, gamma_type)
        gamma = self._constant(f"{op.out}.gamma", levels, gamma_type)
        scale = unit * gamma_type.scale[0]
        if beta is not None:
            codes = np.rint(shift / scale).astype(np.int64)
            beta = self._constant(f"{op.out}.beta", codes, Type(codes.shape, INT32, (scale,)))
        self._accumulate(replace(op, x=self.code(op.x), gamma=gamma, beta=beta), (scale,))

    def _apply(self, op: o.Apply) -> None:
        to = self.plan.types.get(op.out)
        if op.x in self.accumulators:
            self._clamp(op, self.accumulators[op.x])
            return
        assert to is not None, op
        x = self.code(op.x)
        if self.tflite and op.function.name in CLAMPS:
            low, high = tflite.clamp_codes(op.function, to)
            self.codes[op.out] = tflite.recode(self.editor, x, to, op.out, low, high)
            return
        if op.function.name in CLAMPS and _bits(self.type(x).format) > 8 and not is_table(to.format):  # a large table
            self.codes[op.out] = self._requantize(x, to, op.out, *clamp_codes(op.function, to))
            return
        rule = tflite_tables.tabulate if self.tflite else tabulate
        if self.plan.interpolates and bits_of(self.type(x).format) == 16:
            rule = tabulate_samples
        entries = rule(op.function, self.type(x), to)
        table = self._constant(f"{op.out}.table", entries, Type(entries.shape, to.format, to.scale, to.zero_point))
        self.codes[op.out] = self.editor.append(o.Lookup(x, table, op.out, op.function), to)

    def _clamp(self, op: o.Apply, acc: o.Value) -> None:
        to = self.plan.types.get(op.out)
        if to is None:  # only real operators read it
            real = self._dequantize(acc, self.editor.fresh(op.x))
            self.reals[op.out] = self.editor.append(o.Apply(real, op.out, op.function), self.graph.types[op.out])
            return
        low, high = tflite.clamp_codes(op.function, to) if self.tflite else clamp_codes(op.function, to)
        self.codes[op.out] = self._requantize(acc, to, op.out, low, high)

    def _concat(self, op: o.Concat) -> None:
        to = self.plan.types[op.out]
        xs = tuple(self._with_type(x, to, f"{op.out}.{k}") for k, x in enumerate(op.xs))
        self.codes[op.out] = self.editor.append(replace(op, xs=xs), to)

    def _with_type(self, value: o.Value, to: Type, name: str) -> o.Value:
        codes = self.code(value)
        type_ = self.type(codes)
        if (type_.format, type_.scale, type_.zero_point) == (to.format, to.scale, to.zero_point):
            return codes
        return self._requantize(codes, to, self.editor.fresh(name))

    def _move(self, op: o.Op) -> None:
        source, result = o.operands(op)[0], o.results(op)[0]
        if isinstance(op, o.Gather):
            self.real(op.indices)
        x = self.code(source)
        moved = o.rename(op, lambda v: x if v == source else v, where="operands")
        name = result if result in self.plan.types else self.editor.fresh(f"{result}.q")
        moved = o.rename(moved, lambda _: name, where="results")
        codes = self.editor.append(moved, replace(self.type(x), shape=self.graph.types[result].shape))
        self.codes[result] = codes


def as_float64(array: Array) -> FloatArray:
    """`array` in double precision."""
    return array.astype(np.float64)


def _fits(codes: Array, bits: int) -> bool:
    return codes.size == 0 or bool(codes.min() >= -(1 << (bits - 1)) and codes.max() < 1 << (bits - 1))


def _bits(format: Format) -> int:
    return format.bits if isinstance(format, Int) else 8


def clamp_codes(function: o.Function, type_: Type) -> tuple[int, int]:
    """The codes between which relu or clip keeps a value of `type_`."""
    bottom = 0.0 if function.name == "relu" else function.a
    low = int(encode(type_.format, [bottom / type_.scale[0]], type_.zero_point)[0])
    if function.name == "relu":
        return low, code_range(type_.format)[1]
    return low, int(encode(type_.format, [function.b / type_.scale[0]], type_.zero_point)[0])


def tabulate(function: o.Function, from_type: Type, to: Type) -> Array:
    """Table of `function` from every code of `from_type` to codes of `to`, evaluated in float64 (int64 [codes])."""
    low, high = code_range(from_type.format)
    levels = decode(from_type.format, np.arange(low, high + 1), from_type.zero_point)
    reals = apply_function(function, torch.from_numpy(levels * from_type.scale[0]))
    table: Array = encode(to.format, reals.numpy() / to.scale[0], to.zero_point)
    return table


def tabulate_samples(function: o.Function, from_type: Type, to: Type) -> Array:
    """Table of `function` from 16-bit codes, interpolated between samples evaluated in float64 (int64 [65536])."""
    levels = sample_codes() - from_type.zero_point
    reals = apply_function(function, torch.from_numpy(levels * from_type.scale[0]))
    table: Array = interpolated(encode(to.format, reals.numpy() / to.scale[0], to.zero_point))
    return table


def lower(graph: Graph, plan: Plan) -> Graph:
    """The integer graph of a simplified real `graph` under `plan`; inputs stay real, outputs unless the plan says codes."""
    lowered = _Lowering(graph, plan).run()
    return _widened(lowered if plan.output_codes else with_output_names(lowered, graph.outputs))


def _widened(graph: Graph) -> Graph:
    """`graph` with 64-bit accumulators where the proof says that 32 bits could overflow, in any order of summation."""
    bounds = level_bounds(graph)
    types = dict(graph.types)
    for op in graph.ops:
        result = o.results(op)[0]
        if types[result].format == INT32:
            sums = partial_sums(graph, op, bounds.__getitem__) if accumulates(op) else bounds[result]
            if max(signed_bits(sums), signed_bits(bounds[result])) > INT32.bits:
                types[result] = replace(types[result], format=INT64)
    return replace(graph, ops=tuple(_without_idle_ratios(op, types) for op in graph.ops), types=types)


def _without_idle_ratios(op: o.Op, types: Mapping[o.Value, Type]) -> o.Op:
    """`op` with ratios that bring every level of 32 bits to zero as multipliers of zero."""
    if not isinstance(op, o.Requantize) or min(op.shift) >= SHIFT_MIN or types[op.x].format == INT64:
        return op
    pairs = [(q, e) if e >= SHIFT_MIN else (0, 0) for q, e in zip(op.multiplier, op.shift, strict=True)]
    multiplier, shift = zip(*pairs, strict=True)
    return replace(op, multiplier=multiplier, shift=shift)
