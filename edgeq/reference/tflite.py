"""What TFLite's integer kernels compute, spelled in our operators: the one place that knows their arithmetic.

Lowering for TFLite targets and the reader of TFLite files build graphs with these functions, and the emitter accepts
exactly what they build, so a file and its graph mean the same by construction. The rules are those of the reference
kernels (published in the quantization specification and in the kernels' own comments):

    CONV_2D, DEPTHWISE_CONV_2D, TRANSPOSE_CONV, BATCH_MATMUL   gemmlowp2, one ratio; of 16-bit codes single15
    MUL, QUANTIZE of codes                               gemmlowp2, one ratio
    FULLY_CONNECTED                                      fc-float
    ADD, SUB                                             operands 2^20 (16-bit codes: 2^15) finer than twice the
                                                         larger scale, gemmlowp2
    MEAN                                                 gemmlowp2 with the count folded into the multiplier
    SUM                                                  fc-float, as LiteRT's default kernel, but for ties that its
                                                         single precision misses, and saturating where it wraps; its
                                                         reference kernel takes int8 codes for unsigned ones
    AVERAGE_POOL_2D, RESIZE_BILINEAR                     DivideCodes; the result keeps the operand's scale
    functions of one operand                             tables (edgeq/reference/tflite_tables.py)
    QUANTIZE of reals                                    ties away from zero
    kernels of several steps                             edgeq/reference/tflite_compound.py

An accumulating kernel is built in two steps, since an activation may be fused between them: `accumulate` appends the
operator on levels, `settle` brings its accumulator to the codes of the result.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeVar

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.formats import INT32, INT64, Format, bits_of, code_range
from edgeq.ir import ops as o
from edgeq.ir.bounds import divided_away
from edgeq.ir.graph import Editor, Type
from edgeq.reference.arithmetic import quantize_multiplier
from edgeq.reference.meaning import RESIZE_WEIGHT_BITS

Accumulating = (
    o.Conv | o.ConvTranspose | o.Linear | o.MatMul | o.Mul | o.Add | o.Sub | o.AveragePool | o.Mean | o.Resize
)
_NARROWED = (o.Conv, o.ConvTranspose, o.MatMul)
Activation = Literal["NONE", "RELU", "RELU_N1_TO_1", "RELU6"]
Ratio = tuple[int, int]
Sum = TypeVar("Sum", bound=o.Add | o.Sub)

ACTIVATIONS: tuple[Activation, ...] = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")


def fixed_range(op: o.Op, format_: Format) -> tuple[float, int] | None:
    """Scale and zero point that TFLite prescribes for results of `op` as codes of `format_`, if it does.

    A softmax of 16-bit codes is computed on reals, so its scale is free.
    """
    wide = bits_of(format_) > 8
    match op:
        case o.Softmax() if not wide:
            return 1 / 256, -128
        case o.Apply(function=o.Function(name="sigmoid")):
            return (2.0**-15, 0) if wide else (2.0**-8, -128)
        case o.Apply(function=o.Function(name="tanh")):
            return (2.0**-15, 0) if wide else (2.0**-7, 0)
        case _:
            return None


def keeps_type(op: o.Op) -> bool:
    """Whether the result of this averaging kernel must have its operand's scale and zero point."""
    return isinstance(op, o.AveragePool) or (isinstance(op, o.Resize) and op.mode == "linear")


def activation_range(activation: Activation, type_: Type) -> tuple[int, int]:
    """The codes between which a kernel with this fused activation keeps its result.

    >>> from edgeq.formats import INT8
    >>> activation_range("RELU6", Type((), INT8, (0.05,), -128))
    (-128, -8)
    """
    limits = {"NONE": (-np.inf, np.inf), "RELU": (0.0, np.inf), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}
    return _between(*limits[activation], type_)


def clamp_codes(function: o.Function, type_: Type) -> tuple[int, int]:
    """The codes between which relu or clip keeps a value of `type_`, rounded as in `activation_range`."""
    return _between(0.0, np.inf, type_) if function.name == "relu" else _between(function.a, function.b, type_)


def _between(bottom: float, top: float, type_: Type) -> tuple[int, int]:
    low, high = code_range(type_.format)

    def code(real: float) -> int:
        steps = float(np.float32(real) / np.float32(type_.scale[0]))
        return min(max(type_.zero_point + divided_away(*steps.as_integer_ratio()), low), high)

    return low if bottom == -np.inf else code(bottom), high if top == np.inf else code(top)


# --- ratios -----------------------------------------------------------------------------------------------------


def recode_ratio(scale: float, to_scale: float) -> Ratio:
    """Multiplier and shift of QUANTIZE between codes, of convolutions (`scale` is s_x s_w), and of sums."""
    return quantize_multiplier(scale / to_scale)


def product_ratio(op: o.Mul | o.MatMul, scale: float, to_scale: float) -> Ratio:
    """Of MUL and BATCH_MATMUL, which multiply scales in single precision; `scale` is s_a s_b."""
    product = np.float32(scale)
    if isinstance(op, o.Mul):
        return quantize_multiplier(float(product / np.float32(to_scale)))
    return quantize_multiplier(float(product) / to_scale)


def mean_ratio(scale: float, to_scale: float, count: int) -> Ratio:
    """Of MEAN over `count` elements: (q 2^k) div count and e - k with the largest 2^k <= count; `scale` is that of x."""
    multiplier, shift = quantize_multiplier(scale / to_scale)
    bits = min(count.bit_length() - 1, 32, 31 + shift)
    return (multiplier << bits) // count, shift - bits


# --- accumulating kernels ---------------------------------------------------------------------------------------


def accumulate(editor: Editor, op: Accumulating | o.Reduce, name: o.Value) -> o.Value:
    """Append `op`, whose operands are codes in `editor`, as the accumulator `name`; a bias must lie in its units.

    Operands of a sum are first brought to a common scale, and the grid of a linear resize becomes TFLite's.
    """
    op = o.rename(op, editor.resolve, where="operands")
    types = editor.types
    match op:
        case o.Conv() | o.ConvTranspose() | o.Linear():
            scale = tuple(types[op.x].scale[0] * s for s in types[op.weight].scale)
        case o.MatMul() | o.Mul():
            scale = (types[op.a].scale[0] * types[op.b].scale[0],)
        case o.Add() | o.Sub():
            op, scale = with_common_scale(editor, op, 15 if _is_wide(editor, op) else 20, name)
        case o.AveragePool():
            scale = (types[op.x].scale[0] / (op.kernel[0] * op.kernel[1]),)
        case o.Mean():
            scale = (types[op.x].scale[0] / counted(op, types[op.x].shape),)
        case o.Reduce():
            scale = types[op.x].scale
        case o.Resize():
            op, scale = on_grid(op, types[op.x].shape), (types[op.x].scale[0] * 2.0 ** (-2 * RESIZE_WEIGHT_BITS),)
    acc = editor.fresh(name)
    editor.append(o.rename(op, lambda _: acc, where="results"))
    shape = editor.types[acc].shape
    axis = (len(shape) - 1 if isinstance(op, o.Linear) else 1) if len(scale) > 1 else None
    weighted = isinstance(op, o.Conv | o.ConvTranspose | o.Linear | o.MatMul | o.Resize)
    width = INT64 if weighted and _is_wide(editor, op) else INT32
    editor.types[acc] = Type(shape, width, scale, axis=axis)
    return acc


def _is_wide(editor: Editor, op: Accumulating | o.Reduce) -> bool:
    """Whether the activations are 16-bit codes."""
    return bits_of(editor.types[editor.resolve(o.operands(op)[0])].format) > 8


def counted(op: o.Mean, shape: tuple[int, ...]) -> int:
    """How many elements of a value of `shape` make one mean."""
    return int(np.prod([shape[axis] for axis in op.axes], dtype=np.int64))


def with_common_scale(editor: Editor, op: Sum, shift: int, name: o.Value) -> tuple[Sum, tuple[float, ...]]:
    """`op` on operands that are multiples of the scale at which they meet: 2^-shift of twice the larger one."""
    common = 2 * max(editor.types[x].scale[0] for x in (op.a, op.b)) * 2.0**-shift
    a, b = (_addend(editor, x, common, shift, f"{name}.{side}") for side, x in (("a", op.a), ("b", op.b)))
    return replace(op, a=a, b=b), (common,)


def _addend(editor: Editor, x: o.Value, common: float, shift: int, name: o.Value) -> o.Value:
    """x 2^shift, then times s_x / (2 max s): the larger of two scales halves, so every ratio is below one."""
    type_ = editor.types[x]
    finer = 2.0**shift
    fine = Type(type_.shape, INT32, (type_.scale[0] / finer,))
    shifted = requantize(editor, x, fine, editor.fresh(f"{name}.fine"), [quantize_multiplier(finer)])
    ratio = recode_ratio(type_.scale[0], common * finer)
    return requantize(editor, shifted, replace(fine, scale=(common,)), editor.fresh(name), [ratio])


def settle(
    editor: Editor,
    op: Accumulating | o.Reduce,
    acc: o.Value,
    to: Type,
    out: o.Value,
    low: int | None = None,
    high: int | None = None,
) -> o.Value:
    """Append what brings `acc`, which `op` accumulated, to codes `out` of type `to` between the codes low and high.

    The shape of `to` is that of the accumulator.
    """
    bottom, top = code_range(to.format)
    low, high = bottom if low is None else low, top if high is None else high
    from_type = editor.types[acc]
    to = replace(to, shape=from_type.shape)
    (to_scale,) = to.scale
    rounding: o.Rounding = "single15" if _is_wide(editor, op) and isinstance(op, _NARROWED) else "gemmlowp2"
    match op:
        case o.AveragePool() | o.Resize():
            divisor = op.kernel[0] * op.kernel[1] if isinstance(op, o.AveragePool) else 1 << (2 * RESIZE_WEIGHT_BITS)
            return editor.append(o.DivideCodes(acc, out, divisor, low, high), to)
        case o.Linear() | o.Reduce():
            ratios = [recode_ratio(scale, to_scale) for scale in from_type.scale]
            return requantize(editor, acc, to, out, ratios, low, high, "fc-float")
        case o.Mul() | o.MatMul():
            ratios = [product_ratio(op, from_type.scale[0], to_scale)]
        case o.Mean():
            count = counted(op, editor.types[editor.resolve(op.x)].shape)
            ratios = [mean_ratio(from_type.scale[0] * count, to_scale, count)]
        case _:
            ratios = [recode_ratio(scale, to_scale) for scale in from_type.scale]
    return requantize(editor, acc, to, out, ratios, low, high, rounding)


def requantize(
    editor: Editor,
    x: o.Value,
    to: Type,
    out: o.Value,
    ratios: list[Ratio],
    low: int | None = None,
    high: int | None = None,
    rounding: o.Rounding = "gemmlowp2",
) -> o.Value:
    """Append what brings `x` to codes `out` of type `to`, by these ratios, between the codes low and high."""
    bottom, top = code_range(to.format)
    multiplier, shift = zip(*ratios, strict=True)
    low, high = bottom if low is None else low, top if high is None else high
    return editor.append(o.Requantize(x, out, multiplier, shift, rounding, low, high), to)


# --- other kernels ----------------------------------------------------------------------------------------------


def recode(
    editor: Editor, x: o.Value, to: Type, out: o.Value, low: int | None = None, high: int | None = None
) -> o.Value:
    """QUANTIZE of codes `x` to codes `out` of type `to` (its shape is that of x)."""
    from_type = editor.types[x]
    ratio = recode_ratio(from_type.scale[0], to.scale[0])
    return requantize(editor, x, replace(to, shape=from_type.shape), out, [ratio], low, high)


def quantize(editor: Editor, x: o.Value, to: Type, out: o.Value) -> o.Value:
    """QUANTIZE of reals `x`."""
    return editor.append(o.Quantize(x, out, "away"), replace(to, shape=editor.types[x].shape))


# --- the grid of RESIZE_BILINEAR --------------------------------------------------------------------------------


def on_grid(op: o.Resize, shape: tuple[int, ...]) -> o.Resize:
    """`op` with the positions of TFLite's integer kernel, which steps in multiples of 2^-10 pixels.

    The step is round(1024 H / H_out), with aligned corners round(1024 (H - 1) / (H_out - 1)).
    """
    aligned = op.coordinates == "align_corners"
    steps = [_grid_step(shape[2 + k], op.size[k], aligned) for k in (0, 1)]
    unit = 1 << RESIZE_WEIGHT_BITS
    centred = op.coordinates in ("half_pixel", "pytorch_half_pixel")
    return replace(
        op, scale=(unit / steps[0], unit / steps[1]), coordinates="half_pixel" if centred else "asymmetric"
    )  # fmt: skip


def grid_flags(op: o.Resize, shape: tuple[int, ...]) -> tuple[bool, bool]:
    """(align corners, half pixel centres) of the kernel whose grid `op` samples an operand of `shape` on.

    Raises UnsupportedError for other positions.
    """
    for aligned, centred in ((False, True), (False, False), (True, False)):
        coordinates: o.Coordinates = "align_corners" if aligned else "half_pixel" if centred else "asymmetric"
        if on_grid(replace(op, coordinates=coordinates), shape) == op:
            return aligned, centred
    raise UnsupportedError("no TFLite kernel computes a linear resize with these positions", where=op.out)


def _grid_step(size: int, out: int, aligned: bool) -> int:
    unit = 1 << RESIZE_WEIGHT_BITS
    if aligned and out > 1:
        return (unit * (size - 1) + (out - 1) // 2) // (out - 1)
    return (unit * size + out // 2) // out
