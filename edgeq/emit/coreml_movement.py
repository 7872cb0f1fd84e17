"""Operators that move, select or resample elements, in MIL."""

from __future__ import annotations

import numpy as np

from edgeq.emit.coreml_functions import natural
from edgeq.emit.coreml_program import Tensor
from edgeq.emit.coreml_writer import Writer
from edgeq.errors import UnsupportedError
from edgeq.ir import ops as o
from edgeq.reference.meaning import interpolation_matrix, nearest_sources

Movement = o.Concat | o.Slice | o.Pad | o.Reshape | o.Transpose | o.Expand | o.Resize | o.Gather | o.GatherElements


def write_movement(op: Movement, w: Writer) -> Tensor:
    """The result of `op` on reals, indices or truth values."""
    out, shape = op.out, w.shape(op.out)
    if isinstance(op, o.Concat):
        values = [w.real(x) for x in op.xs]
        return w.op("concat", out, shape, values[0].dtype, values=values, axis=op.axis, interleave=False)
    x = w.real(op.x)
    match op:
        case o.Slice():
            return _slice(op, x, w)
        case o.Pad():
            return _pad(op, x, w)
        case o.Reshape():
            return w.op("reshape", out, shape, x.dtype, x=x, shape=np.array(op.shape))
        case o.Transpose():
            return w.op("transpose", out, shape, x.dtype, x=x, perm=np.array(op.permutation))
        case o.Expand():
            return _expand(op, x, w)
        case o.Resize():
            return _resize(op, x, w)
        case o.Gather():
            return take(x, natural(op.indices, x.shape[op.axis], w), op.axis, out, w)
        case o.GatherElements():
            indices = natural(op.indices, x.shape[op.axis], w)
            return w.op(
                "gather_along_axis", out, shape, x.dtype, x=x, indices=indices, axis=op.axis,
                validate_indices=False if w.ios >= 17 else None,
            )  # fmt: skip


def take(x: Tensor, indices: Tensor, axis: int, out: str, w: Writer) -> Tensor:
    """`x` with `axis` replaced by the axes of `indices`, which select along it."""
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    return w.op(
        "gather", out, shape, x.dtype, x=x, indices=indices, axis=axis, batch_dims=0,
        validate_indices=False if w.ios >= 17 else None,
    )  # fmt: skip


def _slice(op: o.Slice, x: Tensor, w: Writer) -> Tensor:
    past = [stop < 0 for stop in op.stops]
    return w.op(
        "slice_by_index", op.out, w.shape(op.out), x.dtype, x=x, begin=np.array(op.starts),
        end=np.array([0 if to_end else stop for stop, to_end in zip(op.stops, past, strict=True)]),
        stride=np.array(op.steps), end_mask=np.array(past) if any(past) else None,
    )  # fmt: skip


def _pad(op: o.Pad, x: Tensor, w: Writer) -> Tensor:
    if x.dtype != w.real_dtype:
        raise UnsupportedError("CoreML pads reals only", where=op.out, value=x.dtype)
    axes = [k for k in range(len(x.shape)) if op.before[k] or op.after[k]]
    if op.mode == "constant" or min(axes, default=len(x.shape)) >= len(x.shape) - 2:
        mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}[op.mode]
        amounts = np.stack([op.before, op.after], axis=1).reshape(-1)
        if op.mode != "constant":
            amounts = amounts[-4:]
        return w.op("pad", op.out, w.shape(op.out), x=x, pad=amounts, mode=mode, constant_val=float(op.value))
    for axis in axes:  # MIL reflects and repeats on the last two axes only
        index = np.pad(np.arange(x.shape[axis]), (op.before[axis], op.after[axis]), mode=op.mode)
        x = take(x, w.constant(index, f"{op.out}_index"), axis, op.out, w)
    return x


def _expand(op: o.Expand, x: Tensor, w: Writer) -> Tensor:
    shape = w.shape(op.out)
    aligned = (*[1] * (len(shape) - len(x.shape)), *x.shape)
    if aligned != x.shape:
        x = w.op("reshape", f"{op.out}_aligned", aligned, x.dtype, x=x, shape=np.array(aligned))
    repeats = [wanted // size for wanted, size in zip(shape, aligned, strict=True)]
    return w.op("tile", op.out, shape, x.dtype, x=x, reps=np.array(repeats))


def _resize(op: o.Resize, x: Tensor, w: Writer) -> Tensor:
    size, shape = x.shape[2:], w.shape(op.out)
    factors = (op.size[0] / size[0], op.size[1] / size[1])
    whole = all(factor == int(factor) for factor in factors)
    if op.mode == "nearest":
        if whole and _repeats(op, size):
            return w.op(
                "upsample_nearest_neighbor", op.out, shape, x=x,
                scale_factor_height=int(factors[0]), scale_factor_width=int(factors[1]),
            )  # fmt: skip
        for axis in (0, 1):
            sources = nearest_sources(size[axis], op.size[axis], op.scale[axis], op)
            x = take(x, w.constant(sources, f"{op.out}_sources"), axis + 2, op.out, w)
        return x
    if op.mode == "linear" and whole and factors == op.scale and op.coordinates == "half_pixel":
        scale = [w.constant(factor, f"{op.out}_factor", "fp32") for factor in factors]
        return w.op(
            "upsample_bilinear", op.out, shape, x=x, scale_factor_height=scale[0], scale_factor_width=scale[1],
            align_corners=False, half_pixel_centers=True,
        )  # fmt: skip
    rows, columns = (
        interpolation_matrix(size[k], op.size[k], op.scale[k], op.mode, op.coordinates, False).numpy()[None, None]
        for k in (0, 1)
    )
    tall = w.op("matmul", f"{op.out}_rows", (*shape[:3], size[1]), x=w.constant(rows, f"{op.out}_by_rows"), y=x)
    return w.op("matmul", op.out, shape, x=tall, y=w.constant(columns, f"{op.out}_by_columns"), transpose_y=True)


def _repeats(op: o.Resize, size: tuple[int, ...]) -> bool:
    """Whether the resize repeats every row and column the same whole number of times."""
    return all(
        np.array_equal(
            nearest_sources(size[k], op.size[k], op.scale[k], op), np.arange(size[k]).repeat(op.size[k] // size[k])
        )
        for k in (0, 1)
    )
