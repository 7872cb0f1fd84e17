"""A simulated processor as a board: its programs are ELF files without an operating system, run by QEMU or unicorn.

A program reads arena.bin from the work folder; afterwards result.bin there holds the depth of the stack (a 32-bit word)
and the arena, and counts.txt the instructions at each mark.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping, Sequence
from typing import Self

from edgeq.boards import qemu, sim
from edgeq.boards.board import Content, Finished, Simulated
from edgeq.boards.local import TIMEOUT_S, LocalBoard
from edgeq.boards.probe import Facts
from edgeq.errors import MissingDependencyError

ARENA, RESULT, COUNTS = "arena.bin", "result.bin", "counts.txt"
_DEPTH = struct.Struct("<I")


def result_of(content: bytes, counts: bytes) -> tuple[bytes, list[int], int]:
    """The arena afterwards, instruction counts at the marks, and the stack's depth in bytes."""
    return content[_DEPTH.size :], [int(line) for line in counts.split()], _DEPTH.unpack_from(content)[0]


class SimulatedBoard:
    """The processor of a row of BOARDS; its work folder lies on this machine."""

    def __init__(self, row: Simulated) -> None:
        self.row, self.name = row, row.name
        self._here = LocalBoard(row.name)

    @property
    def how(self) -> str:
        """The simulator, for people. Raises MissingDependencyError if none is installed."""
        if qemu.is_available(self.row):
            return f"{self.row.qemu[0]}, instructions counted by a plugin"
        if sim.is_available(self.row):
            return "unicorn, instructions counted by block"
        raise MissingDependencyError("unicorn", "mcu", needed_for=f"Running {self.name} (or: {self.row.debian})")

    async def __aenter__(self) -> Self:
        await self._here.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.clean()

    async def probe(self) -> Facts:
        """What is simulated, and by what."""
        row = self.row
        return Facts(model=row.summary, soc=self.how, cores=1, memory_bytes=row.ram_bytes, free_bytes=row.flash_bytes)

    async def put(self, files: Mapping[str, Content]) -> None:
        """Copy `files` into the work folder."""
        await self._here.put(files)

    async def run(self, command: Sequence[str], *, timeout_s: float = TIMEOUT_S) -> Finished:
        """Run one program on the arena in the work folder; a simulator of its own limits the time."""
        (program,) = command
        folder = self._here.folder
        simulator = qemu if qemu.is_available(self.row) else sim
        assert self.how
        await asyncio.to_thread(simulator.run, self.row, folder / program, folder)
        return Finished(0, "", "")

    async def get(self, name: str) -> bytes:
        """The content of a file."""
        return await self._here.get(name)

    async def clean(self) -> None:
        """Remove the work folder."""
        await self._here.clean()
