"""Narrow copies: a value of few bits for the convolutions that read it, beside the wide one that sums read.

Four bits are enough for what is multiplied and far too few for a residual stream, whose errors add up. A value that
weighted operators read in fewer than eight bits and other operators read as well gets a copy for the former, through
a clip that never clips; on codes that is a table or a requantization. What is read as codes of a table (a minifloat)
always is such a copy, so that only tables of functions ever give them.
"""

from __future__ import annotations

from edgeq.formats import Int
from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Graph
from edgeq.quantize.operators import is_weighted, moves_codes
from edgeq.quantize.structure import table_read
from edgeq.recipe import Recipe

FEWER_THAN = 8
_LIMIT = 2.0**64
"""Beyond every value of a network; divided by the smallest scale it is still a float32."""


def with_narrow_copies(graph: Graph, recipe: Recipe) -> Graph:
    """`graph` with a copy, called `value.narrow`, of every value that only some of its readers take in few bits."""
    copied = _to_copy(graph, recipe)
    if not copied:
        return graph
    editor = Editor.like(graph)
    copies: dict[o.Value, o.Value] = {}

    def operand(value: o.Value) -> o.Value:
        if value not in copied:
            return value
        if value not in copies:
            name = editor.fresh(f"{value}.narrow")
            copies[value] = editor.append(o.Apply(value, name, o.Function("clip", -_LIMIT, _LIMIT)), graph.types[value])
        return copies[value]

    for op in graph.ops:
        narrowed = o.rename(op, operand, where="operands") if _is_narrow_reader(op, recipe) else op
        editor.append(narrowed, *(graph.types[value] for value in o.results(op)))
    return editor.graph(graph.outputs)


def _is_narrow_reader(op: o.Op, recipe: Recipe) -> bool:
    asked = recipe.formats_of(o.results(op)[0]) if is_weighted(op) else None
    few = asked is not None and isinstance(asked.activation, Int) and asked.activation.bits < FEWER_THAN
    return few or table_read(op, recipe) is not None


def _to_copy(graph: Graph, recipe: Recipe) -> set[o.Value]:
    """What narrow readers read of families of values, joined by moving, that others read or that are outputs."""
    source = _sources(graph)
    wide = {source.get(value, value) for value in graph.outputs}
    narrow: set[o.Value] = set()
    tables: set[o.Value] = set()
    for op in graph.ops:
        if _is_narrow_reader(op, recipe):
            read = [value for value in o.operands(op) if value not in graph.constants]
            (narrow if table_read(op, recipe) is None else tables).update(read)
        elif not (is_weighted(op) or moves_codes(op)):
            wide.update(source.get(value, value) for value in o.operands(op))
    return tables | {value for value in narrow if source.get(value, value) in wide}


def _sources(graph: Graph) -> dict[o.Value, o.Value]:
    """For every value that is only moved, the computed value behind it."""
    found: dict[o.Value, o.Value] = {}
    for op in graph.ops:
        if moves_codes(op):
            moved = o.operands(op)[0]
            found.update(dict.fromkeys(o.results(op), found.get(moved, moved)))
    return found
