"""QONNX: every value stays a float tensor, and a Quant or FloatQuant node says which grid it lies on.

    Quant       s (clip(round(x / s + z), lowest, highest) - z) of `bitwidth` bits, `signed`, `narrow`
    FloatQuant  a minifloat with `exponent` and `mantissa` bits, an exponent bias, and a largest number (QONNX 1.0)

FloatQuant is written with scale 1 and the scale behind it as a Mul, which is the form that data types are inferred
for. Biases and other constants stay reals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from onnx import NodeProto, helper

from edgeq.formats import Fixed, Float, FloatArray, Int, IntArray, decode, level_range
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Type

Tensor = str

DOMAIN = "qonnx.custom_op.general"
LARGEST_BITS = 16
"""Integers of up to so many bits are Quant nodes; wider constants are biases."""


class Writer(Protocol):
    """What is needed of edgeq/emit/onnx_writer.py."""

    nodes: list[NodeProto]
    domains: dict[str, int]

    def fresh(self, name: str) -> Tensor: ...
    def constant(self, array: Array, hint: str) -> Tensor: ...
    def scalar(self, number: float, hint: str) -> Tensor: ...


def smallest_of(format_: Float) -> float:
    """The real of level 1 in a minifloat with the usual bias 2^(exponent - 1) - 1."""
    return float(2.0 ** (1 - bias_of(format_) - format_.mantissa))


def bias_of(format_: Float) -> int:
    """The usual exponent bias."""
    return (1 << (format_.exponent - 1)) - 1


def write_quant(reals: Tensor, type_: Type, out: Tensor, hint: str, w: Writer) -> Tensor:
    """A Quant node from `reals` to `out` on the grid of an integer type."""
    assert isinstance(type_.format, Int | Fixed), type_
    scale = w.constant(along(type_.scale, type_), f"{hint}.scale")
    zero = w.scalar(float(type_.zero_point), f"{hint}.zero_point")
    bits = w.scalar(float(type_.format.bits), f"{hint}.bits")
    narrow = isinstance(type_.format, Int) and type_.format.narrow
    return _node(
        "Quant", [reals, scale, zero, bits], out, w,
        signed=int(type_.format.signed), narrow=int(narrow), rounding_mode="ROUND",
    )  # fmt: skip


def write_constant(codes: Array, type_: Type, value: o.Value, w: Writer) -> Tensor | None:
    """The real tensor of constant codes behind a node that names their format; None where QONNX has no such node."""
    levels = decode(type_.format, codes, type_.zero_point)
    if isinstance(type_.format, Float):
        return _float_constant(levels, type_, value, w)
    if not isinstance(type_.format, Int | Fixed) or type_.format.bits > LARGEST_BITS or type_.block:
        return None
    reals = w.constant(levels.astype(np.float32) * type_.scales.astype(np.float32), value)
    return write_quant(reals, type_, w.fresh(f"{value}.quant"), value, w)


def _float_constant(levels: IntArray, type_: Type, value: o.Value, w: Writer) -> Tensor:
    format_ = type_.format
    assert isinstance(format_, Float)
    smallest = smallest_of(format_)
    numbers = {
        "unit": 1.0, "exponent": float(format_.exponent), "mantissa": float(format_.mantissa),
        "bias": float(bias_of(format_)), "largest": level_range(format_)[1] * smallest,
    }  # fmt: skip
    inputs = [w.constant((levels * smallest).astype(np.float32), value)]
    inputs += [w.scalar(number, f"{value}.{name}") for name, number in numbers.items()]
    on_grid = _node(
        "FloatQuant", inputs, w.fresh(f"{value}.quant"), w,
        has_inf=0, has_nan=int(format_.specials > 0), has_subnormal=1, rounding_mode="ROUND", saturation=1,
    )  # fmt: skip
    scale = w.constant(along([number / smallest for number in type_.scale], type_), f"{value}.scale")
    scaled = w.fresh(f"{value}.scaled")
    w.nodes.append(helper.make_node("Mul", [on_grid, scale], [scaled], name=f"Mul:{scaled}"))
    return scaled


def along(scales: Sequence[float], type_: Type) -> Array:
    """One number, or one per index of the axis, so that it broadcasts against the value."""
    array: FloatArray = np.array(scales)
    single = array.astype(np.float32)
    if len(scales) == 1 or type_.axis is None:
        return single.reshape(())
    return single.reshape([-1 if axis == type_.axis else 1 for axis in range(len(type_.shape))])


def _node(kind: str, inputs: list[Tensor], out: Tensor, w: Writer, **attributes: int | str) -> Tensor:
    node = helper.make_node(kind, inputs, [out], name=f"{kind}:{out}", domain=DOMAIN)
    node.attribute.extend(helper.make_attribute(name, content) for name, content in sorted(attributes.items()))
    w.nodes.append(node)
    w.domains[DOMAIN] = 1
    return out
