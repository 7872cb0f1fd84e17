"""Unicorn: the same program in an emulator that comes as a Python package; instructions are counted block by block."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from edgeq.boards.board import Simulated
from edgeq.boards.elf import Elf
from edgeq.errors import BoardError

PAGE = 0x1000
RAM_BYTES = 16 << 20
_RETURN = 0x70000000
"""An address outside the program: reaching it ends the run."""


def is_available(board: Simulated) -> bool:
    """Whether unicorn is installed and knows the processor of `board`."""
    return board.unicorn is not None and importlib.util.find_spec("unicorn") is not None


def _unicorn() -> Any:
    """The package, which ships no types."""
    return importlib.import_module("unicorn")


def run(board: Simulated, program: Path, folder: Path) -> None:
    """Run `program` on the arena.bin of `folder`; writes result.bin and counts.txt there. Raises BoardError."""
    u = _unicorn()

    elf, arena = Elf(program), (folder / "arena.bin").read_bytes()
    machine, thumb = _machine(board, elf.symbols["bench_stack_top"])
    _load(machine, elf, board)
    machine.mem_write(elf.symbols["bench_arena"], arena)
    marks = _count(machine, elf.symbols["bench_mark"] & ~1, bool(thumb))
    try:
        machine.emu_start(elf.symbols["bench_run"] | thumb, _RETURN)
    except u.UcError as error:
        raise BoardError("the program failed in the simulator", where=board.name, value=error) from error
    depth = bytes(machine.mem_read(elf.symbols["bench_stack_bytes"], 4))
    (folder / "result.bin").write_bytes(depth + bytes(machine.mem_read(elf.symbols["bench_arena"], len(arena))))
    (folder / "counts.txt").write_text("\n".join(map(str, marks)))


def _count(machine: Any, mark: int, thumb: bool) -> list[int]:
    """A list that grows by the number of instructions so far whenever the block at `mark` begins."""
    u = _unicorn()

    marks: list[int] = []
    known: dict[tuple[int, int], int] = {}
    count = 0

    def block(_: Any, address: int, size: int, __: object) -> None:
        nonlocal count
        if address == mark:
            marks.append(count)
        try:
            count += known[address, size]
        except KeyError:
            known[address, size] = _instructions(bytes(machine.mem_read(address, size)), thumb)
            count += known[address, size]

    machine.hook_add(u.UC_HOOK_BLOCK, block)
    return marks


def _instructions(code: bytes, thumb: bool) -> int:
    """Number of instructions in a block: two bytes each, or four where the first half says so."""
    at = count = 0
    while at < len(code):
        half = int.from_bytes(code[at : at + 2], "little")
        long = half >> 11 in (0b11101, 0b11110, 0b11111) if thumb else half & 3 == 3
        at += 4 if long else 2
        count += 1
    return count


def _machine(board: Simulated, stack: int) -> tuple[Any, int]:
    u = _unicorn()
    from unicorn import arm_const, riscv_const

    assert board.unicorn is not None
    architecture, processor = board.unicorn
    if architecture == "riscv32":
        machine = u.Uc(u.UC_ARCH_RISCV, u.UC_MODE_RISCV32)
        registers = {riscv_const.UC_RISCV_REG_SP: stack, riscv_const.UC_RISCV_REG_RA: _RETURN}
    else:
        machine = u.Uc(u.UC_ARCH_ARM, u.UC_MODE_THUMB | u.UC_MODE_MCLASS)
        models = {"cortex-m4": arm_const.UC_CPU_ARM_CORTEX_M4, "cortex-m7": arm_const.UC_CPU_ARM_CORTEX_M7}
        machine.ctl_set_cpu_model(models[processor])
        registers = {arm_const.UC_ARM_REG_SP: stack, arm_const.UC_ARM_REG_LR: _RETURN | 1}
    for register, value in registers.items():
        machine.reg_write(register, value)
    return machine, int(architecture == "arm")


def _load(machine: Any, elf: Elf, board: Simulated) -> None:
    for start in (board.flash, board.ram):
        machine.mem_map(start, RAM_BYTES)
    machine.mem_map(_RETURN, PAGE)
    for section in elf.sections:
        if section.is_loaded:
            machine.mem_write(section.address, section.content)
