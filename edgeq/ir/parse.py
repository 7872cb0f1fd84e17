"""Reads the text of edgeq/ir/text.py back into a graph: one pass per line, nothing is ever evaluated.

Whatever the text says, the answer is a graph or a UsageError that names the line and what was expected there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from functools import partial
from typing import Any, Literal, TypeVar, get_args, get_origin

from edgeq.errors import UsageError
from edgeq.formats import Format, parse_format
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph, Type
from edgeq.ir.scan import Line
from edgeq.ir.sound import format_problems
from edgeq.ir.text import (
    FINGERPRINT_DIGITS,
    HEADER,
    PLAIN_NAME,
    attribute_fields,
    op_name,
    operand_fields,
    result_fields,
    sha256,
)

T = TypeVar("T")

_OPS = {op_name(kind): kind for kind in o.OPS}
_REFERENCE = re.compile(r"@[0-9]{1,9}")
_FORMAT = re.compile(r"[a-z_]+[0-9a-z_.,:-]*")
_SHAPE = re.compile(r"\[(?:[0-9]{1,18}(?:,[0-9]{1,18})*)?\]")
_INT = re.compile(r"-?[0-9]{1,20}(?![0-9.e])")
_FLOAT = re.compile(r"-?(?:[0-9]{1,30}(?:\.[0-9]{1,30})?(?:e[-+]?[0-9]{1,3})?|inf|nan)")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_FINGERPRINT = re.compile(rf"[0-9a-f]{{{FINGERPRINT_DIGITS}}}")


class _Parser:
    """Everything read so far; `table` holds the lines @1, @2 … that others refer to."""

    def __init__(self, table: Mapping[str, tuple[str, int]]) -> None:
        self.table = table
        self.name: str | None = None
        self.inputs: list[o.Value] = []
        self.outputs: list[o.Value] = []
        self.ops: list[o.Op] = []
        self.types: dict[o.Value, Type] = {}
        self.fingerprints: dict[o.Value, str] = {}

    def line(self, line: Line) -> None:
        if line.has("name "):
            if self.name is not None:
                line.fail("one name only")
            self.name = line.quoted()
        elif line.has("input "):
            self.inputs.append(self._value(line))
        elif line.has("constant "):
            value = self._value(line)
            line.skip(" sha256 ")
            self.fingerprints[value] = line.need(_FINGERPRINT, f"{FINGERPRINT_DIGITS} hexadecimal digits")
        elif line.has("output "):
            self.outputs.append(_name(line))
        elif line.text.startswith("%"):
            self.ops.append(self._op(line))
        else:
            line.fail("name, input, constant, output, %value or @number")
        line.end()

    def _referred(self, line: Line, read: Callable[[Line], T]) -> T:
        """What `read` reads here, or in the line of the table that is named here."""
        reference = line.take(_REFERENCE)
        if reference is None:
            return read(line)
        if reference not in self.table:
            line.fail(f"a line {reference} = …")
        text, number = self.table[reference]
        other = Line(text, number)
        other.skip(f"{reference} = ")
        found = read(other)
        other.end()
        return found

    def _value(self, line: Line) -> o.Value:
        value = _name(line)
        if value in self.types:
            line.fail(f"a name other than {value!r}, which is defined above")
        line.skip(": ")
        self.types[value] = self._type(line)
        return value

    def _type(self, line: Line) -> Type:
        format_ = self._referred(line, _format)
        shape = tuple(map(int, re.findall(r"[0-9]+", line.need(_SHAPE, "a shape such as [1,3,8,8]"))))
        scale: tuple[float, ...] = ()
        if line.has(" scale "):
            scale = self._referred(line, _scales)
        zero_point = _int(line) if line.has(" zp ") else 0
        axis = _int(line) if line.has(" axis ") else None
        block = _int(line) if line.has(" block ") else 0
        return Type(shape, format_, scale, zero_point, axis, block)

    def _op(self, line: Line) -> o.Op:
        results = [self._value(line)]
        while line.has(", "):
            results.append(self._value(line))
        line.skip(" = ")
        kind = _OPS[_one_of(line, _OPS)]
        line.skip("(")
        arguments: dict[str, Any] = self._operands(line, kind) | self._attributes(line, kind)
        names = result_fields(kind)
        if len(names) != len(results):
            line.fail(f"{len(names)} results of {op_name(kind)}, not {len(results)}")
        arguments.update(zip(names, results, strict=True))
        return kind(**arguments)

    def _operands(self, line: Line, kind: type[o.Op]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, hint in operand_fields(kind).items():
            if found:
                line.skip(", ")
            found[name] = _operand(line, hint)
        return found

    def _attributes(self, line: Line, kind: type[o.Op]) -> dict[str, Any]:
        hints = attribute_fields(kind)
        found: dict[str, Any] = {}
        while not line.has(")"):
            if found or operand_fields(kind):
                line.skip(", ")
            name = _one_of(line, [name for name in hints if name not in found])
            line.skip("=")
            found[name] = self._referred(line, partial(_attribute, hint=hints[name]))
        missing = {f.name for f in fields(kind) if f.name in hints and f.default is MISSING} - set(found)
        if missing:
            line.fail(f"also {', '.join(sorted(missing))}")
        return found


def _name(line: Line) -> o.Value:
    line.skip("%")
    return line.take(PLAIN_NAME) or line.quoted()


def _one_of(line: Line, names: Iterable[str]) -> str:
    start = line.position
    word = line.take(_WORD)
    if word is None or word not in names:
        line.position = start
        line.fail(", ".join(names) or "no more attributes")
    return word


def _operand(line: Line, hint: object) -> o.Value | tuple[o.Value, ...] | None:
    if hint == tuple[str, ...]:
        line.skip("[")
        return line.several(_name, "]")
    if hint == str | None and line.has("none"):
        return None
    return _name(line)


def _attribute(line: Line, hint: Any) -> object:
    """A value of the type `hint`, which is one that a field of an operator has."""
    if get_origin(hint) is Literal:
        return _one_of(line, get_args(hint))
    if get_origin(hint) is tuple:
        return _tuple(line, get_args(hint))
    if hint is bool:
        return _one_of(line, ("true", "false")) == "true"
    if hint is o.Function:
        return _function(line)
    return _int(line) if hint is int else _float(line)


def _tuple(line: Line, items: tuple[Any, ...]) -> tuple[object, ...]:
    found = _entries(line, partial(_attribute, hint=items[0]))
    if items[-1] is not Ellipsis and len(found) != len(items):
        line.fail(f"{len(items)} entries, not {len(found)}")
    return found


def _entries(line: Line, item: Callable[[Line], T]) -> tuple[T, ...]:
    line.skip("(")
    return line.several(item, ")")


def _function(line: Line) -> o.Function:
    name: Any = _one_of(line, get_args(o.FunctionName))
    if not line.has("("):
        return o.Function(name)
    a = _float(line)
    line.skip(", ")
    b = _float(line)
    line.skip(")")
    return o.Function(name, a, b)


def _int(line: Line) -> int:
    return int(line.need(_INT, "an integer"))


def _float(line: Line) -> float:
    return float(line.need(_FLOAT, "a number"))


def _scales(line: Line) -> tuple[float, ...]:
    return _entries(line, _float) if line.text.startswith("(", line.position) else (_float(line),)


def _format(line: Line) -> Format:
    start = line.position
    text = line.need(_FORMAT, "a number format")
    try:
        found = parse_format(text)
        wrong = next(format_problems(found), None)
    except (UsageError, ValueError):
        wrong = "a number format such as int8, e4m3 or real"
    if wrong:
        line.position = start
        line.fail(wrong)
    return found


def _table(lines: list[Line]) -> dict[str, tuple[str, int]]:
    found: dict[str, tuple[str, int]] = {}
    for line in lines:
        reference = line.need(_REFERENCE, "@number")
        if reference in found:
            line.fail(f"{reference} once only")
        found[reference] = (line.text, line.number)
    return found


def from_text(text: str, constants: Mapping[o.Value, Array]) -> Graph:
    """The graph that to_text printed as `text`, with its constants' arrays.

    Raises UsageError for text that is not such a print, and for constants that are missing, superfluous or
    not the ones the text was printed with. The graph is read, not verified (edgeq/ir/verify.py).
    """
    lines = [Line(line, number) for number, line in enumerate(text.split("\n"), 1) if line]
    if not lines or lines[0].text != HEADER:
        raise UsageError("not the text of a graph", value=repr(text[:40]), allowed=f"a first line {HEADER!r}")
    parser = _Parser(_table([line for line in lines if line.text.startswith("@")]))
    for line in lines[1:]:
        if not line.text.startswith("@"):
            parser.line(line)
    if parser.name is None:
        raise UsageError("the text of a graph has no line with its name")
    _check_constants(parser.fingerprints, constants)
    return Graph(
        parser.name,
        tuple(parser.inputs),
        tuple(parser.outputs),
        tuple(parser.ops),
        parser.types,
        {value: constants[value] for value in parser.fingerprints},
    )


def _check_constants(fingerprints: Mapping[o.Value, str], constants: Mapping[o.Value, Array]) -> None:
    if different := sorted(set(fingerprints) ^ set(constants)):
        raise UsageError("constants of the text and of the arrays differ", value=", ".join(different))
    for value, fingerprint in fingerprints.items():
        if sha256(constants[value])[:FINGERPRINT_DIGITS] != fingerprint:
            raise UsageError("a constant is not the one that the text was printed with", where=value)
