"""What a tensor of a .tflite file holds, in our terms; and the order of axes of its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.formats import Format, Int
from edgeq.frontend.onnx_build import KIND_FORMATS
from edgeq.frontend.tflite_file import FileTensor
from edgeq.ir.graph import Type

TO_FIRST, TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)
_IMAGE_CHANNELS = (1, 3, 4)
_SMALLEST_IMAGE = 16
_CODES: dict[str, Int] = {
    "int8": Int(8), "uint8": Int(8, signed=False), "int16": Int(16), "int32": Int(32), "int64": Int(64),
    "int4": Int(4), "uint4": Int(4, signed=False), "int2": Int(2),
}  # fmt: skip
_REALS = ("float32", "float16", "bfloat16", "float64")
_INDICES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


def is_channels_last(shape: Sequence[int]) -> bool:
    """Whether a port of this shape has its channels last, which is TFLite's own layout.

    A file made from a network with channels first keeps its ports. It shows where axis 1 has as few entries as an
    image has channels and the two axes behind it are those of an image.
    """
    return len(shape) == 4 and not (
        shape[1] in _IMAGE_CHANNELS and shape[3] not in _IMAGE_CHANNELS and min(shape[2:]) >= _SMALLEST_IMAGE
    )


def format_of(tensor: FileTensor) -> Format:
    """The number format of a tensor; raises UnsupportedError for numbers that have no meaning here."""
    if tensor.obstacle:
        raise UnsupportedError(tensor.obstacle, where=tensor.name)
    if tensor.is_quantized:
        return _CODES[tensor.element]
    if tensor.element in _REALS:
        return KIND_FORMATS["real"]
    if tensor.element in _INDICES:
        return KIND_FORMATS["index"]
    if tensor.element == "bool":
        return KIND_FORMATS["bool"]
    raise UnsupportedError("unsupported element type", where=tensor.name, value=tensor.element)


def type_of(tensor: FileTensor, shape: Sequence[int]) -> Type:
    """Type of a value of `tensor` that has one scale or none."""
    format_ = format_of(tensor)
    if not tensor.is_quantized:
        return Type(tuple(shape), format_)
    if len(tensor.scale) > 1:
        raise UnsupportedError("activations have one scale", where=tensor.name, value=f"{len(tensor.scale)} scales")
    return replace(constant_type(tensor), shape=tuple(shape))


def constant_type(tensor: FileTensor) -> Type:
    """Type of a tensor of codes in its own axes."""
    format_, zeros = format_of(tensor), set(tensor.zero_point)
    if len(zeros) != 1:
        raise UnsupportedError("zero points differ between channels", where=tensor.name)
    (zero,) = zeros
    if not isinstance(format_, Int) or not format_.low <= zero <= format_.high:
        raise UnsupportedError("the zero point is not a code", where=tensor.name, value=zero, allowed=format_)
    if not all(np.isfinite(scale) and scale > 0 for scale in tensor.scale):
        raise UnsupportedError("scales must be positive and finite", where=tensor.name, value=min(tensor.scale))
    return Type(tensor.shape, format_, tensor.scale, zero, tensor.axis if len(tensor.scale) > 1 else None)
