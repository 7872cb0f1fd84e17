"""What a linked 32- or 64-bit little-endian ELF file holds: sections, symbols and the bytes to load."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_ALLOCATED = 2
_NO_BITS = 8
_SYMBOL_TABLE = 2


@dataclass(frozen=True)
class Section:
    """One section: its name, address, size in bytes, and what it holds (nothing for .bss)."""

    name: str
    address: int
    size: int
    content: bytes
    is_loaded: bool


class Elf:
    """The file at `path`, written by a compiler that we ran."""

    def __init__(self, path: Path) -> None:
        self._data = path.read_bytes()
        self._wide = self._data[4] == 2

    @cached_property
    def _headers(self) -> list[tuple[int, ...]]:
        """(name, type, flags, address, offset, size, link) of every section."""
        at = 0x28 if self._wide else 0x20
        (offset,) = struct.unpack_from("<Q" if self._wide else "<I", self._data, at)
        size, count, self._names = struct.unpack_from("<HHH", self._data, 0x3A if self._wide else 0x2E)
        form = "<IIQQQQI" if self._wide else "<IIIIIII"
        return [struct.unpack_from(form, self._data, offset + k * size) for k in range(count)]

    def _text(self, table: int, at: int) -> str:
        start = self._headers[table][4] + at
        return self._data[start : self._data.index(b"\0", start)].decode()

    @cached_property
    def sections(self) -> list[Section]:
        """Every section that takes memory on the device."""
        found = []
        for name, kind, flags, address, offset, size, _ in self._headers:
            if flags & _ALLOCATED and size:
                content = b"" if kind == _NO_BITS else self._data[offset : offset + size]
                found.append(Section(self._text(self._names, name), address, size, content, kind != _NO_BITS))
        return found

    @cached_property
    def symbols(self) -> dict[str, int]:
        """Addresses by name."""
        found = {}
        form = "<IBBHQQ" if self._wide else "<IIIBBH"
        for _, kind, _, _, offset, size, link in self._headers:
            if kind == _SYMBOL_TABLE:
                for at in range(offset, offset + size, struct.calcsize(form)):
                    fields = struct.unpack_from(form, self._data, at)
                    found[self._text(link, fields[0])] = fields[4] if self._wide else fields[1]
        return found
