"""Building the test program of a generated folder for a simulated board, with the cross compiler or with zig."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.boards.board import Simulated
from edgeq.boards.elf import Elf
from edgeq.errors import BoardError, MissingDependencyError

FIRMWARE = Path(__file__).parent / "firmware"
COMMON = ("-std=gnu99", "-ffreestanding", "-ffunction-sections", "-fdata-sections")
_NO_LIBRARY = ("-nostdlib", "-nostartfiles")


@dataclass(frozen=True)
class Built:
    """A linked program, and the bytes of the model in it."""

    program: Path
    elf: Elf
    code_bytes: int
    constant_bytes: int


def compiler_of(board: Simulated) -> tuple[str, ...]:
    """The command that compiles for `board`: its own where installed, else zig.

    Raises MissingDependencyError if there is neither.
    """
    if shutil.which(board.compiler):
        return (board.compiler, *board.flags)
    if board.zig and importlib.util.find_spec("ziglang"):
        return (sys.executable, "-m", "ziglang", "cc", *board.zig)
    raise MissingDependencyError("ziglang", "mcu", needed_for=f"Building for {board.name} (or: {board.debian})")


def build(board: Simulated, folder: Path, document: dict[str, Any], into: Path, optimize: str = "-O2") -> Built:
    """Compile the model of `folder` for `board`. Raises BoardError with the compiler's first complaint."""
    compiler, prefix = compiler_of(board), document["prefix"]
    own = folder.absolute()
    macros = [
        f'-DBENCH_MODEL="{prefix}_model.c"',
        f"-DBENCH_RUN={prefix}_run",
        f"-DBENCH_ARENA={prefix}_arena",
        f"-DBENCH_ARENA_BYTES={document['arena_bytes']}",
    ]
    alone = (
        into / "model.o"
    )  # what a program that uses the model links: without marks of layers, and without our program
    _run([*compiler, *COMMON, optimize, "-c", "-o", str(alone), str(own / f"{prefix}_model.c")], into)
    objects = []
    for source in (own / f"{prefix}_weights.c", *(FIRMWARE / name for name in ("bench.c", "main.c", "memory.c"))):
        made = into / f"{source.stem}.o"
        plain = ["-fno-tree-loop-distribute-patterns"] if source.stem == "memory" and "gcc" in compiler[0] else []
        _run([*compiler, *COMMON, optimize, *macros, *plain, f"-I{own}", "-c", "-o", str(made), str(source)], into)
        objects.append(str(made))
    program = into / "bench.elf"
    script = (FIRMWARE / "board.ld").read_text()
    script = script.replace("FLASH_ORIGIN", f"{board.flash:#x}").replace("RAM_ORIGIN", f"{board.ram:#x}")
    (into / "board.ld").write_text(script)
    layout = [f"-Wl,-T,{into / 'board.ld'}", "-Wl,--gc-sections"]
    _run([*compiler, *_NO_LIBRARY, *layout, "-o", str(program), *objects], into)
    linked = Elf(program)
    _check_room(board, linked)
    return Built(program, linked, _flash(alone), _flash(into / f"{prefix}_weights.o"))


def _check_room(board: Simulated, linked: Elf) -> None:
    """RAM lies above flash on every board, and the stack above all data."""
    ends = [s.address + s.size for s in linked.sections if s.address < board.ram]
    needs = {
        "flash": (max(ends, default=board.flash) - board.flash, board.flash_bytes),
        "RAM": (linked.symbols["bench_stack_top"] - board.ram, board.ram_bytes),
    }
    for name, (needed, room) in needs.items():
        if needed > room:
            raise BoardError(
                "the program does not fit the board", where=board.name, value=f"{needed:,} bytes of {name}",
                allowed=f"{room:,}", next_step="Use a board with more memory, such as rv32imc-sim.",
            )  # fmt: skip


def _flash(path: Path) -> int:
    """Bytes of code and read-only data in an object file."""
    return sum(s.size for s in Elf(path).sections if s.name.startswith((".text", ".rodata", ".srodata")))


def _run(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["?"]
        raise BoardError("the cross compiler refused the program", where=command[0], value=lines[0])
