"""`edgeq explore`: what each format of weights keeps of a model, and what its design costs on an FPGA board.

All designs run at one rate, so that the cost of a format is the share of the board that it fills. Quality is accuracy
where there are labelled images, else signal over noise at the outputs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgeq.datasets.dataset import Dataset
from edgeq.emit.artifact import output_folder
from edgeq.emit.hls import depths_of
from edgeq.emit.hls_boards import FpgaBoard, find_board
from edgeq.emit.hls_build import build
from edgeq.emit.hls_cost import Cost, design_cost, total
from edgeq.emit.hls_fold import choose_folds
from edgeq.errors import BudgetError, UsageError
from edgeq.flow.accelerator import device_of, exact_arithmetic
from edgeq.flow.check import REFERENCE, interpreter_run, measure
from edgeq.flow.export import as_computed
from edgeq.flow.inputs import (
    CalibrationSet,
    InputRule,
    calibration_set,
    choose_preprocess,
    evaluation_set,
    task_of,
    weigh_for_task,
)
from edgeq.flow.ranges import quantize
from edgeq.flow.run_files import write_report
from edgeq.flow.statistics import Inputs, inputs_of
from edgeq.frontend.model import Model, open_model
from edgeq.ir.graph import Graph
from edgeq.passes.copies import with_narrow_copies
from edgeq.passes.heads import split_head
from edgeq.passes.lower import lower
from edgeq.passes.simplify import simplify
from edgeq.progress import Progress, silent
from edgeq.quantize.insight import output_db
from edgeq.recipe import Recipe, weight_format
from edgeq.report import Report, Row
from edgeq.target import Target
from edgeq.targets import find_target

FORMATS = ("int8", "int6", "int5", "int4", "int3", "e2m4", "e2m3", "e2m2", "e2m1", "post4", "pot4")
FIXED = "fx8"
"""Integers of 8 bits with scales that are powers of two: the target fpga-fx8."""

RESOURCES = ("lut", "ff", "dsp", "bram18")


@dataclass(frozen=True)
class ExploreRequest:
    """The options of `edgeq explore`."""

    model: str
    board: str = "pynq-z2"
    calib: str | None = None
    calib_images: int = 64
    images: int = 8
    data: str | None = None
    data_images: int | None = None
    formats: tuple[str, ...] = ()
    fps: float | None = None
    preprocess: str | None = None
    raw_head: bool = False
    out: Path | None = None
    exist_ok: bool = False
    no_cache: bool = False
    imgsz: str | None = None
    arch: str | None = None
    trust_pickle: bool = False


@dataclass(frozen=True)
class _Subject:
    """A model with the images that judge it; `depths` are those found so far, by the tokens of a design's streams."""

    request: ExploreRequest
    model: Model
    graph: Graph
    rule: InputRule
    calibration: CalibrationSet
    samples: Sequence[Inputs]
    data: Dataset | None
    depths: dict[tuple[int, ...], dict[str, int]] = field(default_factory=dict)


@exact_arithmetic()
def explore_model(request: ExploreRequest, progress: Progress = silent) -> Report:
    """Quality and cost of every format on one board, and their front; with a folder, a page that draws it.

    Raises EdgeqError as `export_model` does, and BudgetError if no format fits the board.
    """
    started = time.monotonic()
    board = find_board(request.board)
    names = request.formats or (FIXED, *FORMATS)
    targets = {name: _target(name) for name in names}
    subject = _subject(request)
    folder = output_folder(request.out, subject.model.name, "explore", exist_ok=request.exist_ok)
    report = Report("explore", board.name)
    lowered = {}
    for name, target in targets.items():
        lowered[name] = _lowered(subject, target, progress)
    cycles = _cycles(subject, board, list(lowered.values()))
    found = [_judged(subject, name, graph, board, cycles, report, progress) for name, graph in lowered.items()]
    if all(item["share"] is None for item in found):
        raise BudgetError("no format fits the board", where=board.name, next_step=report.notes[0])
    front: dict[str, Any] = {
        "board": board.name,
        "fps": board.clock_mhz * 1e6 / cycles,
        "quality": _quality(subject),
        "formats": on_front(found),
    }
    report.manifest = {"model": request.model, "front": front}
    report.notes += [
        f"{i['formats']}: {i['quality']:.1f} at {i['share']:.1%} of {board.name}" for i in found if i["share"]
    ]
    report.notes.append(f"on the front: {', '.join(item['formats'] for item in front['formats'] if item['on_front'])}")
    report.seconds = time.monotonic() - started
    write_report(folder, report)
    report.notes.append(f"wrote {folder}/report.html")
    return report


def _target(name: str) -> Target:
    """The target with weights of the format called `name`. Raises UsageError."""
    if name == FIXED:
        return find_target("fpga-fx8")
    return replace(find_target("fpga-int4"), weight=weight_format(name))


def _subject(request: ExploreRequest) -> _Subject:
    if request.calib is None:
        raise UsageError("exploring needs images", next_step="Give --calib a folder of typical images.")
    model = open_model(request.model, imgsz=request.imgsz, arch=request.arch, trust_pickle=request.trust_pickle)
    whole = simplify(model.graph)
    head = split_head(whole) if request.raw_head else None
    graph = as_computed(head.trunk if head else whole, find_target("fpga-int4"))
    rule, task = choose_preprocess(request.preprocess, model), task_of(model)
    images = calibration_set(request.calib, request.calib_images, rule, task, device_of(None))
    images = replace(images, weigh=weigh_for_task(task, model, graph))
    data = evaluation_set(request.data, request.data_images, rule, task) if request.data else None
    if data is not None and head is not None:
        raise UsageError(
            "a raw head has no accuracy", value="--raw-head with --data", next_step="Leave one of them out."
        )
    return _Subject(request, model, graph, rule, images, list(inputs_of(graph, images.sample(request.images))), data)


def _lowered(subject: _Subject, target: Target, progress: Progress) -> Graph:
    recipe = Recipe(target.estimator, output_codes=subject.request.raw_head)
    graph = with_narrow_copies(subject.graph, recipe)
    found = quantize(
        graph,
        target,
        recipe,
        subject.calibration,
        subject.model.digest,
        progress,
        use_cache=not subject.request.no_cache,
    )
    return lower(graph, found.plan)


def _cycles(subject: _Subject, board: FpgaBoard, graphs: Sequence[Graph]) -> int:
    """Cycles that a frame may take: as asked, or the fewest that every format reaches which fits the board at all."""
    if subject.request.fps is not None:
        return int(board.clock_mhz * 1e6 / subject.request.fps)
    reached = []
    for graph in graphs:
        with suppress(BudgetError):
            reached.append(_cost(subject, graph, board, 0).cycles)
    if not reached:
        _cost(subject, graphs[0], board, 0)  # which says what is missing, and names a board that is large enough
    return max(reached)


def _judged(
    subject: _Subject, name: str, graph: Graph, board: FpgaBoard, cycles: int, report: Report, progress: Progress
) -> dict[str, Any]:
    """What one format keeps and costs; what does not fit has no cost, and a note says why."""
    quality = _measured(subject, name, graph, report, progress)
    item: dict[str, Any] = {"formats": f"{name}/int8", "quality": quality, "share": None, **dict.fromkeys(RESOURCES)}
    try:
        cost = _cost(subject, graph, board, cycles)
    except BudgetError as error:
        report.notes.append(f"{name}: {error}")
        return item
    for resource in RESOURCES:
        report.rows.append(Row(resource, getattr(cost, resource), "", 1, name, "estimated from formulas"))
    shares = {resource: getattr(cost, resource) / getattr(board, resource) for resource in RESOURCES}
    found = {resource: getattr(cost, resource) for resource in RESOURCES}
    return {**item, **found, "share": max(shares.values()), "cycles": cost.cycles}


def _cost(subject: _Subject, graph: Graph, board: FpgaBoard, cycles: int) -> Cost:
    """The cost of a design; what depths its streams need depends on what flows, not on formats."""
    plain = build(graph, {}, "design", graph.name)
    shape = tuple(stream.count for stream in plain.streams)
    if shape not in subject.depths:
        subject.depths[shape] = depths_of(plain)
    depths = subject.depths[shape]
    return total(design_cost(build(graph, choose_folds(graph, board, cycles, depths), "design", graph.name), depths))


def _measured(subject: _Subject, name: str, graph: Graph, report: Report, progress: Progress) -> float:
    """Accuracy on labelled images, or signal over noise on calibration images; its row goes into the report."""
    if subject.data is None:
        found = output_db(subject.graph, graph, subject.samples, subject.calibration.weigh)
        report.rows.append(Row("sqnr", found, "dB", len(subject.samples), name, "signal over noise at the outputs"))
        return found
    rows = measure(
        subject.data,
        subject.rule,
        subject.model.metadata,
        {REFERENCE: interpreter_run(graph, subject.calibration.device)},
        progress,
    )
    report.rows += [replace(row, where=name) for row in rows]
    return rows[0].value


def _quality(subject: _Subject) -> str:
    return "SQNR dB" if subject.data is None else "accuracy"


def on_front(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each of `found` with whether no other is at least as good at no more cost, and better in one of the two."""

    def beats(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
        pairs = (a["quality"], -a["share"]), (b["quality"], -b["share"])
        return all(x >= y for x, y in zip(*pairs, strict=True)) and pairs[0] != pairs[1]

    held = [item for item in found if item["share"] is not None]
    return [
        {**item, "on_front": item["share"] is not None and not any(beats(other, item) for other in held)}
        for item in found
    ]
