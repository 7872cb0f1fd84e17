"""The numbers of a file beside those of the graph it should hold: scales, zero points, weights and biases, exactly.

Weighted operators stand in a file in the order of the graph, so the k-th of one belongs to the k-th of the other;
computed values are found by the names of their tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edgeq.formats import Fixed, Int, code_range, decode
from edgeq.ir import ops as o
from edgeq.ir.bounds import is_codes
from edgeq.ir.graph import Graph, Type
from edgeq.readback.stored import Numbers, Stored, StoredOperator, StoredTensor

_SETTLING = (o.Quantize, o.Requantize, o.Lookup, o.DivideCodes)
Weighted = o.Conv | o.ConvTranspose | o.Linear | o.MatMul


@dataclass(frozen=True)
class Difference:
    """One number of a file that is not the graph's: at which value, what, and the two."""

    where: str
    what: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} is {self.found}, not {self.expected}"


@dataclass(frozen=True)
class Comparison:
    """How many tensors and numbers were compared, and what differs, in the order of the graph."""

    tensors: int
    numbers: int
    differences: tuple[Difference, ...]


def compare(graph: Graph, stored: Stored, tensors: Mapping[o.Value, str], code_bits: int = 8) -> Comparison:
    """Every stored number of `graph` against `stored`.

    `tensors` names the tensor of each value; values of codes of up to `code_bits` bits must be quantized in the file.
    """
    return compare_pairs(graph, (*_activations(graph, stored, tensors, code_bits), *_parameters(graph, stored)))


Pair = tuple[str, object, object]
Pairs = list[Pair]


def compare_pairs(graph: Graph, found_of: Iterable[tuple[str, Pairs]]) -> Comparison:
    """What differs of (what, as it should be, as it was found), given for one value or constant of `graph` after another."""
    found: list[Difference] = []
    counts = [0, 0]
    for where, pairs in found_of:
        counts[0] += 1
        for what, expected, actual in pairs:
            counts[1] += expected.size if isinstance(expected, np.ndarray) else 1
            found += _differences(where, what, expected, actual)
    order = {value: k for k, op in enumerate(graph.ops) for value in o.results(op)}
    return Comparison(counts[0], counts[1], tuple(sorted(found, key=lambda d: order.get(d.where, -1))))


def _differences(where: str, what: str, expected: object, actual: object) -> Iterator[Difference]:
    if not isinstance(expected, np.ndarray) or not isinstance(actual, np.ndarray):
        if expected != actual:
            yield Difference(where, what, str(expected), str(actual))
        return
    if expected.size != actual.size:
        yield Difference(where, what, f"of shape {expected.shape}", f"of shape {actual.shape}")
        return
    wanted, found = expected.reshape(-1), actual.reshape(-1)
    wrong = np.flatnonzero(wanted != found)
    if wrong.size:
        first = int(wrong[0])
        yield Difference(
            where,
            f"{what} {first} of {wanted.size} ({wrong.size} differ)",
            str(wanted.tolist()[first]),
            str(found.tolist()[first]),
        )


# --- computed values ----------------------------------------------------------------------------------------------


def _activations(
    graph: Graph, stored: Stored, tensors: Mapping[o.Value, str], code_bits: int
) -> Iterator[tuple[str, Pairs]]:
    by_tensor: dict[str, list[StoredTensor]] = {}
    values = {tensor: value for value, tensor in tensors.items() if is_codes(graph.types[value])}
    for tensor in stored.activations:
        by_tensor.setdefault(_source(tensor.name, values, stored.aliases), []).append(tensor)
    for value, name in tensors.items():
        type_ = graph.types[value]
        if not is_codes(type_) or not isinstance(type_.format, Int | Fixed) or type_.format.bits > code_bits:
            continue
        for tensor in by_tensor.get(name, []):
            yield value, _type_pairs(type_, tensor)
        if name not in by_tensor and isinstance(graph.producer.get(value), _SETTLING):
            yield value, [("the tensor", f"{type_.format} codes", "not quantized in the file")]


def _source(name: str, values: Mapping[str, o.Value], aliases: Mapping[str, str]) -> str:
    """The nearest tensor with a value that `name` moves the elements of."""
    seen = {name}
    while name not in values and name in aliases and aliases[name] not in seen:
        name = aliases[name]
        seen.add(name)
    return name


def _type_pairs(type_: Type, tensor: StoredTensor) -> Pairs:
    low, _ = code_range(type_.format)
    bits = type_.format.bits if isinstance(type_.format, Int | Fixed) else 8
    width = 8 if bits <= 8 else 16 if bits <= 16 else 32
    return [
        ("the element type", f"{'int' if low < 0 else 'uint'}{width}", tensor.element),
        ("scale", _single(type_.scale), _single(tensor.scale)),
        ("zero point", type_.zero_point, tensor.zero_point[0] if len(tensor.zero_point) == 1 else tensor.zero_point),
    ]


def _single(scale: tuple[float, ...]) -> Numbers:
    return np.asarray(scale, dtype=np.float32)


# --- constants ----------------------------------------------------------------------------------------------------


def weighted_operators(graph: Graph) -> list[Weighted]:
    """The operators of `graph` with constant weights, in order."""
    return [op for op in graph.ops if isinstance(op, Weighted) and weight_constant(graph, op) is not None]


def weight_constant(graph: Graph, op: Weighted) -> o.Value | None:
    """The constant that is the weight of `op`, or whose codes stand for it."""
    value = op.b if isinstance(op, o.MatMul) else op.weight
    made = graph.producer.get(value)
    value = made.x if isinstance(made, o.Dequantize) else value
    return value if value in graph.constants else None


def _parameters(graph: Graph, stored: Stored) -> Iterator[tuple[str, Pairs]]:
    operators = weighted_operators(graph)
    if len(operators) != len(stored.weighted):
        pair = ("the number of operators with weights", len(operators), len(stored.weighted))
        yield "the file", [pair]
        return
    for op, held in zip(operators, stored.weighted, strict=True):
        yield o.results(op)[0], [*_weight_pairs(graph, op, held), *_bias_pairs(graph, op, held)]


def _weight_pairs(graph: Graph, op: Weighted, held: StoredOperator) -> Pairs:
    name = weight_constant(graph, op)
    assert name is not None, op
    array, type_ = graph.constants[name], graph.types[name]
    if isinstance(op, o.MatMul):
        array = array.swapaxes(-1, -2) if array.ndim == 2 else array
    return _constant_pairs("weight", array, type_, held.weight)


def _bias_pairs(graph: Graph, op: Weighted, held: StoredOperator) -> Pairs:
    bias = None if isinstance(op, o.MatMul) else op.bias
    if bias is None or bias not in graph.constants:
        added = held.bias is not None and held.bias.array is not None and bool(np.any(held.bias.array))
        return [("bias", "none", "not zero" if added and not isinstance(op, o.MatMul) else "none")]
    if held.bias is None:
        missing = np.any(graph.constants[bias])
        return [("bias", "none" if not missing else "there", "none")]
    return _constant_pairs("bias", graph.constants[bias], graph.types[bias], held.bias)


def _constant_pairs(what: str, array: Numbers, type_: Type, held: StoredTensor) -> Pairs:
    """Levels and scales where the file has codes, else the reals that they stand for, as wide as the file's."""
    if held.array is None:
        return [(what, "there", "none")]
    if not is_codes(type_):
        if held.levels is not None:
            return [(what, "reals", f"codes of {held.element}")]
        return [(what, array.astype(held.array.dtype), held.array)]
    levels = decode(type_.format, array, type_.zero_point)
    if held.levels is not None and not type_.block:
        count = max(len(type_.scale), len(held.scale))
        wanted, found = (np.broadcast_to(_single(s), count) if len(s) == 1 else _single(s)
                         for s in (type_.scale, held.scale))  # fmt: skip
        return [(f"{what} level", levels, held.levels), (f"{what} scale", wanted, found)]
    if held.array.dtype == np.float32:  # the product of two single-precision numbers, as runtimes compute it
        return [(what, levels.astype(np.float32) * type_.scales.astype(np.float32), held.array)]
    return [(what, (levels * type_.scales).astype(held.array.dtype), held.array)]
