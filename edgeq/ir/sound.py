"""Whether a format or a type can describe any value at all, whichever operator made it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import numpy as np

from edgeq.formats import BOOL, INDEX, Codebook, Fixed, Float, Format, Int, Real, code_range, level_table
from edgeq.ir.bounds import is_codes
from edgeq.ir.graph import Type

Problems = Iterator[str]

WIDEST_BITS = 64
_CODEBOOK_NAME = re.compile(r"[a-z_]+")


def ordered(type_: Type) -> bool:
    """Whether a larger code always is a larger level, so that codes can be compared directly."""
    if isinstance(type_.format, Float | Codebook):
        return bool(np.all(np.diff(level_table(type_.format)) >= 0))
    return True


def type_problems(type_: Type) -> Problems:
    """What keeps `type_` from describing any value."""
    if wrong := next(format_problems(type_.format), None):
        yield f"{type_.format} is not supported; allowed: {wrong}"
        return
    if not is_codes(type_):
        if (
            type_.zero_point
            or type_.axis is not None
            or type_.block
            or not (type_.is_real or type_.format in (INDEX, BOOL))
        ):
            yield f"a value without a scale must be real, an index or a truth value, not {type_}"
        return
    if type_.is_real:
        yield "a real value has no scale"
        return
    if not all(math.isfinite(scale) and scale > 0 for scale in type_.scale):
        yield f"scales {type_.scale} must be positive and finite"
    yield from _axis_problems(type_)
    yield from _number_problems(type_)


def _axis_problems(type_: Type) -> Problems:
    if type_.axis is not None and not 0 <= type_.axis < len(type_.shape):
        yield f"axis {type_.axis} does not belong to shape {type_.shape}"
    elif type_.block:
        yield from _block_problems(type_)
    elif len(type_.scale) > 1 and (type_.axis is None or len(type_.scale) != type_.shape[type_.axis]):
        yield f"{len(type_.scale)} scales on axis {type_.axis} of shape {type_.shape}"


def _block_problems(type_: Type) -> Problems:
    if type_.axis not in (0, 1) or len(type_.shape) < 2:
        yield f"blocks need output channels on axis 0 or 1, not axis {type_.axis} of shape {type_.shape}"
        return
    outputs, inputs = type_.shape[type_.axis], type_.shape[1 - type_.axis]
    if type_.block < 1 or inputs % type_.block:
        yield f"blocks of {type_.block} do not divide {inputs} input channels"
    elif len(type_.scale) != outputs * (inputs // type_.block):
        yield f"{len(type_.scale)} scales for {outputs} channels of {inputs // type_.block} blocks"


def format_problems(format_: Format) -> Problems:
    """What keeps `format_` from having codes and levels that 64-bit integers hold."""
    match format_:
        case Int():
            smallest = 1 + int(format_.narrow)
            if not smallest <= format_.bits <= WIDEST_BITS or (format_.narrow and not format_.signed):
                yield f"integer of 1 to {WIDEST_BITS} bits, narrow only if signed with 2 or more"
        case Fixed():
            if not 1 <= format_.bits <= WIDEST_BITS or abs(format_.fraction) > 126:
                yield f"fixed point of 1 to {WIDEST_BITS} bits with a fraction of at most 126"
        case Float():
            if not (1 <= format_.exponent <= 5 and format_.mantissa <= 10):
                yield "minifloat with 1 to 5 exponent and 0 to 10 mantissa bits"
            elif not 0 <= format_.specials <= 1 << format_.mantissa:
                yield "minifloat whose infinity and NaN take at most one exponent"
        case Codebook():
            if not _CODEBOOK_NAME.fullmatch(format_.name):
                yield "a codebook name of small letters and underscores"
            if not 2 <= len(format_.table) <= 1 << 16 or max(map(abs, format_.table)) >= 1 << 62:
                yield "codebook of 2 to 65536 levels below 2^62"
        case Real():
            return


def _number_problems(type_: Type) -> Problems:
    format_, zero = type_.format, type_.zero_point
    if isinstance(format_, Int):
        low, high = code_range(format_)
        if not low <= zero <= high:
            yield f"zero point {zero} is not a code of {format_}"
    elif zero:
        yield f"{format_} has no zero point, not {zero}"
    if isinstance(format_, Fixed) and type_.scale != (2.0**-format_.fraction,):
        yield f"{format_} has scale 2^-{format_.fraction}, not {type_.scale}"
