"""Outputs multiplied along an axis, as far up as possible: of a concatenation only the operands that change.

So boxes become fractions of the image like the scores before both are one tensor, and whoever quantizes it finds one
range. A product that only undoes one that was there takes that away.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Graph
from edgeq.ir.rename import renamed

Factors = npt.NDArray[np.float32]
_SAME = 1e-6
"""What the product of a number and its reciprocal may miss 1 by, in float32."""


def multiplied(graph: Graph, factors: Mapping[o.Value, tuple[int, Factors]], before: str) -> Graph:
    """`graph` whose outputs in `factors` are multiplied along an axis; `before` ends the names of what they were."""
    for value, (axis, by) in factors.items():
        plain = f"{value}.{before}"
        graph = renamed(graph, {value: plain})
        editor = Editor.like(graph)
        for op in graph.ops:
            editor.append(op, *(graph.types[result] for result in o.results(op)))
        _multiply(editor, graph, plain, axis, by, value)
        graph = editor.graph(value if output == plain else output for output in graph.outputs)
    return graph


def _multiply(editor: Editor, graph: Graph, x: o.Value, axis: int, by: Factors, out: o.Value) -> o.Value:
    op, type_ = graph.producer.get(x), graph.types[x]
    if isinstance(op, o.Concat) and op.axis == axis:
        ends = np.cumsum([graph.types[part].shape[axis] for part in op.xs])
        own = np.split(by, ends[:-1])
        parts = [_part(editor, graph, part, axis, factors) for part, factors in zip(op.xs, own, strict=True)]
        return editor.append(o.Concat(tuple(parts), out, axis), type_)
    return editor.append(o.Mul(x, editor.constant(f"{x}.by", _along(by, axis, len(type_.shape))), out), type_)


def _part(editor: Editor, graph: Graph, x: o.Value, axis: int, by: Factors) -> o.Value:
    op = graph.producer.get(x)
    if (by == 1).all():
        return x
    if isinstance(op, o.Mul) and op.b in graph.constants and graph.types[op.a].shape == graph.types[x].shape:
        both = np.asarray(graph.constants[op.b], np.float32) * _along(by, axis, len(graph.types[x].shape))
        if np.allclose(both, 1, rtol=0, atol=_SAME):
            return op.a
    return _multiply(editor, graph, x, axis, by, editor.fresh(f"{x}.times"))


def _along(by: Factors, axis: int, rank: int) -> Factors:
    return by.reshape(tuple(-1 if k == axis else 1 for k in range(rank)))
