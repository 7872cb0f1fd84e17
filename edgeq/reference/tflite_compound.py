"""TFLite's kernels that take several of our operators, beyond one accumulator and its rounding.

SQUARED_DIFFERENCE                                   as SUB, 2^7 finer; gemmlowp2 of the square
PRELU                                                each half by gemmlowp2 with a ratio of its own
SOFTMAX                                              float inside: Dequantize, Softmax, Quantize
"""

from __future__ import annotations

from dataclasses import replace

from edgeq.formats import INT32, code_range
from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Type
from edgeq.ir.infer import result_shapes
from edgeq.reference import tflite
from edgeq.reference.arithmetic import quantize_multiplier

_SQUARES_SHIFT = 7


def squared_difference(editor: Editor, op: o.Sub, to: Type, out: o.Value) -> o.Value:
    """SQUARED_DIFFERENCE of 8-bit codes; `op` is their difference."""
    op, (common,) = tflite.with_common_scale(editor, op, _SQUARES_SHIFT, op.out)
    shape = result_shapes(op, lambda value: editor.types[value].shape)[0]
    difference = editor.append(replace(op, out=editor.fresh(op.out)), Type(shape, INT32, (common,)))
    square = o.Mul(difference, difference, editor.fresh(f"{op.out}.square"))
    editor.append(square, Type(shape, INT32, (common * common,)))
    ratio = tflite.recode_ratio(common * common, to.scale[0])
    return tflite.requantize(editor, square.out, replace(to, shape=shape), out, [ratio])


def prelu(editor: Editor, x: o.Value, alpha: o.Value, to: Type, out: o.Value) -> o.Value:
    """PRELU of 8-bit codes: x where it is positive, else alpha x, each rounded by itself; one of the two is zero."""
    x_type, scale = editor.types[x], editor.types[x].scale[0]
    part = Type(x_type.shape, INT32, to.scale)

    def half(ratios: list[tflite.Ratio], of: o.Value, type_: Type, name: str, low: int, high: int) -> o.Value:
        return tflite.requantize(editor, of, type_, editor.fresh(f"{out}.{name}"), ratios, low, high)

    bottom, top = code_range(INT32)
    above = half([tflite.recode_ratio(scale, to.scale[0])], x, part, "above", 0, top)
    below = half([quantize_multiplier(1.0)], x, x_type, "below", code_range(x_type.format)[0], x_type.zero_point)
    product = o.Mul(below, alpha, editor.fresh(f"{out}.product"))
    slope = editor.types[alpha].scale[0]
    editor.append(product, Type(x_type.shape, INT32, (scale * slope,)))
    sloped = half([tflite.recode_ratio(scale * slope, to.scale[0])], product.out, part, "sloped", bottom, top)
    both = editor.append(o.Add(above, sloped, editor.fresh(f"{out}.both")), part)
    return tflite.requantize(editor, both, replace(to, shape=x_type.shape), out, [quantize_multiplier(1.0)])


def softmax(editor: Editor, x: o.Value, axis: int, to: Type, out: o.Value) -> o.Value:
    """SOFTMAX of codes `x`: single precision inside, one rounding of the result."""
    shape = editor.types[x].shape
    real = editor.append(o.Dequantize(x, editor.fresh(f"{out}.x")), Type(shape))
    shares = editor.append(o.Softmax(real, editor.fresh(f"{out}.shares"), axis))
    return tflite.quantize(editor, shares, to, out)
