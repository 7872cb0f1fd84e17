"""The tables of `edgeq robustness`, for a terminal and as CSV, made from the report's cells alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from edgeq.flow.check import FP32, LOWER_IS_BETTER
from edgeq.report import Report

CLEAN = "clean"
MEAN = "mean of degraded"
Cells = Sequence[Mapping[str, Any]]


def main_metric(cells: Cells) -> str:
    """The metric that the tables show first."""
    return str(cells[0]["metric"])


def of_metric(cells: Cells, metric: str) -> dict[tuple[str, str], Mapping[str, Any]]:
    """The cells of one metric by (runner, condition)."""
    return {(cell["runner"], cell["condition"]): cell for cell in cells if cell["metric"] == metric}


def names(cells: Cells, key: str) -> list[str]:
    """The runners or conditions in their order."""
    return list(dict.fromkeys(str(cell[key]) for cell in cells))


def differences(runners: Sequence[str]) -> dict[str, list[tuple[str, str, int]]]:
    """By runner the differences that tables show: (title, key of a cell, the sign that is good news)."""
    found: dict[str, list[tuple[str, str, int]]] = {FP32: []}
    for runner in runners[1:]:
        found[runner] = [("lost", "lost_beside", -1)]
        if runner != runners[1]:
            found[runner].append((f"above {runners[1]}", "gained", 1))
    return found


def accuracy_table(cells: Cells, metric: str) -> Table:
    """One line per condition: the figure of each runner with its interval, points lost to FP32, points gained."""
    found, runners = of_metric(cells, metric), names(cells, "runner")
    table = Table(title=f"{metric} x 100 [95 % interval]; lost: points below fp32 on the same images")
    table.add_column("condition")
    shown = differences(runners)
    for runner in runners:
        for title in (runner, *(title for title, _, _ in shown[runner])):
            table.add_column(title, justify="right")
    for condition in names(cells, "condition"):
        line = [condition]
        for runner in runners:
            cell = found[runner, condition]
            line.append(f"{100 * cell['value']:.1f} [{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]")
            for _, key, _ in shown[runner]:
                line.append(f"{cell[key]:+.1f} [{cell[f'{key}_low']:+.1f}, {cell[f'{key}_high']:+.1f}]")
        table.add_row(*line)
    return table


def relative_drop(cells: Mapping[tuple[str, str], Mapping[str, Any]], runner: str, condition: str, base: str) -> float:
    """Percent lost of the clean figure of `base`; NaN where that is 0."""
    clean, value = cells[base, CLEAN]["value"], cells[runner, condition]["value"]
    sign = -1 if cells[base, CLEAN]["metric"] in LOWER_IS_BETTER else 1
    return float(sign * 100 * (clean - value) / clean) if clean else float("nan")


def study_table(cells: Cells, metric: str) -> Table:
    """The study's table: percent lost of the runner's own clean figure, and beside it of FP32's clean figure."""
    found, runners = of_metric(cells, metric), names(cells, "runner")
    table = Table(title=f"{metric}: relative drop in % of the own clean figure / of fp32's clean figure")
    table.add_column("condition")
    for runner in runners:
        table.add_column(runner, justify="right")
    for condition in names(cells, "condition"):
        drops = [[relative_drop(found, runner, condition, base) for base in (runner, FP32)] for runner in runners]
        table.add_row(condition, *(f"{own:.2f} / {other:.2f}" for own, other in drops))
    return table


def answers_table(cells: Cells, metric: str) -> Table:
    """How the answers of each artifact differ from FP32's on the same images."""
    found = of_metric(cells, metric)
    table = Table(title="answers beside fp32's on the same images")
    for column in ("condition", "runner", "agreement", "score shift", "refit threshold for equal precision"):
        table.add_column(column, justify="left" if column in ("condition", "runner") else "right")
    for (runner, condition), cell in sorted(
        found.items(), key=lambda item: names(cells, "condition").index(item[0][1])
    ):
        if "agreement" in cell:
            refit = cell.get("refit_threshold")
            shown = "" if refit is None else f"{refit:.3f}"
            table.add_row(condition, runner, f"{cell['agreement']:.1%}", f"{cell['score_shift']:+.4f}", shown)
    return table


def print_robustness(report: Report, console: Console) -> None:
    """All tables; the study's where its preset was measured."""
    metric = main_metric(report.cells)
    console.print(accuracy_table(report.cells, metric))
    if report.manifest.get("preset") == "study":
        console.print(study_table(report.cells, metric))
    answers = answers_table(report.cells, metric)
    if answers.row_count:
        console.print(answers)


def to_csv(records: Cells) -> bytes:
    """One line per record under the union of their keys."""
    keys = list(dict.fromkeys(key for record in records for key in record))
    file = io.StringIO()
    writer = csv.DictWriter(file, keys, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue().encode()
