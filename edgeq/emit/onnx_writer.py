"""An ONNX graph under construction, and how each value of our graph is seen in it.

A value's tensor has the value's own name: uint8 or int8 codes for values with 8-bit codes, float32 for every other
number (accumulators and wide codes are printed as the reals they stand for). `real` gives the float view that a
reader needs; for codes that is a DequantizeLinear.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgeq.emit.onnx_quant import write_constant, write_quant
from edgeq.emit.onnx_tables import has_blocks, has_table, write_blocks, write_levels, write_reals
from edgeq.formats import INT4, INT4_NARROW, INT8, INT32, Fixed, Format, Int, bits_of, code_range, decode, level_range
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph, Type

Runtime = Literal["tensorrt", "onnxruntime", "qonnx"]
Tensor = str
AttributeValue = int | float | str | Sequence[int]

FIRST_OPSET = 13
"""The first with per-channel QuantizeLinear; operators that came later are in SINCE."""

INT4_OPSET = 21
"""The first with 4-bit integers; from 18 on, reductions take their axes as an input."""

SINCE = {"LayerNormalization": 17}


def is_codes(type_: Type) -> bool:
    """Whether a value of this type is codes with a scale."""
    return bool(type_.scale)


def is_narrow(type_: Type) -> bool:
    """Whether a value of this type is printed as 8-bit codes."""
    return is_codes(type_) and isinstance(type_.format, Int | Fixed) and type_.format.bits <= 8


def _is_int4(type_: Type) -> bool:
    return is_codes(type_) and type_.format in (INT4, INT4_NARROW) and type_.zero_point == 0


def _turned(type_: Type) -> Type:
    """The type of a matrix as that of its transpose."""
    return replace(type_, shape=type_.shape[::-1], axis=None if type_.axis is None else 1 - type_.axis)


def same_numbers(a: Type, b: Type) -> bool:
    """Whether codes of `a` mean what the same codes of `b` mean."""
    return (a.format, a.scale, a.zero_point, a.axis) == (b.format, b.scale, b.zero_point, b.axis)


def reals_of(codes: Array, type_: Type) -> Array:
    """float32 reals of constant codes."""
    levels = decode(type_.format, codes, type_.zero_point).astype(np.float32)
    return (levels * type_.scales.astype(np.float32)).astype(np.float32)


def storage(type_: Type) -> type[np.int8] | type[np.uint8]:
    """The 8-bit type that holds codes of `type_` (at most eight bits)."""
    return np.int8 if code_range(type_.format)[0] < 0 else np.uint8


class Writer:
    """Collects nodes and initializers; equal initializers are stored once, names never clash."""

    def __init__(self, graph: Graph, runtime: Runtime) -> None:
        self.graph, self.runtime = graph, runtime
        self.nodes: list[NodeProto] = []
        self.initializers: dict[Tensor, TensorProto] = {}
        packs = runtime == "onnxruntime" and any(
            _is_int4(graph.types[name]) or has_table(graph.types[name]) or has_blocks(graph.types[name])
            for name in graph.constants
        )
        self.opset = INT4_OPSET if packs else FIRST_OPSET
        self.domains: dict[str, int] = {}
        self.tensors: dict[o.Value, Tensor] = {name: name for name in graph.inputs}
        self._names = set(graph.types)
        self._stored: dict[tuple[str, tuple[int, ...], bytes], Tensor] = {}
        self._same_as: dict[o.Value, o.Value] = {}
        self._float_views: dict[o.Value, Tensor] = {}

    # --- tensors and nodes ----------------------------------------------------------------------------------

    def fresh(self, name: str) -> Tensor:
        """`name`, or `name.1`, `name.2` … if it is taken."""
        candidate, count = name, 0
        while candidate in self._names:
            count += 1
            candidate = f"{name}.{count}"
        self._names.add(candidate)
        return candidate

    def node(
        self,
        kind: str,
        inputs: Iterable[Tensor],
        out: Tensor | Sequence[Tensor],
        **attributes: AttributeValue | None,
    ) -> Tensor:
        """Append a node, without the attributes that are None, and return its first output."""
        outputs = [out] if isinstance(out, str) else list(out)
        node = helper.make_node(kind, list(inputs), outputs, name=f"{kind}:{outputs[0]}")
        for name, content in sorted(attributes.items()):
            if content is not None:
                node.attribute.append(helper.make_attribute(name, content))
        self.nodes.append(node)
        self.opset = max(self.opset, SINCE.get(kind, FIRST_OPSET))
        return outputs[0]

    def constant(self, array: Array, hint: str) -> Tensor:
        """An initializer with the content of `array`, called `hint` or like it."""
        array = np.array(array, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._stored:
            name = self.fresh(hint)
            self._stored[key] = name
            self.initializers[name] = numpy_helper.from_array(array, name)
        return self._stored[key]

    def integers(self, numbers: Iterable[int], hint: str) -> Tensor:
        """An int64 vector, as shapes, axes and pads are given."""
        return self.constant(np.array(list(numbers), dtype=np.int64), hint)

    def scalar(self, number: float, hint: str) -> Tensor:
        """A float32 scalar."""
        return self.constant(np.array(number, dtype=np.float32), hint)

    def rename(self, tensor: Tensor, name: Tensor) -> None:
        """Give the result of a node another name, everywhere."""
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [name if known == tensor else known for known in names]
        self.tensors = {value: name if known == tensor else known for value, known in self.tensors.items()}
        self._float_views = {value: name if known == tensor else known for value, known in self._float_views.items()}

    # --- values ---------------------------------------------------------------------------------------------

    def type(self, value: o.Value) -> Type:
        """Type of a value of our graph."""
        return self.graph.types[value]

    def same_as(self, value: o.Value, other: o.Value) -> None:
        """From here on `value` is printed as `other`: they stand for the same reals."""
        self._same_as[value] = self.source(other)
        source = self._same_as[value]
        if source in self.tensors and not is_narrow(self.type(source)):
            self.tensors[value] = self.tensors[source]

    def source(self, value: o.Value) -> o.Value:
        """The value that `value` is printed as."""
        return self._same_as.get(value, value)

    def real(self, value: o.Value) -> Tensor:
        """The float32 (or index, or truth) tensor of a value, dequantized where it is codes."""
        value = self.source(value)
        if value not in self._float_views:
            if value in self.graph.constants:
                self._float_views[value] = self._constant_view(value)
            elif is_narrow(self.type(value)) and self.runtime != "qonnx":
                self._float_views[value] = self.dequantize(self.tensors[value], self.type(value), f"{value}.dq")
            else:
                self._float_views[value] = self.tensors[value]
        return self._float_views[value]

    def codes(self, value: o.Value) -> Tensor:
        """The 8-bit tensor of a value."""
        value = self.source(value)
        if value in self.graph.constants:
            return self.stored_codes(*self.stored(value), value, self.type(value).format)
        return self.tensors[value]

    def stored_codes(self, codes: Array, type_: Type, hint: str, own: Format) -> Tensor:
        """The 8-bit tensor of constant codes, of which four bits are stored in pairs: those of `own`, if it is a table.

        ONNX Runtime folds the Cast of those and then has integer kernels, which it has not for INT4 itself.
        """
        if self.opset >= INT4_OPSET and has_table(replace(type_, format=own)) and bits_of(own) <= 4:
            return write_levels(codes, own, hint, self)
        if self.opset < INT4_OPSET or not _is_int4(type_):
            return self.constant(codes, hint)
        return self.node(
            "Cast", [self.packed(codes, TensorProto.INT4, hint)], self.fresh(f"{hint}.cast"), to=TensorProto.INT8
        )

    def packed(self, codes: Array, element: int, hint: str) -> Tensor:
        """An initializer of INT4 or UINT4, the first of each pair in the low bits."""
        name = self.fresh(hint)
        pairs = np.append(codes.reshape(-1), [0] * (codes.size % 2)).astype(np.uint8).reshape(-1, 2) & 15
        content = (pairs[:, 0] | pairs[:, 1] << 4).astype(np.uint8).tobytes()
        self.initializers[name] = helper.make_tensor(name, element, codes.shape, content, raw=True)
        return name

    def stored(self, value: o.Value) -> tuple[Array, Type]:
        """The 8-bit array, and its type, by which the file holds a constant whose levels fit; see `is_storable`."""
        array, type_ = self.graph.constants[value], self.type(value)
        if is_narrow(type_):
            return array.astype(storage(type_)), type_
        return decode(type_.format, array).astype(np.int8), replace(type_, format=INT8)

    def is_storable(self, value: o.Value) -> bool:
        """Whether a constant can be kept as 8-bit codes: integer codes, or any format whose levels fit in int8."""
        type_ = self.type(value)
        if type_.block:
            return False
        if not is_codes(type_) or is_narrow(type_):
            return is_codes(type_)
        low, high = level_range(type_.format, type_.zero_point)
        return low >= INT8.low and high <= INT8.high

    def _constant_view(self, value: o.Value) -> Tensor:
        array, type_ = self.graph.constants[value], self.type(value)
        if not is_codes(type_):
            return self.constant(array.astype(np.float32) if type_.is_real else array, value)
        if self.runtime == "qonnx":
            return write_constant(array, type_, value, self) or self.constant(reals_of(array, type_), f"{value}.r")
        if self.is_storable(value):
            return self.dequantize(self.codes(value), self.stored(value)[1], f"{value}.dq")
        if self.runtime == "onnxruntime" and type_.format == INT32:
            return self._int32(array, type_, value)
        if self.runtime == "onnxruntime" and has_blocks(type_):
            return write_blocks(array, type_, value, self)
        if self.runtime == "onnxruntime" and has_table(type_):
            return write_reals(array, type_, value, self)
        return self.constant(reals_of(array, type_), f"{value}.r")

    def _int32(self, codes: Array, type_: Type, name: str) -> Tensor:
        """A bias in the accumulator's own units, the form that ONNX Runtime fuses without rounding it again."""
        (scale, _), axis = self.parameters(replace(type_, format=INT8), name)
        inputs = [self.constant(codes.astype(np.int32), name), scale]
        return self.node("DequantizeLinear", inputs, self.fresh(f"{name}.dq"), axis=axis)

    def transposed(self, value: o.Value) -> Tensor:
        """The float view of a weight [out, in] as [in, out]."""
        if value not in self.graph.constants or self.runtime == "qonnx":
            return self.node("Transpose", [self.real(value)], self.fresh(f"{value}.transposed"), perm=(1, 0))
        if not self.is_storable(value):
            array = self.graph.constants[value]
            if self.runtime == "onnxruntime" and has_table(self.type(value)):
                return write_reals(array.T, _turned(self.type(value)), f"{value}.transposed", self)
            reals = reals_of(array, self.type(value)) if is_codes(self.type(value)) else array.astype(np.float32)
            return self.constant(reals.T, f"{value}.transposed")
        codes, type_ = self.stored(value)
        turned = _turned(type_)
        stored = self.stored_codes(codes.T, turned, f"{value}.transposed", self.type(value).format)
        return self.dequantize(stored, turned, f"{value}.transposed.dq")

    def fold(self, value: o.Value) -> None:
        """From here on view constant codes so that ONNX Runtime folds them, which it does not do to DequantizeLinear.

        8-bit codes become Cast and Mul, others are stored as reals.
        """
        if not self.is_storable(value):
            array, own = self.graph.constants[value], self.type(value)
            found = (
                write_reals(array, own, value, self) if has_table(own) else self.constant(reals_of(array, own), value)
            )
            self._float_views[value] = found
            return
        codes, type_ = self.stored(value)
        shape = [-1 if axis == type_.axis else 1 for axis in range(codes.ndim)]
        levels = decode(type_.format, codes, type_.zero_point)
        fits = levels.size == 0 or (levels.min() >= INT8.low and levels.max() <= INT8.high)
        if has_table(self.type(value)) and bits_of(self.type(value).format) <= 4:
            stored = write_levels(codes, self.type(value).format, value, self)
        elif self.opset >= INT4_OPSET and _is_int4(type_):
            stored = self.packed(codes, TensorProto.INT4, value)
        else:
            stored = self.constant(levels.astype(np.int8 if fits else np.int16), value)
        scale = self.constant(np.array(type_.scale, dtype=np.float32).reshape(shape), f"{value}.scale")
        cast = self.node("Cast", [stored], self.fresh(f"{value}.cast"), to=TensorProto.FLOAT)
        self._float_views[value] = self.node("Mul", [cast, scale], self.fresh(f"{value}.folded"))

    # --- codes and reals ------------------------------------------------------------------------------------

    def parameters(self, type_: Type, hint: str) -> tuple[list[Tensor], int | None]:
        """Scale and zero point of `type_` as initializers, and the axis they lie along."""
        channels = len(type_.scale) > 1 and type_.axis is not None
        scale = np.array(type_.scale if channels else type_.scale[0], dtype=np.float32)
        zero_point = np.full(scale.shape, type_.zero_point, dtype=storage(type_))
        names = [self.constant(scale, f"{hint}.scale"), self.constant(zero_point, f"{hint}.zero_point")]
        return names, type_.axis if channels else None

    def quantize(self, reals: Tensor, value: o.Value, low: int | None = None, high: int | None = None) -> None:
        """Codes of `value` from reals, kept between the codes `low` and `high` (its format's own by default)."""
        reals = self.clamp(reals, self.type(value), low, high, self.fresh(f"{value}.clamped"))
        if self.runtime == "qonnx":
            self.tensors[value] = write_quant(reals, self.type(value), value, value, self)
            return
        parameters, axis = self.parameters(self.type(value), value)
        self.tensors[value] = self.node("QuantizeLinear", [reals, *parameters], value, axis=axis)

    def clamp(self, reals: Tensor, type_: Type, low: int | None, high: int | None, name: str) -> Tensor:
        """`reals` kept between two codes of `type_`; `reals` itself where its storage saturates there anyway."""
        bottom, top = code_range(type_.format)
        low, high = bottom if low is None else low, top if high is None else high
        in_bytes = is_narrow(type_) and self.runtime != "qonnx"
        ends = (np.iinfo(storage(type_)).min, np.iinfo(storage(type_)).max) if in_bytes else (bottom, top)
        free_below, free_above = low <= ends[0], high >= ends[1]
        if free_below and free_above:
            return reals
        if low == type_.zero_point and free_above:
            return self.node("Relu", [reals], name)
        limits = [
            "" if free else self.scalar((code - type_.zero_point) * type_.scale[0], f"{name}.{end}")
            for free, code, end in ((free_below, low, "min"), (free_above, high, "max"))
        ]
        return self.node("Clip", [reals, *limits] if limits[1] else [reals, limits[0]], name)

    def dequantize(self, codes: Tensor, type_: Type, name: str) -> Tensor:
        """Reals of a tensor of 8-bit codes."""
        parameters, axis = self.parameters(type_, name.removesuffix(".dq"))
        return self.node("DequantizeLinear", [codes, *parameters], self.fresh(name), axis=axis)

    def result_name(self, value: o.Value) -> Tensor:
        """Where an operator writes the reals of its result: the value itself, or the input of its quantizer."""
        return self.fresh(f"{value}.r") if is_narrow(self.type(value)) else value

    def finish(self, value: o.Value, reals: Tensor) -> None:
        """Record that `reals` holds the reals of `value`, quantizing them where it has 8-bit codes."""
        if is_narrow(self.type(value)):
            self.quantize(reals, value)
        else:
            self.tensors[value] = reals
