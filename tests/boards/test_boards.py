"""Simulated boards: the same outputs as the reference, exact counts, and typed errors."""

from __future__ import annotations

import shutil
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from edgeq.boards import qemu, sim
from edgeq.boards.bench import measure
from edgeq.boards.board import BOARDS, Simulated, find_board
from edgeq.boards.build import build
from edgeq.boards.simulated import ARENA, COUNTS, RESULT, result_of
from edgeq.emit.c import emit
from edgeq.emit.c_golden import golden_codes
from edgeq.emit.c_layout import to_memory
from edgeq.errors import BoardError, UsageError
from edgeq.flow.bench import BenchRequest, bench_artifact
from edgeq.frontend.model import open_model
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.passes.simplify import simplify
from edgeq.runtimes.folder import read_folder
from tests.c_nets import (
    folder_of,
    plain_network,
    pruned,
    small_network,
    small_transformer,
    target,
    with_large_biases,
)
from tests.code_nets import code_nets
from tests.lowering import lowered
from tests.quantized import Net, inputs_of

TARGET_OF = {
    "rv32imc-sim": "rv32imc-int8",
    "rv32imcb-sim": "rv32imcb-int8",
    "cortex-m4-sim": "cortex-m4-int8",
    "cortex-m7-sim": "cortex-m7-int8",
    "cortex-m55-sim": "cortex-m55-int8",
    "rv64gcv-sim": "rv64gcv-int8",
    "aarch64-sim": "aarch64-int8",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of C for every board."""
    made = {}
    for board, name in TARGET_OF.items():
        made[board] = tmp_path_factory.mktemp("boards") / "out"
        folder_of(small_network(), target(name), made[board])
    return made


def installed(board: Simulated) -> Simulated:
    if not (shutil.which(board.compiler) and qemu.is_available(board)):
        pytest.skip(f"needs Debian's {board.debian}")
    return board


def simulated(
    run: Callable[[Simulated, Path, Path], None], board: Simulated, program: Path, arena: bytes
) -> tuple[bytes, np.ndarray, int]:
    """What one simulator makes of an arena: the arena afterwards, the counts and the stack's depth."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / ARENA).write_bytes(arena)
        run(board, program, folder)
        return result_of((folder / RESULT).read_bytes(), (folder / COUNTS).read_bytes())


def golden(folder: Path) -> dict[str, np.ndarray]:
    document = read_folder(folder)
    shapes = {port["name"]: tuple(port["shape"]) for port in document["inputs"]}
    return golden_codes(shapes, document["golden"]["seed"], document["code_bits"])


@pytest.mark.parametrize("name", [board.name for board in BOARDS if not board.core])
def test_outputs_equal_the_reference_and_counts_repeat(name: str, folders: dict[str, Path]) -> None:
    board, folder = installed(find_board(name)), folders[name]
    first, second = (measure(board, folder, golden(folder)) for _ in range(2))
    document = read_folder(folder)
    for port, crc in zip(document["outputs"], document["golden"]["outputs"], strict=True):
        codes = first.outputs[port["name"]]
        assert zlib.crc32(to_memory(codes).tobytes()) == crc
    assert sum(len(np.unique(codes)) for codes in first.outputs.values()) > 20
    assert first.layers == second.layers and len(first.layers) == len(document["layers"])
    assert document["macs"] // 16 < first.instructions < 100 * document["macs"]
    assert 100 < first.stack_bytes < 4096 and 1000 < first.code_bytes < 64_000
    assert first.ram_bytes == document["arena_bytes"] + first.stack_bytes


@pytest.mark.parametrize("change", [None, with_large_biases, partial(pruned, seed=5)], ids=["plain", "large", "pruned"])
@pytest.mark.parametrize("name", TARGET_OF)
def test_channels_of_every_kind(name: str, change: Callable[[Graph], Graph] | None, tmp_path: Path) -> None:
    """A network that leaves out the most code; numbers of channels that need sixteen bytes; channels of one code."""
    board, graph = installed(find_board(name)), small_network() if change else plain_network()
    chosen = replace(target(TARGET_OF[name]), rounding="gemmlowp2" if change else "single")
    integer = lowered(graph, chosen, inputs_of(graph))
    emit(change(integer) if change else integer, chosen, tmp_path / "out", "net", {}, {})
    document, found = read_folder(tmp_path / "out"), measure(board, tmp_path / "out", golden(tmp_path / "out"))
    crcs = [zlib.crc32(to_memory(found.outputs[port["name"]]).tobytes()) for port in document["outputs"]]
    assert crcs == document["golden"]["outputs"]
    assert sum(len(np.unique(codes)) for codes in found.outputs.values()) > 5


@pytest.mark.parametrize("board_name", ["cortex-m4-sim", "cortex-m55-sim"])
@pytest.mark.parametrize("width", [5, 124, 140])
def test_depthwise_planes_of_any_width(width: int, board_name: str, tmp_path: Path) -> None:
    board = installed(find_board(board_name))
    n = Net(1, 3, 6, width)
    weight = n.reals(3, 1, 3, 3, spread=0.4)
    y = n.add(o.Conv("x", weight, n.reals(3), "depthwise", (1, 1), (1, 1, 1, 1), groups=3))
    strided = n.reals(3, 1, 3, 3, spread=0.4)
    z = n.add(o.Conv(y, strided, n.reals(3), "strided", (2, 2), (0, 1, 1, 0), groups=3))
    folder_of(n.graph(n.conv(z, 5, "out", kernel=1)), target(TARGET_OF[board_name]), tmp_path / "out")
    document, found = read_folder(tmp_path / "out"), measure(board, tmp_path / "out", golden(tmp_path / "out"))
    (codes,) = found.outputs.values()
    assert zlib.crc32(to_memory(codes).tobytes()) == document["golden"]["outputs"][0]
    assert len(np.unique(codes)) > 20


@pytest.mark.parametrize("rounding", ["single", "gemmlowp2"])
@pytest.mark.parametrize("name", TARGET_OF)
def test_channels_of_one_code_by_their_multipliers(
    name: str, rounding: o.Rounding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As beside ratios so large that 32 bits do not hold the code times the factor."""
    monkeypatch.setattr("edgeq.emit.c_numbers.SMALL_SUMS", 0)
    board, graph = installed(find_board(name)), small_network()
    chosen = replace(target(TARGET_OF[name]), rounding=rounding)
    integer = pruned(lowered(graph, chosen, inputs_of(graph)), seed=5)
    emit(integer, chosen, tmp_path / "out", "net", {}, {})
    document, found = read_folder(tmp_path / "out"), measure(board, tmp_path / "out", golden(tmp_path / "out"))
    crcs = [zlib.crc32(to_memory(found.outputs[port["name"]]).tobytes()) for port in document["outputs"]]
    assert crcs == document["golden"]["outputs"]
    assert sum(len(np.unique(codes)) for codes in found.outputs.values()) > 5


@pytest.mark.parametrize("name", ["rv32imc-sim", "cortex-m4-sim", "cortex-m55-sim"])
def test_a_transformer_equals_the_reference(name: str, tmp_path: Path) -> None:
    board = installed(find_board(name))
    folder_of(small_transformer(), target(TARGET_OF[name]), tmp_path / "out")
    document, found = read_folder(tmp_path / "out"), measure(board, tmp_path / "out", golden(tmp_path / "out"))
    (codes,) = found.outputs.values()
    assert zlib.crc32(to_memory(codes).tobytes()) == document["golden"]["outputs"][0]
    assert len(np.unique(codes)) > 4 and 100 < found.stack_bytes < 4096


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rv32imc-sim", "cortex-m4-sim"])
def test_the_classifier_of_the_zoo_equals_the_reference(name: str, tmp_path: Path) -> None:
    board = installed(find_board(name))
    graph = simplify(open_model("zoo:classifier").graph)
    folder_of(graph, target(TARGET_OF[name]), tmp_path / "out")
    document, found = read_folder(tmp_path / "out"), measure(board, tmp_path / "out", golden(tmp_path / "out"))
    (codes,) = found.outputs.values()
    assert zlib.crc32(to_memory(codes).tobytes()) == document["golden"]["outputs"][0]
    assert len(np.unique(codes)) > 4 and document["macs"] > 40_000_000
    assert document["arena_bytes"] < 65_536 + 1_024  # what attention holds, and the sums of three pixels


@pytest.mark.parametrize("name", ["rv32imc-sim", "cortex-m4-sim"])
def test_both_simulators_count_alike(name: str, folders: dict[str, Path]) -> None:
    pytest.importorskip("unicorn")
    board, document = installed(find_board(name)), read_folder(folders[name])
    arena = bytes(np.random.default_rng(0).integers(0, 256, document["arena_bytes"], dtype=np.uint8))
    with tempfile.TemporaryDirectory() as temporary:
        built = build(board, folders[name], document, Path(temporary))
        (after, counts, depth), (other, marks, other_depth) = (
            simulated(simulator.run, board, built.program, arena) for simulator in (qemu, sim)
        )
    assert np.diff(counts, axis=0).tolist() == np.diff(marks, axis=0).tolist()
    assert depth == other_depth
    for port in document["outputs"]:
        span = slice(port["offset"], port["offset"] + port["bytes"])
        assert after[span] == other[span]


@pytest.mark.parametrize("name", ["rv32imc-sim", "cortex-m7-sim"])
def test_wheels_alone_are_enough(name: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("unicorn")
    pytest.importorskip("ziglang")
    monkeypatch.setattr(qemu, "is_available", lambda board: False)
    board = replace(find_board(name), compiler="a compiler that is not installed")
    found, document = measure(board, folders[name], golden(folders[name])), read_folder(folders[name])
    crcs = [zlib.crc32(to_memory(found.outputs[port["name"]]).tobytes()) for port in document["outputs"]]
    assert crcs == document["golden"]["outputs"] and found.how.startswith("unicorn")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rv32imc-sim", "cortex-m4-sim", "cortex-m55-sim"])
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(code_nets(8, transformers=True))
def test_random_networks_equal_the_reference_on_a_board(name: str, graph: Graph) -> None:
    board = installed(find_board(name))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "out"
        folder_of(graph, target(TARGET_OF[name]), folder)
        found, document = measure(board, folder, golden(folder)), read_folder(folder)
        crcs = [zlib.crc32(to_memory(found.outputs[port["name"]]).tobytes()) for port in document["outputs"]]
        assert crcs == document["golden"]["outputs"]
        assert sum(len(np.unique(codes)) for codes in found.outputs.values()) > 3


def test_bench_reports_every_figure(folders: dict[str, Path]) -> None:
    installed(find_board("rv32imc-sim"))
    report = bench_artifact(BenchRequest(folders["rv32imc-sim"] / "net_model.c", ("rv32imc-sim",)))
    names = {row.metric for row in report.rows}
    assert names >= {"instructions", "instructions_per_mac", "macs", "flash_bytes", "ram_bytes", "stack_bytes"}
    assert report.exit == 0 and sum(row["share"] for row in report.layers) == pytest.approx(1, abs=0.01)
    assert report.value("flash_bytes", "rv32imc-sim") > report.value("constant_bytes", "rv32imc-sim")  # type: ignore[operator]


def test_a_result_that_differs_ends_with_exit_code_5(folders: dict[str, Path], tmp_path: Path) -> None:
    installed(find_board("rv32imc-sim"))
    copy = tmp_path / "copy"
    shutil.copytree(folders["rv32imc-sim"], copy)
    source = (copy / "net_model.c").read_text()
    (copy / "net_model.c").write_text(source.replace(".stride_w = 2", ".stride_w = 1", 1))
    report = bench_artifact(BenchRequest(copy, ("rv32imc-sim",)))
    assert report.exit == 5 and any("NOT equal" in note for note in report.notes)


def test_a_program_that_does_not_fit_is_refused(folders: dict[str, Path]) -> None:
    board = installed(find_board("rv32imc-sim"))
    for limits in ({"flash_bytes": 4096}, {"ram_bytes": 4096}):
        with pytest.raises(BoardError, match="does not fit"):
            measure(replace(board, **limits), folders["rv32imc-sim"], golden(folders["rv32imc-sim"]))  # type: ignore[arg-type]


def test_errors_are_typed(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean cortex-m4-sim"):
        find_board("cortex-m4")
    with pytest.raises(UsageError, match="no folder of generated C"):
        bench_artifact(BenchRequest(tmp_path, ("rv32imc-sim",)))
    board, folder = installed(find_board("rv32imc-sim")), tmp_path / "broken"
    shutil.copytree(folders["rv32imc-sim"], folder)
    (folder / "net_model.c").write_text("#error no")
    with pytest.raises(BoardError, match="refused"):
        measure(board, folder, golden(folder))
