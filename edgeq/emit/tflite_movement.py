"""Operators that move or select elements: the same TFLite operators for reals, codes and indices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeq.emit.tflite_layout import NHWC, Layout, identity, transposed
from edgeq.emit.tflite_values import Values
from edgeq.emit.tflite_writer import Index
from edgeq.errors import UnsupportedError
from edgeq.formats import IntArray, code_range, encode
from edgeq.ir import ops as o
from edgeq.ir.bounds import is_codes
from edgeq.reference.meaning import nearest_sources, source_positions

Movement = (
    o.Concat | o.Slice | o.Pad | o.Reshape | o.Transpose | o.Expand | o.Gather | o.GatherElements | o.MaxPool | o.Resize
)  # fmt: skip


def write_movement(op: Movement, v: Values) -> None:
    """Append `op`. Raises UnsupportedError for what TFLite cannot move so."""
    match op:
        case o.Concat():
            _concat(op, v)
        case o.Slice():
            _slice(op, v)
        case o.Pad():
            _pad(op, v)
        case o.Reshape():
            v.as_shape(op.x, op.shape, op.out)
        case o.Transpose():
            _transpose(op, v)
        case o.Expand():
            _expand(op, v)
        case o.Gather():
            _gather(op, v)
        case o.GatherElements():
            _gather_elements(op, v)
        case o.MaxPool():
            _max_pool(op, v)
        case o.Resize():
            _nearest(op, v)


def _transpose(op: o.Transpose, v: Values) -> None:
    """Nothing moves: the same tensor in another layout."""
    if v.is_constant(op.x):
        v.transpose(v.read(op.x), v.result(op.out), op.permutation)
        return
    home = v.layout(op.x)
    v.place(op.out, v.read(op.x), transposed(home, op.permutation))


def common_layout(values: tuple[o.Value, ...], v: Values) -> Layout:
    """The home of the largest computed operand of full rank."""
    rank = max(len(v.shape(value)) for value in values)
    computed = [value for value in values if not v.is_constant(value) and len(v.shape(value)) == rank]
    if not computed:
        return identity(rank)
    return v.layout(max(computed, key=lambda value: (v.type(value).size, v.layout(value) == NHWC)))


def _concat(op: o.Concat, v: Values) -> None:
    layout = common_layout(op.xs, v)
    v.file.operator(
        "CONCATENATION", [v.read(x, layout) for x in op.xs], [v.result(op.out, layout)], v.version(op.out, 1, 2, 3), "ConcatenationOptions",
        axis=layout.index(op.axis),
    )  # fmt: skip


def _slice(op: o.Slice, v: Values) -> None:
    layout, shape = v.layout(op.x), v.shape(op.x)
    bounds = [(op.starts[a], min(op.stops[a], shape[a]) if op.steps[a] > 0 else op.stops[a]) for a in layout]
    steps = [op.steps[axis] for axis in layout]
    inputs, out = [v.read(op.x, layout)], v.result(op.out, layout)
    if all(step == 1 for step in steps):
        sizes = [stop - start for start, stop in bounds]
        inputs += [v.integers([start for start, _ in bounds], "begin"), v.integers(sizes, "size")]
        v.file.operator("SLICE", inputs, [out], 2, "SliceOptions")
        return
    open_ends = sum(1 << k for k, (_, stop) in enumerate(bounds) if stop < 0)
    ends = [max(stop, 0) for _, stop in bounds]
    inputs += [v.integers([start for start, _ in bounds], "begin"), v.integers(ends, "end"), v.integers(steps, "steps")]
    v.file.operator(
        "STRIDED_SLICE", inputs, [out], 2, "StridedSliceOptions",
        beginMask=0, endMask=open_ends, ellipsisMask=0, newAxisMask=0, shrinkAxisMask=0,
    )  # fmt: skip


def _pad(op: o.Pad, v: Values) -> None:
    layout = v.layout(op.x)
    if op.mode == "edge":
        indices = [
            np.pad(np.arange(size), (b, a), mode="edge")
            for size, b, a in zip(v.shape(op.x), op.before, op.after, strict=True)
        ]
        _select(op.x, op.out, [(axis, i) for axis, i in enumerate(indices) if op.before[axis] or op.after[axis]], v)
        return
    amounts = np.array([[op.before[a], op.after[a]] for a in layout], dtype=np.int32)
    inputs, out = [v.read(op.x, layout), v.numbers(amounts, "paddings")], v.result(op.out, layout)
    if op.mode == "reflect":
        v.file.operator("MIRROR_PAD", inputs, [out], 2, "MirrorPadOptions", mode=0)
    elif op.value == 0.0:
        v.file.operator("PAD", inputs, [out], 2, "PadOptions")
    else:
        v.file.operator("PADV2", [*inputs, _filler(op.x, op.value, v)], [out], 2, "PadV2Options")


def _filler(like: o.Value, real: float, v: Values) -> Index:
    """A constant of one element with the numbers of `like`, of the value `real` or the nearest to it."""
    type_ = v.type(like)
    if not is_codes(type_):
        return v.numbers(np.array([real], dtype=np.float32), "filler")
    return v.code(like, int(encode(type_.format, [real / type_.scale[0]], type_.zero_point)[0]))


def _expand(op: o.Expand, v: Values) -> None:
    rank = len(op.shape)
    layout = v.layout(op.x) if len(v.shape(op.x)) == rank else identity(rank)
    x, out = v.spread(op.x, rank, layout), v.result(op.out, layout)
    v.file.operator("BROADCAST_TO", [x, v.integers(list(v.file.shape(out)), "shape")], [out], 2)


def _gather(op: o.Gather, v: Values) -> None:
    layout = v.layout(op.x) if len(v.shape(op.indices)) == 1 else identity(len(v.shape(op.x)))
    if v.is_constant(op.indices):
        array = v.graph.constants[op.indices].astype(np.int64)
        indices = v.numbers(np.where(array < 0, array + v.shape(op.x)[op.axis], array), op.indices)
    else:
        indices = v.read(op.indices, identity(len(v.shape(op.indices))))
    same_rank = len(v.shape(op.indices)) == 1
    out = v.result(op.out, layout if same_rank else None)
    v.file.operator(
        "GATHER", [v.read(op.x, layout), indices], [out], 2, "GatherOptions", axis=layout.index(op.axis), batchDims=0
    )  # fmt: skip


def _gather_elements(op: o.GatherElements, v: Values) -> None:
    """Along `axis`, where the indices repeat over every later axis: a GATHER batched over the axes before."""
    indices = v.graph.producer.get(op.indices)
    source = indices.x if isinstance(indices, o.Expand) else op.indices
    shape, rank = v.shape(source), len(v.shape(op.x))
    whole = all(v.shape(op.indices)[a] == v.shape(op.x)[a] for a in range(op.axis + 1, rank))
    if len(shape) != rank or any(size != 1 for size in shape[op.axis + 1 :]) or not whole:
        raise UnsupportedError("TFLite cannot gather single elements", where=op.out, next_step="Use --raw-head.")
    if shape[: op.axis] != v.shape(op.x)[: op.axis]:
        raise UnsupportedError("TFLite cannot gather across broadcast axes", where=op.out)
    flat = v.file.tensor(f"{op.out}.indices", shape[: op.axis + 1], "INT32")
    v.reshape(v.read(source, identity(rank)), flat)
    v.file.operator(
        "GATHER", [v.read(op.x, identity(rank)), flat], [v.result(op.out)], 2, "GatherOptions",
        axis=op.axis, batchDims=op.axis,
    )  # fmt: skip


def _select(x: o.Value, out: o.Value, picks: list[tuple[int, IntArray]], v: Values) -> None:
    """Copy elements along some axes, one GATHER per axis."""
    layout = v.layout(x)
    current = v.read(x, layout)
    for k, (axis, indices) in enumerate(picks):
        shape = list(v.file.shape(current))
        shape[layout.index(axis)] = len(indices)
        last = k == len(picks) - 1
        to = v.result(out, layout) if last else v.temporary(x, f"{out}.picked", tuple(shape))
        v.file.operator(
            "GATHER", [current, v.numbers(indices.astype(np.int32), "picks")], [to], 2, "GatherOptions",
            axis=layout.index(axis), batchDims=0,
        )  # fmt: skip
        current = to


# --- windows ----------------------------------------------------------------------------------------------------


def used_padding(size: int, out: int, kernel: int, stride: int, dilation: int, before: int) -> int:
    """Elements of padding behind an axis that some window really meets."""
    return max(0, (out - 1) * stride + (kernel - 1) * dilation + 1 - size - before)


def is_same_padding(size: int, kernel: int, stride: int, dilation: int, before: int, after: int) -> bool:
    """Whether TFLite's SAME means this padding: as little as gives ceil(size / stride) windows, the odd one behind."""
    out = -(-size // stride)
    total = max(0, (out - 1) * stride + (kernel - 1) * dilation + 1 - size)
    return (before, after) == (total // 2, total - total // 2)


def padded_for(
    x: o.Value, out: o.Value, kernel: o.Pair, stride: o.Pair, padding: o.Quad, dilation: o.Pair, v: Values,
    fill: Callable[[], Index] | None = None,
) -> tuple[Index, int]:  # fmt: skip
    """`x` in NHWC, padded where SAME cannot say it, and the code of the padding (0 SAME, 1 VALID).

    `fill` gives what surrounds it; without it that is zero.
    """
    size, count = v.shape(x)[2:], v.shape(out)[2:]
    before = padding[:2]
    after = [used_padding(size[k], count[k], kernel[k], stride[k], dilation[k], before[k]) for k in (0, 1)]
    tensor = v.read(x, NHWC)
    if not any(before) and not any(after):
        return tensor, 1
    if all(is_same_padding(size[k], kernel[k], stride[k], dilation[k], before[k], after[k]) for k in (0, 1)):
        return tensor, 0
    amounts = np.array([[0, 0], [before[0], after[0]], [before[1], after[1]], [0, 0]], dtype=np.int32)
    n, c = v.shape(x)[:2]
    shape = (n, size[0] + before[0] + after[0], size[1] + before[1] + after[1], c)
    wider = v.temporary(x, f"{out}.padded", shape)
    inputs = [tensor, v.numbers(amounts, "paddings")]
    if fill is None:
        v.file.operator("PAD", inputs, [wider], 2, "PadOptions")
    else:
        v.file.operator("PADV2", [*inputs, fill()], [wider], 2, "PadV2Options")
    return wider, 1


def _max_pool(op: o.MaxPool, v: Values) -> None:
    if op.dilation != (1, 1):
        raise UnsupportedError("TFLite has no dilated pooling", where=op.out, value=op.dilation, allowed="(1, 1)")

    def lowest() -> Index:
        type_ = v.type(op.x)
        if is_codes(type_):
            return v.code(op.x, code_range(type_.format)[0])
        return v.numbers(np.array([np.finfo(np.float32).min]), "lowest")

    x, padding = padded_for(op.x, op.out, op.kernel, op.stride, op.padding, op.dilation, v, lowest)
    v.file.operator(
        "MAX_POOL_2D", [x], [v.result(op.out, NHWC)], v.version(op.x, 1, 2, 3), "Pool2DOptions",
        padding=padding, strideH=op.stride[0], strideW=op.stride[1], filterHeight=op.kernel[0],
        filterWidth=op.kernel[1], fusedActivationFunction=0,
    )  # fmt: skip


def _nearest(op: o.Resize, v: Values) -> None:
    """RESIZE_NEAREST_NEIGHBOR where it picks the same pixels, else rows and columns by GATHER."""
    size = v.shape(op.x)[2:]
    sources = [nearest_sources(size[k], op.size[k], op.scale[k], op) for k in (0, 1)]
    for aligned, centred in ((False, False), (False, True), (True, False)):
        if all(np.array_equal(sources[k], _tflite_sources(size[k], op.size[k], aligned, centred)) for k in (0, 1)):
            inputs = [v.read(op.x, NHWC), v.integers(list(op.size), "size")]
            v.file.operator(
                "RESIZE_NEAREST_NEIGHBOR", inputs, [v.result(op.out, NHWC)], 2 if not (aligned or centred) else 3,
                "ResizeNearestNeighborOptions", alignCorners=aligned, halfPixelCenters=centred,
            )  # fmt: skip
            return
    _select(op.x, op.out, [(2, sources[0]), (3, sources[1])], v)


def _tflite_sources(size: int, out: int, aligned: bool, centred: bool) -> IntArray:
    """Pixels that TFLite's kernel copies along an axis, in its single precision."""
    ratio = np.float32(size - 1) / np.float32(out - 1) if aligned and out > 1 else np.float32(size) / np.float32(out)
    position = (np.arange(out, dtype=np.float32) + np.float32(0.5 if centred else 0.0)) * ratio
    moved = np.floor(position + np.float32(0.5)) if aligned else np.floor(position)
    found: IntArray = np.clip(moved, 0, size - 1).astype(np.int64)
    return found


def bilinear_flags(op: o.Resize, size: tuple[int, ...]) -> tuple[bool, bool]:
    """(align corners, half pixel centres) with which RESIZE_BILINEAR samples reals as `op` does.

    Raises UnsupportedError if neither does.
    """
    for aligned, centred in ((False, True), (False, False), (True, False)):
        coordinates: o.Coordinates = "align_corners" if aligned else "half_pixel" if centred else "asymmetric"
        if all(_samples_alike(op, coordinates, size[k], op.size[k], k) for k in (0, 1)):
            return aligned, centred
    raise UnsupportedError(
        "TFLite has no linear resize with these positions", where=op.out, value=(op.coordinates, op.scale)
    )


def _samples_alike(op: o.Resize, coordinates: o.Coordinates, size: int, out: int, k: int) -> bool:
    wanted = source_positions(size, out, op.scale[k], op.coordinates)
    found = source_positions(size, out, out / size, coordinates)
    return bool(np.allclose(np.clip(wanted, 0, size - 1), np.clip(found, 0, size - 1), atol=1e-5))
