"""What a board is: a work folder on a machine that takes files, runs programs on them and gives files back.

This machine (local.py), a machine behind SSH (ssh.py) and a simulated processor (simulated.py) are boards alike. A
simulated one runs the test program of a folder of generated C (firmware/), and with it counts the instructions of every
layer and how deep the stack went; counts do not depend on the machine that simulates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from edgeq.boards.probe import Facts
from edgeq.errors import UsageError, did_you_mean

Codes = NDArray[np.signedinteger[Any]]
Content = bytes | Path
"""What a file holds, or the file here that holds it."""


@dataclass(frozen=True)
class Finished:
    """How a program ended: its exit status and what it printed."""

    exit: int
    stdout: str
    stderr: str

    @property
    def complaint(self) -> str:
        """The last line it printed on stderr, else on stdout, else its exit status."""
        lines = [*self.stdout.splitlines(), *self.stderr.splitlines()]
        return next((line.strip() for line in reversed(lines) if line.strip()), f"exit status {self.exit}")


class Board(Protocol):
    """A machine with a work folder of its own, made when the board is entered and gone when it is left, however.

    Names of files are relative to that folder. Every method raises BoardError when the machine or the way to it fails.
    """

    @property
    def name(self) -> str:
        """The board, as people call it."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None:
        """`clean`."""
        ...

    async def probe(self) -> Facts:
        """What the machine is and has."""
        ...

    async def put(self, files: Mapping[str, Content]) -> None:
        """Store `files` by name, each whole and with its digest checked, or fail."""
        ...

    async def run(self, command: Sequence[str], *, timeout_s: float = ...) -> Finished:
        """Run a program in the work folder; it is ended when it takes too long or when the caller is interrupted."""
        ...

    async def get(self, name: str) -> bytes:
        """The content of a file."""
        ...

    async def clean(self) -> None:
        """End what still runs and remove the work folder."""
        ...


@dataclass(frozen=True)
class Simulated:
    """One simulated board: a row of BOARDS.

    `compiler` and its `flags` compile for it, `zig` are the same for the compiler that comes as a wheel; code and constants
    lie at `flash`, data and stack at `ram`, with room for so many bytes each. `qemu` runs it, `unicorn` (architecture,
    processor) if that can; or it is the RTL of `core`, by its name in verilated.py.
    """

    name: str
    summary: str
    compiler: str
    flags: tuple[str, ...]
    flash: int
    ram: int
    flash_bytes: int
    ram_bytes: int
    qemu: tuple[str, ...]
    zig: tuple[str, ...] = ()
    unicorn: tuple[Literal["riscv32", "arm"], str] | None = None
    debian: str = ""
    core: str = ""


@dataclass(frozen=True)
class Measurement:
    """One inference: outputs by name, instructions of each layer in order, and bytes.

    `code_bytes` is the model's code with its descriptors, `constant_bytes` its weights and tables. `layer_cycles` are the
    cycles of each layer where the simulator knows them.
    """

    outputs: Mapping[str, Codes]
    layers: tuple[int, ...]
    stack_bytes: int
    code_bytes: int
    constant_bytes: int
    arena_bytes: int
    how: str
    layer_cycles: tuple[int, ...] = ()

    @property
    def instructions(self) -> int:
        """Instructions of one inference."""
        return sum(self.layers)

    @property
    def cycles(self) -> int:
        """Cycles of one inference, or 0 if they are not known."""
        return sum(self.layer_cycles)

    @property
    def flash_bytes(self) -> int:
        """Code and constants."""
        return self.code_bytes + self.constant_bytes

    @property
    def ram_bytes(self) -> int:
        """Arena and stack."""
        return self.arena_bytes + self.stack_bytes


_RISCV = ("-machine", "virt", "-m", "64M", "-bios", "none", "-cpu")
_NO_RELAX = ("-mno-relax",)  # relaxing crashes lld 16 on some programs
_CLANG = ("-fuse-ld=lld-16", "-Wno-unused-command-line-argument")


def _cortex(name: str, flags: tuple[str, ...], machine: str, room: int, zig: str, unicorn: str | None) -> Simulated:
    return Simulated(
        f"{name}-sim",
        f"ARM {name.title()} ({machine.removeprefix('mps2-').removeprefix('mps3-').upper()})",
        "arm-none-eabi-gcc",
        ("-mthumb", f"-mcpu={name}", *flags),
        flash=0,
        ram=0x20000000,
        flash_bytes=room,
        ram_bytes=room,
        qemu=("qemu-system-arm", "-machine", machine),
        zig=("-target", "thumb-freestanding-eabihf", f"-mcpu={zig}"),
        unicorn=("arm", unicorn) if unicorn else None,
        debian="gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm",
    )


def _riscv32(name: str, summary: str, more: str, unicorn: tuple[Literal["riscv32"], str] | None) -> Simulated:
    return Simulated(
        f"{name}-sim",
        summary,
        "riscv64-unknown-elf-gcc",
        (f"-march=rv32imc_zicsr{more}", "-mabi=ilp32"),
        flash=0x80000000,
        ram=0x82000000,
        flash_bytes=32 << 20,
        ram_bytes=32 << 20,
        qemu=("qemu-system-riscv32", *_RISCV, "rv32"),
        zig=("-target", "riscv32-freestanding-none", "-mcpu=generic_rv32+m+c" + more.replace("_", "+")),
        unicorn=unicorn,
        debian="gcc-riscv64-unknown-elf qemu-system-misc",
    )


def _verilated(core: str, summary: str) -> Simulated:
    board = _riscv32("rv32imc", summary, "", None)
    return replace(board, name=f"{core}-cycles", qemu=(), core=core, debian="gcc-riscv64-unknown-elf")


BOARDS: tuple[Simulated, ...] = (
    _riscv32("rv32imc", "RISC-V RV32IMC", "", ("riscv32", "base")),
    _verilated("ibex", "Ibex (RV32IMC, two stages, multiplier of three cycles), every cycle of its RTL"),
    _verilated("cv32e40p", "CV32E40P (RV32IMC, four stages, multiplier of one cycle), every cycle of its RTL"),
    _riscv32("rv32imcb", "RISC-V RV32IMC with Zba and Zbb", "_zba_zbb", None),
    _cortex("cortex-m4", ("-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"), "mps2-an386", 4 << 20, "cortex_m4", "cortex-m4"),
    _cortex("cortex-m7", ("-mfpu=fpv5-d16", "-mfloat-abi=hard"), "mps2-an500", 4 << 20, "cortex_m7", "cortex-m7"),
    _cortex("cortex-m55", ("-mfloat-abi=hard",), "mps3-an547", 512 << 10, "cortex_m55", None),
    Simulated(
        "rv64gcv-sim",
        "RISC-V RV64GCV with vectors of 128 bits",
        "clang-16",
        ("--target=riscv64-unknown-elf", "-march=rv64gcv", "-mabi=lp64d", "-mcmodel=medany", *_NO_RELAX, *_CLANG),
        flash=0x80000000,
        ram=0x82000000,
        flash_bytes=32 << 20,
        ram_bytes=32 << 20,
        qemu=("qemu-system-riscv64", *_RISCV, "rv64,v=true,vext_spec=v1.0,vlen=128"),
        debian="clang-16 lld-16 qemu-system-misc",
    ),
    Simulated(
        "aarch64-sim",
        "ARM Cortex-A76, as in the Raspberry Pi 5, without an operating system",
        "clang-16",
        ("--target=aarch64-none-elf", "-mcpu=cortex-a76", *_CLANG),
        flash=0x40000000,
        ram=0x42000000,
        flash_bytes=32 << 20,
        ram_bytes=32 << 20,
        qemu=("qemu-system-aarch64", "-machine", "virt", "-cpu", "cortex-a76", "-m", "64M", "-nic", "none"),
        debian="clang-16 lld-16 qemu-system-arm",
    ),
)


def find_board(name: str) -> Simulated:
    """The simulated board called `name`; raises UsageError with the closest name otherwise."""
    for board in BOARDS:
        if board.name == name:
            return board
    names = [board.name for board in BOARDS]
    raise UsageError("unknown board", value=name, allowed=", ".join(names), next_step=did_you_mean(name, names))
