"""Stored weights: codes that a Dequantize turns into the real weight, for operators whose activations stay real.

No images are needed: scales and tables follow from the weights alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeq.catalogue import TOP_LEVEL, Blocks, Choice, KMeans, Nupes
from edgeq.formats import INT8_NARROW, FloatArray, bits_of
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph, Type
from edgeq.quantize.assign import weight_axis
from edgeq.quantize.codebook import LARGEST_LEVEL, fitted_power, k_means
from edgeq.quantize.operators import is_expectation, weight_of
from edgeq.quantize.scale import ClipSearch, check_weight, half_scales, quantize_weight, weight_type
from edgeq.recipe import Recipe
from edgeq.target import StoredWeights, Target

FEW_BITS = 4
"""Up to here clipping the largest weights pays."""

SMALLEST_BLOCK = 8


def quantize_weights(graph: Graph, target: Target, recipe: Recipe) -> Graph:
    """`graph` with its large real weights as codes in the format of `target.stored_weights`.

    Operators that `recipe` keeps real keep their weights. Raises UnsupportedError for weights that are not finite.
    """
    rule = target.stored_weights
    assert rule is not None, target.name
    types, constants = dict(graph.types), dict(graph.constants)
    ops: list[o.Op] = []
    for op in graph.ops:
        weight = weight_of(op)
        if weight in constants and weight in graph.constants and _is_stored(op, graph, rule, recipe):
            assert weight is not None
            array = constants.pop(weight)
            codes = _fresh(f"{weight}.q", types)
            asked = recipe.formats_of(o.results(op)[0])
            own = rule if asked is None or asked.weight is None else replace(rule, format=asked.weight)
            types[codes] = stored_type(op, array, own, half=target.half_scales)
            constants[codes] = quantize_weight(array, types[codes]).astype(np.int16)
            ops.append(o.Dequantize(codes, weight))
        ops.append(op)
    return Graph(graph.name, graph.inputs, graph.outputs, tuple(ops), types, constants)


def _fresh(name: o.Value, types: dict[o.Value, Type]) -> o.Value:
    while name in types:
        name += "q"
    return name


def _is_stored(op: o.Op, graph: Graph, rule: StoredWeights, recipe: Recipe) -> bool:
    weight = weight_of(op)
    assert weight is not None
    kept = recipe.keeps_real(o.results(op)[0]) or weight in graph.outputs
    kept = kept or not graph.types[weight].is_real
    return graph.types[weight].size >= rule.smallest and not kept and not is_expectation(op, graph)


def stored_type(op: o.Op, array: Array, rule: StoredWeights, *, half: bool) -> Type:
    """The type of the weight `array` of `op` under `rule`."""
    axis = weight_axis(op) if rule.per_channel else None
    row = array.size if axis is None else array.size // array.shape[axis]
    where = weight_of(op)
    if row < rule.shortest_row:
        return weight_type(array, INT8_NARROW, axis, half=half, where=where)
    block = 0 if axis is None else block_size(array.shape[1 - axis], rule.block)
    return typed_weight(array, rule.format, axis, block=block, half=half, where=where)


def typed_weight(
    array: Array, choice: Choice, axis: int | None, *, block: int = 0, half: bool = False, where: object = None
) -> Type:
    """The type of the weight `array` in a format, or in the member of a family that is made for it.

    One scale per index of `axis` (one in all for None), or per `block` input channels; families of blocks have their
    own. Raises UnsupportedError as weight_type does.
    """
    if isinstance(choice, KMeans | Nupes):
        check_weight(array, INT8_NARROW, where)
        return _fitted(array, choice, axis, half=half)
    if not isinstance(choice, Blocks):
        clip: ClipSearch = "squared_error" if bits_of(choice) <= FEW_BITS else "largest"
        return weight_type(array, choice, axis, block=block, clip=clip, half=half, where=where)
    block = 0 if axis is None else _channels_in_block(array, axis, choice.size)
    clip = "squared_error" if choice.bits <= FEW_BITS and not choice.power_of_two else "largest"
    return weight_type(
        array, choice.element, axis, block=block, clip=clip, power_of_two=choice.power_of_two, half=half, where=where
    )


def _channels_in_block(array: Array, axis: int, size: int) -> int:
    """Input channels whose weights for one output channel are at most `size`, a divisor; at least one."""
    inputs = array.shape[1 - axis]
    taps = array.size // (array.shape[axis] * inputs)
    block = next(
        count for count in range(inputs, 0, -1) if inputs % count == 0 and (count * taps <= size or count == 1)
    )
    return 0 if block == inputs else block


def block_size(inputs: int, wanted: int) -> int:
    """The largest divisor of `inputs` up to `wanted`; 0, one scale for all, where that is no gain or would be tiny.

    >>> block_size(64, 32), block_size(80, 32), block_size(24, 32), block_size(74, 32)
    (32, 20, 0, 0)
    """
    if not wanted or inputs <= wanted:
        return 0
    block = next(size for size in range(wanted, 0, -1) if inputs % size == 0)
    return block if block >= SMALLEST_BLOCK else 0


def _fitted(array: Array, family: KMeans | Nupes, axis: int | None, *, half: bool) -> Type:
    """A codebook of the weight's own, whose levels stand for shares of each channel's largest magnitude."""
    wide: FloatArray = np.asarray(array, dtype=np.float64)
    others = tuple(k for k in range(wide.ndim) if k != axis)
    largest = np.abs(wide).max(axis=others, keepdims=True)
    largest = np.where(largest == 0, largest.max() or 1.0, largest)
    importance = np.broadcast_to(largest**2, wide.shape)
    fit, top = (k_means, LARGEST_LEVEL) if isinstance(family, KMeans) else (fitted_power, TOP_LEVEL)
    book = fit((wide / largest).reshape(-1), importance.reshape(-1), family.bits)
    scales = (largest / top).reshape(-1)
    scales = half_scales(scales, book) if half else scales.astype(np.float32).astype(np.float64)
    return Type(array.shape, book, tuple(scales.tolist()), axis=axis)
