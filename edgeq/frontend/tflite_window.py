"""TFLite operators with weights or a window: convolutions, matrix products, pooling and resampling, on reals.

The geometry is shared with the integer forms (edgeq/frontend/tflite_codes.py): weights come in the order that this
project uses, padding as four numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.frontend.flatbuffer import Numbers, Table
from edgeq.frontend.tflite_build import Handler, Importer
from edgeq.frontend.tflite_elementwise import activation
from edgeq.frontend.tflite_file import FileOperator, FileTensor
from edgeq.frontend.tflite_types import TO_LAST
from edgeq.ir import ops as o
from edgeq.ir.infer import window_count

_SAME, _VALID = 0, 1


def options(op: FileOperator) -> Table:
    """The options, which `op` cannot do without."""
    if op.options is None:
        raise UnsupportedError("the options are missing")
    return op.options


def _padding(kind: int, size: o.Pair, kernel: o.Pair, stride: o.Pair, dilation: o.Pair) -> o.Quad:
    """(top, left, bottom, right); SAME gives ceil(size / stride) results, the larger half of its padding behind."""
    if kind not in (_SAME, _VALID):
        raise UnsupportedError("unknown padding", value=kind)
    if min(*stride, *dilation, *kernel) < 1:
        raise UnsupportedError("stride, dilation and kernel must be positive", value=(stride, dilation, kernel))
    if kind == _VALID:
        return 0, 0, 0, 0
    total = [
        max((-(-size[k] // stride[k]) - 1) * stride[k] + dilation[k] * (kernel[k] - 1) + 1 - size[k], 0) for k in (0, 1)
    ]
    return total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2


@dataclass(frozen=True)
class Convolution:
    """How a CONV_2D or DEPTHWISE_CONV_2D moves over its image, and the slot of its activation."""

    x: o.Value
    stride: o.Pair
    padding: o.Quad
    dilation: o.Pair
    groups: int
    activation_slot: int

    def op(self, weight: o.Value, bias: o.Value | None) -> o.Conv:
        """The operator with these parameters."""
        return o.Conv(self.x, weight, bias, "", self.stride, self.padding, self.dilation, self.groups)


def convolution(i: Importer, op: FileOperator) -> Convolution:
    """The geometry of a convolution."""
    table, depthwise = options(op), op.kind == "DEPTHWISE_CONV_2D"
    x, shape = i.first(i.tensor(op, 0)), i.tensor(op, 1).shape
    stride = (table.integer(2), table.integer(1))
    slots = (6, 5) if depthwise else (5, 4)
    dilation = (table.integer(slots[0], default=1), table.integer(slots[1], default=1))
    if len(shape) != 4 or not all(shape):
        raise UnsupportedError("a weight has four axes", where=i.tensor(op, 1).name, value=shape)
    channels, size = i.shape(x)[1], i.shape(x)[2:]
    padding = _padding(table.integer(0, "<b"), (size[0], size[1]), shape[1:3], stride, dilation)
    groups = channels if depthwise else channels // shape[3]
    return Convolution(x, stride, padding, dilation, groups, 4 if depthwise else 3)


def kernel_order(op: FileOperator) -> o.Ints:
    """The axes of a weight of the file in our order: [out, in, h, w], of a transposed convolution [in, out, h, w]."""
    match op.kind:
        case "DEPTHWISE_CONV_2D" | "TRANSPOSE_CONV":
            return 3, 0, 1, 2
        case _:
            return 0, 3, 1, 2


def weight_of(i: Importer, tensor: FileTensor, order: o.Ints) -> o.Value:
    """A weight in our order of axes."""
    if tensor.content is None:
        return i.transpose(i.plain(tensor), order)
    return i.weight(tensor, order)


def _bias(i: Importer, op: FileOperator, position: int = 2) -> o.Value | None:
    tensor = i.optional(op, position)
    return None if tensor is None else i.plain(tensor)


def _conv(i: Importer, op: FileOperator) -> None:
    geometry = convolution(i, op)
    weight = weight_of(i, i.tensor(op, 1), kernel_order(op))
    value = i.emit(geometry.op(weight, _bias(i, op)))
    i.give(i.result(op), activation(i, value, op, geometry.activation_slot), first=True)


def transposed(i: Importer, op: FileOperator) -> o.ConvTranspose:
    """The geometry of a TRANSPOSE_CONV, without weight and bias: the shape it must give decides its padding."""
    table, shape = options(op), i.tensor(op, 1).shape
    out = i.integers(i.tensor(op, 0), "the output shape")
    x = i.first(i.tensor(op, 2))
    if len(shape) != 4 or len(out) != 4:
        raise UnsupportedError("a transposed convolution has four axes", value=(shape, out))
    stride, same = (table.integer(2), table.integer(1)), table.integer(0, "<b") == _SAME
    before, after, extra = [], [], []
    for k in (0, 1):
        whole = (i.shape(x)[2 + k] - 1) * stride[k] + shape[1 + k]
        total = max(whole - out[1 + k], 0)
        if total and not same:
            raise UnsupportedError("the output shape does not belong to the operand", value=out)
        before.append(total // 2)
        after.append(total - total // 2)
        extra.append(max(out[1 + k] - whole, 0))
    padding = (before[0], before[1], after[0], after[1])
    return o.ConvTranspose(x, "", None, "", stride, padding, (extra[0], extra[1]))


def _transpose_conv(i: Importer, op: FileOperator) -> None:
    empty = transposed(i, op)
    weight = weight_of(i, i.tensor(op, 1), kernel_order(op))
    whole = o.ConvTranspose(
        empty.x, weight, _bias(i, op, 3), "", empty.stride, empty.padding, empty.output_padding, empty.dilation
    )
    i.give(i.result(op), activation(i, i.emit(whole), op, 3), first=True)


@dataclass(frozen=True)
class Rows:
    """The operand of a FULLY_CONNECTED as rows, and the order of the columns of its weight."""

    x: o.Value
    order: Numbers | None
    shape: tuple[int, ...]


def rows(i: Importer, op: FileOperator) -> Rows:
    """x as [rows, columns]; a flattened image keeps its channels first, and the weight is permuted instead."""
    table, weight = options(op), i.tensor(op, 1)
    if table.integer(1, "<b"):
        raise UnsupportedError("shuffled weights are not supported", where=weight.name)
    if len(weight.shape) != 2 or not all(weight.shape):
        raise UnsupportedError("a weight has two axes", where=weight.name, value=weight.shape)
    x, columns = i.plain(i.tensor(op, 0)), weight.shape[1]
    if prod(i.shape(x)) % columns:
        raise UnsupportedError("x and weight do not fit together", value=(i.shape(x), weight.shape))
    keep = table.flag(2) and i.shape(x)[-1:] == (columns,)
    shape = (*i.shape(x)[:-1],) if keep else (prod(i.shape(x)) // columns,)
    image = _image_behind(i, x)
    if image is not None and weight.content is not None and shape == (i.shape(image)[0],):
        return Rows(i.reshape(image, (*shape, columns)), _channels_last(i.shape(image)), shape)
    return Rows(i.reshape(x, (*shape, columns)), None, shape)


def _image_behind(i: Importer, x: o.Value) -> o.Value | None:
    """The channels-first image of which x is the flattened channels-last form."""
    made = i.producer.get(x)
    moved = i.producer.get(made.x) if isinstance(made, o.Reshape) else made
    return moved.x if isinstance(moved, o.Transpose) and moved.permutation == TO_LAST else None


def _channels_last(shape: tuple[int, ...]) -> Numbers:
    """For each column of a flattened channels-first image its position in the channels-last one."""
    _, channels, height, width = shape
    order: Numbers = (
        np.arange(channels * height * width).reshape(height, width, channels).transpose(2, 0, 1).reshape(-1)
    )
    return order


def _fully_connected(i: Importer, op: FileOperator) -> None:
    found, tensor = rows(i, op), i.tensor(op, 1)
    bias = _bias(i, op)
    if tensor.content is None:
        value = i.emit(o.MatMul(found.x, i.transpose(i.plain(tensor), (1, 0)), ""))
        value = value if bias is None else i.emit(o.Add(value, bias, ""))
    else:
        weight = i.plain(tensor)
        if found.order is not None:
            array = i.reals(tensor) if tensor.is_quantized else tensor.array()
            weight = i.constant(array[:, found.order], tensor)
            i.columns[i.names[tensor.index]] = found.order
        value = i.emit(o.Linear(found.x, weight, bias, ""))
    value = activation(i, value, op, 0)
    i.give(i.result(op), i.reshape(value, (*found.shape, tensor.shape[0])))


def _batch_matmul(i: Importer, op: FileOperator) -> None:
    sides = [i.plain(i.tensor(op, k)) for k in (0, 1)]
    for k, side in enumerate(sides):
        rank = len(i.shape(side))
        if rank < 2:
            raise UnsupportedError("a matrix has two axes", value=i.shape(side))
        if options(op).flag(k):
            sides[k] = i.transpose(side, (*range(rank - 2), rank - 1, rank - 2))
    i.give(i.result(op), i.emit(o.MatMul(sides[0], sides[1], "")))


@dataclass(frozen=True)
class Pooling:
    """How a pooling window moves."""

    x: o.Value
    kernel: o.Pair
    stride: o.Pair
    padding: o.Quad


def pooling(i: Importer, op: FileOperator) -> Pooling:
    """The geometry of a pooling operator."""
    table, x = options(op), i.first(i.tensor(op, 0))
    kernel, stride = (table.integer(4), table.integer(3)), (table.integer(2), table.integer(1))
    size = i.shape(x)[2:]
    padding = _padding(table.integer(0, "<b"), (size[0], size[1]), kernel, stride, (1, 1))
    for k in (0, 1):
        if window_count(size[k], kernel[k], stride[k], padding[k] + padding[k + 2]) < 1:
            raise UnsupportedError("the window is larger than the image", value=(kernel, size))
    return Pooling(x, kernel, stride, padding)


def _average_pool(i: Importer, op: FileOperator) -> None:
    p = pooling(i, op)
    value = i.emit(o.AveragePool(p.x, "", p.kernel, p.stride, p.padding, not any(p.padding)))
    i.give(i.result(op), activation(i, value, op, 5), first=True)


def _max_pool(i: Importer, op: FileOperator) -> None:
    p = pooling(i, op)
    i.give(i.result(op), activation(i, i.emit(o.MaxPool(p.x, "", p.kernel, p.stride, p.padding)), op, 5), first=True)


def resize(i: Importer, op: FileOperator, slots: tuple[int, int]) -> o.Resize:
    """A resize to the size that the second operand holds; `slots` are those of align_corners and half_pixel_centers."""
    table, x = options(op), i.first(i.tensor(op, 0))
    size = i.integers(i.tensor(op, 1), "the size")
    if len(size) != 2 or min(size) < 1:
        raise UnsupportedError("a size has two positive entries", value=size)
    height, width = i.shape(x)[2:]
    corners, centers = (table.flag(slot) for slot in slots)
    coordinates: o.Coordinates = "align_corners" if corners else "half_pixel" if centers else "asymmetric"
    scale = (size[0] / height, size[1] / width)
    return o.Resize(x, "", (size[0], size[1]), scale, "linear", coordinates)


def nearest(i: Importer, op: FileOperator) -> o.Resize:
    """A RESIZE_NEAREST_NEIGHBOR."""
    found = resize(i, op, (0, 1))
    rounding: o.NearestRounding = "floor" if found.coordinates == "asymmetric" else "round_prefer_ceil"
    return o.Resize(found.x, "", found.size, found.scale, "nearest", found.coordinates, rounding)


def _resize_bilinear(i: Importer, op: FileOperator) -> None:
    i.give(i.result(op), i.emit(resize(i, op, (2, 3))), first=True)


def _resize_nearest(i: Importer, op: FileOperator) -> None:
    i.give(i.result(op), i.emit(nearest(i, op)), first=True)


WINDOW: dict[str, Handler] = {
    "CONV_2D": _conv, "DEPTHWISE_CONV_2D": _conv, "TRANSPOSE_CONV": _transpose_conv,
    "FULLY_CONNECTED": _fully_connected, "BATCH_MATMUL": _batch_matmul, "AVERAGE_POOL_2D": _average_pool,
    "MAX_POOL_2D": _max_pool, "RESIZE_BILINEAR": _resize_bilinear, "RESIZE_NEAREST_NEIGHBOR": _resize_nearest,
}  # fmt: skip
