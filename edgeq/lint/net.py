"""An ONNX file seen for linting: producers and readers, constants, shapes, and quantizers with their numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

Array = NDArray[Any]

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
MOVING = (
    "Reshape", "Transpose", "Slice", "Split", "Squeeze", "Unsqueeze", "Flatten", "Concat", "Gather", "Identity",
    "MaxPool", "Resize", "Expand", "Tile", "Pad", "Cast", "DepthToSpace", "SpaceToDepth",
)  # fmt: skip
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True)
class Quantizer:
    """A QuantizeLinear or DequantizeLinear; `scale` and `zero_point` are None where the file computes them.

    `axis` is None where the attribute is absent. Without a zero point the codes are uint8 after QuantizeLinear.
    """

    node: NodeProto
    scale: Array | None
    zero_point: Array | None
    axis: int | None
    is_unsigned: bool

    @property
    def name(self) -> str:
        """How findings call it."""
        return title(self.node)

    @property
    def is_per_axis(self) -> bool:
        """Whether it has several scales."""
        return self.scale is not None and self.scale.size > 1


def title(node: NodeProto) -> str:
    """Name of a node, or of its first result."""
    return node.name or node.output[0]


def attribute(node: NodeProto, name: str) -> Any:
    """Value of an attribute; None where it is absent or damaged."""
    found = next((a for a in node.attribute if a.name == name), None)
    try:
        return None if found is None else helper.get_attribute_value(found)
    except ValueError:
        return None


def integer(node: NodeProto, name: str) -> int | None:
    """An integer attribute; None where it is absent, damaged, or of another type."""
    found = attribute(node, name)
    return found if isinstance(found, int) else None


def _is_whole(node: NodeProto) -> bool:
    """Whether a node has the inputs and results that the rules look at, and names that are text."""
    least = 2 if node.op_type in (*WEIGHTED, QUANTIZE, DEQUANTIZE, "Gather") else int(node.op_type == "Cast")
    # protobuf hands out bytes where a string is not UTF-8.
    text = all(isinstance(name, str) for name in (node.op_type, node.name, *node.input, *node.output))
    return text and bool(node.output) and len(node.input) >= least


class Net:
    """The main graph of `model`, as far as its nodes are whole; subgraphs are not looked into."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.nodes = tuple(node for node in model.graph.node if _is_whole(node))
        self.producer = {name: node for node in self.nodes for name in node.output if name}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self.readers.setdefault(name, []).append(node)
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.outputs = {output.name for output in model.graph.output}

    @property
    def opset(self) -> int:
        """Version of the standard operator set."""
        return max((entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")), default=0)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes known from the file or by inference; tensors with an open size are absent."""
        try:
            graph = shape_inference.infer_shapes(self.model).graph
        except Exception:  # a file whose shapes cannot be inferred is still worth linting
            graph = self.model.graph
        found = {name: tuple(tensor.dims) for name, tensor in self._tensors.items()}
        for info in (*graph.input, *graph.value_info, *graph.output):
            sizes = info.type.tensor_type.shape.dim
            if info.type.tensor_type.HasField("shape") and all(size.HasField("dim_value") for size in sizes):
                found[info.name] = tuple(size.dim_value for size in sizes)
        return found

    def constant(self, name: str) -> Array | None:
        """Content of an initializer (of four bits also cast to eight, or a table looked up) or Constant node, else None."""
        if name in self._tensors:
            return _array(self._tensors[name])
        node = self.producer.get(name)
        if node is not None and node.op_type == "Constant":
            value = attribute(node, "value")
            return _array(value) if isinstance(value, TensorProto) else None
        if node is not None and node.op_type == "Cast" and integer(node, "to") == TensorProto.INT8:
            packed = self._tensors.get(node.input[0])  # weights of four bits, as integer kernels read them
            return _array(packed) if packed is not None and packed.data_type == TensorProto.INT4 else None
        return self._looked_up(node) if node is not None and node.op_type == "Gather" else None

    def _looked_up(self, node: NodeProto) -> Array | None:
        """Weights as codes that look their levels up in a constant table."""
        cast, table = self.producer.get(node.input[1]), self._tensors.get(node.input[0])
        codes = self._tensors.get(cast.input[0]) if cast is not None and cast.op_type == "Cast" else None
        levels, indices = (None if tensor is None else _array(tensor) for tensor in (table, codes))
        if levels is None or indices is None or levels.ndim != 1 or not indices.size:
            return None
        inside = -levels.size <= int(indices.min()) and int(indices.max()) < levels.size
        return levels[indices] if inside else None

    @cached_property
    def constants(self) -> frozenset[str]:
        """Tensors that come from initializers and Constant nodes alone."""
        found = {"", *self._tensors}
        for node in self.nodes:
            if found.issuperset(node.input) and (node.input or node.op_type == "Constant"):
                found.update(node.output)
        return frozenset(found)

    def is_constant(self, name: str) -> bool:
        """Whether a tensor comes from constants alone."""
        return name in self.constants

    @cached_property
    def quantizers(self) -> dict[str, Quantizer]:
        """Every QuantizeLinear and DequantizeLinear, by its result."""
        return {node.output[0]: self._quantizer(node) for node in self.nodes if node.op_type in (QUANTIZE, DEQUANTIZE)}

    def _quantizer(self, node: NodeProto) -> Quantizer:
        scale = self.constant(node.input[1])
        has_zero_point = len(node.input) > 2 and bool(node.input[2])
        zero_point = self.constant(node.input[2]) if has_zero_point else np.zeros((), np.uint8)
        if node.op_type == DEQUANTIZE and not has_zero_point:
            codes = self.constant(node.input[0])
            zero_point = None if codes is None else np.zeros((), codes.dtype)
        unsigned = zero_point is not None and zero_point.dtype.kind == "u"
        return Quantizer(node, scale, zero_point, integer(node, "axis"), unsigned)

    def quantizer(self, tensor: str, kind: str) -> Quantizer | None:
        """The quantizer of `kind` that computes `tensor`, if one does."""
        found = self.quantizers.get(tensor)
        return found if found is not None and found.node.op_type == kind else None

    def of_type(self, *kinds: str) -> Iterator[NodeProto]:
        """Nodes of these operators, in order."""
        return (node for node in self.nodes if node.op_type in kinds)

    def before(self, tensor: str, passes: Callable[[NodeProto], bool]) -> list[NodeProto]:
        """The nearest nodes that feed `tensor`, seen through those that `passes` accepts."""
        found: dict[int, NodeProto] = {}
        waiting, seen = [tensor], {tensor}
        while waiting:
            node = self.producer.get(waiting.pop())
            if node is not None and not passes(node):
                found[id(node)] = node
            elif node is not None:
                new = [name for name in node.input if name not in seen]
                seen.update(new)
                waiting += reversed(new)
        return list(found.values())

    def after(self, tensor: str, passes: Callable[[NodeProto], bool]) -> list[NodeProto]:
        """The nearest nodes that `tensor` feeds, seen through those that `passes` accepts."""
        found: dict[int, NodeProto] = {}
        waiting, seen = [tensor], {tensor}
        while waiting:
            for node in self.readers.get(waiting.pop(), ()):
                if not passes(node):
                    found[id(node)] = node
                    continue
                new = [name for name in node.output if name not in seen]
                seen.update(new)
                waiting += reversed(new)
        return list(found.values())

    def is_weight(self, quantizer: Quantizer) -> bool:
        """Whether a quantizer stands on constants."""
        return self.is_constant(quantizer.node.input[0])

    def weighted(self) -> Iterator[NodeProto]:
        """Convolutions and matrix products with a constant second operand."""
        return (node for node in self.of_type(*WEIGHTED) if self.is_constant(node.input[1]))


def _array(tensor: TensorProto) -> Array | None:
    if tensor.data_location == TensorProto.EXTERNAL:
        return None
    try:
        array = numpy_helper.to_array(tensor)
        packed = tensor.data_type in (TensorProto.INT4, TensorProto.UINT4)
        return array.astype(np.int8 if tensor.data_type == TensorProto.INT4 else np.uint8) if packed else array
    except Exception:  # whatever is wrong with the bytes, the rest of the file can be linted
        return None
