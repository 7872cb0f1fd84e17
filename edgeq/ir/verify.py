"""The check that every graph passes before it is run, written or emitted: sound, legal, proved wide enough.

A graph that passes has exactly one meaning, and no input can overflow any of its accumulators.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from edgeq.errors import EdgeqError, UnsupportedError
from edgeq.formats import BOOL, INDEX, code_range
from edgeq.ir import fit
from edgeq.ir import ops as o
from edgeq.ir.bounds import is_codes, level_bounds
from edgeq.ir.graph import Array, Graph, Type
from edgeq.ir.infer import result_kinds, result_shapes
from edgeq.ir.kinds import kind_problems
from edgeq.ir.legality import code_problems, overflow_problems, touches_codes
from edgeq.ir.sound import type_problems

Problems = Iterator[str]


def _names(graph: Graph) -> Problems:
    """Every value is defined once, before its first use, and has a type."""
    defined = Counter([*graph.inputs, *graph.constants])
    for op in graph.ops:
        for value in o.operands(op):
            if value not in defined:
                yield f"{_title(op)}: operand {value!r} is not defined before it"
        defined.update(o.results(op))
    yield from (f"{value!r} is defined {count} times" for value, count in defined.items() if count > 1)
    yield from (f"{value!r} has no type" for value in defined if value not in graph.types)
    yield from (f"type of {value!r}, which does not exist" for value in graph.types if value not in defined)
    yield from (f"output {value!r} is not defined" for value in graph.outputs if value not in defined)


def _title(op: o.Op) -> str:
    """How a message names an operator."""
    return f"{type(op).__name__} {o.results(op)[0]!r}"


def _constant(value: o.Value, array: Array, type_: Type) -> Problems:
    if tuple(array.shape) != type_.shape:
        yield f"constant {value!r} has shape {tuple(array.shape)} but its type says {type_.shape}"
    elif type_.is_real:
        if array.dtype != np.float32:
            yield f"constant {value!r} must be float32, not {array.dtype}"
    elif type_.format == BOOL and not is_codes(type_):
        if array.dtype != np.bool_:
            yield f"constant {value!r} must be bool, not {array.dtype}"
    elif array.dtype.kind not in "iu":
        yield f"constant {value!r} must hold integers, not {array.dtype}"
    elif array.size:
        low, high = code_range(type_.format)
        if int(array.min()) < low or int(array.max()) > high:
            yield f"constant {value!r} has codes outside [{low}, {high}] of {type_.format}"


def _kinds(graph: Graph, op: o.Op) -> Problems:
    """Operands are numbers that the operator has a meaning on; what it does with codes is checked later."""
    if not touches_codes(graph, op):
        yield from kind_problems(op, lambda value: graph.types[value].format)
        return
    match op:
        case o.Where() if graph.types[op.condition] != Type(graph.types[op.condition].shape, BOOL):
            yield f"condition {op.condition!r} must be truth values"
        case o.Gather() | o.GatherElements() if graph.types[op.indices] != Type(graph.types[op.indices].shape, INDEX):
            yield f"indices {op.indices!r} must be 64-bit indices"
        case _:
            return


def _results(graph: Graph, op: o.Op) -> Problems:
    """The operator has a result, and the types say what it is."""

    def shape(value: o.Value) -> tuple[int, ...]:
        return graph.types[value].shape

    misfits = [*_kinds(graph, op), *fit.problems(op, shape)]
    if misfits:
        yield from misfits
        return
    try:
        shapes = result_shapes(op, shape)
    except UnsupportedError as error:
        yield str(error)
        return
    kinds = result_kinds(op, lambda value: graph.types[value].format)
    for value, expected, kind in zip(o.results(op), shapes, kinds, strict=True):
        type_ = graph.types[value]
        if type_.shape != expected:
            yield f"{value!r} has shape {type_.shape} but must have {expected}"
        if min(expected, default=1) < 1:
            yield f"{value!r} would be empty: {expected}"
        if not touches_codes(graph, op) and type_.format != kind:
            yield f"{value!r} is {type_.format} but must be {kind}"


def _types(graph: Graph) -> Problems:
    for value, type_ in graph.types.items():
        yield from (f"type of {value!r}: {problem}" for problem in type_problems(type_))
    for value, array in graph.constants.items():
        yield from _constant(value, array, graph.types[value])


def _shapes(graph: Graph) -> Problems:
    for op in graph.ops:
        yield from (f"{_title(op)}: {problem}" for problem in _results(graph, op))


def _codes(graph: Graph) -> Problems:
    for op in graph.ops:
        yield from (f"{_title(op)}: {problem}" for problem in code_problems(graph, op))


def _widths(graph: Graph) -> Problems:
    bounds = level_bounds(graph)
    for op in graph.ops:
        yield from (f"{_title(op)}: {problem}" for problem in overflow_problems(graph, op, bounds))


def verify(graph: Graph) -> None:
    """Return if `graph` is sound and, where it holds codes, legal and proved; otherwise name every violation.

    Raises EdgeqError for a malformed graph (an internal fault) and UnsupportedError for integers that are not
    allowed, such as an accumulator that some input could overflow.
    """
    # Each check relies on the ones before it.
    for check in (_names, _types, _shapes):
        if found := list(check(graph)):
            raise EdgeqError(f"graph {graph.name!r} is malformed: " + "; ".join(found))
    for check in (_codes, _widths):
        if found := list(check(graph)):
            raise UnsupportedError(f"graph {graph.name!r} has illegal integers: " + "; ".join(found))
