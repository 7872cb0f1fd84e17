"""`edgeq validate`: accuracy and latency of an artifact in its own runtime, here and on boards, beside the float model.

Outputs made on a board are measured by the code that measures those made here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgeq.errors import UsageError
from edgeq.flow.artifacts import open_runtime
from edgeq.flow.check import (
    ARTIFACT,
    FP32,
    Run,
    apply_accuracy_budget,
    float_runtime,
    latency_rows,
    measure,
    runtime_run,
)
from edgeq.flow.fleet import find_boards
from edgeq.flow.inputs import choose_preprocess, evaluation_set, task_of
from edgeq.flow.on_board import check_boards, primary_of
from edgeq.flow.run_files import write_beside
from edgeq.flow.validate_boards import measure_on_boards
from edgeq.frontend.model import Model, open_model, ports_of
from edgeq.passes.simplify import simplify
from edgeq.progress import Progress, silent
from edgeq.report import Report


@dataclass(frozen=True)
class ValidateRequest:
    """The options of `edgeq validate`."""

    artifact: str
    data: str
    data_images: int | None = None
    against: str | None = None
    preprocess: str | None = None
    max_drop: Mapping[str, float] = field(default_factory=dict)
    imgsz: str | None = None
    arch: str | None = None
    trust_pickle: bool = False
    threads: int | None = None
    boards: tuple[str, ...] = ()


def validate_artifact(request: ValidateRequest, progress: Progress = silent) -> Report:
    """Measure a written artifact on labelled images; with `against`, also the float model and the budgets.

    Raises UsageError for files that are not there, UnsupportedError for what cannot be run or measured, and BoardError
    if a board fails.
    """
    started = time.monotonic()
    boards = find_boards(request.boards, progress) if request.boards else []
    if request.max_drop and request.against is None:
        raise UsageError("--max-drop compares with a float model", next_step="Give --against MODEL as well.")
    path = primary_of(Path(request.artifact))
    if boards:
        check_boards(path, boards)
    runtime = open_runtime(path, request.threads)
    artifact = ports_of(path.stem, runtime.input_shapes, runtime.output_shapes, runtime.metadata)
    report = Report("validate", artifact.metadata.get("edgeq.target"))
    runs: dict[str, Run] = {}
    if request.against:
        against = open_model(
            request.against,
            imgsz=request.imgsz or _size(artifact),
            arch=request.arch,
            trust_pickle=request.trust_pickle,
        )
        baseline = float_runtime(simplify(against.graph), request.threads)
        runs[FP32] = runtime_run(baseline)
        report.rows += latency_rows(baseline, FP32)
    runs[ARTIFACT] = runtime_run(runtime)
    if runtime.is_timed:
        report.rows += latency_rows(runtime, ARTIFACT)
    rule = choose_preprocess(request.preprocess, artifact)
    data = evaluation_set(request.data, request.data_images, rule, task_of(artifact))
    report.notes.append(f"preprocessing ({rule.how}): {rule.preprocess.describe()}")
    if boards:
        measure_on_boards(report, path, runtime, boards, data, rule, artifact.metadata, runs, progress)
    else:
        report.rows += measure(data, rule, artifact.metadata, runs, progress, report.pictures)
    apply_accuracy_budget(report, request.max_drop, [board.name for board in boards])
    report.seconds = time.monotonic() - started
    write_beside(path, report)
    return report


def _size(artifact: Model) -> str | None:
    shape = artifact.graph.types[artifact.graph.inputs[0]].shape
    return f"{shape[2]}x{shape[3]}" if len(shape) == 4 else None
