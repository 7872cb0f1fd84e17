"""How each value of a graph is seen in a TFLite file: its tensor, the order of its axes, its numbers.

Every value has a home layout, in which the operator that computes it writes it. Whoever needs another one gets a
TRANSPOSE, made once; where only axes of size one change places it is a RESHAPE. Constants are stored as they are
needed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np

from edgeq.emit.tflite_layout import (
    Layout,
    before_reshape,
    identity,
    inverse,
    moves_nothing,
    permutation,
    port_layout,
    reshaped,
    stored_shape,
)
from edgeq.emit.tflite_writer import ElementName, Index, Quantization, TfliteFile
from edgeq.errors import UnsupportedError
from edgeq.formats import BOOL, INDEX, INT32, INT64, Int, bits_of
from edgeq.ir import ops as o
from edgeq.ir.bounds import is_codes
from edgeq.ir.graph import Array, Graph, Type

_STORAGE: dict[ElementName, type[np.generic]] = {
    "FLOAT32": np.float32, "INT4": np.int8, "INT8": np.int8, "UINT8": np.uint8, "INT16": np.int16, "INT32": np.int32,
    "INT64": np.int64, "BOOL": np.bool_,
}  # fmt: skip


def element_of(type_: Type, where: o.Value) -> ElementName:
    """How numbers of this type are stored. Raises UnsupportedError if TFLite has no such tensors.

    Indices are 32-bit integers, which is all that TFLite's operators on them take.
    """
    format_ = type_.format
    if type_.is_real:
        return "FLOAT32"
    if not is_codes(type_):
        return "BOOL" if format_ == BOOL else "INT32" if format_ == INDEX else _unknown(type_, where)
    if isinstance(format_, Int) and format_.signed:
        names: dict[int, ElementName] = {4: "INT4", 8: "INT8", 16: "INT16", 32: "INT32", 64: "INT64"}
        if format_.bits in names:
            return names[format_.bits]
    return _unknown(type_, where)


def _unknown(type_: Type, where: o.Value) -> ElementName:
    raise UnsupportedError(
        "TFLite has no tensors of this format", where=where, value=type_.format, allowed="int4, int8, int16 and real"
    )


def quantization_of(type_: Type, layout: Layout) -> Quantization | None:
    """Scale and zero point of codes, along the tensor's axis; None for other numbers."""
    if not is_codes(type_):
        return None
    axis = 0 if type_.axis is None or len(type_.scale) == 1 else layout.index(type_.axis)
    return Quantization(type_.scale, type_.zero_point, axis)


class Values:
    """The file under construction, and where in it each value of `graph` is.

    Functions in `tabulated` are stored as tables, since the runtime has no kernel for them.
    """

    def __init__(self, graph: Graph, tabulated: Collection[o.FunctionName] = ()) -> None:
        self.graph, self.tabulated = graph, frozenset(tabulated)
        self.file = TfliteFile(graph.name or "graph")
        self.home: dict[o.Value, Layout] = {}
        self.stored: dict[o.Value, Index] = {}
        self.ports: dict[o.Value, Index] = {}
        self._tensors: dict[tuple[o.Value, Layout], Index] = {}
        self._pending: dict[o.Value, Callable[[], None]] = {}

    # --- types and layouts ------------------------------------------------------------------------------------

    def type(self, value: o.Value) -> Type:
        """Type of a value of the graph."""
        return self.graph.types[value]

    def shape(self, value: o.Value) -> tuple[int, ...]:
        """Shape of a value, in its own order of axes."""
        return self.graph.types[value].shape

    def version(self, value: o.Value, real: int, narrow: int, wide: int) -> int:
        """The version of an operator for operands like `value`: of reals, of 8-bit codes, of 16-bit codes."""
        type_ = self.type(value)
        if not is_codes(type_):
            return real
        return narrow if bits_of(type_.format) <= 8 else wide

    def is_constant(self, value: o.Value) -> bool:
        """Whether a value is a constant of the graph."""
        return value in self.graph.constants

    def layout(self, value: o.Value) -> Layout:
        """Home layout of a value; constants have the order of their own axes."""
        self._settle(value)
        return self.home.get(value) or identity(len(self.shape(value)))

    # --- results ----------------------------------------------------------------------------------------------

    def result(self, value: o.Value, layout: Layout | None = None) -> Index:
        """The tensor into which an operator writes `value`."""
        layout = identity(len(self.shape(value))) if layout is None else layout
        type_ = self.type(value)
        is_port = value not in self.graph.outputs or layout == port_layout(len(layout))
        tensor = self.file.tensor(
            value if is_port else f"{value}.stored",
            stored_shape(type_.shape, layout),
            element_of(type_, value),
            quantization_of(type_, layout),
        )
        self.place(value, tensor, layout)
        return tensor

    def place(self, value: o.Value, tensor: Index, layout: Layout) -> None:
        """Say that `tensor` holds `value`."""
        self.home[value] = layout
        self._tensors[value, layout] = tensor
        if tensor not in self.stored.values():  # else it is another value's, seen with its axes in another order
            self.stored[value] = tensor

    def later(self, value: o.Value, write: Callable[[], None]) -> None:
        """Compute `value` only when something reads it: `write` appends the operators."""
        self._pending[value] = write

    def _settle(self, value: o.Value) -> None:
        if write := self._pending.pop(value, None):
            write()

    def temporary(self, like: o.Value, name: str, shape: tuple[int, ...]) -> Index:
        """A tensor with the numbers of `like` and a shape of its own (as stored)."""
        type_ = self.type(like)
        return self.file.tensor(name, shape, element_of(type_, like), quantization_of(type_, identity(len(shape))))

    def real(self, name: str, shape: tuple[int, ...]) -> Index:
        """A tensor of reals (its shape as stored)."""
        return self.file.tensor(name, shape, "FLOAT32")

    # --- operands ---------------------------------------------------------------------------------------------

    def read(self, value: o.Value, layout: Layout | None = None) -> Index:
        """The tensor of `value` in `layout`, its home by default."""
        if self.is_constant(value):
            return self.constant(value, layout)
        self._settle(value)
        home = self.home[value]
        layout = home if layout is None else layout
        if (value, layout) not in self._tensors:
            self._tensors[value, layout] = self._moved(value, home, layout)
        return self._tensors[value, layout]

    def _moved(self, value: o.Value, home: Layout, layout: Layout) -> Index:
        x, shape = self._tensors[value, home], stored_shape(self.shape(value), layout)
        is_port = value in self.graph.outputs and layout == port_layout(len(layout))
        out = self.temporary(value, value if is_port else f"{value}.moved", shape)
        if moves_nothing(self.shape(value), home, layout):
            self.reshape(x, out)
        else:
            self.transpose(x, out, permutation(home, layout))
        return out

    def constant(
        self, value: o.Value, layout: Layout | None = None, shape: tuple[int, ...] | None = None, least_bits: int = 4
    ) -> Index:
        """A constant of the graph, reshaped to `shape` and then with its axes in the order of `layout`.

        Codes of fewer than `least_bits` are stored as wider ones, for operators that take no others.
        """
        type_, array = self.type(value), self.graph.constants[value]
        array = array if shape is None else array.reshape(shape)
        layout = identity(array.ndim) if layout is None else layout
        element = element_of(type_, value)
        element = "INT8" if element == "INT4" and least_bits > 4 else element
        content = np.ascontiguousarray(array.transpose(layout).astype(_STORAGE[element]))
        return self.file.constant(value, content, element, quantization_of(type_, layout))

    def spread(self, value: o.Value, rank: int, layout: Layout) -> Index:
        """`value` as an operand that broadcasts against values of `rank` axes stored in `layout`."""
        shape = self.shape(value)
        full = (1,) * (rank - len(shape)) + shape
        if self.is_constant(value):
            return self.constant(value, layout, full)
        if len(shape) == rank:
            return self.read(value, layout)
        goal = stored_shape(full, layout)
        added = rank - len(shape)
        own = tuple(axis - added for axis in layout if axis >= added)
        out = self.temporary(value, f"{value}.spread", goal)
        self.reshape(self.read(value, own), out)
        return out

    def numbers(self, array: Array, hint: str) -> Index:
        """A constant that is no value of the graph: float32 or int32."""
        if array.dtype.kind == "f":
            return self.file.constant(hint, array.astype(np.float32), "FLOAT32")
        return self.file.constant(hint, array.astype(np.int32), "INT32")

    def code(self, like: o.Value, code: int) -> Index:
        """A constant of one element with the numbers of `like`."""
        type_ = self.type(like)
        element = element_of(type_, like)
        array = np.array([code], dtype=_STORAGE[element])
        return self.file.constant(f"{like}.{code}", array, element, quantization_of(type_, (0,)))

    def bias(self, value: o.Value, x: o.Value) -> Index:
        """A bias in the width that kernels want beside activations like `x`."""
        type_ = self.type(value)
        if not is_codes(self.type(x)):
            return self.constant(value)
        wide = replace(type_, format=INT64 if bits_of(self.type(x).format) > 8 else INT32)
        element = element_of(wide, value)
        array = self.graph.constants[value].astype(_STORAGE[element])
        return self.file.constant(value, array, element, quantization_of(wide, (0,)))

    def zero_bias(self, x: o.Value, weight: o.Value, channels: int) -> Index:
        """A bias of zeros in the units of a weighted operator's accumulator."""
        x_type, weight_type = self.type(x), self.type(weight)
        if x_type.is_real:
            return self.numbers(np.zeros(channels, dtype=np.float32), f"{weight}.zeros")
        scale = tuple(x_type.scale[0] * s for s in weight_type.scale)
        wide = Type((channels,), INT64 if bits_of(x_type.format) > 8 else INT32, scale, axis=0)
        element = element_of(wide, weight)
        zeros = np.zeros(channels, dtype=_STORAGE[element])
        return self.file.constant(f"{weight}.zeros", zeros, element, quantization_of(wide, (0,)))

    def integers(self, numbers: tuple[int, ...] | list[int], hint: str) -> Index:
        """A vector of 32-bit integers, as shapes and axes are given."""
        return self.numbers(np.array(numbers, dtype=np.int32), hint)

    # --- operators that everybody needs -----------------------------------------------------------------------

    def reshape(self, x: Index, out: Index) -> None:
        """RESHAPE `x` to the shape of `out`."""
        shape = list(self.file.shape(out))
        self.file.operator(
            "RESHAPE", [x, self.integers(shape, "shape")], [out], options="ReshapeOptions",
            newShape=np.array(shape, dtype=np.int32),
        )  # fmt: skip

    def transpose(self, x: Index, out: Index, axes: Layout) -> None:
        """TRANSPOSE: axis k of `out` is axis `axes[k]` of `x`."""
        self.file.operator("TRANSPOSE", [x, self.integers(list(axes), "axes")], [out], 2, "TransposeOptions")

    def as_shape(self, value: o.Value, shape: tuple[int, ...], out: o.Value) -> None:
        """`out` is `value` reshaped, with as little movement as its layout allows."""
        home = self.layout(value)
        layout = reshaped(self.shape(value), home, shape)
        if layout is None:
            home = before_reshape(self.shape(value), home, shape)
            layout = reshaped(self.shape(value), home, shape)
            assert layout is not None, (home, shape)
        self.reshape(self.read(value, home), self.result(out, layout))

    def holds_codes(self, port: o.Value) -> bool:
        """Whether the tensor of this input or output holds 8- or 16-bit codes."""
        return self.file.element(self.ports[port]) in ("INT8", "INT16")

    def layouts(self) -> dict[str, Layout]:
        """Name of every tensor that stores a value in another order of axes -> where each of its axes lies."""
        homes = {self.file.tensor_name(tensor): self.home[value] for value, tensor in self.stored.items()}
        return {name: inverse(layout) for name, layout in homes.items() if layout != identity(len(layout))}
