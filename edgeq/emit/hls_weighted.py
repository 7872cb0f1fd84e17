"""Convolutions, transposed ones and dense layers as stages of multiply-accumulates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeq.emit.hls_context import Builder, interval, power_above
from edgeq.emit.hls_moves import gathered
from edgeq.emit.hls_numbers import product_type, weight_type
from edgeq.emit.hls_stage import Fold, Macs, Stream, Table, Work
from edgeq.formats import Float, Format, IntArray, bits_of
from edgeq.ir import ops as o
from edgeq.ir.bounds import signed_bits
from edgeq.ir.graph import Graph

Weighted = o.Conv | o.ConvTranspose | o.Linear

OVERHEAD = 6
"""Cycles that a pipelined loop takes besides its iterations: filling and leaving it."""


@dataclass(frozen=True)
class Shape:
    """A layer as a convolution over an image [in_h, in_w, in_c] with result [out_h, out_w, out_c]."""

    image: tuple[int, int, int]
    result: tuple[int, int, int]
    kernel: o.Pair
    stride: o.Pair
    pad: o.Pair
    dilation: o.Pair
    groups: int

    @property
    def inputs_of_group(self) -> int:
        """Channels that one sum runs over."""
        return self.image[2] // self.groups

    @property
    def ring(self) -> int:
        """Rows that the line buffer keeps."""
        return min(power_above((self.kernel[0] - 1) * self.dilation[0] + 1), power_above(self.image[0]))


def shape_of(this: Builder, op: Weighted) -> Shape:
    """The convolution that `op` is; of a transposed one that over its spread input."""
    result = this.image(op.out)
    if isinstance(op, o.Conv):
        kernel = this.shape(op.weight)[2], this.shape(op.weight)[3]
        return Shape(this.image(op.x), result, kernel, op.stride, op.padding[:2], op.dilation, op.groups)
    if isinstance(op, o.Linear):
        return Shape(this.image(op.x), result, (1, 1), (1, 1), (0, 0), (1, 1), 1)
    kernel = this.shape(op.weight)[2], this.shape(op.weight)[3]
    height, width, channels = this.image(op.x)
    spread = (height - 1) * op.stride[0] + 1, (width - 1) * op.stride[1] + 1, channels
    pad = tuple((kernel[k] - 1) * op.dilation[k] - op.padding[k] for k in (0, 1))
    return Shape(spread, result, kernel, (1, 1), pad, op.dilation, op.groups)  # type: ignore[arg-type]


def macs_of(this: Builder, op: Weighted) -> Macs:
    """What of a layer decides on its cost."""
    shape, format_ = shape_of(this, op), this.graph.types[op.weight].format
    height, width, outputs = shape.result
    return Macs(
        height * width, outputs, shape.inputs_of_group, shape.kernel[0] * shape.kernel[1], format_, bits_of(format_),
        this.bits(op.x) + int(not this.is_signed(op.x)), this.bits(op.out),
    )  # fmt: skip


def interval_cycles(macs: Macs, fold: Fold, tokens: int) -> int:
    """Cycles for one frame: every token read, every fold of every pixel summed and written."""
    steps = macs.window * (macs.inputs // fold.simd)
    return tokens + macs.pixels * (macs.outputs // fold.pe) * (steps + fold.pe + 2 * OVERHEAD)


def weighted(this: Builder, op: Weighted) -> Stream:
    """The stage of a layer, after one that spreads the input of a transposed convolution."""
    shape, macs = shape_of(this, op), macs_of(this, op)
    fold = this.folds.get(op.out, Fold())
    x = this.take(op.x)
    if isinstance(op, o.ConvTranspose):
        x = _spread(this, op, x)
    x_levels = interval(this.bounds, op.x)
    product, prelude = product_type(macs.weight, x_levels)
    if prelude:
        this.preludes[product] = prelude
    config = {
        **_geometry(shape), "groups": shape.groups, "inputs_of_group": shape.inputs_of_group,
        "outputs_of_group": macs.outputs // shape.groups, "pe": fold.pe, "simd": fold.simd,
        "folds": macs.outputs // fold.pe, "steps": macs.window * (macs.inputs // fold.simd), "lanes": fold.pe * fold.simd,
        "channels_at_once": min(fold.simd if shape.groups == 1 else fold.pe, shape.image[2]), "product": product,
    }  # fmt: skip
    at_once = int(config["channels_at_once"])
    kept = shape.ring * shape.image[1] * -(-shape.image[2] // at_once), x.bits * at_once
    work = Work(interval_cycles(macs, fold, x.count), (kept,), macs=macs, fold=fold)
    kind = "dense" if isinstance(op, o.Linear) else "conv"
    kind = "depthwise" if 1 < shape.groups == shape.image[2] else kind
    tables = (_weights(this, op, fold, macs), _biases(this, op, macs))
    return this.add(kind, op.out, "edgeq_conv.h", "conv", config, (x,), this.bits(op.out), work, tables)


def _geometry(shape: Shape) -> dict[str, int | str]:
    names = (
        "in_h in_w in_c out_h out_w out_c kernel_h kernel_w stride_h stride_w pad_top pad_left dilation_h dilation_w"
    )
    numbers = (*shape.image, *shape.result, *shape.kernel, *shape.stride, *shape.pad, *shape.dilation)
    return {**dict(zip(names.split(), numbers, strict=True)), "rows": shape.ring}


def _rows(graph: Graph, op: Weighted) -> IntArray:
    """Codes [outputs, inputs of a group, rows, columns] of the convolution that the layer is."""
    weight = _finite(graph.types[op.weight].format, np.asarray(graph.constants[op.weight], dtype=np.int64))
    if isinstance(op, o.Linear):
        return weight[:, :, None, None]
    if isinstance(op, o.Conv):
        return weight
    grouped = weight.reshape(op.groups, -1, *weight.shape[1:])
    return grouped.swapaxes(1, 2).reshape(-1, grouped.shape[1], *weight.shape[2:])[:, :, ::-1, ::-1]


def _finite(format_: Format, codes: IntArray) -> IntArray:
    """Codes of infinity and NaN elsewhere have the level of the largest number here, and become its code."""
    if not isinstance(format_, Float) or not format_.specials:
        return codes
    sign = 1 << (format_.bits - int(format_.signed))
    largest = sign - 1 - format_.specials
    return np.asarray(codes & sign | np.minimum(codes & (sign - 1), largest))


def _weights(this: Builder, op: Weighted, fold: Fold, macs: Macs) -> Table:
    """[fold, step] by [pe, simd], steps over rows, columns and channels."""
    codes = _rows(this.graph, op).transpose(0, 2, 3, 1)
    folded = codes.reshape(macs.outputs // fold.pe, fold.pe, macs.window * (macs.inputs // fold.simd), fold.simd)
    content = folded.transpose(0, 2, 1, 3).reshape(-1, fold.pe * fold.simd)
    type_, bits = weight_type(macs.weight)
    return Table(this.table_name("weights"), type_, content, bits)


def _biases(this: Builder, op: Weighted, macs: Macs) -> Table:
    found = np.zeros(macs.outputs, dtype=np.int64)
    if op.bias is not None:
        found = np.asarray(this.graph.constants[op.bias], dtype=np.int64)
    bits = signed_bits((int(found.min(initial=0)), int(found.max(initial=0))))
    return Table(this.table_name("biases"), f"ap_int<{bits}>", found, bits)


def _spread(this: Builder, op: o.ConvTranspose, x: Stream) -> Stream:
    """The input with stride - 1 zeros between pixels, over which the transposed convolution is a plain one."""
    height, width, channels = this.image(op.x)
    rows, columns = (height - 1) * op.stride[0] + 1, (width - 1) * op.stride[1] + 1
    places = np.full((rows, columns, channels), -1, dtype=np.int64)
    places[:: op.stride[0], :: op.stride[1]] = np.arange(height * width * channels).reshape(height, width, channels)
    return gathered(this, op.x, x, places.reshape(-1), f"{op.out} spread")


def fold_choices(macs: Macs, groups_of_inputs: int) -> list[Fold]:
    """Every pair of divisors: of the output channels, and of the channels that a sum runs over."""
    outputs = [k for k in range(1, macs.outputs + 1) if macs.outputs % k == 0]
    inputs = [k for k in range(1, groups_of_inputs + 1) if groups_of_inputs % k == 0]
    return [Fold(pe, simd) for pe in outputs for simd in inputs]
