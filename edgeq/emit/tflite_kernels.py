"""Integer kernels: an accumulating operator and what settles it are one TFLite operator, if it computes just that.

The operators found in the graph are compared with those that edgeq/reference/tflite.py builds for the same kernel;
anything else is refused by name, since the file would compute other numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

import numpy as np

from edgeq.emit.tflite_layout import NHWC, Layout, identity
from edgeq.emit.tflite_movement import common_layout, padded_for
from edgeq.emit.tflite_values import Values, element_of
from edgeq.emit.tflite_writer import Index
from edgeq.errors import UnsupportedError
from edgeq.formats import Int, bits_of, code_range
from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Graph, Type
from edgeq.reference import tflite, tflite_tables

ACTIVATION_CODES: Mapping[tflite.Activation, int] = {"NONE": 0, "RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}
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
    free = f"{settling.out}.free"
    v.graph = replace(v.graph, types={**v.graph.types, free: v.type(settling.out)})
    _write(op, free, 0, v)
    layout, bounds = v.layout(free), code_range(v.type(settling.out).format)
    current, steps = v.read(free), []
    if settling.high < bounds[1]:
        steps.append(("MINIMUM", settling.high))
    if settling.low > bounds[0]:
        steps.append(("MAXIMUM", settling.low))
    for k, (kind, code) in enumerate(steps):
        last = k == len(steps) - 1
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
            _bilinear(op, out, v)
        case _:
            assert_never(op)


def write_conv(op: o.Conv, out: o.Value, activation: int, v: Values) -> None:
    """CONV_2D, or DEPTHWISE_CONV_2D where every group has one channel; reals or codes."""
    shape = v.shape(op.weight)
    layout = _pixel_layout(op, v)
    if layout == NHWC:
        x, padding = padded_for(op.x, out, (shape[2], shape[3]), op.stride, op.padding, op.dilation, v)
    else:
        x, padding = v.read(op.x, layout), 1
    depthwise = op.groups > 1 and shape[1] == 1
    weight = v.constant(op.weight, (1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
    common = {
        "padding": padding, "strideH": op.stride[0], "strideW": op.stride[1],
        "dilationHFactor": op.dilation[0], "dilationWFactor": op.dilation[1], "fusedActivationFunction": activation,
    }  # fmt: skip
    inputs, result = [x, weight, _bias_or_zero(op, out, v)], [v.result(out, layout)]
    if depthwise:
        version = v.version(op.x, 2, 3, 5)
        v.file.operator(
            "DEPTHWISE_CONV_2D", inputs, result, version, "DepthwiseConv2DOptions",
            depthMultiplier=shape[0] // op.groups, **common,
        )  # fmt: skip
    else:
        v.file.operator("CONV_2D", inputs, result, v.version(op.x, 1, 3, 4), "Conv2DOptions", **common)


def _pixel_layout(op: o.Conv, v: Values) -> Layout:
    """NHWC, or where every pixel is alike its own order of the two axes in between."""
    home, kernel = v.layout(op.x), v.shape(op.weight)[2:]
    pointwise = (kernel, op.stride, op.padding, op.groups) == ((1, 1), (1, 1), (0, 0, 0, 0), 1)
    return home if pointwise and home == (0, 3, 2, 1) else NHWC


def _bias_or_zero(op: o.Conv | o.ConvTranspose | o.Linear, out: o.Value, v: Values) -> Index:
    """The bias; old runtimes want one, so a missing one is zero."""
    if op.bias is not None:
        return v.bias(op.bias, op.x)
    channels = v.shape(out)[-1 if isinstance(op, o.Linear) else 1]
    return v.zero_bias(op.x, op.weight, channels)


def write_conv_transpose(op: o.ConvTranspose, out: o.Value, v: Values) -> None:
    """TRANSPOSE_CONV, whose padding must be VALID or SAME; a wider result is cut."""
    if op.groups != 1 or op.dilation != (1, 1):
        raise UnsupportedError("TFLite has no grouped or dilated transposed convolution", where=op.out)
    kernel, size, count = v.shape(op.weight)[2:], v.shape(op.x)[2:], v.shape(out)[2:]
    whole = [(size[k] - 1) * op.stride[k] + kernel[k] for k in (0, 1)]
    same = all(
        whole[k] >= count[k] == size[k] * op.stride[k] and op.padding[k] == (whole[k] - count[k]) // 2 for k in (0, 1)
    )
    n, channels = v.shape(out)[:2]
    reach = [count[k] if same else max(whole[k], count[k] + op.padding[k]) for k in (0, 1)]
    cut = reach != list(count)
    result = v.temporary(out, f"{out}.whole", (n, *reach, channels)) if cut else v.result(out, NHWC)
    inputs = [
        v.integers([n, *reach, channels], "shape"),
        v.constant(op.weight, (1, 2, 3, 0), least_bits=8),
        v.read(op.x, NHWC),
    ]
    version = 1 if v.type(op.x).is_real else 2
    if op.bias is not None:
        inputs, version = [*inputs, v.bias(op.bias, op.x)], 3
    v.file.operator(
        "TRANSPOSE_CONV", inputs, [result], version, "TransposeConvOptions",
        padding=0 if same else 1, strideH=op.stride[0], strideW=op.stride[1], fusedActivationFunction=0,
    )  # fmt: skip
    if cut:
        begin = [0, *op.padding[:2], 0]
        sliced = [result, v.integers(begin, "begin"), v.integers([n, *count, channels], "size")]
        v.file.operator("SLICE", sliced, [v.result(out, NHWC)], 2, "SliceOptions")


def write_linear(op: o.Linear, out: o.Value, activation: int, v: Values) -> None:
    """FULLY_CONNECTED over the last axis, whatever the order of the others."""
    last = len(v.shape(op.x)) - 1
    home = v.layout(op.x)
    layout = home if home[-1] == last else identity(last + 1)
    keeps = last != 1
    v.file.operator(
        "FULLY_CONNECTED", [v.read(op.x, layout), v.constant(op.weight), _bias_or_zero(op, out, v)],
        [v.result(out, layout)], max(v.version(op.x, 1, 4, 7), 5 if keeps else 1), "FullyConnectedOptions",
        fusedActivationFunction=activation, weightsFormat=0, keepNumDims=keeps,
    )  # fmt: skip


def write_matmul(op: o.MatMul, out: o.Value, v: Values) -> None:
    """BATCH_MATMUL; a transposed last pair of axes is read as it lies."""
    rank = max(len(v.shape(op.a)), len(v.shape(op.b)))
    (a, a_turned), (b, b_turned) = (_matrix(value, rank, v) for value in (op.a, op.b))
    v.file.operator(
        "BATCH_MATMUL", [a, b], [v.result(out)], v.version(op.a, 1, 2, 2), "BatchMatMulOptions",
        adjX=a_turned, adjY=b_turned, asymmetricQuantizeInputs=False,
    )  # fmt: skip


def _matrix(value: o.Value, rank: int, v: Values) -> tuple[Index, bool]:
    plain = identity(rank)
    turned: Layout = (*plain[:-2], plain[-1], plain[-2])
    if not v.is_constant(value) and len(v.shape(value)) == rank and v.layout(value) == turned:
        return v.read(value, turned), True
    return v.spread(value, rank, plain), False


_ARITHMETIC = {o.Add: ("ADD", "AddOptions"), o.Sub: ("SUB", "SubOptions"), o.Mul: ("MUL", "MulOptions")}


def write_arithmetic(op: o.Add | o.Sub | o.Mul, out: o.Value, activation: int, v: Values) -> None:
    """ADD, SUB or MUL with broadcasting."""
    kind, options = _ARITHMETIC[type(op)]
    layout = common_layout((op.a, op.b), v)
    rank = len(layout)
    inputs = [v.spread(value, rank, layout) for value in (op.a, op.b)]
    fields: dict[str, object] = {"fusedActivationFunction": activation}
    if not isinstance(op, o.Mul):
        fields["potScaleInt16"] = v.version(op.a, 0, 0, 1) == 0  # scales of 16-bit codes are no powers of two
    wide = {o.Add: 3, o.Sub: 5, o.Mul: 4}[type(op)]
    v.file.operator(kind, inputs, [v.result(out, layout)], v.version(op.a, 1, 2, wide), options, **fields)


def write_average_pool(op: o.AveragePool, out: o.Value, activation: int, v: Values) -> None:
    """AVERAGE_POOL_2D; padding that counts is written out."""
    x, padding = padded_for(op.x, out, op.kernel, op.stride, op.padding, (1, 1), v)
    if padding == 0 and op.count_padding:
        x, padding = _written_out(op, out, v), 1
    v.file.operator(
        "AVERAGE_POOL_2D", [x], [v.result(out, NHWC)], v.version(op.x, 1, 2, 3), "Pool2DOptions",
        padding=padding, strideH=op.stride[0], strideW=op.stride[1], filterHeight=op.kernel[0],
        filterWidth=op.kernel[1], fusedActivationFunction=activation,
    )  # fmt: skip


def _written_out(op: o.AveragePool, out: o.Value, v: Values) -> Index:
    n, c, height, width = v.shape(op.x)
    top, left, bottom, right = op.padding
    wider = v.temporary(op.x, f"{out}.padded", (n, height + top + bottom, width + left + right, c))
    amounts = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], dtype=np.int32)
    v.file.operator("PAD", [v.read(op.x, NHWC), v.numbers(amounts, "paddings")], [wider], 2, "PadOptions")
    return wider


def write_mean(op: o.Mean, out: o.Value, v: Values) -> None:
    """MEAN, with the axes where they lie."""
    layout = v.layout(op.x)
    axes = v.integers(sorted(layout.index(axis) for axis in op.axes), "axes")
    version = v.version(op.x, 1, 2, 3)
    v.file.operator(
        "MEAN", [v.read(op.x), axes], [v.result(out, layout)], version, "ReducerOptions", keepDims=True
    )  # fmt: skip


def _bilinear(op: o.Resize, out: o.Value, v: Values) -> None:
    size = v.shape(op.x)
    for aligned, centred in ((False, True), (False, False), (True, False)):
        coordinates: o.Coordinates = "align_corners" if aligned else "half_pixel" if centred else "asymmetric"
        if tflite.on_grid(replace(op, coordinates=coordinates), size) == op:
            write_bilinear(op, out, aligned, centred, v)
            return
    raise _not_a_kernel(op.out, "a linear resize with these positions")


def write_bilinear(op: o.Resize, out: o.Value, aligned: bool, centred: bool, v: Values) -> None:
    """RESIZE_BILINEAR."""
    inputs = [v.read(op.x, NHWC), v.integers(list(op.size), "size")]
    version = max(v.version(op.x, 1, 2, 4), 3 if centred else 1)
    v.file.operator(
        "RESIZE_BILINEAR", inputs, [v.result(out, NHWC)], version, "ResizeBilinearOptions",
        alignCorners=aligned, halfPixelCenters=centred,
    )  # fmt: skip


# --- codes to codes, and to and from reals ------------------------------------------------------------------------


def write_recode(op: o.Requantize, v: Values) -> None:
    """QUANTIZE from codes to codes."""
    x, to = v.type(op.x), v.type(op.out)
    ratio = tflite.recode_ratio(x.scale[0], to.scale[0])
    full = code_range(to.format) == (op.low, op.high)
    if (op.multiplier, op.shift, op.rounding) != ((ratio[0],), (ratio[1],), "gemmlowp2") or not full:
        raise _not_a_kernel(op.out, "a requantization with this multiplier")
    layout = v.layout(op.x)
    v.file.operator("QUANTIZE", [v.read(op.x)], [v.result(op.out, layout)], 2, "QuantizeOptions")


def write_quantize(op: o.Quantize, v: Values) -> None:
    """QUANTIZE of reals, or the SOFTMAX that ends in them."""
    if op.ties != "away":
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


def write_softmax(x: o.Value, axis: int, out: o.Value, v: Values) -> None:
    """SOFTMAX over the last axis of the tensor, to which `axis` is moved."""
    home = v.layout(x)
    layout: Layout = home if home[-1] == axis else (*(a for a in home if a != axis), axis)
    version = v.version(x, 1, 2, 3)
    v.file.operator("SOFTMAX", [v.read(x, layout)], [v.result(out, layout)], version, "SoftmaxOptions", beta=1.0)


def write_dequantize(op: o.Dequantize, v: Values) -> None:
    """DEQUANTIZE."""
    layout = v.layout(op.x)
    v.file.operator("DEQUANTIZE", [v.read(op.x)], [v.result(op.out, layout)], 2, "DequantizeOptions")


def write_lookup(op: o.Lookup, v: Values) -> None:
    """The operator whose kernel has this table, else the table itself, read by GATHER."""
    x, out, function = v.type(op.x), v.type(op.out), op.function
    table = v.graph.constants[op.table]
    layout = v.layout(op.x)
    exact = np.array_equal(table, tflite_tables.tabulate(function, x, out))
    if exact and function.name in _FUNCTIONS and not _differs(function, out) and _has_kernel(function, x):
        kind, version, options = _FUNCTIONS[function.name]
        version = version if bits_of(x.format) <= 8 else 3
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
    return bits_of(x.format) <= 8 or function.name in ("sigmoid", "tanh")


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
