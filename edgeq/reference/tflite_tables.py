"""Scalar functions of TFLite's kernels as tables over all codes, with the kernels' own arithmetic.

On 8-bit codes LOGISTIC, TANH, GELU, EXP and LOG tabulate in single precision, HARD_SWISH works on 16-bit fixed point, and
LEAKY_RELU requantizes each half with a ratio of its own. On 16-bit codes LOGISTIC and TANH interpolate a table of the
sigmoid (edgeq/reference/tflite_sigmoid.py). Any other function is tabulated in double
precision, and the emitter stores its table.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from edgeq.formats import FloatArray, IntArray, bits_of, code_range, encode
from edgeq.ir import ops as o
from edgeq.ir.graph import Type
from edgeq.reference.arithmetic import quantize_multiplier, requantize, round_away
from edgeq.reference.meaning import apply_function
from edgeq.reference.tflite_sigmoid import logistic_of_16_bits, tanh_of_16_bits

Floats = NDArray[np.float32]

LARGEST_EXPONENT = np.float32(88.0)
"""e to a larger power is beyond single precision; the sigmoid is zero code there long before."""

_SINGLE_PRECISION: dict[o.FunctionName, Callable[[Floats], Floats]] = {
    "sigmoid": lambda x: (np.float32(1) / (np.float32(1) + np.exp(np.minimum(-x, LARGEST_EXPONENT)))).astype(
        np.float32
    ),
    "tanh": lambda x: np.tanh(x).astype(np.float32),
    "gelu": lambda x: (0.5 * x.astype(np.float64) * (1 + _erf(x * np.float32(np.sqrt(0.5))))).astype(np.float32),
    "exp": np.exp,
    "log": lambda x: np.log(np.maximum(x, 0)),
    "gelu_tanh": lambda x: torch.nn.functional.gelu(torch.from_numpy(x), approximate="tanh").numpy(),
}


def _erf(x: Floats) -> FloatArray:
    found: FloatArray = torch.erf(torch.from_numpy(x.astype(np.float64))).numpy()
    return found


def _levels(type_: Type) -> IntArray:
    low, high = code_range(type_.format)
    levels: IntArray = np.arange(low, high + 1, dtype=np.int64) - type_.zero_point
    return levels


def tabulate(function: o.Function, from_type: Type, to: Type) -> IntArray:
    """Code of `to` for every code of `from_type`, lowest first (int64 [codes])."""
    low, high = code_range(to.format)
    levels = _levels(from_type)
    wide = bits_of(from_type.format) > 8
    match function.name:
        case "sigmoid" if wide:
            codes = logistic_of_16_bits(levels, from_type.scale[0])
        case "tanh" if wide:
            codes = tanh_of_16_bits(levels, from_type.scale[0])
        case "sigmoid" | "tanh" | "gelu" | "gelu_tanh" | "exp" | "log" if not wide:
            codes = _in_single_precision(_SINGLE_PRECISION[function.name], levels, from_type, to)
        case "hardswish" if not wide:
            codes = _hard_swish(levels, from_type.scale[0], to.scale[0])
        case "leaky_relu":
            codes = _leaky_relu(levels, function.a, from_type.scale[0], to.scale[0])
        case _:
            reals = apply_function(function, torch.from_numpy(levels * from_type.scale[0])).numpy()
            return encode(to.format, reals / to.scale[0], to.zero_point)
    table: IntArray = np.clip(codes + to.zero_point, low, high)
    return table


def kernel_table(function: o.Function, from_type: Type, to: Type) -> IntArray:
    """As `tabulate`, but SQRT, ABS and NEG as their kernels have them, which lowering has no use for.

    SQRT rounds down (and gives zero below zero, where the kernel refuses), NEG turns codes around and wraps.
    """
    low, high = code_range(to.format)
    levels = _levels(from_type)
    match function.name:
        case "sqrt":
            reals = np.sqrt(np.maximum(levels, 0).astype(np.float32) * np.float32(from_type.scale[0]))
            codes = np.floor(reals / np.float32(to.scale[0])).astype(np.int64)
        case "abs":
            multiplier, shift = map(torch.tensor, quantize_multiplier(from_type.scale[0] / to.scale[0]))
            codes = requantize(torch.from_numpy(np.abs(levels)), multiplier, shift, "gemmlowp2").numpy()
        case "neg":
            codes = np.where(levels == low, low, -levels)
        case _:
            return tabulate(function, from_type, to)
    table: IntArray = np.clip(codes + to.zero_point, low, high)
    return table


def default_table(function: o.Function, from_type: Type, to: Type) -> IntArray | None:
    """As `tabulate` on 8-bit codes, as XNNPACK has it; None where LiteRT's default kernel is as its reference kernel."""
    low, high = code_range(to.format)
    levels = _levels(from_type)
    x, finer = levels.astype(np.float32) * np.float32(from_type.scale[0]), np.float32(1) / np.float32(to.scale[0])
    match function.name:
        case "sigmoid":
            powers = np.exp(np.clip(x, -100, 100).astype(np.float64))
            codes = np.rint((powers / (1 + powers)).astype(np.float32) * finer).astype(np.int64)
        case "tanh":
            codes = np.rint(np.tanh(x) * finer).astype(np.int64)
        case "leaky_relu":
            above = np.float32(from_type.scale[0]) / np.float32(to.scale[0])
            below = above * np.float32(function.a)
            if not (2.0**-8 <= above <= 2.0**7 and 2.0**-8 <= abs(below) <= 2.0**7):
                return None
            ratios = (int(np.rint(np.float32(256) * ratio)) for ratio in (above, below))
            codes = (np.where(levels >= 0, next(ratios), next(ratios)) * levels + 128) >> 8
        case _:
            return None
    table: IntArray = np.clip(codes + to.zero_point, low, high)
    return table


def _in_single_precision(function: Callable[[Floats], Floats], levels: IntArray, from_type: Type, to: Type) -> IntArray:
    with np.errstate(over="ignore", divide="ignore"):
        reals = function(levels.astype(np.float32) * np.float32(from_type.scale[0]))
    with np.errstate(over="ignore"):
        scaled = np.clip(reals * (np.float32(1) / np.float32(to.scale[0])), -(2.0**30), 2.0**30)
    return round_away(torch.from_numpy(scaled)).numpy().astype(np.int64)


def _leaky_relu(levels: IntArray, slope: float, scale: float, to_scale: float) -> IntArray:
    def scaled(ratio: float) -> torch.Tensor:
        multiplier, shift = map(torch.tensor, quantize_multiplier(ratio))
        return requantize(x, multiplier, shift, "gemmlowp2")

    x = torch.from_numpy(levels)
    single, to_single = np.float32(scale), np.float32(to_scale)
    above, below = float(single / to_single), float(single * np.float32(slope) / to_single)
    found: IntArray = torch.where(x >= 0, scaled(above), scaled(below)).numpy()
    return found


# --- HARD_SWISH: x relu6(x + 3) / 6 on 16-bit fixed point ---------------------------------------------------------

_LOW, _HIGH = -(1 << 15), (1 << 15) - 1
_HIRES_BITS = 7


def _high_mul(a: IntArray, b: int | IntArray, *, rounding: bool) -> IntArray:
    """a b / 2^15 toward zero, after adding a half away from zero if `rounding`; saturating in 16 bits."""
    product = a * b
    half = np.where(product >= 0, 1 << 14, 1 - (1 << 14)) if rounding else 0
    moved = product + half
    found: IntArray = np.minimum(np.sign(moved) * (np.abs(moved) >> 15), _HIGH)
    return found


def _halved(x: IntArray, exponent: int) -> IntArray:
    """round(x / 2^exponent), ties away from zero."""
    half = (1 << exponent) >> 1
    found: IntArray = (x + half - ((x < 0) & (half > 0))) >> exponent
    return found


def _saturated(x: IntArray) -> IntArray:
    found: IntArray = np.clip(x, _LOW, _HIGH)
    return found


def _sixteen_bits(ratio: float) -> tuple[int, int]:
    multiplier, shift = quantize_multiplier(ratio)
    return min((multiplier + (1 << 15)) >> 16, _HIGH), shift


def _hard_swish(levels: IntArray, scale: float, to_scale: float) -> IntArray:
    """Levels of x g with g = clamp(x / 6 + 1/2, 0, 1): both factors get 16 bits, their product is shifted into place."""
    fine = float(np.float32(1 / (1 << _HIRES_BITS)) * np.float32(scale))
    out_multiplier, out_shift = _sixteen_bits(fine / to_scale)
    gate_multiplier, gate_shift = _sixteen_bits(fine / float(np.float32(3 / (1 << 15))))
    x = levels << _HIRES_BITS
    gate = _saturated(x << max(gate_shift - 1, 0))
    gate = _high_mul(gate, gate_multiplier, rounding=True)
    gate = _saturated(gate << 1) if gate_shift > 0 else _halved(gate, -gate_shift)
    gate = (gate + (1 << 15)) >> 1
    product = _high_mul(gate, _high_mul(x, out_multiplier, rounding=True), rounding=False)
    return _halved(product, -out_shift) if out_shift <= 0 else _saturated(product << out_shift)
