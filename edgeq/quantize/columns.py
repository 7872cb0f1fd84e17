"""Every weighted operator as a matrix product: out[g, r, m] = sum_k rows[g, r, k] columns[g, k, m] (+ bias).

g are the groups, r the outputs of one group, k what one output sums over, m the positions of all images. A transposed
convolution is the convolution of its input with zeros between the pixels by the mirrored kernel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeq.ir import ops as o

Weighted = o.Conv | o.ConvTranspose | o.Linear


def groups_of(op: Weighted) -> int:
    """Groups of channels that do not mix."""
    return 1 if isinstance(op, o.Linear) else op.groups


def rows(op: Weighted, weight: Tensor) -> Tensor:
    """The weight as [groups, outputs of a group, inputs of a group times taps]."""
    if isinstance(op, o.ConvTranspose):
        inputs, outputs, *kernel = weight.shape
        grouped = weight.flip(2, 3).reshape(op.groups, inputs // op.groups, outputs, *kernel)
        return grouped.transpose(1, 2).reshape(op.groups, outputs, -1)
    return weight.reshape(groups_of(op), weight.shape[0] // groups_of(op), -1)


def from_rows(op: Weighted, matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `rows`: a weight of `shape`."""
    if isinstance(op, o.ConvTranspose):
        inputs, outputs, *kernel = shape
        grouped = matrix.reshape(op.groups, outputs, inputs // op.groups, *kernel)
        return grouped.transpose(1, 2).reshape(shape).flip(2, 3)
    return matrix.reshape(shape)


def columns(op: Weighted, x: Tensor, kernel: tuple[int, ...], positions: Tensor | None = None) -> Tensor:
    """x as [groups, inputs of a group times taps, images times positions], padding included.

    `kernel` is the height and width of the weight (empty for Linear); `positions` selects some of the output
    positions of each image. Positions [sets, count] select others in every set of images, which lie one after the other
    along the first axis of x, and the groups of the first set come before those of the next.
    """
    sets = len(positions) if positions is not None and positions.dim() == 2 else 1
    if isinstance(op, o.Linear):
        flat = x.reshape(x.shape[0], -1, x.shape[-1]) if x.dim() > 2 else x.reshape(x.shape[0], 1, -1)
        chosen = flat if positions is None else _of_sets(flat, 1, positions.reshape(sets, -1))
        return chosen.reshape(sets, -1, x.shape[-1]).transpose(1, 2)
    if isinstance(op, o.ConvTranspose):
        x, stride, (top, left) = _spread(op, x, kernel), (1, 1), (0, 0)
        bottom, right = top, left
    else:
        stride, (top, left, bottom, right) = op.stride, op.padding
    images, channels, height, width = x.shape
    high, wide = ((size - 1) * step for size, step in zip(kernel, op.dilation, strict=True))
    outputs = ((height + top + bottom - high - 1) // stride[0] + 1, (width + left + right - wide - 1) // stride[1] + 1)
    if positions is None:
        positions = torch.arange(outputs[0] * outputs[1], device=x.device)
    tap = torch.arange(kernel[0] * kernel[1], device=x.device)[:, None]
    positions = positions.reshape(sets, 1, -1)
    row = positions // outputs[1] * stride[0] + tap // kernel[1] * op.dilation[0] - top
    column = positions % outputs[1] * stride[1] + tap % kernel[1] * op.dilation[1] - left
    place = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    patches = _of_sets(x.flatten(2), 2, place.flatten(1)).reshape(sets, -1, channels, *place.shape[1:])
    if any((top, left, bottom, right)):
        patches *= ((row >= 0) & (row < height) & (column >= 0) & (column < width))[:, None, None]
    count = positions.shape[2]
    return (
        patches.reshape(sets, images // sets, op.groups, -1, count)
        .permute(0, 2, 3, 1, 4)
        .reshape(sets * op.groups, -1, images // sets * count)
    )


def _of_sets(x: Tensor, axis: int, places: Tensor) -> Tensor:
    """[sets, images of a set, ...]: the entries `places` [sets, count] along `axis` of x in every set of its images."""
    found = [part.index_select(axis, at) for part, at in zip(x.chunk(len(places)), places, strict=True)]
    return found[0][None] if len(found) == 1 else torch.stack(found)


def _spread(op: o.ConvTranspose, x: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """x with zeros between its pixels, padded so that a plain convolution yields the transposed one."""
    images, channels, height, width = x.shape
    spread = x.new_zeros(images, channels, (height - 1) * op.stride[0] + 1, (width - 1) * op.stride[1] + 1)
    spread[:, :, :: op.stride[0], :: op.stride[1]] = x
    top, left, bottom, right = op.padding
    reach = [step * (size - 1) for step, size in zip(op.dilation, kernel, strict=True)]
    extra = op.output_padding
    return F.pad(spread, (reach[1] - left, reach[1] - right + extra[1], reach[0] - top, reach[0] - bottom + extra[0]))


def kernel_of(op: Weighted, weight: Tensor) -> tuple[int, ...]:
    """Height and width of the kernel; empty for Linear."""
    return () if isinstance(op, o.Linear) else (int(weight.shape[2]), int(weight.shape[3]))
