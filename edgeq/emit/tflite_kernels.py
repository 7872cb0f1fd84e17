"""Integer kernels: an accumulating operator and what settles it are one TFLite operator, if it computes just that.

The operators found in the graph are compared with those that edgeq/reference/tflite.py builds for the same kernel;
anything else is refused by name, since the file would compute other numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import assert_never

import numpy as np

from edgeq.emit.tflite_layout import Layout
from edgeq.emit.tflite_operators import (
    ACTIVATION_CODES,
    write_arithmetic,
    write_average_pool,
    write_bilinear,
    write_conv,
    write_conv_transpose,
    write_linear,
    write_matmul,
    write_mean,
    write_softmax,
)
from edgeq.emit.tflite_values import Values, element_of
from edgeq.errors import UnsupportedError
from edgeq.formats import Int, bits_of, code_range
from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Graph, Type
from edgeq.reference import tflite, tflite_tables

Settling = o.Requantize | o.DivideCodes
_FUNCTIONS: Mapping[o.FunctionName, tuple[str, int, str | None]] = {
    "sigmoid": ("LOGISTIC", 2, None),
    "tanh": ("TANH", 2, None),
    "hardswish": ("HARD_SWISH", 1, "HardSwishOptions"),
    "leaky_relu": ("LEAKY_RELU", 2, "LeakyReluOptions"),
    "gelu": ("GELU", 2, "GeluOptions"),
    "gelu_tanh": ("GELU", 2, "GeluOptions"),
}


# --- recognizing --------------------------------------------------------------------------------------------------


def operands_of(op: tflite.Accumulating, graph: Graph) -> tflite.Accumulating:
    """`op` with the codes that its kernel reads: those of a sum lie two requantizations before it."""
    if not isinstance(op, o.Add | o.Sub):
        return op
    return replace(op, a=_before_addend(op.a, graph), b=_before_addend(op.b, graph))


def _before_addend(value: o.Value, graph: Graph) -> o.Value:
    for _ in range(2):
        producer = graph.producer.get(value)
        if not isinstance(producer, o.Requantize):
            raise _not_a_kernel(value, "an addition of codes that TFLite does not do")
        value = producer.x
    return value


def _not_a_kernel(value: o.Value, what: str) -> UnsupportedError:
    return UnsupportedError(f"{what}: no TFLite kernel computes this", where=value, next_step="Lower it for TFLite.")


def check_kernel(op: tflite.Accumulating, settling: Settling, graph: Graph) -> tflite.Accumulating:
    """The operator on codes whose kernel computes `settling` and everything before it. Raises UnsupportedError."""
    on_codes = operands_of(op, graph)
    found, wanted = _chain(op, settling, graph), _spelled(on_codes, settling, graph)
    if isinstance(op, o.Resize):  # its grid is compared where it is written
        found, wanted = found[-1:], wanted[-1:]
    if [_content(step) for step in found] != [_content(step) for step in wanted]:
        raise _not_a_kernel(settling.out, f"{type(op).__name__} with these multipliers")
    return on_codes


def _content(op: o.Op) -> tuple[object, ...]:
    return type(op), o.attributes(op)


def _chain(op: tflite.Accumulating, settling: Settling, graph: Graph) -> list[o.Op]:
    addends: list[o.Op] = []
    if isinstance(op, o.Add | o.Sub):
        for value in (op.a, op.b):
            last = graph.producer[value]
            addends += [graph.producer[o.operands(last)[0]], last]
    return [*addends, op, settling]


def _spelled(op: tflite.Accumulating, settling: Settling, graph: Graph) -> list[o.Op]:
    types = {value: graph.types[value] for value in o.operands(op)}
    editor = Editor("kernel", types, types)
    acc = tflite.accumulate(editor, op, "acc")
    tflite.settle(editor, op, acc, graph.types[settling.out], "out", settling.low, settling.high)
    return editor.ops


def activation_of(settling: Settling, type_: Type) -> tflite.Activation | None:
    """The fused activation that clamps as `settling` does, if there is one."""
    for activation in tflite.ACTIVATIONS:
        if tflite.activation_range(activation, type_) == (settling.low, settling.high):
            return activation
    return None


# --- writing ------------------------------------------------------------------------------------------------------


def write_kernel(op: tflite.Accumulating, settling: Settling, v: Values) -> None:
    """Append the TFLite operator that computes `settling.out`. Raises UnsupportedError if none does."""
    op = check_kernel(op, settling, v.graph)
    activation = activation_of(settling, v.type(settling.out))
    if activation is None or (activation != "NONE" and not isinstance(op, _FUSING)):
        _clamped(op, settling, v)
    else:
        _write(op, settling.out, ACTIVATION_CODES[activation], v)


_FUSING = (o.Conv, o.Linear, o.Add, o.Sub, o.Mul, o.AveragePool)


def _clamped(op: tflite.Accumulating, settling: Settling, v: Values) -> None:
    """The kernel without activation, then MINIMUM and MAXIMUM on its codes."""
    _clamp(settling, v, lambda free: _write(op, free, 0, v))


def _clamp(settling: Settling, v: Values, write: Callable[[o.Value], None]) -> None:
    """What `write` computes into the value that it is given, kept between the codes of `settling`."""
    free = f"{settling.out}.free"
    v.graph = replace(v.graph, types={**v.graph.types, free: v.type(settling.out)})
    write(free)
    layout, bounds = v.layout(free), code_range(v.type(settling.out).format)
    limits = [("MINIMUM", settling.high)] if settling.high < bounds[1] else []
    limits += [("MAXIMUM", settling.low)] if settling.low > bounds[0] else []
    current = v.read(free)
    for k, (kind, code) in enumerate(limits):
        last = k == len(limits) - 1
        out = v.result(settling.out, layout) if last else v.temporary(free, f"{free}.{k}", v.file.shape(current))
        v.file.operator(kind, [current, v.code(free, code)], [out], 2, "MaximumMinimumOptions")
        current = out
    del v.stored[free]


def _write(op: tflite.Accumulating, out: o.Value, activation: int, v: Values) -> None:
    match op:
        case o.Conv():
            write_conv(op, out, activation, v)
        case o.ConvTranspose():
            write_conv_transpose(op, out, v)
        case o.Linear():
            write_linear(op, out, activation, v)
        case o.MatMul():
            write_matmul(op, out, v)
        case o.Add() | o.Sub() | o.Mul():
            write_arithmetic(op, out, activation, v)
        case o.AveragePool():
            write_average_pool(op, out, activation, v)
        case o.Mean():
            write_mean(op, out, v)
        case o.Resize():
            write_bilinear(op, out, *tflite.grid_flags(op, v.shape(op.x)), v)
        case _:
            assert_never(op)


# --- codes to codes, and to and from reals ------------------------------------------------------------------------


def write_recode(op: o.Requantize, v: Values) -> None:
    """QUANTIZE from codes to codes."""
    x, to = v.type(op.x), v.type(op.out)
    ratio = tflite.recode_ratio(x.scale[0], to.scale[0])
    if (op.multiplier, op.shift, op.rounding) != ((ratio[0],), (ratio[1],), "gemmlowp2"):
        raise _not_a_kernel(op.out, "a requantization with this multiplier")

    def write(out: o.Value) -> None:
        layout = v.layout(op.x)
        v.file.operator("QUANTIZE", [v.read(op.x)], [v.result(out, layout)], 2, "QuantizeOptions")

    if code_range(to.format) == (op.low, op.high):
        write(op.out)
    else:
        _clamp(op, v, write)


def write_quantize(op: o.Quantize, v: Values) -> None:
    """QUANTIZE of reals, or the SOFTMAX that ends in them."""
    if op.ties != "away" or op.reciprocal:
        raise _not_a_kernel(op.out, "a quantization with ties to even")
    if source := _softmax_source(op, v):
        _softmax(source, op.out, v)
        return
    if v.is_constant(op.x):
        raise _not_a_kernel(op.out, "a quantization of a constant")
    layout = v.layout(op.x)
    v.file.operator("QUANTIZE", [v.read(op.x)], [v.result(op.out, layout)], 1, "QuantizeOptions")


def _softmax_source(op: o.Quantize, v: Values) -> o.Softmax | None:
    """The softmax between a Dequantize and `op` that one kernel computes."""
    shares = v.graph.producer.get(op.x)
    if not isinstance(shares, o.Softmax):
        return None
    source, to = v.graph.producer.get(shares.x), v.type(op.out)
    fits = isinstance(source, o.Dequantize) and (to.scale[0], to.zero_point) == tflite.fixed_range(shares, to.format)
    return shares if fits and isinstance(to.format, Int) and to.format.bits == 8 else None


def _softmax(op: o.Softmax, out: o.Value, v: Values) -> None:
    source = v.graph.producer[op.x]
    assert isinstance(source, o.Dequantize)
    write_softmax(source.x, op.axis, out, v)


def write_dequantize(op: o.Dequantize, v: Values) -> None:
    """DEQUANTIZE."""
    layout = v.layout(op.x)
    v.file.operator("DEQUANTIZE", [v.read(op.x)], [v.result(op.out, layout)], 2, "DequantizeOptions")


def write_lookup(op: o.Lookup, v: Values) -> None:
    """The operator whose kernel has this table, else the table itself, read by GATHER."""
    x, out, function = v.type(op.x), v.type(op.out), op.function
    table = v.graph.constants[op.table]
    layout = v.layout(op.x)
    exact = function.name not in v.tabulated and np.array_equal(table, tflite_tables.tabulate(function, x, out))
    if exact and function.name in _FUNCTIONS and not _differs(function, out) and _has_kernel(function, x):
        kind, version, options = _FUNCTIONS[function.name]
        version = 3 if bits_of(x.format) > 8 and kind != "LEAKY_RELU" else version
        fields: dict[str, object] = {}
        if function.name == "leaky_relu":
            fields["alpha"] = function.a
        if options == "GeluOptions":
            fields["approximate"] = function.name == "gelu_tanh"
        v.file.operator(kind, [v.read(op.x)], [v.result(op.out, layout)], version, options, **fields)
        return
    _write_table(op, layout, v)


def _has_kernel(function: o.Function, x: Type) -> bool:
    """Whether the kernel takes codes of this width."""
    return bits_of(x.format) <= 8 or function.name in ("sigmoid", "tanh", "leaky_relu")


def _differs(function: o.Function, out: Type) -> bool:
    """Whether TFLite prescribes another scale for the result."""
    prescribed = tflite.fixed_range(o.Apply("x", "y", function), out.format)
    return prescribed is not None and (out.scale[0], out.zero_point) != prescribed


def _write_table(op: o.Lookup, layout: Layout, v: Values) -> None:
    """CAST to positions, ADD the lowest code, GATHER."""
    low, _ = code_range(v.type(op.x).format)
    x = v.read(op.x)
    shape = v.file.shape(x)
    codes, positions = (v.file.tensor(f"{op.out}.{name}", shape, "INT32") for name in ("codes", "positions"))
    v.file.operator("CAST", [x], [codes], 1, "CastOptions", inDataType=_type_code(op.x, v), outDataType=2)
    lowest = v.numbers(np.array([-low], dtype=np.int32), "lowest")
    v.file.operator("ADD", [codes, lowest], [positions], 1, "AddOptions", fusedActivationFunction=0)
    table = v.constant(op.table)
    v.file.operator("GATHER", [table, positions], [v.result(op.out, layout)], 2, "GatherOptions", axis=0, batchDims=0)


def _type_code(value: o.Value, v: Values) -> int:
    return {"INT8": 9, "INT16": 7}[element_of(v.type(value), value)]
