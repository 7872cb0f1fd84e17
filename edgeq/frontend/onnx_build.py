"""The workbench of the ONNX importer: nodes with typed attributes go in, operators of edgeq/ir come out.

The invariant: an operator whose operands are all constants is evaluated at once, by the reference meaning, so
shape arithmetic disappears and `integers(x)` of a shape just works. Sizes are checked before computing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from edgeq.errors import UnsupportedError
from edgeq.formats import BOOL, INDEX, REAL, Format
from edgeq.ir import fit
from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Graph, Type
from edgeq.ir.kinds import kind_problems
from edgeq.ir.rename import renamed
from edgeq.reference.meaning import evaluate

Numbers = npt.NDArray[Any]

MAX_ELEMENTS = 1 << 28  # of one value
MAX_FOLDED_WORK = 1 << 32  # multiply-accumulates while folding constants
MAX_FOLDED_ELEMENTS = 1 << 26  # of all constants computed at import, besides FOLDED_PER_WEIGHT for each weight
FOLDED_PER_WEIGHT = 4

_PROVISIONAL = re.compile(r"%\d+%*")
_FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")
_TYPE_NAMES = {number: name for name, number in onnx.TensorProto.DataType.items()}
_INTEGERS = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")


def number_kind(elem_type: int) -> o.NumberKind:
    """real, index or bool for an ONNX element type; raises UnsupportedError for any other."""
    name = _TYPE_NAMES.get(elem_type, str(elem_type))
    if name in _FLOATS:
        return "real"
    if name in _INTEGERS:
        return "index"
    if name == "BOOL":
        return "bool"
    raise UnsupportedError("unsupported element type", value=name, allowed=", ".join((*_FLOATS, *_INTEGERS, "BOOL")))


KIND_FORMATS: dict[o.NumberKind, Format] = {"real": REAL, "index": INDEX, "bool": BOOL}
_KIND_DTYPES: dict[o.NumberKind, type[np.generic]] = {"real": np.float32, "index": np.int64, "bool": np.bool_}


@dataclass(frozen=True)
class Node:
    """One ONNX node: its operands as values of the graph under construction, its attributes by type."""

    op_type: str
    name: str
    inputs: tuple[o.Value | None, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, onnx.AttributeProto]
    opset: int

    @property
    def where(self) -> str:
        """How messages name the node."""
        return self.name or f"{self.op_type} -> {self.outputs[0] if self.outputs else '?'}"

    def operand(self, index: int) -> o.Value:
        """The operand that the operator cannot do without."""
        value = self.optional(index)
        if value is None:
            raise UnsupportedError("an operand is missing", where=self.where, value=f"number {index}")
        return value

    def optional(self, index: int) -> o.Value | None:
        """The operand, or None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def uses_output(self, index: int) -> bool:
        """Whether the node has that output."""
        return index < len(self.outputs) and bool(self.outputs[index])

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        return int(self.attributes[name].i) if name in self.attributes else default

    def real(self, name: str, default: float) -> float:
        """A float attribute."""
        return float(self.attributes[name].f) if name in self.attributes else default

    def text(self, name: str, default: str) -> str:
        """A string attribute."""
        return self.attributes[name].s.decode() if name in self.attributes else default

    def integers(self, name: str) -> tuple[int, ...] | None:
        """A list of integers, or None."""
        return tuple(self.attributes[name].ints) if name in self.attributes else None


Handler = Callable[["Builder", Node], "o.Value | tuple[o.Value, ...]"]


class Builder:
    """A graph under construction. Values have provisional names until `graph()` gives the ONNX ones."""

    def __init__(self, name: str, inputs: Mapping[str, Type]) -> None:
        self.editor = Editor(name, inputs, inputs)
        self.values: dict[str, o.Value] = {name: name for name in inputs}  # ONNX name -> value
        self.hint = name  # what new values are named after
        self._hints: dict[o.Value, str] = {}
        self._work, self._elements = MAX_FOLDED_WORK, MAX_FOLDED_ELEMENTS

    def shape(self, value: o.Value) -> tuple[int, ...]:
        """Shape of `value`."""
        return self.editor.types[value].shape

    def kind(self, value: o.Value) -> o.NumberKind:
        """Whether `value` holds reals, indices or truth values."""
        return next(kind for kind, known in KIND_FORMATS.items() if known == self.editor.types[value].format)

    def array(self, value: o.Value | None) -> Numbers | None:
        """The array of a constant; None for a computed (or missing) value."""
        return None if value is None else self.editor.constants.get(value)

    def known(self, value: o.Value, what: str) -> Numbers:
        """The array of a constant; raises UnsupportedError if `value` is computed at run time."""
        array = self.array(value)
        if array is None:
            raise UnsupportedError(f"{what} is computed at run time", next_step="Export with static shapes.")
        return array

    def integers(self, value: o.Value, what: str) -> tuple[int, ...]:
        """The entries of a constant."""
        return tuple(int(entry) for entry in self.known(value, what).reshape(-1))

    def reals(self, value: o.Value, what: str) -> tuple[float, ...]:
        """The entries of a constant."""
        return tuple(float(entry) for entry in self.known(value, what).reshape(-1))

    def initializer(self, name: str, array: Numbers) -> None:
        """A weight of the file."""
        self._elements += (1 + FOLDED_PER_WEIGHT) * array.size
        self.values[name] = self.constant(array, name)

    def constant(self, content: npt.ArrayLike, hint: str | None = None) -> o.Value:
        """A new constant: float32, int64 or bool."""
        array = np.asarray(content)
        self._elements -= array.size
        if self._elements < 0:
            raise UnsupportedError("the constants become too large", value=array.shape)
        kind: o.NumberKind = {"b": "bool", "i": "index", "u": "index"}.get(array.dtype.kind, "real")  # type: ignore[assignment]
        name = self.new(hint)
        self.editor.constants[name] = np.array(array, dtype=_KIND_DTYPES[kind], order="C")
        self.editor.types[name] = Type(tuple(array.shape), KIND_FORMATS[kind])
        return name

    def emit(self, op: o.Op) -> o.Value:
        """Add `op`, whose results get names here, and return its first result."""
        return self.emit_all(op)[0]

    def emit_all(self, op: o.Op) -> tuple[o.Value, ...]:
        """Add `op`, whose results get names here, and return them; constant operands evaluate it now."""
        fixed = all(value in self.editor.constants for value in o.operands(op))
        origin = self._hints.get(o.operands(op)[0]) if fixed else None
        op = o.rename(op, lambda _: self.new(origin), where="results")
        self._check_operands(op)
        self.editor.append(op)
        for name in o.results(op):
            self._check_size(name)
        if fixed:
            self._spend(op)
            self._fold(op)
        return o.results(op)

    def reshape(self, x: o.Value, shape: Iterable[int]) -> o.Value:
        """x with `shape`, or x itself if that is its shape."""
        shape = tuple(shape)
        return x if shape == self.shape(x) else self.emit(o.Reshape(x, "", shape))

    def transpose(self, x: o.Value, permutation: Iterable[int]) -> o.Value:
        """x with permuted axes, or x itself."""
        permutation = tuple(permutation)
        return x if permutation == tuple(range(len(permutation))) else self.emit(o.Transpose(x, "", permutation))

    def cut(self, x: o.Value, axis: int, start: int, stop: int) -> o.Value:
        """x[start : stop] along `axis`."""
        shape = self.shape(x)
        starts = tuple(start if k == axis else 0 for k in range(len(shape)))
        stops = tuple(stop if k == axis else size for k, size in enumerate(shape))
        return self.emit(o.Slice(x, "", starts, stops, (1,) * len(shape)))

    def apply(self, x: o.Value, name: o.FunctionName, a: float = 0.0, b: float = 0.0) -> o.Value:
        """A scalar function of x."""
        return self.emit(o.Apply(x, "", o.Function(name, a, b)))

    def axis(self, x: o.Value, axis: int) -> int:
        """`axis` of x, counted from the front."""
        rank = len(self.shape(x))
        if not -rank <= axis < rank:
            raise UnsupportedError("no such axis", value=axis, allowed=f"{-rank}…{rank - 1}")
        return axis % rank

    def new(self, hint: str | None = None) -> o.Value:
        """A provisional name for a value that will be called `hint` or like it."""
        hint = self.hint if hint is None else hint
        name = f"{hint}%{len(self._hints)}"
        while name in self.editor.types:
            name += "%"
        self._hints[name] = hint
        return name

    def _check_operands(self, op: o.Op) -> None:
        for problem in fit.problems(op, self.shape):
            raise UnsupportedError(problem)
        for problem in kind_problems(op, lambda value: self.editor.types[value].format):
            raise UnsupportedError(problem)

    def _check_size(self, name: o.Value) -> None:
        shape = self.shape(name)
        if min(shape, default=0) < 0 or math.prod(shape) > MAX_ELEMENTS:
            raise UnsupportedError("a value has an impossible shape", value=shape, allowed=f"{MAX_ELEMENTS} elements")

    def _spend(self, op: o.Op) -> None:
        """Count what evaluating `op` costs; raises UnsupportedError beyond what weights can need."""
        size = sum(math.prod(self.shape(value)) for value in o.results(op))
        self._elements -= size
        match op:
            case o.MatMul():
                self._work -= size * self.shape(op.a)[-1]
            case o.Linear() | o.Conv() | o.ConvTranspose():
                self._work -= size * math.prod(self.shape(op.weight)[1:])
            case o.Resize():
                self._work -= size * max(self.shape(op.x)[2:])
            case _:
                pass
        if self._elements < 0 or self._work < 0:
            raise UnsupportedError("the constants become too large", value=self.shape(o.results(op)[0]))

    @torch.no_grad()
    def _fold(self, op: o.Op) -> None:
        self.editor.ops.pop()
        found = evaluate(op, lambda value: torch.from_numpy(self.editor.constants[value]))
        for name, tensor in zip(o.results(op), found, strict=True):
            array = tensor.contiguous().numpy()
            if array.dtype != _KIND_DTYPES[self.kind(name)]:
                raise UnsupportedError("no meaning on this kind of number", value=array.dtype)
            self.editor.constants[name] = array

    def graph(self, outputs: Iterable[str]) -> Graph:
        """The finished graph: live values only, under their ONNX names where they have one."""
        chosen: dict[o.Value, str] = {name: name for name in self.editor.inputs}
        names = tuple(outputs)
        for name in names:
            value = self.values[name]
            if chosen.get(value, name) != name:
                # One value, two outputs (or an input passed through): the second needs a value of its own.
                value = self.values[name] = self.emit(o.Reshape(value, "", self.shape(value)))
            chosen[value] = name
        for name, value in self.values.items():
            chosen.setdefault(value, name)
        graph = self.editor.graph(self.values[name] for name in names)
        for name, type_ in graph.types.items():
            if 0 in type_.shape:
                raise UnsupportedError("a value has no elements", where=self._hints.get(name), value=type_.shape)
        return renamed(graph, self._final_names(graph, chosen))

    def _final_names(self, graph: Graph, chosen: Mapping[o.Value, str]) -> dict[o.Value, str]:
        final = {value: chosen[value] for value in graph.types if value in chosen}
        taken, counts = set(final.values()), dict[str, int]()
        for value in graph.types:
            if value not in final:
                name = hint = self._hints.get(value) or _PROVISIONAL.sub("", value)
                while name in taken:
                    counts[hint] = counts.get(hint, 0) + 1
                    name = f"{hint}.{counts[hint]}"
                final[value] = name
                taken.add(name)
        return final
