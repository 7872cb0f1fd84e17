"""Constant codes as the compressed constants of an ML program: our integers, scales and tables, bit for bit.

Systems before iOS 18 know 8-bit codes with a scale per channel, and tables with one scale in all. From iOS 18 on there
are 4-bit codes, scales per block, and tables with a scale per channel behind them. A table is stored as level / 2^e
with its largest entry between 1 and 2, and the scale times 2^e (edgeq/quantize/scale.py, half_scales).
"""

from __future__ import annotations

import numpy as np

from edgeq.emit.coreml_blob import pack
from edgeq.emit.coreml_program import Program, Shape, Tensor
from edgeq.errors import UnsupportedError
from edgeq.formats import Fixed, FloatArray, Format, Int, bits_of, code_range, decode, level_table
from edgeq.ir.graph import Array, Type

INDEX_BITS = (1, 2, 3, 4, 6, 8)
"""Widths of table indices; before iOS 18 there are none of three bits."""


def write_codes(codes: Array, type_: Type, where: str, w: Program) -> Tensor:
    """The real tensor of constant `codes`. Raises UnsupportedError for what the target's system cannot hold."""
    if _has_integers(type_.format, w):
        return _integers(codes, type_, where, w)
    indices, table = _indexed(codes, type_.format, where)
    return _palette(indices, table, type_, where, w) if w.ios >= 18 else _old_palette(indices, table, type_, where, w)


def _has_integers(format: Format, w: Program) -> bool:
    """Whether codes of `format` are an element type of the program, and no table stores them in fewer bits."""
    bits = bits_of(format)
    return isinstance(format, Int | Fixed) and (bits in (4, 7, 8) if w.ios >= 18 else 4 < bits <= 8)


def exact(numbers: FloatArray, where: str, w: Program) -> Array:
    """Scales or tables in the program's own real type. Raises UnsupportedError where that would change one."""
    stored = numbers.astype(np.float16 if w.real_dtype == "fp16" else np.float32)
    if not np.array_equal(stored.astype(np.float64), numbers):
        off = numbers[stored.astype(np.float64) != numbers]
        raise UnsupportedError("the file cannot hold this number exactly", where=where, value=repr(float(off.flat[0])))
    return stored


def scale_grid(type_: Type) -> Shape:
    """Shape of the scales of `type_`, of as many axes as the value: 1, or one per channel, or one per block."""
    shape = [1] * len(type_.shape)
    if type_.axis is not None and len(type_.scale) > 1:
        shape[type_.axis] = type_.shape[type_.axis]
        if type_.block:
            shape[1 - type_.axis] = type_.shape[1 - type_.axis] // type_.block
    return tuple(shape)


def gridded(type_: Type) -> FloatArray:
    """The scales of `type_` in the shape of `scale_grid`."""
    grid = scale_grid(type_)
    flat = np.array(type_.scale, dtype=np.float64)
    if type_.block and type_.axis == 1:
        return flat.reshape(grid[1], grid[0]).T.reshape(grid)
    return flat.reshape(grid)


def _integers(codes: Array, type_: Type, where: str, w: Program) -> Tensor:
    low, _ = code_range(type_.format)
    dtype = f"{'int' if low < 0 else 'uint'}{4 if bits_of(type_.format) == 4 else 8}"
    if w.ios >= 18:
        scales = exact(gridded(type_), where, w)
        parts = {"data": (codes, dtype), "scale": (scales, w.real_dtype)}
        if type_.zero_point:
            parts["offset"] = (np.full(scales.shape, type_.zero_point), dtype)
        return w.compressed("constexpr_blockwise_shift_scale", where, codes.shape, w.real_dtype, parts)
    if type_.block:
        raise UnsupportedError("scales per block need iOS 18", where=where, value=f"iOS {w.ios}")
    scales = exact(np.array(type_.scale, dtype=np.float64), where, w)
    single = len(type_.scale) == 1
    return w.compressed(
        "constexpr_affine_dequantize", where, codes.shape, w.real_dtype,
        {
            "quantized_data": (codes, dtype),
            "zero_point": (np.array(type_.zero_point), dtype),
            "scale": (scales.reshape(()) if single else scales, w.real_dtype),
            "axis": (np.array(0 if single else type_.axis), "int32"),
        },
    )  # fmt: skip


def _indexed(codes: Array, format: Format, where: str) -> tuple[Array, FloatArray]:
    """Indices from 0, and the level of each index up to a power of two of them (the last repeats)."""
    if bits_of(format) > max(INDEX_BITS):
        raise UnsupportedError("CoreML stores weights of at most 8 bits", where=where, value=format)
    low, high = code_range(format)
    levels = level_table(format) if not isinstance(format, Int | Fixed) else decode(format, np.arange(low, high + 1))
    bits = next(width for width in INDEX_BITS if 1 << width >= len(levels))
    padded = np.concatenate([levels, np.repeat(levels[-1], (1 << bits) - len(levels))])
    return codes.astype(np.int64) - low, padded.astype(np.float64)


def _exponent(type_: Type) -> int:
    """The e of the module's text."""
    if isinstance(type_.format, Int | Fixed):
        return 0
    return int(np.abs(level_table(type_.format)).max()).bit_length() - 1


def _palette(indices: Array, table: FloatArray, type_: Type, where: str, w: Program) -> Tensor:
    exponent = _exponent(type_)
    lut = exact(np.ldexp(table - type_.zero_point, -exponent), where, w)
    scales = exact(np.ldexp(gridded(type_), exponent), where, w)
    bits = len(table).bit_length() - 1
    axes = len(type_.shape)
    dense = w.compressed(
        "constexpr_lut_to_dense", f"{where}_table", indices.shape, w.real_dtype,
        {
            "indices": (indices, f"uint{bits}"),
            "lut": (lut.reshape(*[1] * axes, len(table), 1), w.real_dtype),
        },
    )  # fmt: skip
    return w.compressed(
        "constexpr_blockwise_shift_scale", where, indices.shape, w.real_dtype,
        {"data": (dense, w.real_dtype), "scale": (scales, w.real_dtype)},
    )  # fmt: skip


def _old_palette(indices: Array, table: FloatArray, type_: Type, where: str, w: Program) -> Tensor:
    if len(type_.scale) > 1:
        raise UnsupportedError(
            "tables with a scale per channel need iOS 18", where=where, value=f"iOS {w.ios}",
            next_step="Use one scale for the whole weight.",
        )  # fmt: skip
    if len(table) == 8:  # no indices of three bits
        table = np.concatenate([table, np.repeat(table[-1], 8)])
    bits = len(table).bit_length() - 1
    packed = np.frombuffer(pack(indices, f"uint{bits}"), np.uint8)
    reals = (table - type_.zero_point) * type_.scale[0]
    lut = reals.astype(np.float16 if w.real_dtype == "fp16" else np.float32)
    return w.compressed(
        "constexpr_lut_to_dense", where, indices.shape, w.real_dtype,
        {
            "indices": (packed, "uint8"),
            "lut": (lut, w.real_dtype),
            "shape": (np.array(indices.shape), "uint32"),
        },
    )  # fmt: skip
