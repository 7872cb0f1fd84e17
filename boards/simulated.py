"""A simulated processor as a board: its programs are ELF files without an operating system, run by QEMU, unicorn or RTL.

A program reads arena.bin from the work folder; afterwards result.bin there holds the depth of the stack (a 32-bit word)
and the arena, and counts.txt a line for each mark: the instructions so far, and the cycles where the RTL runs.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from edgeq.boards import qemu, sim, verilated
from edgeq.boards.board import Content, Finished, Simulated
from edgeq.boards.local import TIMEOUT_S, LocalBoard
from edgeq.boards.probe import Facts
from edgeq.errors import MissingDependencyError
from edgeq.progress import Progress, silent

ARENA, RESULT, COUNTS = "arena.bin", "result.bin", "counts.txt"
_DEPTH = struct.Struct("<I")


def result_of(content: bytes, counts: bytes) -> tuple[bytes, NDArray[np.int64], int]:
    """The arena afterwards, a row of counts for each mark (instructions; cycles), and the stack's depth in bytes."""
    rows = [line.split() for line in counts.splitlines()]
    return content[_DEPTH.size :], np.array(rows, dtype=np.int64), _DEPTH.unpack_from(content)[0]


class SimulatedBoard:
    """The processor of a row of BOARDS; its work folder lies on this machine. `progress` tells of what takes long."""

    def __init__(self, row: Simulated, progress: Progress = silent) -> None:
        self.row, self.name, self._progress = row, row.name, progress
        self._here = LocalBoard(row.name)

    @property
    def how(self) -> str:
        """The simulator, for people. Raises MissingDependencyError if none is installed."""
        if self.row.core:
            return verilated.how(self.row)
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
        if self.row.core:
            await asyncio.to_thread(verilated.run, self.row, folder / program, folder, self._progress)
            return Finished(0, "", "")
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
