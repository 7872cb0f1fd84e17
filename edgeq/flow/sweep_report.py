"""`edgeq report`: which cells of a sweep nobody should look at, and which are left: the fronts of quality over cost.

For each model, board and degradation apart. Cells are read in the order of their cost, so that a front is found in one
pass and only what is shown is kept.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeq.errors import UsageError, did_you_mean
from edgeq.flow.check import LOWER_IS_BETTER
from edgeq.flow.page_fronts import axis_names, model_names
from edgeq.flow.results import AXES, Results, judged, parse_where
from edgeq.flow.run_files import write_report
from edgeq.flow.sweep_table import write_table
from edgeq.report import Report, Row

COSTS = ("latency_p50_ms", "instructions", "file_bytes", "constant_bytes")
QUALITIES = ("map50-95", "top1", "delta1", "absrel", "rmse", "miou")
SHOWN_BESIDE = 200
"""So many cells of a group that are not on its front are shown."""
SHOWN_GROUPS = 24


@dataclass(frozen=True)
class SweepReportRequest:
    """The options of `edgeq report`: the sweep's folder, cells as AXIS=GLOB, the two metrics, and where to write.

    `table` is a file for all figures of those cells.
    """

    sweep: Path
    where: tuple[str, ...] = ()
    cost: str | None = None
    quality: str | None = None
    out: Path | None = None
    table: Path | None = None


@dataclass
class _Shown:
    groups: set[tuple[str, ...]] = field(default_factory=set)
    beside: dict[tuple[str, ...], int] = field(default_factory=dict)
    cells: int = 0


def report_sweep(request: SweepReportRequest) -> Report:
    """Fronts and counts of a sweep, also as a page, JSON and CSV beside its store. Raises UsageError."""
    started = time.monotonic()
    results = Results(request.sweep)
    report = Report("report")
    try:
        for state in ("done", "failed", "pending"):
            report.rows.append(
                Row(f"cells_{state}", results.count(state), "", results.count(), "sweep", str(results.path))
            )
        known = results.metrics()
        cost, quality = (
            _chosen("cost", request.cost, COSTS, known),
            _chosen("quality", request.quality, QUALITIES, known),
        )
        report.manifest = {
            "sweep": str(request.sweep), "where": list(request.where), "axes": {a: len(results.values(a)) for a in AXES},
            "cost": cost, "cost_unit": known.get(cost or "", ""), "quality": quality,
        }  # fmt: skip
        if cost and quality:
            report.points = _points(results, cost, quality, parse_where(request.where), report)
        else:
            missing = "accuracy: give the plan data, labelled images" if cost else "cost: no cell is done"
            report.notes.append(f"there are no fronts without a measure of {missing}")
        if request.table is not None:
            write_table(results, parse_where(request.where), request.table)
            report.artifact.append({"path": str(request.table), "bytes": request.table.stat().st_size})
    finally:
        results.close()
    report.seconds = time.monotonic() - started
    write_report(request.out or request.sweep, report)
    report.notes.append(f"wrote {(request.out or request.sweep) / 'report.html'}")
    return report


def _chosen(what: str, asked: str | None, usual: Sequence[str], known: Mapping[str, str]) -> str | None:
    """The metric asked for, or the first usual one that was measured. Raises UsageError for one that was not."""
    if asked is not None and asked not in known:
        raise UsageError(f"no cell has this {what}", value=asked, allowed=", ".join(sorted(known)) or "none is done",
                         next_step=did_you_mean(asked, known))  # fmt: skip
    return asked or next((metric for metric in usual if metric in known), None)


def _points(
    results: Results, cost: str, quality: str, where: Mapping[str, str], report: Report
) -> list[dict[str, Any]]:
    higher, shown, kept = quality not in LOWER_IS_BETTER, _Shown(), list[dict[str, Any]]()
    for point, on_front in judged(results.points(cost, quality, where, higher=higher), higher=higher):
        shown.cells += 1
        if point.group not in shown.groups and len(shown.groups) >= SHOWN_GROUPS:
            continue
        shown.groups.add(point.group)
        beside = shown.beside.get(point.group, 0)
        if on_front or beside < SHOWN_BESIDE:
            kept.append({**point.cell, "cost": point.cost, "quality": point.quality, "on_front": on_front})
            shown.beside[point.group] = beside + (not on_front)
    if len(kept) < shown.cells:
        report.notes.append(
            f"{len(kept):,} of {shown.cells:,} cells are shown: fronts, and some beside them, of {len(shown.groups)}"
            " groups; --where AXIS=GLOB chooses others"
        )
    return kept


def print_fronts(report: Report, console: Console | None = None) -> None:
    """The cells that are on a front, one line each."""
    manifest = report.manifest
    if not report.points:
        return
    table = Table(title="what no other cell beats in both")
    for heading in ("model", "board", "degradation", "target", "recipe"):
        table.add_column(heading, overflow="fold")
    for heading in axis_names(manifest):
        table.add_column(heading, justify="right")
    for point, model in zip(report.points, model_names(report.points), strict=True):
        if point["on_front"]:
            named = [Text(model), *(Text(str(point[axis])) for axis in ("board", "degradation", "target", "recipe"))]
            table.add_row(*named, f"{point['cost']:.4g}", f"{point['quality']:.4g}")
    (console or Console()).print(table)
