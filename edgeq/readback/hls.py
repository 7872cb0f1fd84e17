"""The constants of a dataflow design as its C++ says them: configurations, tables, levels of codes, widths, ports.

What is read is the text that edgeq/emit/hls_files.py writes, nothing besides; the meaning given to it here is that of
the functions in runtimes/hls, not that of the emitter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.emit.artifact import MANIFEST
from edgeq.errors import UnsupportedError
from edgeq.formats import IntArray

_STAGE = re.compile(
    r"^/\* (?P<kind>[\w ]+): .*\*/\n(?:struct \w+_config \{\n(?P<config>(?:    .*\n)*)\};\n)?"
    r"static void (?P<name>\w+)\((?P<parameters>.*)\)\n\{\n(?:#pragma .*\n)*"
    r"    edgeq::(?P<function>\w+)<[^(]*>\((?P<arguments>.*)\);\n\}$",
    re.MULTILINE,
)
_FIELD = re.compile(r"    (?:static const int (\w+) = (.+)|typedef (.+) (\w+));")
_PARAMETER = re.compile(r"hls::stream<ap_(u?)int<(\d+)> > &(\w+)")
_TABLE = re.compile(r"^static const ([\w:]+)(?:<(\d+)>)? (\w+)((?:\[\d+\])+) = \{(.*?)^\};$", re.MULTILINE | re.DOTALL)
_STRUCT = re.compile(r"^struct (\w+) \{\n(    template .*?)^\};$", re.MULTILINE | re.DOTALL)
_ADDER = re.compile(r"const product x(\d+) = \(x(\d+) << (\d+)\) ([+-]) x(\d+);")
_CASE = re.compile(r"case (\d+): return product\((-?)(?:product\()?(?:x(\d+) << (\d+)|0)\)?\);")
_LOOKED_UP = re.compile(r"levels\[\d+\] = \{(.*)\};")
_MINIFLOAT = re.compile(r"edgeq::minifloat_product<(\d+), (\d+), (true|false), \d+>")
_PORT = re.compile(r'^ \* (?:input|output) "(.*)": `(\w+)`, .* scale (\S+)$', re.MULTILINE)


@dataclass(frozen=True)
class WrittenStage:
    """One function: the library's `function` that it calls, with which configuration, streams and tables.

    `widths` are the bits of its streams by name, signed or not.
    """

    name: str
    kind: str
    function: str
    config: Mapping[str, int | str]
    widths: Mapping[str, tuple[int, bool]]
    arguments: tuple[str, ...]

    def number(self, field: str) -> int:
        """An integer of the configuration; raises UnsupportedError where there is none."""
        found = self.config.get(field)
        if not isinstance(found, int):
            raise UnsupportedError("a configuration lacks a number", where=self.name, value=field)
        return found


@dataclass(frozen=True)
class WrittenDesign:
    """All of a design: stages and tables by name, levels of the codes of tables of levels, scales of ports by symbol.

    `layers` says which stage computes a value; `described` is what the manifest says.
    """

    stages: Mapping[str, WrittenStage]
    tables: Mapping[str, IntArray]
    levels: Mapping[str, IntArray]
    scales: Mapping[str, float]
    layers: Mapping[str, str]
    described: Mapping[str, Any]

    def table(self, stage: WrittenStage, what: str) -> IntArray | None:
        """The table among the arguments of `stage` whose name begins with `what`."""
        names = [name for name in stage.arguments if name.startswith(f"{what}_")]
        return self.tables.get(names[0]) if names else None

    def levels_of(self, product: str, codes: IntArray) -> IntArray:
        """What `product` multiplies with for each of `codes`."""
        if product == "edgeq::integer_product":
            return codes
        if found := _MINIFLOAT.fullmatch(product):
            return _minifloat(codes, int(found[1]), int(found[2]), found[3] == "true")
        if product not in self.levels:
            raise UnsupportedError("a product that is not defined", value=product)
        known = self.levels[product]
        return np.asarray(np.where(codes < len(known), known[np.minimum(codes, len(known) - 1)], 0))


def read_design(path: Path) -> WrittenDesign:
    """The design whose <prefix>.cpp is `path`. Raises UnsupportedError for text that is no design of edgeq's."""
    try:
        described = json.loads((path.parent / MANIFEST).read_text("utf-8"))["hls"]
        layers = {str(layer["value"]): str(layer["stage"]) for layer in described["layers"]}
        source, constants, header = (
            path.with_name(f"{path.stem}{ending}").read_text("utf-8") for ending in (".cpp", "_tables.h", ".h")
        )
        stages = {found["name"]: _stage(found) for found in _STAGE.finditer(source)}
        tables = {found[3]: _table(found) for found in _TABLE.finditer(constants)}
        levels = {found[1]: _levels(found[2]) for found in _STRUCT.finditer(source)}
        scales = {found[2]: float(found[3]) for found in _PORT.finditer(header)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnsupportedError("the constants of this design cannot be read", where=path, value=error) from error
    return WrittenDesign(stages, tables, levels, scales, layers, described)


def _stage(found: re.Match[str]) -> WrittenStage:
    config: dict[str, int | str] = {}
    for name, number, type_, alias in _FIELD.findall(found["config"] or ""):
        config[name or alias] = _integer(number) if name else type_
    widths = {name: (int(bits), not unsigned) for unsigned, bits, name in _PARAMETER.findall(found["parameters"])}
    arguments = tuple(found["arguments"].split(", "))
    return WrittenStage(found["name"], found["kind"], found["function"], config, widths, arguments)


def _integer(text: str) -> int:
    """A number, or the least one of 32 bits as C++ has to write it."""
    return int(text[1:-1].removesuffix(" - 1")) - 1 if text.startswith("(") else int(text)


def _table(found: re.Match[str]) -> IntArray:
    shape = [int(size) for size in re.findall(r"\d+", found[4])]
    numbers = np.array(re.findall(r"-?\d+", found[5]), dtype=np.int64)
    return numbers.reshape([*shape, 3] if found[1] == "edgeq::interpolation" else shape)


def _levels(body: str) -> IntArray:
    """Levels of codes 0, 1, 2 …: what the struct makes of a level of one."""
    if found := _LOOKED_UP.search(body):
        return np.array(found[1].split(","), dtype=np.int64)
    multiples = {"1": 1}
    for number, left, shift, sign, right in _ADDER.findall(body):
        multiples[number] = (multiples[left] << int(shift)) + int(f"{sign}1") * multiples[right]
    cases = {
        int(code): (multiples[number] << int(shift) if number else 0) * int(f"{sign}1")
        for code, sign, number, shift in _CASE.findall(body)
    }
    return np.array([cases[code] for code in range(len(cases))], dtype=np.int64)


def _minifloat(codes: IntArray, exponent_bits: int, mantissa_bits: int, is_signed: bool) -> IntArray:
    exponent = (codes >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = codes & ((1 << mantissa_bits) - 1)
    magnitude = np.where(exponent > 0, (mantissa | 1 << mantissa_bits) << np.maximum(exponent - 1, 0), mantissa)
    negative = is_signed & (codes >> (exponent_bits + mantissa_bits) & 1)
    return np.asarray(np.where(negative, -magnitude, magnitude), dtype=np.int64)
