"""QEMU: runs a program on a simulated board and counts its instructions exactly, with a small plugin built here."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

from edgeq.boards.board import Board
from edgeq.boards.build import FIRMWARE, Built
from edgeq.errors import BoardError

TIMEOUT_SECONDS = 600
_QUIET = ("-display", "none", "-monitor", "none", "-serial", "none")
_HOST = ("-semihosting-config", "enable=on,target=native")


def is_available(board: Board) -> bool:
    """Whether QEMU for `board` and a compiler for the plugin are installed."""
    return shutil.which(board.qemu[0]) is not None and shutil.which("cc") is not None


def run(board: Board, built: Built, arena: bytes, folder: Path) -> tuple[bytes, list[int], int]:
    """The arena afterwards, instruction counts at the marks, and the stack's depth. Raises BoardError."""
    plugin = folder / "count.so"
    _checked(["cc", "-O2", "-shared", "-fPIC", "-o", str(plugin), str(FIRMWARE / "count.c")], folder)
    (folder / "arena.bin").write_bytes(arena)
    mark = built.elf.symbols["bench_mark"] & ~1
    counting = f"{plugin},mark={mark:x},out={folder / 'counts.txt'}"
    command = [*board.qemu, *_QUIET, *_HOST, "-plugin", counting, "-kernel", str(built.program)]
    _checked(command, folder)
    result = folder / "result.bin"
    if not result.exists():
        raise BoardError("the program wrote no result", where=board.name)
    content = result.read_bytes()
    counts = [int(line) for line in (folder / "counts.txt").read_text().split()]
    return content[4:], counts, struct.unpack("<I", content[:4])[0]


def _checked(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise BoardError("the simulation did not end", where=command[0], value=f"{TIMEOUT_SECONDS} s") from error
    if done.returncode:
        raise BoardError("a command failed", where=command[0], value=done.stderr[-300:] or done.returncode)
