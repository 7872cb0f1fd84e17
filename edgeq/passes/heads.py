"""Where a network's learned part ends and its decode begins, found by structure alone.

The decode is everything from which no learned weight is reachable any more: reshapes, sigmoids, the expectation over
a box distribution, grids and strides. What enters it are the raw outputs of the head. Cutting there gives two graphs
whose composition is the original: the trunk, and the decode as data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from edgeq.errors import UnsupportedError
from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Graph, Type
from edgeq.quantize.operators import is_expectation, is_weighted

Role = Literal["distribution", "boxes", "scores", "boxes and scores", "features"]


@dataclass(frozen=True)
class HeadOutput:
    """One raw output: what its channels are, and how many input pixels one of its cells spans (0: not a map).

    "distribution" feeds an expectation (box distances), "scores" only a sigmoid or softmax, "boxes" other arithmetic,
    "boxes and scores" both, "features" leave undecoded (mask coefficients, prototypes).
    """

    value: o.Value
    role: Role
    stride: int


@dataclass(frozen=True)
class SplitHead:
    """`trunk` ends with the raw outputs, `decode` starts with them; together they are the original graph."""

    trunk: Graph
    decode: Graph
    outputs: tuple[HeadOutput, ...]

    def document(self, types: dict[o.Value, Type], decode_text: str) -> dict[str, Any]:
        """The decode as plain JSON values; `types` are those of the raw outputs in the artifact."""
        return {
            "schema": "edgeq.head/1",
            "outputs": [
                {
                    "name": item.value,
                    "role": item.role,
                    "stride": item.stride,
                    "shape": list(types[item.value].shape),
                    "format": str(types[item.value].format),
                    "scale": list(types[item.value].scale),
                    "zero_point": types[item.value].zero_point,
                }
                for item in self.outputs
            ],
            "results": list(self.decode.outputs),
            "decode": decode_text,
        }


def _decode_ops(graph: Graph) -> list[o.Op]:
    """The operators from which no learned weighted operator is reachable, in execution order."""
    learned: set[o.Value] = set()
    found: list[o.Op] = []
    for op in reversed(graph.ops):
        results = o.results(op)
        reaches = any(o.results(reader)[0] in learned for value in results for reader in graph.consumers.get(value, ()))
        if reaches or (is_weighted(op) and not is_expectation(op, graph)):
            learned.update(results)
        else:
            found.append(op)
    return found[::-1]


def split_head(graph: Graph) -> SplitHead:
    """Cut a simplified real `graph` where its decode begins.

    Raises UnsupportedError if nothing learned comes before the outputs.
    """
    decode = _decode_ops(graph)
    inside = {value for op in decode for value in o.results(op)}
    read = [value for op in decode for value in o.operands(op)] + list(graph.outputs)
    entering = tuple(dict.fromkeys(v for v in read if v not in inside and v in graph.producer))
    if not entering:
        raise UnsupportedError("the network has no learned head to cut", where=graph.name)
    trunk = Editor.like(graph)
    for op in graph.ops:
        trunk.append(op, *(graph.types[value] for value in o.results(op)))
    tail = Editor(f"{graph.name}.decode", entering, {value: graph.types[value] for value in entering})
    used = {value for op in decode for value in o.operands(op) if value in graph.constants}
    for value in used:
        tail.constants[value], tail.types[value] = graph.constants[value], graph.types[value]
    for op in decode:
        tail.append(op, *(graph.types[value] for value in o.results(op)))
    tail_graph = tail.graph(graph.outputs)
    height = graph.types[graph.inputs[0]].shape[2:3] or (0,)
    outputs = tuple(
        HeadOutput(v, _role(tail_graph, v), _stride(tail_graph.types[v].shape, height[0])) for v in entering
    )
    return SplitHead(trunk.graph(entering), tail_graph, outputs)


def _stride(shape: tuple[int, ...], height: int) -> int:
    return height // shape[2] if len(shape) == 4 and shape[2] and height % shape[2] == 0 else 0


@dataclass(frozen=True)
class _Span:
    """The part [start, stop) of `axis` of a value that holds the channels being followed; None follows all of it."""

    value: o.Value
    axis: int | None
    start: int
    stop: int


def _role(decode: Graph, value: o.Value) -> Role:
    shape = decode.types[value].shape
    pending = [_Span(value, 1 if len(shape) > 1 else None, 0, shape[1] if len(shape) > 1 else 0)]
    seen: set[_Span] = set()
    squashed = computed = expected = False
    while pending:
        span = pending.pop()
        if span in seen:
            continue
        seen.add(span)
        for op in decode.consumers.get(span.value, ()):
            if is_expectation(op, decode):
                expected = True
            elif isinstance(op, o.Apply | o.Softmax):
                gate = isinstance(op, o.Softmax) or op.function.name in ("sigmoid", "hardsigmoid")
                if gate and not _feeds_arithmetic(decode, o.results(op)[0], span):
                    squashed = True
                    continue
                pending += _followed(op, span, decode)
            elif isinstance(op, o.Add | o.Sub | o.Mul | o.Binary):
                computed = True
            else:
                pending += _followed(op, span, decode)
    if expected:
        return "distribution"
    if squashed and computed:
        return "boxes and scores"
    return "scores" if squashed else "boxes" if computed else "features"


def _feeds_arithmetic(decode: Graph, value: o.Value, span: _Span) -> bool:
    """Whether what a squashing function gives is computed with (a grid cell offset, an expectation) rather than put out."""
    pending = [_Span(value, span.axis, span.start, span.stop)]
    seen: set[_Span] = set()
    while pending:
        item = pending.pop()
        if item in seen:
            continue
        seen.add(item)
        for op in decode.consumers.get(item.value, ()):
            if isinstance(op, o.Add | o.Sub | o.Mul | o.Binary) or is_expectation(op, decode):
                return True
            pending += _followed(op, item, decode)
    return False


def _followed(op: o.Op, span: _Span, decode: Graph) -> list[_Span]:
    """The same channels in the result of `op`."""
    result = o.results(op)[0]
    whole = _Span(result, None, 0, 0)
    if span.axis is None:
        return [whole]
    shape, out = decode.types[span.value].shape, decode.types[result].shape
    match op:
        case o.Concat() if op.axis == span.axis:
            before = 0
            spans = []
            for x in op.xs:
                if x == span.value:
                    spans.append(_Span(result, span.axis, before + span.start, before + span.stop))
                before += decode.types[x].shape[op.axis]
            return spans
        case o.Slice():
            low, high = max(span.start, op.starts[span.axis]), min(span.stop, op.stops[span.axis])
            if op.steps[span.axis] != 1:
                return [whole]
            offset = op.starts[span.axis]
            return [_Span(result, span.axis, low - offset, high - offset)] if low < high else []
        case o.Transpose():
            return [_Span(result, op.permutation.index(span.axis), span.start, span.stop)]
        case o.Reshape():
            same = shape[: span.axis + 1] == out[: span.axis + 1]
            return [_Span(result, span.axis, span.start, span.stop)] if same else [whole]
        case o.Apply() | o.Concat():
            return [_Span(result, span.axis, span.start, span.stop)]
        case _:
            return [whole]
