"""Which boards a command means, and doing one thing on all of them at once.

One event loop serves them all: Ctrl-C cancels what runs on every board, and each cleans up before the command ends.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from edgeq.boards.board import BOARDS, Board, find_board
from edgeq.boards.entries import LOCAL, Entry, find_entry, read_entries
from edgeq.boards.local import LocalBoard
from edgeq.boards.probe import Facts
from edgeq.boards.simulated import SimulatedBoard
from edgeq.boards.ssh import SshBoard
from edgeq.errors import EdgeqError, UsageError
from edgeq.progress import Progress, silent

T = TypeVar("T")
Device = LocalBoard | SshBoard
"""A board with an operating system."""


def find_boards(names: Sequence[str], progress: Progress = silent) -> list[Device | SimulatedBoard]:
    """The boards called `names`, which may be lists with commas and labels as @LABEL; each once.

    `progress` tells of what takes long on a simulated one. Raises UsageError for a name that is unknown.
    """
    entries = read_entries()
    single = [name for text in names for name in text.split(",") if name]
    expanded = [board for name in single for board in _labelled(name, entries)]
    if not expanded:
        raise UsageError("no board was named", next_step="edgeq boards list shows them.")
    return [_open(name, entries, progress) for name in dict.fromkeys(expanded)]


def _labelled(name: str, entries: Mapping[str, Entry]) -> list[str]:
    if not name.startswith("@"):
        return [name]
    found = [entry.name for entry in entries.values() if name[1:] in entry.labels]
    if not found:
        labels = sorted({label for entry in entries.values() for label in entry.labels})
        raise UsageError("no board has this label", value=name, allowed=", ".join(labels) or "none is in use")
    return found


def _open(name: str, entries: Mapping[str, Entry], progress: Progress) -> Device | SimulatedBoard:
    if name == LOCAL:
        return LocalBoard(python=sys.executable)
    if name in {row.name for row in BOARDS}:
        return SimulatedBoard(find_board(name), progress)
    return SshBoard(find_entry(name, entries))


async def settled(work: Iterable[Awaitable[T]]) -> list[T | EdgeqError]:
    """All of `work` at once: what each gives, or the error it ended with. Cancelled, it cancels them all."""

    async def one(awaitable: Awaitable[T]) -> T | EdgeqError:
        try:
            return await awaitable
        except EdgeqError as error:
            return error

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(awaitable)) for awaitable in work]
    return [task.result() for task in tasks]


def on_each(boards: Sequence[Board], work: Callable[[Board], Awaitable[T]]) -> dict[str, T | EdgeqError]:
    """`work` on every board at once: what it gives by the board's name, or the error it ended with."""

    async def entered(board: Board) -> T:
        async with board:
            return await work(board)

    outcomes = asyncio.run(settled(entered(board) for board in boards))
    return dict(zip((board.name for board in boards), outcomes, strict=True))


def probe_boards(names: Sequence[str]) -> dict[str, Facts]:
    """What every board is and has. Raises the first board's error if one cannot be probed."""
    found = on_each(find_boards(names), lambda board: board.probe())
    for outcome in found.values():
        if isinstance(outcome, EdgeqError):
            raise outcome
    return {name: facts for name, facts in found.items() if isinstance(facts, Facts)}
