"""Splitting x g(x) into a bounded factor g(x), tabulated, and a product, for runtimes that are quick at both.

silu(x) = x sigmoid(x); hardswish(x) = x hardsigmoid(x / 6 + 1/2).
"""

from __future__ import annotations

from collections.abc import Collection

from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Graph

_FACTORS = {"silu": o.Function("sigmoid"), "hardswish": o.Function("hardsigmoid", 1 / 6, 0.5)}


def decompose(graph: Graph, functions: Collection[o.FunctionName]) -> Graph:
    """`graph` with every Apply of one of `functions` split; the real-valued function is unchanged."""
    editor = Editor.like(graph)
    for op in graph.ops:
        if isinstance(op, o.Apply) and op.function.name in functions and op.function.name in _FACTORS:
            gate = editor.append(o.Apply(op.x, editor.fresh(f"{op.out}.gate"), _FACTORS[op.function.name]))
            editor.append(o.Mul(op.x, gate, op.out))
        else:
            editor.append(op, *(graph.types[value] for value in o.results(op)))
    return editor.graph(graph.outputs)
