"""QEMU: runs a program on a simulated board and counts its instructions exactly, with a small plugin built here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from edgeq.boards.board import Simulated
from edgeq.boards.build import FIRMWARE
from edgeq.boards.elf import Elf
from edgeq.errors import BoardError

TIMEOUT_SECONDS = 600
_QUIET = ("-display", "none", "-monitor", "none", "-serial", "none")
_HOST = ("-semihosting-config", "enable=on,target=native")


def is_available(board: Simulated) -> bool:
    """Whether QEMU for `board` and a compiler for the plugin are installed."""
    return bool(board.qemu) and shutil.which(board.qemu[0]) is not None and shutil.which("cc") is not None


def run(board: Simulated, program: Path, folder: Path) -> None:
    """Run `program` on the arena.bin of `folder`; writes result.bin and counts.txt there. Raises BoardError."""
    plugin = folder / "count.so"
    if not plugin.exists():
        _checked(["cc", "-O2", "-shared", "-fPIC", "-o", str(plugin), str(FIRMWARE / "count.c")], folder)
    (folder / "result.bin").unlink(missing_ok=True)
    mark = Elf(program).symbols["bench_mark"] & ~1
    counting = f"{plugin},mark={mark:x},out={folder / 'counts.txt'}"
    _checked([*board.qemu, *_QUIET, *_HOST, "-plugin", counting, "-kernel", str(program)], folder)
    if not (folder / "result.bin").exists():
        raise BoardError("the program wrote no result", where=board.name)


def _checked(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise BoardError("the simulation did not end", where=command[0], value=f"{TIMEOUT_SECONDS} s") from error
    if done.returncode:
        raise BoardError("a command failed", where=command[0], value=done.stderr[-300:] or done.returncode)
