"""Integer requantization under each rounding profile: the one definition that every emitter must reproduce.

A scale ratio is stored as a 31-bit multiplier q and a shift e, ratio = q 2^(e - 31), and a level x becomes
round(x q 2^(e - 31)). Runtimes round that product differently, so the rule is named:

    gemmlowp2     x q / 2^31, ties upward; then 2^e, ties away from zero   gemmlowp, TFLite and TFLM reference
    gemmlowp2-up  the same with ties upward both times                     ruy on x86
    single        one rounding, ties upward                                TFLite, CMSIS-NN single rounding; ruy
    single15      the same with q rounded to 15 bits                       TFLite with 16-bit activations
    fp32rne       float32(x) float32(ratio), ties to even                  XNNPACK "fp32"
    fc-float      double(x) double(ratio), ties away from zero             TFLite reference FULLY_CONNECTED

Every function works element by element on int64 tensors and broadcasts. No result depends on the device.
"""

from __future__ import annotations

import math
from typing import assert_never

import torch
from torch import Tensor

from edgeq.errors import UsageError
from edgeq.ir.ops import Rounding

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1
SHIFT_MIN, SHIFT_MAX = -31, 30
WIDE_SHIFT_MIN = -62
"""Of sums of 64 bits, under rules that have more than 32: smaller ratios bring every one of them to zero."""


def quantize_multiplier(ratio: float, shift_min: int = SHIFT_MIN) -> tuple[int, int]:
    """(q, e) with ratio ~ q 2^(e - 31): 2^30 <= q < 2^31 and `shift_min` <= e <= 30, or (0, 0).

    q = round(2^31 m) for ratio = m 2^e, 1/2 <= m < 1, ties away from zero (as TFLite's QuantizeMultiplier);
    q = 2^31 becomes (2^30, e + 1). The relative error is at most 2^-31. A ratio below 2^(shift_min - 1) gives (0, 0).
    Raises UsageError if the ratio is negative, not finite, or 2^30 or more.

    >>> quantize_multiplier(0.75), quantize_multiplier(1.0), quantize_multiplier(2.0**-33)
    ((1610612736, 0), (1073741824, 1), (0, 0))
    """
    if not (math.isfinite(ratio) and ratio >= 0):
        raise UsageError("a scale ratio must be a finite number, zero or more", value=ratio)
    mantissa, exponent = math.frexp(ratio)
    multiplier = math.floor(mantissa * (1 << 31) + 0.5)
    if multiplier == 1 << 31:
        multiplier, exponent = 1 << 30, exponent + 1
    if exponent > SHIFT_MAX:
        raise UsageError("the scale ratio is too large to requantize", value=ratio, allowed="below 2^30")
    return (multiplier, exponent) if multiplier and exponent >= shift_min else (0, 0)


def saturating_rounding_doubling_high_mul(a: Tensor, b: Tensor) -> Tensor:
    """round(a b / 2^31), ties upward, for int32 values a and b (gemmlowp's SQRDMULH).

    Only a = b = -2^31 leaves int32; it saturates to 2^31 - 1.

    >>> half = torch.tensor(1 << 30)
    >>> saturating_rounding_doubling_high_mul(torch.tensor([3, -3, INT32_MIN]), half).tolist()
    [2, -1, -1073741824]
    """
    return (a * b).add_(1 << 30).bitwise_right_shift_(31).clamp_(max=INT32_MAX)


def rounding_divide_by_power_of_two(x: Tensor, exponent: Tensor) -> Tensor:
    """round(x / 2^exponent), ties away from zero, for int32 x and 0 <= exponent <= 31 (gemmlowp's RDBPOT).

    >>> rounding_divide_by_power_of_two(torch.tensor([5, 6, -6, -7]), torch.tensor(2)).tolist()
    [1, 2, -2, -2]
    """
    half = (torch.ones_like(exponent) << exponent) >> 1
    below_zero = (x >> 63).mul_((half > 0).to(x.dtype))  # -1 where x < 0 and there is a half, without a mask of its own
    return below_zero.add_(x).add_(half).bitwise_right_shift_(exponent)


def _gemmlowp2(level: Tensor, multiplier: Tensor, shift: Tensor) -> Tensor:
    """RDBPOT(SRDHM(x 2^max(e, 0), q), max(-e, 0)); x and x 2^max(e, 0) saturate to int32.

    >>> _gemmlowp2(torch.tensor([10, -10]), torch.tensor(1 << 30), torch.tensor(-1)).tolist()
    [3, -3]
    """
    shifted = level.clamp(INT32_MIN, INT32_MAX)
    if bool((shift > 0).any()):
        shifted = (shifted << shift.clamp(min=0)).clamp_(INT32_MIN, INT32_MAX)
    high = saturating_rounding_doubling_high_mul(shifted, multiplier)
    return rounding_divide_by_power_of_two(high, (-shift).clamp(min=0))


def _gemmlowp2_up(level: Tensor, multiplier: Tensor, shift: Tensor) -> Tensor:
    """floor(SRDHM(x 2^max(e, 0), q) / 2^max(-e, 0) + 1/2), saturating as _gemmlowp2.

    >>> _gemmlowp2_up(torch.tensor([10, -10]), torch.tensor(1 << 30), torch.tensor(-1)).tolist()
    [3, -2]
    """
    left, right = shift.clamp(min=0), (-shift).clamp(min=0)
    shifted = (level.clamp(INT32_MIN, INT32_MAX) << left).clamp_(INT32_MIN, INT32_MAX)
    half = (torch.ones_like(right) << right) >> 1
    return saturating_rounding_doubling_high_mul(shifted, multiplier).add_(half).bitwise_right_shift_(right)


def _single(level: Tensor, multiplier: Tensor, shift: Tensor) -> Tensor:
    """floor((x q + 2^(30 - e)) / 2^(31 - e)), exact for every int64 x whose result fits in int64.

    With x = 2^31 h + l the sum is 2^31 (h q) + (l q + 2^(30 - e)), and neither part overflows; the half, where it
    exceeds 2^61, belongs to the first.

    >>> _single(torch.tensor([10, -10]), torch.tensor(1 << 30), torch.tensor(-1)).tolist()
    [3, -2]
    """
    total = 31 - shift
    one, beyond = torch.ones_like(total), total > 62
    low = (level & INT32_MAX) * multiplier + (one << (total - 1).clamp(max=61)).masked_fill(beyond, 0)
    high = (level >> 31) * multiplier
    if bool(beyond.any()):
        high += (one << (total - 32).clamp(min=0)).masked_fill(~beyond, 0)
    return ((high << (31 - total).clamp(min=0)) + (low >> total.clamp(max=31))) >> (total - 31).clamp(min=0)


def _single15(level: Tensor, multiplier: Tensor, shift: Tensor) -> Tensor:
    """floor((x m + 2^(14 - e)) / 2^(15 - e)) with m = min(round(q / 2^16), 2^15 - 1), ties upward.

    >>> _single15(torch.tensor([10, -10]), torch.tensor((1 << 30) + 40000), torch.tensor(3)).tolist()
    [40, -40]
    """
    few_bits = ((multiplier + (1 << 15)) >> 16).clamp(max=(1 << 15) - 1)
    return _single(level, few_bits << 16, shift)


def _ratio(multiplier: Tensor, shift: Tensor) -> Tensor:
    """q 2^(e - 31), exact in float64: the power is spelled in bits, since accelerators may compute powers inexactly."""
    return multiplier.to(torch.float64) * ((shift - 31 + 1023) << 52).view(torch.float64)


def _fp32rne(level: Tensor, multiplier: Tensor, shift: Tensor) -> Tensor:
    """rint(float32(x) float32(q 2^(e - 31))): three roundings, each to nearest, ties to even; float32 result.

    >>> _fp32rne(torch.tensor([10, 14, -10]), torch.tensor(1 << 30), torch.tensor(-1)).tolist()
    [2.0, 4.0, -2.0]
    """
    return level.to(torch.float32).mul(_ratio(multiplier, shift).to(torch.float32)).round_()


def _fc_float(level: Tensor, multiplier: Tensor, shift: Tensor) -> Tensor:
    """round(double(x) q 2^(e - 31)) with C's round, ties away from zero; float64 result.

    >>> _fc_float(torch.tensor([10, -10]), torch.tensor(1 << 30), torch.tensor(-1)).tolist()
    [3.0, -3.0]
    """
    return round_away(level.to(torch.float64) * _ratio(multiplier, shift))


def divide_away(numerator: Tensor, divisor: int) -> Tensor:
    """round(numerator / divisor) of int64 numbers, ties away from zero.

    >>> divide_away(torch.tensor([5, -5, 4]), 2).tolist(), divide_away(torch.tensor([4, -4]), 3).tolist()
    ([3, -3, 2], [1, -1])
    """
    magnitude = torch.div(2 * numerator.abs() + divisor, 2 * divisor, rounding_mode="floor")
    return torch.where(numerator < 0, -magnitude, magnitude)


def round_away(x: Tensor) -> Tensor:
    """round(x) of a float tensor as C's round does it: ties away from zero.

    >>> round_away(torch.tensor([0.5, -2.5, 0.49999997])).tolist()
    [1.0, -3.0, 0.0]
    """
    whole = x.trunc()
    return whole + (x - whole).mul_(2).trunc_()


def requantize(level: Tensor, multiplier: Tensor, shift: Tensor, rounding: Rounding) -> Tensor:
    """round(level multiplier 2^(shift - 31)) under the rule `rounding`; no clamp, no zero point.

    level: int64, any shape; multiplier and shift: int64 that broadcast to it, from quantize_multiplier.
    The result is int64. fp32rne and fc-float also take levels as float32 or float64 holding integers, and
    then answer in the rule's own float type (float32, float64) with the same integers.
    Overflow: gemmlowp2 and gemmlowp2-up saturate level 2^max(shift, 0) to int32 (verify refuses graphs that could reach it);
    the others hold as stated while the result is below 2^63.

    >>> x, q, e = torch.tensor([10, -10]), torch.tensor(1 << 30), torch.tensor(-1)
    >>> [requantize(x, q, e, rule).tolist() for rule in ("gemmlowp2", "single15", "fp32rne", "fc-float")]
    [[3, -3], [3, -2], [2, -2], [3, -3]]
    """
    match rounding:
        case "gemmlowp2":
            return _gemmlowp2(level, multiplier, shift)
        case "gemmlowp2-up":
            return _gemmlowp2_up(level, multiplier, shift)
        case "single":
            return _single(level, multiplier, shift)
        case "single15":
            return _single15(level, multiplier, shift)
        case "fp32rne":
            result = _fp32rne(level, multiplier, shift)
        case "fc-float":
            result = _fc_float(level, multiplier, shift)
        case _:
            assert_never(rounding)
    return result if level.is_floating_point() else result.to(torch.int64)
