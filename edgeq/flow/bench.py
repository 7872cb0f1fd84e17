"""`edgeq bench`: one inference of generated C on simulated boards, compared with the reference and counted."""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.boards.bench import measure
from edgeq.boards.board import Measurement, find_board
from edgeq.emit.c import golden_codes
from edgeq.emit.c_layout import to_memory
from edgeq.errors import UsageError
from edgeq.flow.run_files import write_beside
from edgeq.progress import Progress, silent
from edgeq.report import Report, Row
from edgeq.runtimes.native import read_folder

EXIT_BUDGET = 4
EXIT_AGREEMENT = 5


@dataclass(frozen=True)
class BenchRequest:
    """The options of `edgeq bench`: a folder of generated C (or a file in it), boards, the compiler's -O option, budgets."""

    artifact: Path
    boards: tuple[str, ...]
    optimize: str = "-O2"
    max_flash_kb: float | None = None
    max_ram_kb: float | None = None


def bench_artifact(request: BenchRequest, progress: Progress = silent) -> Report:
    """Instructions, flash, RAM and stack of one inference on every board; exit code 5 if an output is not the reference's.

    Raises UsageError for what is no folder of generated C or no board, and BoardError if a simulation fails.
    """
    started = time.monotonic()
    boards = [find_board(name) for name in request.boards]
    folder = request.artifact if request.artifact.is_dir() else request.artifact.parent
    if not request.artifact.exists():
        raise UsageError("no such artifact", where=request.artifact, next_step="edgeq export prints what it wrote.")
    document = read_folder(folder)
    golden = document["golden"]
    codes = golden_codes(
        {port["name"]: tuple(port["shape"]) for port in document["inputs"]}, golden["seed"], document["code_bits"]
    )
    report = Report("bench")
    for done, board in enumerate(boards, start=1):
        found = measure(board, folder, codes, request.optimize)
        report.rows += _rows(found, document["macs"], board.name)
        report.layers += _layers(found, document["layers"], board.name)
        _compare(report, found, document["outputs"], golden["outputs"], board.name)
        _apply_budgets(report, request, found, document["layers"], board.name)
        progress("simulating", done, len(boards))
    report.seconds = time.monotonic() - started
    write_beside(folder, report)
    return report


def _rows(found: Measurement, macs: int, board: str) -> list[Row]:
    rows = [
        ("instructions", found.instructions, ""),
        ("instructions_per_mac", found.instructions / max(macs, 1), ""),
        ("macs", macs, ""),
        ("flash_bytes", found.flash_bytes, "B"),
        ("code_bytes", found.code_bytes, "B"),
        ("constant_bytes", found.constant_bytes, "B"),
        ("ram_bytes", found.ram_bytes, "B"),
        ("arena_bytes", found.arena_bytes, "B"),
        ("stack_bytes", found.stack_bytes, "B"),
    ]
    return [Row(metric, value, unit, 1, board, found.how) for metric, value, unit in rows]


def _layers(found: Measurement, layers: Sequence[Mapping[str, Any]], board: str) -> list[dict[str, Any]]:
    total = max(found.instructions, 1)
    return [
        {
            "board": board,
            "value": layer["value"],
            "kind": layer["kind"],
            "macs": layer["macs"],
            "instructions": count,
            "share": round(count / total, 4),
        }
        for layer, count in zip(layers, found.layers, strict=True)
    ]


def _apply_budgets(
    report: Report, request: BenchRequest, found: Measurement, layers: Sequence[Mapping[str, Any]], board: str
) -> None:
    """Set the report's exit code to 4 when flash or RAM exceed their budget (1 kB is 1,024 bytes)."""
    if request.max_flash_kb is not None and found.flash_bytes > 1024 * request.max_flash_kb:
        report.notes.append(
            f"budget missed: {board} needs {found.flash_bytes / 1024:.1f} kB of flash, {found.constant_bytes / 1024:.1f}"
            f" of it constants; allowed {request.max_flash_kb:g}. Fewer channels, or weights of fewer bits, would help"
        )
        report.exit = report.exit or EXIT_BUDGET
    if request.max_ram_kb is not None and found.ram_bytes > 1024 * request.max_ram_kb:
        peak = max(layers, key=lambda layer: int(layer["memory_bytes"]))
        report.notes.append(
            f"budget missed: {board} needs {found.ram_bytes / 1024:.1f} kB of RAM, allowed {request.max_ram_kb:g}; most"
            f" at {peak['value']} ({peak['kind']}, {peak['memory_bytes'] / 1024:.1f} kB at once). A smaller input, or"
            " fewer channels there, would help"
        )
        report.exit = report.exit or EXIT_BUDGET


def _compare(
    report: Report, found: Measurement, ports: Sequence[Mapping[str, Any]], wanted: Sequence[int], board: str
) -> None:
    for port, crc in zip(ports, wanted, strict=True):
        equal = zlib.crc32(to_memory(found.outputs[port["name"]]).tobytes()) == crc
        report.notes.append(f"{board}: output {port['name']} is {'' if equal else 'NOT '}equal to the reference")
        if not equal:
            report.exit = EXIT_AGREEMENT
