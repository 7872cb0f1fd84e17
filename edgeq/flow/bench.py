"""`edgeq bench`: an artifact on boards, simulated or real, compared with the reference, counted and timed: one report."""

from __future__ import annotations

import time
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.boards.bench import count
from edgeq.boards.board import Board, Measurement
from edgeq.boards.device import Settings, build_c, run_c
from edgeq.boards.simulated import SimulatedBoard
from edgeq.drawing import bars
from edgeq.emit.artifact import write_files
from edgeq.emit.c_golden import golden_codes
from edgeq.emit.c_layout import to_memory
from edgeq.errors import BoardError, EdgeqError
from edgeq.flow.board_report import layer_rows, middle_of, note_state, report_agreement, spread_rows, timing_rows
from edgeq.flow.check import EXIT_AGREEMENT, EXIT_BUDGET
from edgeq.flow.device_inputs import Trial, trial_of
from edgeq.flow.fleet import find_boards, on_each
from edgeq.flow.memory_budget import MemoryBudget, apply_memory_budget
from edgeq.flow.on_board import as_device, check_boards, folder_of, is_c, run_on, runtime_for
from edgeq.flow.run_files import write_beside
from edgeq.flow.slower_layers import check_float, report_slower
from edgeq.progress import Progress, silent
from edgeq.report import Report, Row
from edgeq.runtimes.folder import read_folder
from edgeq.runtimes.latency import MEASURED_RUNS, WARM_UP_RUNS

Bench = Callable[[Board], Awaitable[Report]]
"""The part of one board in the report."""


@dataclass(frozen=True)
class BenchRequest:
    """The options of `edgeq bench`.

    `artifact` is a folder of generated C (or a file in it), an ONNX or a TFLite file; `optimize` the compiler's -O option
    (by default -O2 for simulated boards, -O3 for others); `threads` are tried one after the other (default: all cores).
    `against` is a float ONNX file: the layers that its FP16 engine computes more quickly are named.
    With `repeat` everything is loaded, and an engine built, anew as many times: the spread is told.
    `picture` is where the profile of simulated boards is drawn.
    """

    artifact: Path
    boards: tuple[str, ...]
    optimize: str | None = None
    max_flash_kb: float | None = None
    max_ram_kb: float | None = None
    max_latency_ms: float | None = None
    picture: Path | None = None
    runs: int = MEASURED_RUNS
    warm_up: int = WARM_UP_RUNS
    threads: tuple[int, ...] = ()
    runtime: str | None = None
    against: Path | None = None
    repeat: int = 1

    @property
    def settings(self) -> Settings:
        """How boards with an operating system measure."""
        return Settings(self.threads, self.warm_up, self.runs, self.optimize or "-O3", fresh=self.repeat > 1)


def bench_artifact(request: BenchRequest, progress: Progress = silent) -> Report:
    """One report of all boards; exit code 5 if an output is not the reference's, 4 over budget, 6 if a board failed.

    Raises UsageError for what is no artifact or no board, and the board's error if none of them gave a result.
    """
    started = time.monotonic()
    boards = find_boards(request.boards, progress)
    check_boards(request.artifact, boards)
    report = Report("bench")
    bench = bench_on_boards(request)
    done = 0

    async def one(board: Board) -> Report:
        nonlocal done
        found = await bench(board)
        done += 1
        progress("measuring", done, len(boards))
        return found

    outcomes = on_each(boards, one)
    errors = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, EdgeqError)}
    if len(errors) == len(outcomes):
        raise next(iter(errors.values()))
    for name, outcome in outcomes.items():
        if isinstance(outcome, EdgeqError):
            report.notes.append(f"{name} failed: {outcome}")
            report.exit = report.exit or BoardError.exit_code
        else:
            _join(report, outcome)
    counted = [layer for layer in report.layers if "instructions" in layer]
    if request.picture is not None and counted:
        picture = profile_picture(request.artifact.name, counted).encode()
        write_files(request.picture.parent, {request.picture.name: picture})
    report.seconds = time.monotonic() - started
    write_beside(folder_of(request.artifact), report)
    return report


def bench_on_boards(request: BenchRequest) -> Bench:
    """What `bench_artifact` does on every board that it has entered."""
    return _c_bench(request) if is_c(request.artifact) else _file_bench(request)


def _join(report: Report, of_board: Report) -> None:
    """Add the part of one board."""
    report.target = of_board.target
    report.rows += of_board.rows
    report.layers += of_board.layers
    report.agreement += of_board.agreement
    report.notes += of_board.notes
    report.next_commands += of_board.next_commands
    report.exit = report.exit or of_board.exit


def _file_bench(request: BenchRequest) -> Bench:
    runtime = runtime_for(request.artifact, request.runtime)
    if request.against is not None:
        check_float(request.against, runtime)
    trial = trial_of(request.artifact)

    async def bench(board: Board) -> Report:
        return await _bench_file(request, trial, board)

    return bench


async def _bench_file(request: BenchRequest, trial: Trial, board: Board) -> Report:
    report = Report("bench", trial.target.name if trial.target else None)
    runs = [
        await run_on(board, request.artifact, trial.samples, request.settings, trial.ports, request.runtime)
        for _ in range(request.repeat)
    ]
    ran = middle_of(runs)
    report.rows += spread_rows(runs, board.name)
    report.layers += layer_rows(ran, board.name)
    report.rows += timing_rows(ran, board.name)
    note_state(report, ran, board.name)
    report_agreement(report, trial, ran.outputs, board.name)
    _apply_latency_budget(report, request, board.name)
    if request.against is not None:
        await report_slower(report, board, request.artifact, ran, request.against, request.settings)
    return report


def _c_bench(request: BenchRequest) -> Bench:
    folder = folder_of(request.artifact)
    document = read_folder(folder)
    golden = document["golden"]
    codes = golden_codes(
        {port["name"]: tuple(port["shape"]) for port in document["inputs"]}, golden["seed"], document["code_bits"]
    )

    async def bench(board: Board) -> Report:
        report = Report("bench")
        if isinstance(board, SimulatedBoard):
            (found,) = await count(board, folder, [codes], request.optimize or "-O2")
            report.rows += _rows(found, document["macs"], board.name)
            report.layers += _layers(found, document["layers"], board.name)
            _compare(report, found.outputs, document["outputs"], golden["outputs"], board.name)
            budget = MemoryBudget(request.max_ram_kb, request.max_flash_kb)
            apply_memory_budget(report, budget, document, found.flash_bytes, found.ram_bytes, board.name)
            return report
        device = as_device(board)
        built = [await build_c(device, folder, document, request.settings) for _ in range(request.repeat)]
        runs = [await run_c(device, program, [codes], request.settings) for program in built]
        ran = middle_of(runs)
        report.rows += spread_rows(runs, board.name)
        report.rows += timing_rows(ran, board.name)
        note_state(report, ran, board.name)
        _compare(report, ran.outputs[0], document["outputs"], golden["outputs"], board.name)
        _apply_latency_budget(report, request, board.name)
        return report

    return bench


def _rows(found: Measurement, macs: int, board: str) -> list[Row]:
    cycles = [("cycles", found.cycles, ""), ("cycles_per_mac", found.cycles / max(macs, 1), "")]
    rows = [
        ("instructions", found.instructions, ""),
        ("instructions_per_mac", found.instructions / max(macs, 1), ""),
        ("macs", macs, ""),
        *(cycles if found.cycles else []),
        ("flash_bytes", found.flash_bytes, "B"),
        ("code_bytes", found.code_bytes, "B"),
        ("constant_bytes", found.constant_bytes, "B"),
        ("ram_bytes", found.ram_bytes, "B"),
        ("arena_bytes", found.arena_bytes, "B"),
        ("stack_bytes", found.stack_bytes, "B"),
    ]
    return [Row(metric, value, unit, 1, board, found.how) for metric, value, unit in rows]


def _layers(found: Measurement, layers: Sequence[Mapping[str, Any]], board: str) -> list[dict[str, Any]]:
    spent = found.layer_cycles or found.layers
    return [
        {
            "board": board,
            "value": layer["value"],
            "kind": layer["kind"],
            "macs": layer["macs"],
            "instructions": count,
            **({"cycles": found.layer_cycles[k]} if found.cycles else {}),
            "share": round(spent[k] / max(sum(spent), 1), 4),
        }
        for k, (layer, count) in enumerate(zip(layers, found.layers, strict=True))
    ]


def profile_picture(title: str, layers: Sequence[Mapping[str, Any]]) -> str:
    """SVG: the instructions of every layer as bars, board after board."""
    colors = ("#588bae", "#c8553d", "#4c9f70", "#e0b04b", "#8d6a9f", "#777777")
    boards = list(dict.fromkeys(layer["board"] for layer in layers))
    rows = []
    for layer in layers:
        each = f", {layer['instructions'] / layer['macs']:.2f} per multiplication" if layer["macs"] else ""
        after = f"{layer['instructions']:,} ({layer['share']:.1%}{each})"
        label = f"{layer['value']} ({layer['kind']})"
        rows.append((label, float(layer["instructions"]), after, colors[boards.index(layer["board"]) % len(colors)]))
    return bars(f"{title}: instructions by layer", rows, ", then ".join(boards))


def _compare(
    report: Report, found: Mapping[str, Any], ports: Sequence[Mapping[str, Any]], wanted: Sequence[int], board: str
) -> None:
    for port, crc in zip(ports, wanted, strict=True):
        equal = zlib.crc32(to_memory(found[port["name"]]).tobytes()) == crc
        report.notes.append(f"{board}: output {port['name']} is {'' if equal else 'NOT '}equal to the reference")
        if not equal:
            report.exit = EXIT_AGREEMENT


def _apply_latency_budget(report: Report, request: BenchRequest, board: str) -> None:
    """Set the report's exit code to 4 when the median latency exceeds its budget."""
    found = report.value("latency_p50_ms", board)
    if request.max_latency_ms is not None and found is not None and found > request.max_latency_ms:
        report.notes.append(f"budget missed: {board} takes {found:.3g} ms, allowed {request.max_latency_ms:g}")
        report.exit = report.exit or EXIT_BUDGET
