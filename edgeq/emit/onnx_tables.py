"""Weights in minifloats and codebooks, for ONNX Runtime: their own codes, and what makes levels or reals of them.

    up to 4 bits, levels in bytes    UINT4 codes, Cast, Gather from a table of INT8: levels, which integer kernels take
    OCP FP8                          FLOAT8E4M3FN or FLOAT8E5M2, DequantizeLinear: reals
    up to 8 bits                     UINT8 codes, Cast, Gather from a table of reals, Mul by the scales: reals

ONNX Runtime folds all of that when it loads the file. It has no kernel for FLOAT4E2M1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
from onnx import TensorProto, helper

from edgeq.catalogue import FP8_E4M3, FP8_E5M2
from edgeq.emit.onnx_quant import Tensor, along, smallest_of
from edgeq.formats import Codebook, Float, Format, bits_of, encode, level_table
from edgeq.ir.graph import Array, Type

LARGEST_BITS = 8
_NATIVE = {FP8_E4M3: TensorProto.FLOAT8E4M3FN, FP8_E5M2: TensorProto.FLOAT8E5M2}


class Writer(Protocol):
    """What is needed of edgeq/emit/onnx_writer.py."""

    initializers: dict[Tensor, TensorProto]

    def fresh(self, name: str) -> Tensor: ...
    def constant(self, array: Array, hint: str) -> Tensor: ...
    def packed(self, codes: Array, element: int, hint: str) -> Tensor: ...
    def node(
        self, kind: str, inputs: list[Tensor], out: Tensor, *, to: int | None = None, axis: int | None = None
    ) -> Tensor: ...


def has_table(type_: Type) -> bool:
    """Whether codes of `type_` look their levels up, and fit in a byte."""
    return isinstance(type_.format, Float | Codebook) and bits_of(type_.format) <= LARGEST_BITS and not type_.block


def write_levels(levels: Array, format_: Format, hint: str, w: Writer) -> Tensor:
    """The INT8 tensor of `levels`, stored as codes of `format_`, at most four bits each."""
    packed = w.packed(encode(format_, levels), TensorProto.UINT4, hint)
    table = w.constant(level_table(format_).astype(np.int8), f"{hint}.table")
    return _gathered(table, packed, hint, w)


def write_reals(codes: Array, type_: Type, hint: str, w: Writer) -> Tensor:
    """The real tensor of constant `codes`, stored as they are."""
    if isinstance(type_.format, Float) and type_.format in _NATIVE:
        return _native(codes, type_, type_.format, hint, w)
    table = w.constant(level_table(type_.format).astype(np.float32), f"{hint}.table")
    levels = _gathered(table, w.constant(codes.astype(np.uint8), hint), hint, w)
    return w.node("Mul", [levels, w.constant(along(type_.scale, type_), f"{hint}.scale")], w.fresh(f"{hint}.scaled"))


def _gathered(table: Tensor, codes: Tensor, hint: str, w: Writer) -> Tensor:
    indices = w.node("Cast", [codes], w.fresh(f"{hint}.index"), to=TensorProto.INT32)
    return w.node("Gather", [table, indices], w.fresh(f"{hint}.levels"), axis=0)


def _native(codes: Array, type_: Type, format_: Float, hint: str, w: Writer) -> Tensor:
    name = w.fresh(hint)
    content = codes.astype(np.uint8).tobytes()
    w.initializers[name] = helper.make_tensor(name, _NATIVE[format_], codes.shape, content, raw=True)
    scales = tuple(scale / smallest_of(format_) for scale in type_.scale)
    flat = along(scales, replace(type_, shape=(len(scales),), axis=0) if len(scales) > 1 else type_)
    axis = type_.axis if len(scales) > 1 else None
    return w.node("DequantizeLinear", [name, w.constant(flat, f"{hint}.scale")], w.fresh(f"{hint}.dq"), axis=axis)
