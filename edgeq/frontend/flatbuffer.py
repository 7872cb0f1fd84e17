"""FlatBuffers that nobody vouches for: every offset, length and vector is checked before it is followed.

The invariant: whatever the bytes are, an access yields a value that lies inside them or raises UnsupportedError. A
schema is read to a fixed depth, so nothing here recurses; and all vectors together may not hand out more bytes than
`SHARED` times the file, so that many tables cannot share one huge vector (FlatBuffers internals).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgeq.errors import UnsupportedError

Numbers = npt.NDArray[np.generic]

SHARED = 16
MAX_TABLES = 1 << 16
_ALLOWANCE = 1 << 16
_OFFSET = struct.Struct("<I")
_SIGNED_OFFSET = struct.Struct("<i")
_SIZE = struct.Struct("<H")
_HEADER = 4  # bytes of a vtable before its first slot


@dataclass
class Buffer:
    """The bytes of a file and how many more may be handed out."""

    content: bytes
    budget: int = field(init=False)

    def __post_init__(self) -> None:
        self.budget = SHARED * len(self.content) + _ALLOWANCE

    def number(self, layout: struct.Struct, position: int) -> int | float | bool:
        """The scalar at `position`."""
        if not 0 <= position <= len(self.content) - layout.size:
            raise self.damaged("an offset points outside the file", position)
        found: int | float | bool = layout.unpack_from(self.content, position)[0]
        return found

    def offset(self, position: int) -> int:
        """Where the unsigned offset at `position` points."""
        target = position + int(self.number(_OFFSET, position))
        if not position < target < len(self.content):
            raise self.damaged("an offset points outside the file", position)
        return target

    def span(self, position: int, width: int) -> tuple[int, int]:
        """Start and number of entries of the vector at `position`, whose entries have `width` bytes."""
        count = int(self.number(_OFFSET, position))
        start = position + _OFFSET.size
        if count * width > len(self.content) - start:
            raise self.damaged(f"a vector of {count} entries does not fit into the file", position)
        self.budget -= count * width
        if self.budget < 0:
            raise self.damaged("too many vectors share their bytes", position)
        return start, count

    def damaged(self, what: str, position: int) -> UnsupportedError:
        """The error for bytes that are no FlatBuffer."""
        return UnsupportedError("the file is damaged", where=f"byte {position}", value=what)


@dataclass(frozen=True)
class Table:
    """One table; fields are named by their slot in the schema. Absent fields have the default of the schema."""

    buffer: Buffer
    position: int
    _vtable: tuple[int, int]

    @classmethod
    def root(cls, content: bytes) -> Table:
        """The root table of a file."""
        buffer = Buffer(content)
        return cls.at(buffer, buffer.offset(0))

    @classmethod
    def at(cls, buffer: Buffer, position: int) -> Table:
        """The table at `position`."""
        vtable = position - int(buffer.number(_SIGNED_OFFSET, position))
        size = int(buffer.number(_SIZE, vtable))
        if size < _HEADER or vtable + size > len(buffer.content):
            raise buffer.damaged("a table has no layout", position)
        return cls(buffer, position, (vtable, size))

    def _field(self, slot: int) -> int | None:
        vtable, size = self._vtable
        entry = _HEADER + 2 * slot
        if entry + _SIZE.size > size:
            return None
        relative = int(self.buffer.number(_SIZE, vtable + entry))
        return self.position + relative if relative else None

    def _scalar(self, slot: int, layout: str) -> int | float | bool | None:
        position = self._field(slot)
        return None if position is None else self.buffer.number(struct.Struct(layout), position)

    def integer(self, slot: int, layout: str = "<i", default: int = 0) -> int:
        """An integer field; `layout` is its struct format."""
        found = self._scalar(slot, layout)
        return default if found is None else int(found)

    def flag(self, slot: int) -> bool:
        """A truth value."""
        return bool(self._scalar(slot, "<?"))

    def real(self, slot: int, default: float = 0.0) -> float:
        """A float32 field."""
        found = self._scalar(slot, "<f")
        return default if found is None else float(found)

    def numbers(self, slot: int, dtype: str) -> Numbers | None:
        """A vector of numbers, or None where it is absent."""
        position = self._field(slot)
        if position is None:
            return None
        kind = np.dtype(dtype)
        start, count = self.buffer.span(self.buffer.offset(position), kind.itemsize)
        return np.frombuffer(self.buffer.content, kind, count, start)

    def integers(self, slot: int, dtype: str = "<i4") -> tuple[int, ...]:
        """A vector of integers; empty where it is absent."""
        found = self.numbers(slot, dtype)
        return () if found is None else tuple(map(int, found))

    def text(self, slot: int) -> str:
        """A string; what is not UTF-8 is replaced."""
        found = self.numbers(slot, "u1")
        return "" if found is None else found.tobytes().decode("utf-8", "replace")

    def table(self, slot: int) -> Table | None:
        """A table, or None where it is absent."""
        position = self._field(slot)
        return None if position is None else Table.at(self.buffer, self.buffer.offset(position))

    def tables(self, slot: int) -> Iterator[Table]:
        """A vector of tables, of which there may be MAX_TABLES."""
        position = self._field(slot)
        if position is not None:
            start, count = self.buffer.span(self.buffer.offset(position), _OFFSET.size)
            if count > MAX_TABLES:
                raise self.buffer.damaged(f"{count} tables in one vector, more than {MAX_TABLES}", start)
            for index in range(count):
                yield Table.at(self.buffer, self.buffer.offset(start + index * _OFFSET.size))
