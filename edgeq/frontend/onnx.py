"""From an ONNX file to a graph of reals.

`import_onnx` is a straight line: read and check the file, expand functions, translate the live nodes in
order, name the results as the file does. Each operator has one small function in edgeq/frontend/onnx_*.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from edgeq.errors import EdgeqError, UnsupportedError, UsageError
from edgeq.frontend.onnx_build import KIND_FORMATS, Builder, Handler, Node, number_kind
from edgeq.frontend.onnx_constant import CONSTANT, tensor_array
from edgeq.frontend.onnx_elementwise import ELEMENTWISE
from edgeq.frontend.onnx_layout import LAYOUT
from edgeq.frontend.onnx_linear import LINEAR
from edgeq.frontend.onnx_load import inline_functions, load_model, nested_nodes, opset_of, subgraphs
from edgeq.frontend.onnx_reduce import REDUCE
from edgeq.frontend.onnx_unsupported import QUANTIZED, Problem, unsupported
from edgeq.frontend.onnx_window import WINDOW
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph, Type

HANDLERS: dict[str, Handler] = {**ELEMENTWISE, **LINEAR, **WINDOW, **LAYOUT, **REDUCE, **CONSTANT}
SUPPORTED = frozenset({*HANDLERS, "If"})
_STANDARD = ("", "ai.onnx")
_MAX_IMAGE_SIDE = 1 << 16


def import_onnx(
    source: str | Path | bytes | onnx.ModelProto, *, input_shapes: Mapping[str, tuple[int, ...]] | None = None
) -> Graph:
    """The network in an ONNX file (or its bytes, or a ModelProto) as a graph of Real with static shapes.

    Opsets 11 to 27. A dynamic batch becomes 1; other dynamic sizes come from `input_shapes` (input name
    to full shape). Values keep their ONNX names, outputs their order. Weights of any float width become float32.

    Raises UsageError for a missing file or shape, UnsupportedError for anything else that is not a network
    which edgeq can read; one error lists every unsupported operator.
    """
    model = load_model(source)
    opset = opset_of(model)
    model = inline_functions(model, SUPPORTED | QUANTIZED)
    builder = Builder(model.graph.name or "graph", _inputs(model.graph, input_shapes or {}))
    problems: list[Problem] = []
    _add_initializers(builder, model.graph)
    _translate(builder, _live_nodes(model.graph), opset, problems)
    if problems:
        raise unsupported(problems)
    outputs = [output.name for output in model.graph.output]
    if missing := [name for name in outputs if name not in builder.values]:
        raise UnsupportedError("outputs are not computed", value=missing)
    return builder.graph(outputs)


def _inputs(graph: onnx.GraphProto, given: Mapping[str, tuple[int, ...]]) -> dict[str, Type]:
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [info for info in graph.input if info.name not in weights]
    names = [info.name for info in inputs]
    for name in given:
        if name not in names:
            raise UsageError("the model has no such input", value=name, allowed=", ".join(names))
    return {info.name: _input_type(info, given.get(info.name)) for info in inputs}


def _input_type(info: onnx.ValueInfoProto, given: tuple[int, ...] | None) -> Type:
    tensor = info.type.tensor_type
    if not info.type.HasField("tensor_type") or not tensor.HasField("shape"):
        raise UnsupportedError("an input is not a tensor of known rank", where=info.name)
    kind = number_kind(tensor.elem_type)
    sizes = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value != -1 else None for dim in tensor.shape.dim]
    if given is not None and len(given) != len(sizes):
        raise UsageError(
            "the given shape has the wrong rank", where=info.name, value=given, allowed=f"{len(sizes)} sizes"
        )
    shape = []
    for axis, size in enumerate(sizes):
        wanted = given[axis] if given is not None else size
        if wanted is None and axis == 0:
            wanted = 1
        label = tensor.shape.dim[axis].dim_param or f"axis {axis}"
        shape.append(_size(info.name, label, size, wanted))
    return Type(tuple(shape), KIND_FORMATS[kind])


def _size(name: str, label: str, fixed: int | None, wanted: int | None) -> int:
    if wanted is None:
        raise UsageError(
            f"dimension {label!r} is dynamic",
            where=f"input {name}",
            next_step="Give the image size with --imgsz.",
        )
    if fixed is not None and fixed != wanted:
        raise UsageError("the input has a fixed size", where=f"{name}, {label}", value=wanted, allowed=fixed)
    if not 0 < wanted < 1 << 31:
        raise UnsupportedError("bad input size", where=f"{name}, {label}", value=wanted, allowed="1 or more")
    return wanted


def _add_initializers(builder: Builder, graph: onnx.GraphProto) -> None:
    if graph.sparse_initializer:
        raise UnsupportedError("sparse initializers are not supported", next_step="Export dense weights.")
    for tensor in graph.initializer:
        builder.initializer(tensor.name, tensor_array(tensor, tensor.name))


def _live_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that some output needs, in order."""
    live, needed = [], {output.name for output in graph.output}
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            live.append(node)
            for inner in nested_nodes([node]):
                needed.update(inner.input)
            needed.update(output.name for branch in subgraphs(node) for output in branch.output)
    return live[::-1]


def _translate(builder: Builder, nodes: Sequence[onnx.NodeProto], opset: int, problems: list[Problem]) -> None:
    for node in nodes:
        op_type = node.op_type if node.domain in _STANDARD else f"{node.domain}:{node.op_type}"
        where = node.name or (node.output[0] if node.output else op_type)
        if op_type not in SUPPORTED:
            problems.append(Problem(node.op_type if node.op_type in QUANTIZED else op_type, where, ""))
        elif all(name in builder.values for name in node.input if name):
            try:
                _translate_node(builder, node, opset, problems)
            except UnsupportedError as error:
                problems.append(Problem(op_type, where, str(error)))
            except EdgeqError:
                raise
            # The file is not to be trusted: an operand of impossible rank or an absurd attribute ends here.
            except (
                ArithmeticError,
                AssertionError,
                LookupError,
                RuntimeError,
                TypeError,
                ValueError,
            ) as error:
                problems.append(Problem(op_type, where, f"malformed: {error}"))


def _translate_node(builder: Builder, proto: onnx.NodeProto, opset: int, problems: list[Problem]) -> None:
    inputs = tuple(builder.values[name] if name else None for name in proto.input)
    attributes = {attribute.name: attribute for attribute in proto.attribute}
    node = Node(proto.op_type, proto.name, inputs, tuple(proto.output), attributes, opset)
    builder.hint = next(filter(None, proto.output), proto.op_type)
    if proto.op_type == "If":
        found: o.Value | tuple[o.Value, ...] = _branch(builder, node, problems)
    else:
        found = HANDLERS[proto.op_type](builder, node)
    results = (found,) if isinstance(found, str) else found
    for name, value in zip(proto.output, results, strict=False):
        if name:
            builder.values[name] = value


def _branch(builder: Builder, node: Node, problems: list[Problem]) -> tuple[o.Value, ...]:
    """The branch that a condition known at import chooses."""
    (condition,) = builder.integers(node.operand(0), "the condition")
    graph = node.attributes["then_branch" if condition else "else_branch"].g
    _add_initializers(builder, graph)
    _translate(builder, _live_nodes(graph), node.opset, problems)
    missing = [output.name for output in graph.output if output.name not in builder.values]
    if missing and not problems:
        raise UnsupportedError("a branch output is not computed", value=missing)
    return tuple(builder.values.get(output.name, node.operand(0)) for output in graph.output)
