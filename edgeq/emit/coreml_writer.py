"""How each value of a graph is seen in an ML program.

A value with codes of at most eight bits is an int8 or uint8 tensor, and its real view a `dequantize`; every other
number is real: half precision, or float32 where the target says so. Constant codes become `constexpr_…` operators
(edgeq/emit/coreml_weights.py).
"""

from __future__ import annotations

import numpy as np

from edgeq.emit.coreml_program import Program, Shape, Tensor
from edgeq.emit.coreml_weights import write_codes
from edgeq.errors import UnsupportedError
from edgeq.formats import BOOL, INDEX, Fixed, Int, bits_of, code_range, decode
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph, Type
from edgeq.target import Target

SMALLEST_CODES = 10
"""Constant codes of fewer elements are printed as the reals they stand for."""


def is_narrow(type_: Type) -> bool:
    """Whether a value of this type is a tensor of 8-bit codes."""
    return bool(type_.scale) and isinstance(type_.format, Int | Fixed) and type_.format.bits <= 8


class Writer(Program):
    """A program that prints `graph`; `tensors` are its values, `input_ports` and `output_ports` what its
    inputs and outputs are called.
    """

    def __init__(self, graph: Graph, target: Target) -> None:
        super().__init__(target.ios, "fp32" if target.precision == "fp32" else "fp16")
        self.graph = graph
        self.tensors: dict[o.Value, Tensor] = {}
        self.output_ports = {value: self.fresh(value) for value in dict.fromkeys(graph.outputs)}
        self.input_ports = {value: self.fresh(value) for value in graph.inputs}
        self._same_as: dict[o.Value, o.Value] = {}
        self._views: dict[o.Value, Tensor] = {}

    def type(self, value: o.Value) -> Type:
        """Type of a value of our graph."""
        return self.graph.types[value]

    def shape(self, value: o.Value) -> Shape:
        """Shape of a value of our graph."""
        return self.graph.types[value].shape

    def dtype(self, value: o.Value) -> str:
        """Element type of the real (or index, or truth) tensor of a value."""
        format = self.graph.types[value].format
        if self.graph.types[value].scale:
            return self.real_dtype
        return "bool" if format == BOOL else "int32" if format == INDEX else self.real_dtype

    def same_as(self, value: o.Value, other: o.Value) -> None:
        """From here on `value` is printed as `other`: they stand for the same reals."""
        self._same_as[value] = self.source(other)

    def source(self, value: o.Value) -> o.Value:
        """The value that `value` is printed as."""
        return self._same_as.get(value, value)

    def real(self, value: o.Value) -> Tensor:
        """The real (or index, or truth) tensor of a value, dequantized where it is codes."""
        value = self.source(value)
        if value not in self._views:
            if value in self.graph.constants:
                self._views[value] = self._constant_view(value)
            elif is_narrow(self.type(value)):
                self._views[value] = self._dequantize(self.tensors[value], self.type(value), value)
            else:
                self._views[value] = self.tensors[value]
        return self._views[value]

    def views(self) -> dict[o.Value, Tensor]:
        """The real tensors of values that were read as reals."""
        return dict(self._views)

    def _constant_view(self, value: o.Value) -> Tensor:
        array, type_ = self.graph.constants[value], self.type(value)
        if not type_.scale:
            return self.constant(array, value, self.dtype(value))
        if array.size < SMALLEST_CODES or bits_of(type_.format) > 8:
            return self.constant(decode(type_.format, array, type_.zero_point) * type_.scales, value)
        return write_codes(array, type_, value, self)

    def finish(self, value: o.Value, real: Tensor) -> None:
        """Record that `real` holds the reals of `value`, quantizing them where it has narrow codes."""
        if is_narrow(self.type(value)):
            self.quantize(real, value)
        else:
            self.tensors[value] = real

    def quantize(self, real: Tensor, value: o.Value, low: int | None = None, high: int | None = None) -> None:
        """Codes of `value` from reals, kept between the codes `low` and `high` (its format's own by default)."""
        type_ = self.type(value)
        clamped = self.clamp(real, type_, low, high, f"{value}_clamped")
        dtype = storage(type_)
        self.tensors[value] = self.op(
            "quantize", value, real.shape, dtype, input=clamped, scale=self._scale(type_, value),
            zero_point=self._zero_point(type_, value), output_dtype=dtype,
        )  # fmt: skip

    def _dequantize(self, codes: Tensor, type_: Type, value: o.Value) -> Tensor:
        return self.op(
            "dequantize", f"{value}_real", codes.shape, input=codes, scale=self._scale(type_, value),
            zero_point=self._zero_point(type_, value),
        )  # fmt: skip

    def _scale(self, type_: Type, value: o.Value) -> Tensor:
        (scale,) = type_.scale
        stored = np.array(scale, np.float16 if self.real_dtype == "fp16" else np.float32)
        if float(stored) != scale:
            raise UnsupportedError("the file cannot hold this number exactly", where=value, value=repr(scale))
        return self.constant(stored, f"{value}_scale")

    def _zero_point(self, type_: Type, value: o.Value) -> Tensor | None:
        if not type_.zero_point:
            return None
        return self.constant(np.array(type_.zero_point), f"{value}_zero_point", storage(type_))

    def clamp(self, real: Tensor, type_: Type, low: int | None, high: int | None, hint: str) -> Tensor:
        """`real` kept between two codes of `type_`; `real` itself where its storage saturates there anyway."""
        bottom, top = code_range(type_.format)
        low, high = bottom if low is None else low, top if high is None else high
        if is_narrow(type_):
            ends = np.iinfo(np.int8 if storage(type_) == "int8" else np.uint8)
            bottom, top = int(ends.min), int(ends.max)
        if low <= bottom and high >= top:
            return real
        if low == type_.zero_point and high >= top:
            return self.op("relu", hint, real.shape, x=real)
        limit = [float((code - type_.zero_point) * type_.scale[0]) for code in (low, high)]
        lowest, largest = self.limits
        return self.op("clip", hint, real.shape, x=real, alpha=max(limit[0], lowest), beta=min(limit[1], largest))

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and the largest finite real."""
        info = np.finfo(np.float16 if self.real_dtype == "fp16" else np.float32)
        return float(info.min), float(info.max)


def storage(type_: Type) -> str:
    """The 8-bit element type that holds codes of `type_`."""
    return "int8" if code_range(type_.format)[0] < 0 else "uint8"
