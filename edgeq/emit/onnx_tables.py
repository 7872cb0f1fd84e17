"""Weights in minifloats and codebooks, for ONNX Runtime: their own codes, and what makes levels or reals of them.

    up to 4 bits, levels in bytes    UINT4 codes, Cast, Gather from a table of INT8: levels, which integer kernels take
    OCP FP8                          FLOAT8E4M3FN or FLOAT8E5M2, Cast, Mul by the scales: reals
    up to 8 bits                     UINT8 codes, Cast, Gather from a table of reals, Mul by the scales: reals
    integers in blocks               INT4 or INT8, DequantizeLinear with a block size: reals
    tables in blocks                 as above, with each block as a row while it is scaled: reals

ONNX Runtime folds all but DequantizeLinear when it loads the file. That of FP8 it would fuse into an integer convolution,
which then refuses the type. It has no kernel for FLOAT4E2M1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
from onnx import TensorProto, helper

from edgeq.catalogue import FP8_E4M3, FP8_E5M2
from edgeq.emit.onnx_quant import Tensor, along, smallest_of
from edgeq.formats import INT4, INT4_NARROW, Codebook, Float, Format, bits_of, encode, level_table
from edgeq.ir.graph import Array, Type

LARGEST_BITS = 8
_NATIVE = {FP8_E4M3: TensorProto.FLOAT8E4M3FN, FP8_E5M2: TensorProto.FLOAT8E5M2}


class Writer(Protocol):
    """What is needed of edgeq/emit/onnx_writer.py."""

    initializers: dict[Tensor, TensorProto]

    def fresh(self, name: str) -> Tensor: ...
    def constant(self, array: Array, hint: str) -> Tensor: ...
    def packed(self, codes: Array, element: int, hint: str) -> Tensor: ...
    def integers(self, numbers: Iterable[int], hint: str) -> Tensor: ...
    def node(
        self,
        kind: str,
        inputs: list[Tensor],
        out: Tensor,
        *,
        to: int | None = None,
        axis: int | None = None,
        block_size: int | None = None,
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


def has_blocks(type_: Type) -> bool:
    """Whether codes of `type_` are stored in blocks of input channels, in at most eight bits."""
    return bool(type_.block) and type_.axis == 0 and bits_of(type_.format) <= LARGEST_BITS


def write_blocks(codes: Array, type_: Type, hint: str, w: Writer) -> Tensor:
    """The real tensor of constant `codes` [out, in, ...] with a scale per block of input channels."""
    outputs, inputs = codes.shape[:2]
    scales = np.array(type_.scale, dtype=np.float32).reshape(outputs, inputs // type_.block)
    if isinstance(type_.format, Float | Codebook):
        return _blocks_of_table(codes, type_, scales, hint, w)
    grid = scales.reshape(*scales.shape, *[1] * (codes.ndim - 2))
    spread = np.broadcast_to(grid, (*scales.shape, *codes.shape[2:]))
    packs = type_.format in (INT4, INT4_NARROW)
    stored = w.packed(codes, TensorProto.INT4, hint) if packs else w.constant(codes.astype(np.int8), hint)
    return w.node(
        "DequantizeLinear", [stored, w.constant(spread, f"{hint}.scale")], w.fresh(f"{hint}.dq"),
        axis=1, block_size=type_.block,
    )  # fmt: skip


def _blocks_of_table(codes: Array, type_: Type, scales: Array, hint: str, w: Writer) -> Tensor:
    table = w.constant(level_table(type_.format).astype(np.float32), f"{hint}.table")
    packs = bits_of(type_.format) <= 4
    stored = w.packed(codes, TensorProto.UINT4, hint) if packs else w.constant(codes.astype(np.uint8), hint)
    levels = _gathered(table, stored, hint, w)
    rows = w.node("Reshape", [levels, w.integers((*scales.shape, -1), f"{hint}.rows")], w.fresh(f"{hint}.blocks"))
    scaled = w.node("Mul", [rows, w.constant(scales[..., None], f"{hint}.scale")], w.fresh(f"{hint}.scaled"))
    return w.node("Reshape", [scaled, w.integers(codes.shape, f"{hint}.shape")], w.fresh(f"{hint}.weight"))


def _gathered(table: Tensor, codes: Tensor, hint: str, w: Writer) -> Tensor:
    indices = w.node("Cast", [codes], w.fresh(f"{hint}.index"), to=TensorProto.INT32)
    return w.node("Gather", [table, indices], w.fresh(f"{hint}.levels"), axis=0)


def _native(codes: Array, type_: Type, format_: Float, hint: str, w: Writer) -> Tensor:
    name = w.fresh(hint)
    content = codes.astype(np.uint8).tobytes()
    w.initializers[name] = helper.make_tensor(name, _NATIVE[format_], codes.shape, content, raw=True)
    numbers = w.node("Cast", [name], w.fresh(f"{hint}.numbers"), to=TensorProto.FLOAT)
    scales = along([scale / smallest_of(format_) for scale in type_.scale], type_)
    return w.node("Mul", [numbers, w.constant(scales, f"{hint}.scale")], w.fresh(f"{hint}.scaled"))
