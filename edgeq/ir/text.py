"""A graph as text that a person can read: one line per operator. edgeq/ir/parse.py reads it back exactly.

    edgeq graph 1
    name "tiny"
    input %x: int8[1,3,8,8] scale 0.02 zp -3
    constant %w: int8n[16,3,3,3] scale @1 axis 0 sha256 5f3c90ab12de4477
    %y: int32[1,16,8,8] scale @2 axis 1 = conv(%x, %w, none, padding=(1, 1, 1, 1))
    output %y
    @1 = (0.01, 0.02, ...)

Operands stand in field order: `none` where there is none, `[...]` around several. Attributes follow by name,
without those that have their default. Numbers print so that they read back equal. Long tuples and formats
stand in the table at the end. A constant shows a fingerprint; its array travels beside the text
(edgeq/ir/file.py).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import get_type_hints

import numpy as np

from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph, Type

HEADER = "edgeq graph 1"
LONGEST_INLINE = 60
FINGERPRINT_DIGITS = 16
PLAIN_NAME = re.compile(r"[A-Za-z0-9_./-]+")
_VALUE_TYPES = (str, str | None, tuple[str, ...])
_HINTS = {kind.__name__: get_type_hints(kind, vars(o)) for kind in o.OPS}


def sha256(array: Array) -> str:
    """SHA-256 of an array's shape and content; integers of any width with equal values count as equal."""
    kind = {"f": "<f4", "b": "|b1"}.get(array.dtype.kind, "<i8")
    digest = hashlib.sha256(f"{kind}{tuple(array.shape)}".encode())
    digest.update(np.asarray(array, dtype=kind).tobytes())
    return digest.hexdigest()


def op_name(kind: type[o.Op]) -> str:
    """How text names an operator.

    >>> op_name(o.ConvTranspose)
    'conv_transpose'
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


def operand_fields(kind: type[o.Op]) -> dict[str, object]:
    """Types of the fields of an operator that name its operands, in order."""
    hints = _HINTS[kind.__name__].items()
    return {name: hint for name, hint in hints if hint in _VALUE_TYPES and not name.startswith("out")}


def result_fields(kind: type[o.Op]) -> list[str]:
    """Names of the fields of an operator that name its results, in order."""
    hints = _HINTS[kind.__name__].items()
    return [name for name, hint in hints if hint in _VALUE_TYPES and name.startswith("out")]


def attribute_fields(kind: type[o.Op]) -> dict[str, object]:
    """Types of the fields of an operator that are attributes, in order."""
    return {name: hint for name, hint in _HINTS[kind.__name__].items() if hint not in _VALUE_TYPES}


def _name(value: o.Value) -> str:
    return f"%{value}" if PLAIN_NAME.fullmatch(value) else f"%{json.dumps(value)}"


def _operand(content: o.Value | tuple[o.Value, ...] | None) -> str:
    if content is None:
        return "none"
    return _name(content) if isinstance(content, str) else f"[{', '.join(map(_name, content))}]"


def _numbers(texts: list[str]) -> str:
    return f"({', '.join(texts)}{',' if len(texts) == 1 else ''})"


def _attribute(content: object) -> str:
    match content:
        case bool():
            return str(content).lower()
        case float():
            return repr(float(content))
        case tuple():
            return _numbers([_attribute(entry) for entry in content])
        case o.Function(name, a, b):
            return name if (a, b) == (0.0, 0.0) else f"{name}({float(a)!r}, {float(b)!r})"
        case _:
            return str(content)


class _Printer:
    """Prints types and operators; what is too long for a line goes to a numbered table."""

    def __init__(self, types: Mapping[o.Value, Type]) -> None:
        self.types = types
        self.table: dict[str, int] = {}

    def _short(self, text: str) -> str:
        if len(text) <= LONGEST_INLINE:
            return text
        return f"@{self.table.setdefault(text, len(self.table) + 1)}"

    def value(self, value: o.Value) -> str:
        """`%name: type`."""
        type_ = self.types[value]
        text = f"{_name(value)}: {self._short(str(type_.format))}[{','.join(map(str, type_.shape))}]"
        if type_.scale:
            scales = [repr(float(scale)) for scale in type_.scale]
            text += f" scale {scales[0] if len(scales) == 1 else self._short(_numbers(scales))}"
        if type_.zero_point:
            text += f" zp {type_.zero_point}"
        if type_.axis is not None:
            text += f" axis {type_.axis}"
        return f"{text} block {type_.block}" if type_.block else text

    def op(self, op: o.Op) -> str:
        """`%result: type = name(operands, attributes)`."""
        default = {field.name: field.default for field in fields(op)}
        arguments = [_operand(getattr(op, name)) for name in operand_fields(type(op))]
        for name in attribute_fields(type(op)):
            content = getattr(op, name)
            if default[name] is MISSING or content != default[name]:
                arguments.append(f"{name}={self._short(_attribute(content))}")
        return f"{', '.join(map(self.value, o.results(op)))} = {op_name(type(op))}({', '.join(arguments)})"


def to_text(graph: Graph) -> str:
    """`graph` as text. Equal graphs give equal text, and so do their copies read back from it."""
    printer = _Printer(graph.types)
    lines = [HEADER, f"name {json.dumps(graph.name)}"]
    lines += [f"input {printer.value(value)}" for value in graph.inputs]
    for value in sorted(graph.constants):
        fingerprint = sha256(graph.constants[value])[:FINGERPRINT_DIGITS]
        lines.append(f"constant {printer.value(value)} sha256 {fingerprint}")
    lines += [printer.op(op) for op in graph.ops]
    lines += [f"output {_name(value)}" for value in graph.outputs]
    lines += [f"@{number} = {text}" for text, number in printer.table.items()]
    return "\n".join(lines) + "\n"
