"""`edgeq export --latency-gate BOARD`: INT8 only where the board is quicker for it.

The INT8 engine and the FP16 engine of the same network are profiled on the board; operators that INT8 slows down stay in
float, and the result is kept if the whole network is quicker for it.
"""

from __future__ import annotations

import glob
import tempfile
from dataclasses import replace
from pathlib import Path

from edgeq.boards.board import Board
from edgeq.boards.device import Settings
from edgeq.boards.jetson import Slower
from edgeq.errors import EdgeqError, UsageError
from edgeq.flow.export import export_model
from edgeq.flow.fleet import find_boards, on_each
from edgeq.flow.on_board import TENSORRT, run_on
from edgeq.flow.request import ExportRequest
from edgeq.flow.slower_layers import slower_on
from edgeq.progress import Progress, silent
from edgeq.report import Report, Row
from edgeq.targets import find_target

SETTINGS = Settings()


def export_with_latency_gate(request: ExportRequest, board: str, progress: Progress = silent) -> Report:
    """Export, and export again without INT8 where that is quicker on `board`. Raises UsageError and the board's errors.

    The report gives the median latency before and after, and names what stays in float.
    """
    target = find_target(request.target)
    if target.runtime != "tensorrt" or not target.is_integer or request.dry_run:
        raise UsageError("--latency-gate is for INT8 engines of TensorRT", value=request.target, allowed="jetson-int8")
    report = export_model(request, progress)
    folder = Path(report.artifact[0]["path"]).parent
    with tempfile.TemporaryDirectory(prefix="edgeq-gate-") as temporary:
        fp16 = Path(temporary) / "fp16"
        export_model(_in_float(request, fp16), progress)
        slower, before_ms = _measured(board, _model(folder), _model(fp16))
        names = tuple(dict.fromkeys(glob.escape(name) for item in slower for name in item.operators))
        if not names:
            report.notes.append(f"latency gate: nothing is slower in INT8 than in FP16 on {board}")
            report.rows.append(_row(before_ms, board, "INT8"))
            return report
        gated = replace(request, keep_real=(*request.keep_real, *names))
        other = Path(temporary) / "gated"
        export_model(replace(gated, out=other), progress)
        _, after_ms = _measured(board, _model(other), None)
    told = ", ".join(item.describe() for item in slower)
    if after_ms < before_ms:
        report = export_model(replace(gated, out=folder, exist_ok=True), progress)
        report.notes.append(f"latency gate: kept in float, quicker on {board}: {told}")
    else:
        report.notes.append(f"latency gate: slower in INT8 on {board}, but the whole is not quicker without: {told}")
    report.rows += [_row(before_ms, board, "INT8"), _row(after_ms, board, "INT8 where it is quicker", "_gated")]
    return report


def _in_float(request: ExportRequest, out: Path) -> ExportRequest:
    """The same network for an FP16 engine, without anything that is about integers."""
    same = {
        name: getattr(request, name) for name in ("model", "preprocess", "imgsz", "arch", "trust_pickle", "threads")
    }
    return ExportRequest(**same, target="jetson-fp16", out=out)


def _model(folder: Path) -> Path:
    (found,) = folder.glob("*.onnx")
    return found


def _row(value: float, board: str, how: str, suffix: str = "") -> Row:
    return Row(f"latency_p50_ms{suffix}", value, "ms", 1, board, f"TensorRT, {how}")


def _measured(board: str, artifact: Path, against: Path | None) -> tuple[list[Slower], float]:
    """What is slower than in `against`, and the median latency in milliseconds."""

    async def measure(there: Board) -> tuple[list[Slower], float]:
        ran = await run_on(there, artifact, [], SETTINGS, runtime=TENSORRT)
        p50_ms = float(ran.document["timings"][0]["p50_ms"])
        if against is None:
            return [], p50_ms
        slower, _ = await slower_on(there, artifact, ran, against, SETTINGS)
        return slower, p50_ms

    (outcome,) = on_each(find_boards([board]), measure).values()
    if isinstance(outcome, EdgeqError):
        raise outcome
    return outcome
