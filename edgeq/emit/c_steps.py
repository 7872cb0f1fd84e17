"""What each kernel needs of memory: which operands its result may overlap, and how much scratch it takes."""

from __future__ import annotations

import numpy as np

from edgeq.emit.c_layout import image
from edgeq.emit.c_pack import CHANNEL_VECTORS, LANES, PIXELS, WIDE_COLUMNS, column_size, pixel_groups, weight_bits
from edgeq.formats import IntArray, bits_of
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph, Type
from edgeq.passes.kernel import Kernel, Program, is_depthwise
from edgeq.passes.schedule import Overlap, Step
from edgeq.target import Instructions

COLUMNS, PACKED = 4, 16
"""Columns of a matrix that are gathered together, and how many elements of one may lie side by side."""

SPARE_BYTES = 3
"""Kernels that load words may read so far beyond the plane of a depthwise convolution."""


def is_pointwise(kernel: Kernel, program: Program) -> bool:
    """Whether a kernel is a convolution whose patches are pixels of its input."""
    op = kernel.op
    if not isinstance(op, o.Conv) or program.type(op.weight).shape[2:] != (1, 1):
        return False
    return (op.stride, op.padding, op.groups) == ((1, 1), (0, 0, 0, 0), 1)


def reads_in_place(kernel: Kernel, program: Program, instructions: Instructions) -> bool:
    """Whether a convolution can read pixels of its input as columns."""
    return is_pointwise(kernel, program) and instructions not in WIDE_COLUMNS


def widens_pixels(kernel: Kernel, program: Program, instructions: Instructions) -> bool:
    """Whether the columns of a convolution are pixels of its input, widened."""
    return is_pointwise(kernel, program) and instructions in WIDE_COLUMNS


def plane_of(op: o.Conv, kernel: tuple[int, int], out: Type) -> tuple[int, int]:
    """Rows and columns that the windows of a depthwise convolution cover, padding included."""
    rows, columns = ((out.shape[2 + k] - 1) * op.stride[k] + (kernel[k] - 1) * op.dilation[k] + 1 for k in (0, 1))
    return rows, columns


def is_channelwise(op: o.Conv, graph: Graph, instructions: Instructions) -> bool:
    """Whether a depthwise convolution runs on vectors of channels."""
    one_each = is_depthwise(op, graph) and graph.types[op.weight].shape[0] == op.groups
    return one_each and instructions in CHANNEL_VECTORS


def is_planewise(op: o.Conv, graph: Graph, instructions: Instructions) -> bool:
    """Whether a depthwise convolution runs channel by channel; the others are convolutions in groups."""
    return is_depthwise(op, graph) and instructions not in CHANNEL_VECTORS


def step_of(kernel: Kernel, program: Program, instructions: Instructions, *, direct: bool) -> Step:
    """The needs of one kernel; `direct` if a 1x1 convolution reads its input in place."""
    types, op = program.graph.types, kernel.op
    scratch = 0
    overlaps: tuple[Overlap, ...] = ()
    match op:
        case o.Conv() if is_channelwise(op, program.graph, instructions):
            scratch, taps = LANES, types[op.weight].shape[2:4]
            overlaps = (_channels_overlap(op, taps, op.dilation, types[op.x], types[kernel.out]),)  # type: ignore[arg-type]
        case o.Conv() if is_planewise(op, program.graph, instructions):
            plane = plane_of(op, types[op.weight].shape[2:4], types[kernel.out])  # type: ignore[arg-type]
            unpacked = 0 if bits_of(types[op.weight].format) > 4 else int(np.prod(types[op.weight].shape[2:]))
            scratch = plane[0] * plane[1] + SPARE_BYTES + unpacked
            if types[op.x].shape[1] == types[kernel.out].shape[1]:
                overlaps = (Overlap(op.x, 0, 0, exact=True),)
        case o.Conv():
            shape = types[op.weight].shape
            most = _pixels_at_once(op, program, instructions)
            columns = 0 if direct else most * column_size(int(np.prod(shape[1:])), instructions)
            codes = most * shape[0] if kernel.table is not None or kernel.residual else 0
            scratch = columns + codes
            if not direct:
                overlaps = (_conv_overlap(op, shape[2:4], most, types[op.x], types[kernel.out]),)  # type: ignore[arg-type]
            if kernel.residual:
                overlaps = (*overlaps, Overlap(kernel.residual.other.value, 0, 0))
        case o.MaxPool() | o.AveragePool():
            dilation = op.dilation if isinstance(op, o.MaxPool) else (1, 1)
            overlaps = (_channels_overlap(op, op.kernel, dilation, types[op.x], types[kernel.out]),)
        case o.Lookup() | o.Requantize():
            overlaps = (Overlap(op.x, 0),)
        case o.Linear() if types[op.x].size > types[op.weight].shape[1]:
            outputs, k = types[op.weight].shape
            column = column_size(k, instructions) if instructions in WIDE_COLUMNS else 0
            codes = outputs if kernel.table is not None else 0
            scratch = _pixels_at_once(op, program, instructions) * (column + codes)
        case o.MatMul() | o.Softmax() | o.LayerNorm():
            scratch = _attention_scratch(kernel, program)
        case o.Add() | o.Sub() | o.Mul():
            same = [v for v in kernel.reads if v != _layer_input(kernel)]
            same = [v for v in same if types[v].shape == types[kernel.out].shape]
            same = [v for v in same if program.bits_of(v) == program.bits_of(kernel.out)]
            overlaps = tuple(Overlap(v, 0) for v in dict.fromkeys(same))
    overlaps = tuple(v for v in overlaps if v.operand not in program.graph.constants)
    return Step(kernel.reads, kernel.out, scratch, overlaps)


def _attention_scratch(kernel: Kernel, program: Program) -> int:
    """Bytes of the layouts that edgeq_attention.h and edgeq_matmul.h describe."""
    shapes = [program.type(value).shape for value in kernel.reads]
    if kernel.scoring:
        (depth, keys), width = shapes[1][-2:], shapes[2][-1]
        blocks = _up(keys, COLUMNS)
        return blocks * (4 + 2 + 1 + _up(depth, PACKED)) + _up(keys, PACKED) * _up(width, COLUMNS)
    if isinstance(kernel.op, o.MatMul):
        return 4 * shapes[0][-2] + COLUMNS * _up(shapes[0][-1], PACKED)
    return 0


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _layer_input(kernel: Kernel) -> o.Value | None:
    """What the layer reads whose sums an addition takes: all of it is needed for every row."""
    return kernel.joining.layer.x if kernel.joining else None


def _window_ends(
    kernel: tuple[int, int], stride: o.Pair, padding: o.Quad, dilation: o.Pair, x: Type, out: Type
) -> tuple[IntArray, IntArray]:
    """For every output pixel: the first byte of x that its window reads, and the one after the last."""
    height, width, channels = image(x)
    rows, columns = (np.arange(out.shape[2 + k]) * stride[k] - padding[k] for k in (0, 1))
    last_rows, last_columns = rows + (kernel[0] - 1) * dilation[0], columns + (kernel[1] - 1) * dilation[1]
    low = rows.clip(0, height - 1)[:, None] * width + columns.clip(0, width - 1)
    high = last_rows.clip(0, height - 1)[:, None] * width + last_columns.clip(0, width - 1) + 1
    return low.reshape(-1) * channels, high.reshape(-1) * channels


def _pixels_at_once(op: o.Conv | o.Linear, program: Program, instructions: Instructions) -> int:
    weight = program.type(op.weight)
    bits = 8 if program.bits > 8 else weight_bits(weight.format, int(np.prod(weight.shape[1:])), instructions)
    return PIXELS[instructions] if bits == 8 else 2


def _conv_overlap(op: o.Conv, kernel: tuple[int, int], most: int, x: Type, out: Type) -> Overlap:
    """A few pixels at a time are gathered before they are written; groups are gathered one after another."""
    low, high = _window_ends(kernel, op.stride, op.padding, op.dilation, x, out)
    pixel, pixels = out.shape[1], len(low)
    needed_from = np.minimum.accumulate(low[::-1])[::-1]
    needed_to = np.maximum.accumulate(high)
    ends = np.cumsum(pixel_groups(pixels, most))
    firsts = np.concatenate([[0], ends[:-1]])
    reads = firsts if op.groups > 1 else ends  # the first pixel that is read after a group is written
    later = reads < pixels
    forward = int(np.max(ends[later] * pixel - needed_from[reads[later]], initial=-x.size))
    # In reverse a group begins where that of the same number ends, counted from the other side.
    starts, lasts = pixels - ends, pixels - reads
    reverse = int(np.max(needed_to[lasts[later] - 1] - starts[later] * pixel, initial=-out.size))
    return Overlap(op.x, forward, reverse)


def _channels_overlap(
    op: o.MaxPool | o.AveragePool | o.Conv, kernel: tuple[int, int], dilation: o.Pair, x: Type, out: Type
) -> Overlap:
    """Channel by channel, a code is written after its own window was read."""
    low, _ = _window_ends(kernel, op.stride, op.padding, dilation, x, out)
    needed_from = np.minimum.accumulate(low[::-1])[::-1]
    return Overlap(op.x, int(np.max(np.arange(len(low)) * out.shape[1] - needed_from)))
