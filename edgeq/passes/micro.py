"""A network that was quantized for TFLite, in the arithmetic of its kernels for microcontrollers.

Those kernels differ from the reference kernels in two places that matter here. FULLY_CONNECTED rounds as convolutions do
(gemmlowp2) instead of in double precision. And SOFTMAX needs floating point or a large table; at the end of a classifier
it changes no decision, so it is cut off and the caller gets its operand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Graph


@dataclass(frozen=True)
class Micro:
    """The changed `graph`; `cut` are the outputs whose softmax was cut off."""

    graph: Graph
    cut: tuple[o.Value, ...]


def for_microcontrollers(graph: Graph) -> Micro:
    """`graph` (lowered) with the two changes above."""
    editor = Editor.like(graph)
    for op in graph.ops:
        changed: o.Op = op
        if isinstance(op, o.Requantize) and op.rounding == "fc-float":
            changed = replace(op, rounding="gemmlowp2")
        editor.append(changed, *(graph.types[value] for value in o.results(op)))
    before = {value: _before_softmax(graph, value) for value in graph.outputs}
    outputs = [before[value] or value for value in graph.outputs]
    return Micro(editor.graph(outputs), tuple(value for value in graph.outputs if before[value]))


def _before_softmax(graph: Graph, value: o.Value) -> o.Value | None:
    """The codes whose softmax `value` is, as codes or as a real number."""
    maker = graph.producer.get(value)
    if isinstance(maker, o.Quantize):
        maker = graph.producer.get(maker.x)
    if not isinstance(maker, o.Softmax):
        return None
    source = graph.producer.get(maker.x)
    return source.x if isinstance(source, o.Dequantize) else None
