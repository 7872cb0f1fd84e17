"""Cores as RTL: the outputs of the reference, the instructions of another simulator, and cycles as the cores' manuals have them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeq.boards import verilated
from edgeq.boards.board import find_board
from edgeq.boards.build import FIRMWARE
from edgeq.boards.device import Settings
from edgeq.boards.simulated import ARENA, COUNTS, RESULT, SimulatedBoard, result_of
from edgeq.emit.artifact import GRAPH_FILE
from edgeq.errors import BoardError, MissingDependencyError
from edgeq.flow.bench import BenchRequest, bench_artifact
from edgeq.flow.fleet import on_each
from edgeq.flow.on_board import run_on
from edgeq.flow.op_times import Profile, profile_on
from edgeq.ir.file import to_bytes
from edgeq.ir.graph import Graph
from edgeq.reference.interpret import run
from tests.c_nets import extreme_inputs, folder_of, small_network, target

NAMES = ["ibex-cycles", "cv32e40p-cycles"]
OTHER = "rv32imc-sim"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty cache, so that the cores are compiled here, once."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "edgeq" / "cores"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Graph, Path]:
    """The small network on integers, and its folder of C."""
    folder = tmp_path_factory.mktemp("net") / "out"
    return folder_of(small_network(), target("rv32imc-int8"), folder)[0], folder


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    board = find_board(request.param)
    if not (verilated.is_available(board) and shutil.which(board.compiler)):
        pytest.skip(f"needs the extra cycles and Debian's {verilated.DEBIAN} {board.debian}")
    return board.name


def test_instructions_are_those_of_the_other_simulator(name: str, network: tuple[Graph, Path], cache: Path) -> None:
    told: set[str] = set()
    request = BenchRequest(network[1], (name, OTHER))
    first = bench_artifact(request, lambda stage, done, total: told.add(stage))
    assert first.exit == 0 and len(first.notes) == 5 and f"layers on {name}" in told
    core = find_board(name).core
    assert f"compiling {core}, once" in told and len(list(cache.glob(f"{core}-*/*"))) == 1
    layers = {board: [row for row in first.layers if row["board"] == board] for board in (name, OTHER)}
    counted = [[row["instructions"] for row in layers[board]] for board in (name, OTHER)]
    assert counted[0] == counted[1] and len(counted[0]) > 12 and sum(counted[0]) == first.value("instructions", name)
    cycles = [row["cycles"] for row in layers[name]]
    assert all(1 <= c / i < 4 for c, i in zip(cycles, counted[0], strict=True)) and len(set(cycles)) > 12
    assert sum(cycles) == first.value("cycles", name) and first.value("cycles", OTHER) is None
    assert first.value("stack_bytes", name) == first.value("stack_bytes", OTHER)
    told.clear()
    second = bench_artifact(request, lambda stage, done, total: told.add(stage))
    assert second.rows == first.rows and second.layers == first.layers and f"compiling {core}, once" not in told


def test_outputs_equal_the_reference(name: str, network: tuple[Graph, Path]) -> None:
    graph, folder = network
    samples = extreme_inputs(graph, 3)
    (ran,) = on_each(
        [SimulatedBoard(find_board(name))], lambda board: run_on(board, folder, samples, Settings())
    ).values()
    assert not isinstance(ran, Exception)
    for sample, found in zip(samples, ran.outputs, strict=True):
        for port, tensor in run(graph, sample).items():
            assert np.array_equal(found[port], tensor.numpy())
    assert sum(len(np.unique(array)) for array in ran.outputs[0].values()) > 20


def test_latencies_are_cycles_of_the_clock(name: str, network: tuple[Graph, Path]) -> None:
    graph, folder = network
    (folder / GRAPH_FILE).write_bytes(to_bytes(graph))
    board = SimulatedBoard(find_board(name))
    profile = on_each([board], lambda board: profile_on(board, folder, Settings(), 50.0))[name]
    cycles = bench_artifact(BenchRequest(folder, (name,))).value("cycles", name)
    assert isinstance(profile, Profile) and cycles is not None and profile.whole_ms == pytest.approx(cycles / 50_000)


SECTIONS = {"nothing": "", "add": "add a0, a1, a2", "mul": "mul a0, a1, a2", "mulh": "mulh a0, a1, a2",
            "load": "lw a0, 0(sp)", "store": "sw a1, 0(sp)", "jump": "j 1f\n1:",
            "not taken": "bne zero, zero, 1f\n1:", "taken": "beq zero, zero, 1f\n1:"}  # fmt: skip
DOCUMENTED = {
    "ibex-cycles": {"add": 1, "mul": 3, "mulh": 4, "load": 2, "store": 2, "jump": 2, "not taken": 1, "taken": 3},
    "cv32e40p-cycles": {"add": 1, "mul": 1, "mulh": 5, "load": 1, "store": 1, "jump": 2, "not taken": 1, "taken": 3},
}
"""Cycles of an instruction in memory without wait states.

Ibex Reference Guide, "Pipeline Details" (the fast multiplier); CV32E40P User Manual, "Pipeline Details".
"""
REPEATED = 64


def linked(text: str, into: Path) -> Path:
    """A program in assembly that has the symbols of the board's."""
    board = find_board(NAMES[0])
    layout = (FIRMWARE / "board.ld").read_text()
    layout = layout.replace("FLASH_ORIGIN", f"{board.flash:#x}").replace("RAM_ORIGIN", f"{board.ram:#x}")
    (into / "board.ld").write_text(layout)
    names = ("bench_run", "bench_mark", "bench_arena", "bench_stack_bytes", "start")
    head = "".join(f".globl {symbol}\n" for symbol in names)
    data = ".data\nbench_stack_bytes: .word 0\nbench_arena: .word 0\n"
    head += ".option norvc\n.option norelax\n"  # each instruction four bytes, so that every target is aligned
    (into / "p.S").write_text(f"{head}{data}.text\n.balign 16\nstart:\nbench_mark: ret\n{text}")
    command = [board.compiler, *board.flags, "-nostdlib", "-nostartfiles", "-Wl,-T,board.ld", "-o", "p.elf", "p.S"]
    subprocess.run(command, cwd=into, check=True)
    (into / ARENA).write_bytes(b"\1\2\3\4")
    return into / "p.elf"


def test_cycles_are_the_documented_ones(name: str, tmp_path: Path) -> None:
    parts = "".join(f"call bench_mark\n.rept {REPEATED}\n{code}\n.endr\n" for code in SECTIONS.values())
    program = linked(f"bench_run: mv s0, ra\n{parts}call bench_mark\njr s0\n", tmp_path)
    verilated.run(find_board(name), program, tmp_path)
    arena, counts, _ = result_of((tmp_path / RESULT).read_bytes(), (tmp_path / COUNTS).read_bytes())
    instructions, cycles = np.diff(counts, axis=0).T
    assert arena == b"\1\2\3\4" and (instructions[1:] - instructions[0]).tolist() == [REPEATED] * (len(SECTIONS) - 1)
    each = dict(zip(SECTIONS, (cycles - cycles[0]) / REPEATED, strict=True))
    assert each == {"nothing": 0, **DOCUMENTED[name]}


@pytest.mark.parametrize(
    ("code", "message"),
    [(".word 0", "raised an exception"), ("ebreak", "raised an exception"), ("sw a0, 16(zero)", "no memory at 0x10"),
     ("li a0, 0x7ffffffc\nlw a0, 0(a0)", "no memory at 0x7ffffffc"), ("jr zero", "raised an exception")],
)  # fmt: skip
def test_a_program_that_fails_ends_with_an_error(name: str, code: str, message: str, tmp_path: Path) -> None:
    program = linked(f"bench_run: {code}\nret\n", tmp_path)
    with pytest.raises(BoardError, match=message):
        verilated.run(find_board(name), program, tmp_path)
    assert not (tmp_path / RESULT).exists()


def test_a_tool_that_is_missing_is_told(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    board = find_board(name)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match=r"needs the package verilator\. .* apt-get install"):
        verilated.how(board)
    assert not verilated.is_available(board)


def test_a_package_that_is_missing_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    board = find_board(name)
    monkeypatch.setitem(verilated.CORES, board.core, replace(verilated.CORES[board.core], package="no-such-core"))
    for asked in (lambda: verilated.how(board), lambda: verilated.simulator_of(board.core)):
        with pytest.raises(MissingDependencyError, match=r'no-such-core. .* pip install "edgeq\[cycles\]"'):
            asked()
    assert not verilated.is_available(board)


def test_rtl_that_does_not_compile_is_told(name: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    core = find_board(name).core
    monkeypatch.setitem(verilated.CORES, core, replace(verilated.CORES[core], folders=()))
    before = sorted(cache.glob("*"))
    with pytest.raises(BoardError, match=f"could not compile the core; at {core}; got %Error"):
        verilated.simulator_of(core)
    assert sorted(cache.glob("*")) == before
