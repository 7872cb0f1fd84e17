"""Where INT8 does not pay: the operators that the FP16 engine of the same network computes more quickly on a board."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx

from edgeq.boards.board import Board
from edgeq.boards.device import Ran, Settings
from edgeq.boards.jetson import Slower, slower_operators
from edgeq.errors import UsageError
from edgeq.flow.board_report import timing_rows
from edgeq.flow.on_board import TENSORRT, precision_of, run_on
from edgeq.report import Report

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
ACCUMULATOR = ".acc"
"""What the result of an operator is called before it becomes codes; see edgeq/emit/onnx_codes.py."""


def check_float(against: Path, runtime: str) -> None:
    """Raises UsageError unless `against` is a float file that can be compared with one for TensorRT."""
    if runtime != TENSORRT:
        raise UsageError("--against compares engines of TensorRT", value=runtime, allowed=TENSORRT)
    if not against.is_file():
        raise UsageError("no such file", where=against, next_step="edgeq export MODEL -t jetson-fp16 writes one.")
    if precision_of(against) != "fp16":
        raise UsageError("--against wants the float model", where=against, next_step="Export it with -t jetson-fp16.")


def weighted_nodes(path: Path) -> dict[str, str]:
    """Operators with weights by the names of their nodes: each is called by its result."""
    nodes = onnx.load(str(path), load_external_data=False).graph.node
    return {node.name: node.output[0].removesuffix(ACCUMULATOR) for node in nodes if node.op_type in WEIGHTED}


async def slower_on(
    board: Board, artifact: Path, ran: Ran, against: Path, settings: Settings
) -> tuple[list[Slower], Ran]:
    """What `artifact`, measured as `ran`, computes more slowly than `against`; and how that was measured."""
    other = await run_on(board, against, [], settings, runtime=TENSORRT)
    layers, others = ran.document["layers"], other.document["layers"]
    return slower_operators(layers, weighted_nodes(artifact), others, weighted_nodes(against)), other


async def report_slower(
    report: Report, board: Board, artifact: Path, ran: Ran, against: Path, settings: Settings
) -> None:
    """Name them, give the times of the float engine, and say what would take them out of INT8."""
    slower, other = await slower_on(board, artifact, ran, against, settings)
    report.rows += [replace(row, where=f"{board.name}, {against.name}") for row in timing_rows(other, board.name)]
    if not slower:
        report.notes.append(f"{board.name}: no operator is slower in INT8 than in FP16")
        return
    report.notes.append(f"{board.name}: slower in INT8 than in FP16: {', '.join(item.describe() for item in slower)}")
    names = dict.fromkeys(name for item in slower for name in item.operators)
    report.next_commands.append(
        "edgeq export MODEL -t jetson-int8 " + " ".join(f"--keep-real {name}" for name in names)
    )
