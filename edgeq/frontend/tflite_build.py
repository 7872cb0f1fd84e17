"""The workbench of the TFLite importer: tensors of the file go in, channels-last; values of a graph come out, NCHW.

A tensor of rank 4 can have two values: one in the file's own axes (`plain`) and one with the channels first (`first`).
Whoever needs a form asks for it; a permutation is added only then, and composed with the one before it, so that a
chain of convolutions has none. All other ranks have the file's own axes only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.formats import decode
from edgeq.frontend.flatbuffer import Numbers
from edgeq.frontend.onnx_build import MAX_ELEMENTS, Builder
from edgeq.frontend.tflite_file import ABSENT, OWN_RECORD, FileOperator, FileTensor, TfliteFile
from edgeq.frontend.tflite_types import TO_FIRST, TO_LAST, constant_type, format_of, is_channels_last, type_of
from edgeq.ir import fit
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph, Type
from edgeq.ir.infer import result_shapes


class Importer:
    """A graph under construction from `file`; see the module."""

    def __init__(self, name: str, file: TfliteFile) -> None:
        self.file = file
        self.names = _unique_names(file)
        self.plain_values: dict[int, o.Value] = {}
        self.first_values: dict[int, o.Value] = {}
        self.channels_first: dict[str, bool] = {}
        """For each tensor whether the value that has its name has its channels first."""
        self.columns: dict[str, Numbers] = {}
        """For the weights whose columns were put in another order: which column of the file each one is."""
        self.on_codes = False
        """Whether codes are wanted as such, rather than as the reals they stand for."""
        self._reals: dict[o.Value, o.Value] = {}
        self._constants: dict[tuple[int, bool, bool], o.Value] = {}
        self.builder = Builder(name, dict(self._port(index) for index in file.inputs))
        self.producer: dict[o.Value, o.Op] = {}

    def _port(self, index: int) -> tuple[str, Type]:
        tensor, name = self.file.tensors[index], self.names[index]
        shape = tensor.shape
        if not all(0 < size < 1 << 31 for size in shape) or prod(shape) > MAX_ELEMENTS:
            raise UnsupportedError("bad input size", where=name, value=shape)
        if self.is_last(shape):
            shape = tuple(shape[axis] for axis in TO_FIRST)
            self.first_values[index] = name
        else:
            self.plain_values[index] = name
        self.channels_first[name] = self.is_last(tensor.shape)
        return name, type_of(tensor, shape)

    def is_last(self, shape: Sequence[int]) -> bool:
        """Whether a port of this shape has its channels last, as all have in edgeq's own files."""
        return is_channels_last(shape) or (OWN_RECORD in self.file.notes and len(shape) == 4)

    # --- tensors of the file ----------------------------------------------------------------------------------

    def tensor(self, op: FileOperator, position: int) -> FileTensor:
        """The operand at `position`, which the operator cannot do without."""
        found = self.optional(op, position)
        if found is None:
            raise UnsupportedError("an operand is missing", value=f"number {position}")
        return found

    def optional(self, op: FileOperator, position: int) -> FileTensor | None:
        """The operand at `position`, or None where it is left out."""
        index = op.inputs[position] if position < len(op.inputs) else ABSENT
        return None if index == ABSENT else self.file.tensors[index]

    def result(self, op: FileOperator, position: int = 0) -> FileTensor:
        """A result of `op`."""
        if position >= len(op.outputs) or op.outputs[position] == ABSENT:
            raise UnsupportedError("a result is missing", value=f"number {position}")
        return self.file.tensors[op.outputs[position]]

    def _check_type(self, tensor: FileTensor, type_: Type) -> None:
        """The file must say of a tensor what its operator makes of it."""
        said = type_of(tensor, type_.shape)
        if (said.format, said.scale, said.zero_point) != (type_.format, type_.scale, type_.zero_point):
            raise UnsupportedError(
                "the operator gives other numbers than the file says",
                where=tensor.name,
                value=f"{type_.format} {type_.scale} {type_.zero_point}",
                allowed=f"{said.format} {said.scale} {said.zero_point}",
            )

    def is_known(self, index: int) -> bool:
        """Whether a tensor has a value or is a constant."""
        known = index in self.plain_values or index in self.first_values
        return known or index == ABSENT or self.file.tensors[index].content is not None

    def is_first(self, tensor: FileTensor) -> bool:
        """Whether the channels-first form of `tensor` is there already, so that it costs nothing."""
        return tensor.index in self.first_values and tensor.index not in self.plain_values

    def plain(self, tensor: FileTensor) -> o.Value:
        """The value of `tensor` in the file's own axes."""
        return self._wanted(self._plain(tensor))

    def first(self, tensor: FileTensor) -> o.Value:
        """The value of `tensor`, of rank 4, with the channels on axis 1."""
        return self._wanted(self._first(tensor))

    def _wanted(self, value: o.Value) -> o.Value:
        """`value`, or the reals that it stands for where those are wanted and it is codes."""
        if self.on_codes or not self.type(value).scale:
            return value
        if value not in self._reals:
            self._reals[value] = self.emit(o.Dequantize(value, ""), Type(()))
        return self._reals[value]

    def _plain(self, tensor: FileTensor) -> o.Value:
        index = tensor.index
        if tensor.content is not None:
            return self._constant(tensor, first=False)
        if index not in self.plain_values:
            if index not in self.first_values:
                raise UnsupportedError("an operand is not computed before it is used", where=tensor.name)
            self.plain_values[index] = self.transpose(self.first_values[index], TO_LAST)
        return self.plain_values[index]

    def _first(self, tensor: FileTensor) -> o.Value:
        index = tensor.index
        if tensor.content is not None:
            return self._constant(tensor, first=True)
        if index not in self.first_values:
            value = self._plain(tensor)
            if len(self.shape(value)) != 4:
                raise UnsupportedError("an image has four axes", where=tensor.name, value=self.shape(value))
            self.first_values[index] = self.transpose(value, TO_FIRST)
        return self.first_values[index]

    def form(self, tensor: FileTensor, first: bool) -> o.Value:
        """The value of `tensor` in one of its two forms."""
        return self.first(tensor) if first else self.plain(tensor)

    def give(self, tensor: FileTensor, value: o.Value, *, first: bool = False) -> None:
        """`value` is what the network computes for `tensor`."""
        if self.is_known(tensor.index):
            raise UnsupportedError("a tensor is computed twice", where=tensor.name)
        self._check_type(tensor, self.type(value))
        (self.first_values if first else self.plain_values)[tensor.index] = value
        self.channels_first[self.names[tensor.index]] = first
        self.builder.values.setdefault(self.names[tensor.index], value)

    def _constant(self, tensor: FileTensor, *, first: bool) -> o.Value:
        """A constant in one of its forms: codes where they are wanted, else reals, indices or truth values."""
        key = (tensor.index, first, self.on_codes and tensor.is_quantized)
        if key not in self._constants:
            if first and len(tensor.shape) != 4:
                raise UnsupportedError("an image has four axes", where=tensor.name, value=tensor.shape)
            order = TO_FIRST if first else tuple(range(len(tensor.shape)))
            self._constants[key] = self.weight(tensor, order)
        return self._constants[key]

    def weight(self, tensor: FileTensor, order: o.Ints) -> o.Value:
        """A constant with its axes in `order`: codes where they are wanted, else what they stand for."""
        format_of(tensor)
        if len(order) != len(tensor.shape):
            raise UnsupportedError(f"a constant needs {len(order)} axes", where=tensor.name, value=tensor.shape)
        if self.on_codes and tensor.is_quantized:
            type_ = constant_type(tensor)
            axis = None if type_.axis is None else order.index(type_.axis)
            return self.code_constant(tensor.array().transpose(order), replace(type_, axis=axis), tensor)
        array = self.reals(tensor) if tensor.is_quantized else tensor.array()
        return self.constant(array.transpose(order), tensor)

    def code_constant(self, codes: Numbers, type_: Type, tensor: FileTensor) -> o.Value:
        """A constant of codes named after `tensor`; the shape of `type_` is that of the codes."""
        if not codes.size:
            raise UnsupportedError("a constant has no elements", where=tensor.name, value=codes.shape)
        self.builder.hint = self.names[tensor.index]
        name = self.builder.new()
        self.builder.editor.constants[name] = np.array(codes, order="C")
        self.builder.editor.types[name] = replace(type_, shape=codes.shape)
        self.builder.values.setdefault(self.names[tensor.index], name)
        return name

    def constant(self, array: Numbers, tensor: FileTensor) -> o.Value:
        """A constant named after `tensor`."""
        name = self.names[tensor.index]
        while name in self.builder.values:
            name += "'"
        self.builder.initializer(name, array)
        return self.builder.values[name]

    def reals(self, tensor: FileTensor) -> Numbers:
        """float32 reals of a constant tensor of codes."""
        type_ = constant_type(tensor)
        shape = [-1 if axis == type_.axis else 1 for axis in range(len(type_.shape))]
        scale = np.asarray(type_.scale, dtype=np.float32)
        levels = decode(type_.format, tensor.array(), type_.zero_point).astype(np.float32)
        with np.errstate(over="ignore"):  # an absurd scale gives infinite weights, as it does in every runtime
            return levels * (scale.reshape(shape) if type_.axis is not None else scale[0])

    def integers(self, tensor: FileTensor, what: str) -> tuple[int, ...]:
        """The entries of a tensor that is known at import."""
        return self.builder.integers(self.plain(tensor), what)

    def number(self, tensor: FileTensor, what: str) -> float:
        """The one real that a tensor holds, which is known at import."""
        if tensor.content is None or prod(tensor.shape) != 1:
            raise UnsupportedError(f"{what} must be one number that is known", where=tensor.name)
        array = self.reals(tensor) if tensor.is_quantized else tensor.array()
        return float(array.reshape(-1)[0])

    # --- values -----------------------------------------------------------------------------------------------

    def shape(self, value: o.Value) -> tuple[int, ...]:
        """Shape of a value."""
        return self.builder.shape(value)

    def type(self, value: o.Value) -> Type:
        """Type of a value."""
        return self.builder.editor.types[value]

    def emit(self, op: o.Op, type_: Type | None = None) -> o.Value:
        """Add `op`, whose result gets its name here. Codes need a `type_`, unless `op` only moves them."""
        x = o.operands(op)[0]
        if type_ is None and not self.type(x).scale:
            value = self.builder.emit(op)
        else:
            value = self._emit_codes(op, type_ or self.type(x))
        self.producer[value] = op
        return value

    def _emit_codes(self, op: o.Op, type_: Type) -> o.Value:
        shape = self.checked(op)
        name = self.builder.new()
        return self.builder.editor.append(o.rename(op, lambda _: name, where="results"), replace(type_, shape=shape))

    def checked(self, op: o.Op) -> tuple[int, ...]:
        """Shape of the result of `op`; raises UnsupportedError if it has none."""
        for problem in fit.problems(op, self.shape):
            raise UnsupportedError(problem)
        shape = result_shapes(op, self.shape)[0]
        if min(shape, default=1) < 1 or prod(shape) > MAX_ELEMENTS:
            raise UnsupportedError("a value has an impossible shape", value=shape)
        return shape

    def reshape(self, x: o.Value, shape: Sequence[int]) -> o.Value:
        """x with `shape`; of several reshapes in a row only the last one stays."""
        inner = self.producer.get(x)
        while isinstance(inner, o.Reshape):
            x, inner = inner.x, self.producer.get(inner.x)
        return x if tuple(shape) == self.shape(x) else self.emit(o.Reshape(x, "", tuple(shape)))

    def transpose(self, x: o.Value, permutation: Sequence[int]) -> o.Value:
        """x with permuted axes; permutations in a row are one, and one that moves no element is a reshape."""
        if sorted(permutation) != list(range(len(self.shape(x)))):
            raise UnsupportedError("this does not permute the axes", value=tuple(permutation), allowed=self.shape(x))
        inner = self.producer.get(x)
        if isinstance(inner, o.Transpose):
            return self.transpose(inner.x, [inner.permutation[axis] for axis in permutation])
        shape = self.shape(x)
        moved = [axis for axis in permutation if shape[axis] != 1]
        if moved == sorted(moved):
            return self.reshape(x, [shape[axis] for axis in permutation])
        return self.emit(o.Transpose(x, "", tuple(permutation)))

    def graph(self) -> Graph:
        """The finished graph, its outputs named as the file names them."""
        names: list[str] = []
        self.on_codes = True
        if len(set(self.file.outputs)) < len(self.file.outputs):
            raise UnsupportedError("two outputs are the same tensor", value=self.file.outputs)
        for index in self.file.outputs:
            if not self.is_known(index):
                raise UnsupportedError("an output is not computed", where=self.names[index])
            tensor, name = self.file.tensors[index], self.names[index]
            first = self.is_last(self._final_shape(tensor))
            self.builder.hint, self.channels_first[name] = name, first
            self.builder.values[name] = self.form(tensor, first)
            names.append(name)
        return self.builder.graph(names)

    def _final_shape(self, tensor: FileTensor) -> tuple[int, ...]:
        """Shape of an output in the file's own axes, as it was computed."""
        if tensor.index in self.first_values:
            shape = self.shape(self.first_values[tensor.index])
            return tuple(shape[axis] for axis in TO_LAST)
        return self.shape(self._plain(tensor))


Handler = Callable[[Importer, FileOperator], None]


def _unique_names(file: TfliteFile) -> list[str]:
    """The names of the tensors, which a file may repeat: ports keep theirs, the others get a number."""
    order = [*dict.fromkeys((*file.inputs, *file.outputs)), *range(len(file.tensors))]
    names: dict[int, str] = {}
    taken: set[str] = set()
    counts: dict[str, int] = {}
    for index in order:
        if index in names:
            continue
        name = hint = file.port_names.get(index) or file.tensors[index].name
        while name in taken:
            counts[hint] = counts.get(hint, 0) + 1
            name = f"{hint}.{counts[hint]}"
        names[index] = name
        taken.add(name)
    return [names[index] for index in range(len(file.tensors))]
