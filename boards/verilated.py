"""Cores whose RTL Verilator compiles with a testbench (rtl/): the same program, and the cycles that each layer takes.

The RTL comes from the packages of the extra `cycles`. A core is compiled once and then lies in the cache, by the content
of all that went in. The memory: every access granted at once and answered in the next cycle, no wait states, no caches.
A cycle is one of the clock, which is what mcycle counts; an instruction is one that retires, which minstret counts.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeq.boards.board import Simulated
from edgeq.boards.elf import Elf
from edgeq.calibrate.cache import cache_folder
from edgeq.emit.artifact import write_files
from edgeq.errors import BoardError, MissingDependencyError
from edgeq.progress import Progress, silent

RTL = Path(__file__).parent / "rtl"
TOOLS = ("verilator", "make", "g++")
DEBIAN = "verilator make g++"
_OPTIONS = (
    "--cc", "--exe", "--build", "-j", "0", "--top-module", "top", "-O3", "--x-assign", "fast", "--x-initial", "fast",
    "--noassert", "-DSYNTHESIS", "-Wno-fatal", "-Wno-lint", "-Wno-style", "-Wno-UNOPTFLAT", "-MAKEFLAGS", "OPT_FAST=-O2",
    "-CFLAGS", "-O2",
)  # fmt: skip
_SIMULATOR = "simulate"
_BOOT_BYTES, _ENTRY = 0x1000, 0x80
"""Above all RAM: an endless loop, to which exceptions lead, and the instructions that call the program."""


@dataclass(frozen=True)
class Core:
    """A core's RTL in the Python package that carries it: folders where modules are found by name, and what is read first."""

    package: str
    folders: tuple[str, ...]
    first: tuple[str, ...]
    options: tuple[str, ...] = ()

    @property
    def installed(self) -> importlib.metadata.Distribution:
        """The package. Raises MissingDependencyError if it is not installed."""
        try:
            return importlib.metadata.distribution(self.package)
        except importlib.metadata.PackageNotFoundError as error:
            raise MissingDependencyError(self.package, "cycles", needed_for="Counting cycles") from error

    @property
    def folder(self) -> Path:
        """Where the RTL lies. Raises MissingDependencyError if the package is not installed."""
        return Path(str(self.installed.locate_file(self.package.replace("-", "_")))) / "system_verilog"


_PRIM = "vendor/lowrisc_ip/ip/prim/rtl"
CORES = {
    "ibex": Core(
        "pythondata-cpu-ibex",
        ("rtl", _PRIM, "vendor/lowrisc_ip/dv/sv/dv_utils"),
        ("rtl/ibex_pkg.sv", f"{_PRIM}/prim_cipher_pkg.sv", f"{_PRIM}/prim_secded_pkg.sv"),
    ),
    "cv32e40p": Core(
        "pythondata-cpu-cv32e40p",
        ("rtl", "rtl/include"),
        (
            "rtl/include/cv32e40p_apu_core_pkg.sv", "rtl/include/cv32e40p_fpu_pkg.sv", "rtl/include/cv32e40p_pkg.sv",
            "rtl/cv32e40p_register_file_ff.sv",
        ),
        ("-Wno-BLKANDNBLK",),  # of performance counters that are not there
    ),
}  # fmt: skip


def is_available(board: Simulated) -> bool:
    """Whether the RTL of the core of `board` and what compiles it are installed."""
    try:
        return bool(how(board))
    except MissingDependencyError:
        return False


def how(board: Simulated) -> str:
    """What counts, and in which memory. Raises MissingDependencyError for what is not installed."""
    package = CORES[board.core].installed
    return f"{_verilator()}, {package.name} {package.version}; memory without wait states, no caches"


def run(board: Simulated, program: Path, folder: Path, progress: Progress = silent) -> None:
    """Run `program` on the arena.bin of `folder`; writes result.bin and counts.txt there, with cycles. Raises BoardError."""
    elf, arena = Elf(program), (folder / "arena.bin").read_bytes()
    simulator, memory = simulator_of(board.core, progress), folder / "memory.bin"
    boot = board.ram + board.ram_bytes
    code = _boot_code(elf.symbols["bench_stack_top"], elf.symbols["bench_run"])
    loaded = [(section.address, section.content) for section in elf.sections if section.is_loaded]
    with memory.open("wb") as file:
        file.truncate(boot + _BOOT_BYTES - board.flash)
        for address, content in (*loaded, (elf.symbols["bench_arena"], arena), (boot, code)):
            file.seek(address - board.flash)
            file.write(content)
    places = board.flash, boot + _ENTRY, boot + len(code) - 4, elf.symbols["bench_mark"]
    counts = _simulate(board, [str(simulator), str(memory), *(f"{address:x}" for address in places)], progress)
    with memory.open("rb") as file:
        file.seek(elf.symbols["bench_stack_bytes"] - board.flash)
        depth = file.read(4)
        file.seek(elf.symbols["bench_arena"] - board.flash)
        (folder / "result.bin").write_bytes(depth + file.read(len(arena)))
    (folder / "counts.txt").write_text(counts)


def simulator_of(name: str, progress: Progress = silent) -> Path:
    """The program that simulates a core of CORES, compiled if the cache has none.

    Raises MissingDependencyError, and BoardError with Verilator's first complaint.
    """
    core = CORES[name]
    place = cache_folder().with_name("cores") / f"{name}-{_key(name)}"
    if not (place / _SIMULATOR).exists():
        stage = f"compiling {name}, once"
        progress(stage, 0, 1)
        with tempfile.TemporaryDirectory(prefix="edgeq-core-") as temporary:
            _compile(name, core, Path(temporary))
            write_files(
                place, {_SIMULATOR: (Path(temporary) / "Vtop").read_bytes()}, executable=frozenset({_SIMULATOR})
            )
        progress(stage, 1, 1)
    return place / _SIMULATOR


def _verilator() -> str:
    """Name and version."""
    for tool in TOOLS:
        if shutil.which(tool) is None:
            raise MissingDependencyError(tool, needed_for="Counting cycles", install=f"apt-get install {DEBIAN}")
    told = subprocess.run(["verilator", "--version"], capture_output=True, text=True, check=False)
    return " ".join(told.stdout.split()[:2])


def _sources(name: str) -> Iterator[Path]:
    """The testbench, and every file of the RTL that it may read."""
    yield from (RTL / "simulate.cpp", RTL / f"{name}.sv")
    core = CORES[name]
    for folder in core.folders:
        yield from sorted((core.folder / folder).glob("*.sv*"))


def _key(name: str) -> str:
    core = CORES[name]
    parts = [_verilator(), platform.machine(), *_OPTIONS, *core.options, *core.folders, *core.first]
    digest = hashlib.sha256("\0".join(parts).encode())
    for source in _sources(name):
        content = source.read_bytes()
        digest.update(f"\0{source.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:32]


def _compile(name: str, core: Core, into: Path) -> None:
    command = ["verilator", *_OPTIONS, *core.options, "--Mdir", str(into)]
    command += [f"-I{core.folder / folder}" for folder in core.folders]
    command += [str(core.folder / file) for file in core.first]
    done = subprocess.run(
        [*command, str(RTL / f"{name}.sv"), str(RTL / "simulate.cpp")],
        cwd=into, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if "error" in line.lower()] or ["?"]
        raise BoardError("Verilator could not compile the core", where=name, value=lines[0])


def _boot_code(stack: int, entry: int) -> bytes:
    """RISC-V: an endless loop for exceptions; then the stack pointer is set, `entry` called, and the end is another loop."""
    sp, ra, loop = 2, 1, 0x6F

    def upper(register: int, value: int) -> int:
        return (value + 0x800 & 0xFFFFF000) | register << 7 | 0x37

    def lower(value: int, operation: int, register: int) -> int:
        return (value & 0xFFF) << 20 | register << 15 | register << 7 | operation

    begin = [upper(sp, stack), lower(stack, 0x13, sp), upper(ra, entry), lower(entry, 0x67, ra), loop]
    return struct.pack("<I", loop).ljust(_ENTRY, b"\0") + struct.pack(f"<{len(begin)}I", *begin)


def _simulate(board: Simulated, command: list[str], progress: Progress) -> str:
    """Run to the end; the lines that the simulator wrote, one at each mark."""
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            lines.append(line)
            progress(f"layers on {board.name}", len(lines), 0)
        complaint = process.stderr.read()
    if process.returncode:
        raise BoardError("the program failed in the simulator", where=board.name, value=complaint.strip()[-300:])
    return "".join(lines)
