"""The sections of the report's page that robustness fills: accuracy, curves over severity, answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeq.flow.charts import Point, dot_chart, line_chart
from edgeq.flow.check import FP32
from edgeq.flow.page_table import Document, Section, cell, table
from edgeq.flow.robustness_tables import CLEAN, differences, main_metric, names, of_metric, relative_drop


def _point(cell: Document, x: float = 0.0) -> Point:
    return Point(x, *(100 * cell[key] for key in ("value", "low", "high")))


def robustness_sections(cells: Sequence[Document], preset: str | None) -> list[Section]:
    """All of them, from the records of `Figure.document`."""
    metric, runners, conditions = main_metric(cells), names(cells, "runner"), names(cells, "condition")
    found = of_metric(cells, metric)
    note = f"{metric} × 100 with 95 % bootstrap intervals; lost: points below fp32 on the same degraded images."
    sections: list[Section] = [
        {
            "title": "Accuracy under degradation",
            "note": note,
            "tables": [_accuracy_table(cells, name, folded=name != metric) for name in names(cells, "metric")],
        }
    ]
    if preset == "study":
        lines = [
            [c, *(f"{relative_drop(found, r, c, r):.2f} / {relative_drop(found, r, c, FP32):.2f}" for r in runners)]
            for c in conditions
        ]
        note = "Percent lost of the runner's own clean figure / of fp32's clean figure."
        sections.append({"title": "The study's table", "note": note, "tables": [table(["", *runners], lines)]})
    charts = _curves(found, runners, conditions, metric)
    if charts:
        sections.append({"title": "Accuracy over severity", "key": runners, "charts": charts})
    single = [condition for condition in conditions if ":" not in condition]
    if len(single) > 1:
        rows = {c: {r: _point(found[r, c]) for r in runners} for c in single}
        svg = dot_chart(rows, f"{metric} by condition and runner")
        sections.append(
            {
                "title": "Conditions side by side",
                "key": runners,
                "charts": [{"title": f"{metric} × 100", "svg": svg, "wide": True}],
            }
        )
    return sections + _answers(found, runners, conditions)


def _accuracy_table(cells: Sequence[Document], metric: str, *, folded: bool) -> Section:
    found, runners = of_metric(cells, metric), names(cells, "runner")
    shown = differences(runners)
    head = ["", *(name for runner in runners for name in (runner, *(title for title, _, _ in shown[runner])))]
    lines = []
    for condition in names(cells, "condition"):
        line: list[Any] = [condition]
        for runner in runners:
            figure = found[runner, condition]
            bounds = f"[{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"
            line.append(cell(f"{100 * figure['value']:.1f}", small=bounds))
            for _, key, good in shown[runner]:
                low, high = figure[f"{key}_low"], figure[f"{key}_high"]
                sure = 1 if low > 0 else -1 if high < 0 else 0
                tone = {good: "good", -good: "bad"}.get(sure, "")
                line.append(cell(f"{figure[key]:+.1f}", small=f"[{low:+.1f}, {high:+.1f}]", tone=tone))
        lines.append(line)
    return table(head, lines, metric, folded=folded)


def _curves(
    found: Mapping[tuple[str, str], Document], runners: Sequence[str], conditions: Sequence[str], metric: str
) -> list[Section]:
    charts: list[Section] = []
    for kind in dict.fromkeys(c.partition(":")[0] for c in conditions if ":" in c):
        steps = {0.0: CLEAN} | {float(c.partition(":")[2]): c for c in conditions if c.startswith(f"{kind}:")}
        series = {r: [_point(found[r, c], x) for x, c in steps.items()] for r in runners}
        ticks = {x: "clean" if x == 0 else f"{x:g}" for x in steps}
        charts.append(
            {"wide": False, "title": kind, "svg": line_chart(series, ticks, f"{metric} over severity of {kind}")}
        )
    return charts


def _answers(
    found: Mapping[tuple[str, str], Document], runners: Sequence[str], conditions: Sequence[str]
) -> list[Section]:
    lines = []
    for condition in conditions:
        for runner in runners:
            beside = found[runner, condition]
            if "agreement" in beside:
                refit = beside.get("refit_threshold")
                shown = (
                    f"{beside['agreement']:.1%}",
                    f"{beside['score_shift']:+.4f}",
                    "" if refit is None else f"{refit:.3f}",
                )
                lines.append([condition, runner, *shown])
    head = ["", "runner", "same answers", "score shift", "threshold of equal precision"]
    note = "Beside fp32 on the same images."
    return (
        [{"title": "Answers", "note": note, "tables": [table(head, lines, folded=True, title="By condition")]}]
        if lines
        else []
    )
