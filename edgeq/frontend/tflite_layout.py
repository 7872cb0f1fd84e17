"""TFLite operators that only move elements: they work on reals, indices and codes alike."""

from __future__ import annotations

from math import prod

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.frontend.tflite_build import Handler, Importer
from edgeq.frontend.tflite_elementwise import known_axes
from edgeq.frontend.tflite_file import FileOperator, FileTensor
from edgeq.frontend.tflite_types import TO_FIRST
from edgeq.frontend.tflite_window import options
from edgeq.ir import ops as o


def _reshape(i: Importer, op: FileOperator) -> None:
    given = i.optional(op, 1)
    shape = i.integers(given, "the shape") if given is not None else options(op).integers(0)
    x = i.plain(i.tensor(op, 0))
    if shape.count(-1) == 1:
        rest = prod(size for size in shape if size != -1)
        whole = prod(i.shape(x))
        if rest < 1 or whole % rest:
            raise UnsupportedError("the operand cannot have this shape", value=shape, allowed=i.shape(x))
        shape = tuple(whole // rest if size == -1 else size for size in shape)
    i.give(i.result(op), i.reshape(x, shape))


def _squeeze(i: Importer, op: FileOperator) -> None:
    x = i.plain(i.tensor(op, 0))
    shape = i.shape(x)
    chosen = options(op).integers(0) if op.options else ()
    if any(not -len(shape) <= axis < len(shape) or shape[axis] != 1 for axis in chosen):
        raise UnsupportedError("only axes of size 1 can go", value=chosen, allowed=shape)
    axes = {axis % len(shape) for axis in chosen} or {k for k, size in enumerate(shape) if size == 1}
    i.give(i.result(op), i.reshape(x, [size for k, size in enumerate(shape) if k not in axes]))


def _expand_dims(i: Importer, op: FileOperator) -> None:
    x = i.plain(i.tensor(op, 0))
    shape, (axis, *_) = i.shape(x), (*i.integers(i.tensor(op, 1), "the axis"), 0)
    if not -len(shape) - 1 <= axis <= len(shape):
        raise UnsupportedError("no such axis", value=axis)
    axis %= len(shape) + 1
    i.give(i.result(op), i.reshape(x, (*shape[:axis], 1, *shape[axis:])))


def _transpose(i: Importer, op: FileOperator) -> None:
    permutation = i.integers(i.tensor(op, 1), "the permutation")
    i.give(i.result(op), i.transpose(i.plain(i.tensor(op, 0)), permutation))


def _shape(i: Importer, op: FileOperator) -> None:
    i.give(i.result(op), i.builder.constant(np.array(i.shape(i.plain(i.tensor(op, 0))), dtype=np.int64)))


def _moved(i: Importer, x: FileTensor, numbers: tuple[int, ...], first: bool) -> tuple[int, ...]:
    """Numbers for the axes of the file in the order of the value's axes."""
    if len(numbers) != (4 if first else len(i.shape(i.plain(x)))):
        raise UnsupportedError("there must be one number per axis", where=x.name, value=numbers)
    return tuple(numbers[axis] for axis in TO_FIRST) if first else numbers


def _slice(i: Importer, op: FileOperator) -> None:
    x = i.tensor(op, 0)
    first = i.is_first(x)
    begin, size = (_moved(i, x, i.integers(i.tensor(op, k), "the bounds"), first) for k in (1, 2))
    shape = i.shape(i.form(x, first))
    stops = tuple(n if s == -1 else b + s for b, s, n in zip(begin, size, shape, strict=True))
    if any(not 0 <= b <= e <= n for b, e, n in zip(begin, stops, shape, strict=True)):
        raise UnsupportedError("the bounds lie outside the operand", value=(begin, size), allowed=shape)
    i.give(i.result(op), i.emit(o.Slice(i.form(x, first), "", begin, stops, (1,) * len(shape))), first=first)


def _strided_slice(i: Importer, op: FileOperator) -> None:
    table, x = options(op), i.plain(i.tensor(op, 0))
    if any(table.integer(slot) for slot in (2, 3)) or table.flag(5):
        raise UnsupportedError("ellipsis and new axes are not supported", where=i.tensor(op, 0).name)
    shape = i.shape(x)
    given = [i.integers(i.tensor(op, k), "the bounds") for k in (1, 2, 3)]
    if len({len(numbers) for numbers in given}) > 1 or len(given[0]) > len(shape):
        raise UnsupportedError("bounds and steps differ in length", value=given, allowed=shape)
    masks = (table.integer(0), table.integer(1), table.integer(4))
    cuts = [
        _cut(size, (given[0][k], given[1][k], given[2][k]), [bool(mask >> k & 1) for mask in masks])
        if k < len(given[0])
        else (0, size, 1)
        for k, size in enumerate(shape)
    ]
    starts, stops, steps = zip(*cuts, strict=True) if cuts else ((), (), ())
    value = i.emit(o.Slice(x, "", starts, stops, steps))
    kept = [size for k, size in enumerate(i.shape(value)) if k >= len(given[0]) or not masks[2] >> k & 1]
    i.give(i.result(op), i.reshape(value, kept))


def _cut(size: int, bounds: tuple[int, int, int], masks: list[bool]) -> tuple[int, int, int]:
    """(start, stop, step) along one axis; the masks leave out the begin or the end, or ask for a single index."""
    begin, end, step = bounds
    if step == 0:
        raise UnsupportedError("a step is 0", value=bounds)
    if masks[2]:
        if not -size <= begin < size:
            raise UnsupportedError("an index lies outside the operand", value=begin, allowed=size)
        return begin % size, begin % size + 1, 1
    start, stop, _ = slice(None if masks[0] else begin, None if masks[1] else end, step).indices(size)
    return start, stop if step < 0 else max(stop, start), step


def _parts(i: Importer, op: FileOperator, x: FileTensor, axis: int, sizes: list[int]) -> None:
    first = i.is_first(x)
    value, (axis,) = i.form(x, first), known_axes(i, x, (axis,), first)
    shape = i.shape(value)
    if min(sizes, default=0) < 1 or sum(sizes) != shape[axis] or len(sizes) != len(op.outputs):
        raise UnsupportedError("the parts do not make up the operand", value=sizes[:8], allowed=shape[axis])
    start = 0
    for position, size in enumerate(sizes):
        starts = tuple(start if k == axis else 0 for k in range(len(shape)))
        stops = tuple(start + size if k == axis else n for k, n in enumerate(shape))
        part = value if len(sizes) == 1 else i.emit(o.Slice(value, "", starts, stops, (1,) * len(shape)))
        i.give(i.result(op, position), part, first=first)
        start += size


def _size_of(i: Importer, x: FileTensor, axis: int) -> int:
    first = i.is_first(x)
    return i.shape(i.form(x, first))[known_axes(i, x, (axis,), first)[0]]


def _split(i: Importer, op: FileOperator) -> None:
    axis, x, count = (*i.integers(i.tensor(op, 0), "the axis"), 0)[0], i.tensor(op, 1), len(op.outputs)
    size = _size_of(i, x, axis)
    if not count or size % count:
        raise UnsupportedError("the parts do not make up the operand", value=count, allowed=size)
    _parts(i, op, x, axis, [size // count] * count)


def _split_v(i: Importer, op: FileOperator) -> None:
    x, sizes = i.tensor(op, 0), list(i.integers(i.tensor(op, 1), "the sizes"))
    axis = (*i.integers(i.tensor(op, 2), "the axis"), 0)[0]
    rest = _size_of(i, x, axis) - sum(size for size in sizes if size != -1)
    _parts(i, op, x, axis, [rest if size == -1 else size for size in sizes])


def _unpack(i: Importer, op: FileOperator) -> None:
    x = i.plain(i.tensor(op, 0))
    (axis,) = known_axes(i, i.tensor(op, 0), (options(op).integer(1),), False)
    shape = i.shape(x)
    if shape[axis] != len(op.outputs):
        raise UnsupportedError("one result per entry of the axis", value=len(op.outputs), allowed=shape[axis])
    for position in range(shape[axis]):
        starts = tuple(position if k == axis else 0 for k in range(len(shape)))
        stops = tuple(position + 1 if k == axis else n for k, n in enumerate(shape))
        part = i.emit(o.Slice(x, "", starts, stops, (1,) * len(shape)))
        i.give(i.result(op, position), i.reshape(part, (*shape[:axis], *shape[axis + 1 :])))


def _pack(i: Importer, op: FileOperator) -> None:
    parts = [i.plain(i.tensor(op, k)) for k in range(len(op.inputs))]
    rank = len(i.shape(parts[0])) + 1 if parts else 0
    axis = options(op).integer(1)
    if not parts or not -rank <= axis < rank or len({i.shape(part) for part in parts}) > 1:
        raise UnsupportedError("the operands cannot be stacked", value=axis)
    axis %= rank
    widened = [i.reshape(part, (*i.shape(part)[:axis], 1, *i.shape(part)[axis:])) for part in parts]
    i.give(i.result(op), i.emit(o.Concat(tuple(widened), "", axis)))


def concat_operands(i: Importer, op: FileOperator) -> tuple[list[o.Value], int, bool]:
    """The operands of a CONCATENATION in one form, the axis, and whether the form is channels first."""
    tensors = [i.tensor(op, k) for k in range(len(op.inputs))]
    if not tensors:
        raise UnsupportedError("there is nothing to concatenate")
    first = any(map(i.is_first, tensors))
    (axis,) = known_axes(i, tensors[0], (options(op).integer(0),), first)
    return [i.form(tensor, first) for tensor in tensors], axis, first


def _concatenation(i: Importer, op: FileOperator) -> None:
    values, axis, first = concat_operands(i, op)
    if options(op).integer(1, "<b"):
        raise UnsupportedError("a concatenation has no activation")
    i.give(i.result(op), i.emit(o.Concat(tuple(values), "", axis)), first=first)


def _pad(i: Importer, op: FileOperator) -> None:
    x = i.tensor(op, 0)
    first = i.is_first(x)
    amounts = i.integers(i.tensor(op, 1), "the padding")
    before, after = (_moved(i, x, amounts[k::2], first) for k in (0, 1))
    given = i.optional(op, 2)
    number = 0.0 if given is None else i.number(given, "the padding")
    i.give(i.result(op), i.emit(o.Pad(i.form(x, first), "", before, after, number)), first=first)


def _mirror_pad(i: Importer, op: FileOperator) -> None:
    if options(op).integer(0, "<b"):
        raise UnsupportedError("symmetric padding is not supported", next_step="Use reflection.")
    x = i.tensor(op, 0)
    first = i.is_first(x)
    amounts = i.integers(i.tensor(op, 1), "the padding")
    before, after = (_moved(i, x, amounts[k::2], first) for k in (0, 1))
    i.give(i.result(op), i.emit(o.Pad(i.form(x, first), "", before, after, 0.0, "reflect")), first=first)


def _gather(i: Importer, op: FileOperator) -> None:
    if op.options and op.options.integer(1):
        raise UnsupportedError("batched gathering is not supported")
    x, indices = i.tensor(op, 0), i.plain(i.tensor(op, 1))
    (axis,) = known_axes(i, x, (op.options.integer(0) if op.options else 0,), False)
    value = i.plain(x)
    known = i.builder.array(indices)
    size = i.shape(value)[axis]
    if known is None or (known.size and (known.min() < 0 or known.max() >= size)):
        raise UnsupportedError("indices must be known and lie inside the operand", allowed=size)
    i.give(i.result(op), i.emit(o.Gather(value, indices, "", axis)))


def _broadcast_to(i: Importer, op: FileOperator) -> None:
    shape = i.integers(i.tensor(op, 1), "the shape")
    i.give(i.result(op), i.emit(o.Expand(i.plain(i.tensor(op, 0)), "", shape)))


def _tile(i: Importer, op: FileOperator) -> None:
    x, counts = i.plain(i.tensor(op, 0)), i.integers(i.tensor(op, 1), "the counts")
    if len(counts) != len(i.shape(x)) or any(not 0 < count < 1 << 16 for count in counts):
        raise UnsupportedError("there must be one count per axis", value=counts)
    for axis, count in enumerate(counts):
        x = x if count == 1 else i.emit(o.Concat((x,) * count, "", axis))
    i.give(i.result(op), x)


def _depth_to_space(i: Importer, op: FileOperator) -> None:
    x, block = i.first(i.tensor(op, 0)), options(op).integer(0)
    n, channels, height, width = i.shape(x)
    if block < 1 or channels % (block * block):
        raise UnsupportedError("the block does not fit the channels", value=block, allowed=channels)
    split = i.reshape(x, (n, block, block, channels // block**2, height, width))
    moved = i.transpose(split, (0, 3, 4, 1, 5, 2))
    shape = (n, channels // block**2, height * block, width * block)
    i.give(i.result(op), i.reshape(moved, shape), first=True)


def _space_to_depth(i: Importer, op: FileOperator) -> None:
    x, block = i.first(i.tensor(op, 0)), options(op).integer(0)
    n, channels, height, width = i.shape(x)
    if block < 1 or height % block or width % block:
        raise UnsupportedError("the block does not fit the image", value=block, allowed=(height, width))
    split = i.reshape(x, (n, channels, height // block, block, width // block, block))
    moved = i.transpose(split, (0, 3, 5, 1, 2, 4))
    shape = (n, channels * block**2, height // block, width // block)
    i.give(i.result(op), i.reshape(moved, shape), first=True)


LAYOUT: dict[str, Handler] = {
    "RESHAPE": _reshape, "SQUEEZE": _squeeze, "EXPAND_DIMS": _expand_dims, "TRANSPOSE": _transpose, "SHAPE": _shape,
    "SLICE": _slice, "STRIDED_SLICE": _strided_slice, "SPLIT": _split, "SPLIT_V": _split_v, "UNPACK": _unpack,
    "PACK": _pack, "CONCATENATION": _concatenation, "PAD": _pad, "PADV2": _pad, "MIRROR_PAD": _mirror_pad,
    "GATHER": _gather, "BROADCAST_TO": _broadcast_to, "TILE": _tile, "DEPTH_TO_SPACE": _depth_to_space,
    "SPACE_TO_DEPTH": _space_to_depth,
}  # fmt: skip
