"""The constants of a generated model: arrays by C name, written once each however many layers use them."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from edgeq.emit.c_numbers import Channel, Record, record
from edgeq.ir.graph import Array

Kind = Literal["int8_t", "uint8_t", "int16_t", "uint16_t", "int32_t", "edgeq_record", "edgeq_channel", "edgeq_mix"]
_BYTES: dict[Kind, int] = {
    "int8_t": 1, "uint8_t": 1, "int16_t": 2, "uint16_t": 2, "int32_t": 4, "edgeq_record": 8, "edgeq_channel": 16,
    "edgeq_mix": 12,
}  # fmt: skip
_DTYPES: dict[Kind, str] = {"int8_t": "<i1", "uint8_t": "<u1", "int16_t": "<i2", "uint16_t": "<u2"}
_LINE = 112


@dataclass(frozen=True)
class Entry:
    """One constant array: `rows` are its elements as integers."""

    name: str
    kind: Kind
    rows: tuple[tuple[int, ...], ...]
    comment: str

    @property
    def size(self) -> int:
        """Bytes that it takes in flash."""
        return len(self.rows) * _BYTES[self.kind]

    def in_memory(self) -> bytes:
        """Its bytes on a little-endian machine."""
        return np.asarray(self.rows, dtype=_DTYPES.get(self.kind, "<i4")).tobytes()


class Bank:
    """Constants under construction; `prefix` starts every name."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.entries: list[Entry] = []
        self._known: dict[tuple[Kind, tuple[tuple[int, ...], ...]], str] = {}
        self._records: dict[str, list[Record | None]] = {}

    def _add(self, name: str, kind: Kind, rows: Iterable[Sequence[int]], comment: str) -> str:
        content = tuple(tuple(row) for row in rows)
        known = self._known.get((kind, content))
        if known is None:
            known = f"{self.prefix}_{name}"
            self._known[kind, content] = known
            self.entries.append(Entry(known, kind, content, comment))
        return known

    def codes(self, name: str, array: Array, comment: str) -> str:
        """An array of bytes."""
        return self._add(name, "int8_t", _rows(array), comment)

    def bytes(self, name: str, array: Array, comment: str) -> str:
        """An array of bytes without sign."""
        return self._add(name, "uint8_t", _rows(array), comment)

    def halves(self, name: str, array: Array, comment: str) -> str:
        """An array of 16-bit integers."""
        return self._add(name, "int16_t", _rows(array), comment)

    def unsigned_halves(self, name: str, array: Array, comment: str) -> str:
        """An array of 16-bit integers without sign."""
        return self._add(name, "uint16_t", _rows(array), comment)

    def words(self, name: str, array: Array, comment: str) -> str:
        """An array of 32-bit integers."""
        return self._add(name, "int32_t", _rows(array), comment)

    def channels(self, name: str, channels: Sequence[Channel], middle: int, comment: str) -> str:
        """An array of the channels of a layer whose output has this `middle`."""
        named = self._add(name, "edgeq_channel", channels, comment)
        self._records[named] = [record(channel, middle) for channel in channels]
        return named

    def pack_channels(self) -> bool:
        """Make all channels records of half the size, if all of them fit; whether they did. No layer may follow."""
        fitting = {name: [r for r in found if r is not None] for name, found in self._records.items()}
        if any(len(fitting[name]) < len(found) for name, found in self._records.items()):
            return False
        self.entries = [
            replace(e, kind="edgeq_record", rows=tuple(fitting[e.name])) if e.name in fitting else e
            for e in self.entries
        ]
        return True

    def mixes(self, name: str, array: Array, comment: str) -> str:
        """An array of edgeq_mix: rows of (first, second, weight)."""
        return self._add(name, "edgeq_mix", array.tolist(), comment)

    def size_of(self, number: int) -> int:
        """Bytes of the constants that layer `number` brought: their names end in it, and maybe in the letter of a kernel."""
        return sum(entry.size for entry in self.entries if re.search(rf"_{number}[a-z]?$", entry.name))

    @property
    def size(self) -> int:
        """Bytes of all constants."""
        return sum(entry.size for entry in self.entries)

    def crc32(self) -> int:
        """CRC-32 of all constants in order, as a little-endian machine holds them."""
        crc = 0
        for entry in self.entries:
            crc = zlib.crc32(entry.in_memory(), crc)
        return crc

    def declarations(self) -> str:
        """`extern` lines."""
        return "".join(f"extern const {e.kind} {e.name}[{len(e.rows)}]; /* {e.comment} */\n" for e in self.entries)

    def definitions(self) -> str:
        """The arrays."""
        return "\n".join(_definition(entry) for entry in self.entries)


def _rows(array: Array) -> Iterable[tuple[int, ...]]:
    """A row for each number; millions of them, so without a list for each."""
    return zip(array.reshape(-1).tolist(), strict=True)


def _definition(entry: Entry) -> str:
    if not entry.kind.startswith("edgeq"):
        items = [_number(row[0]) for row in entry.rows]
    else:
        items = ["{" + ", ".join(map(_number, row)) + "}" for row in entry.rows]
    aligned = " EDGEQ_ALIGNED" if entry.kind == "int8_t" else ""  # kernels load words of weights
    return f"/* {entry.comment} */\nconst {entry.kind} {entry.name}[{len(entry.rows)}]{aligned} = {{\n{wrapped(items)}}};\n"


def _number(value: int) -> str:
    return "INT32_MIN" if value == -(1 << 31) else str(value)


def wrapped(items: Sequence[str]) -> str:
    """Items of an initializer on lines of limited length."""
    lines, line = [], "   "
    for item in items:
        if len(line) + len(item) + 2 > _LINE:
            lines.append(line)
            line = "   "
        line += f" {item},"
    return "\n".join([*lines, line]) + "\n"
