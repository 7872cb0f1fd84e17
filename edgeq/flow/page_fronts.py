"""The section of the report's page about a sweep: quality over cost, a chart for each group of cells that compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeq.flow.charts import Mark, trade_off_chart
from edgeq.flow.page_table import Document, Section, table
from edgeq.flow.results import GROUP


def front_sections(points: Sequence[Document], manifest: Mapping[str, Any]) -> list[Section]:
    """The chart of every group, and the cells on its front as a table."""
    if not points:
        return []
    points = [{**point, "model": name} for point, name in zip(points, model_names(points), strict=True)]
    targets = list(dict.fromkeys(point["target"] for point in points))
    cost, quality = axis_names(manifest)
    charts = []
    for group in dict.fromkeys(tuple(point[axis] for axis in GROUP) for point in points):
        mine = [point for point in points if tuple(point[axis] for axis in GROUP) == group]
        series = {target: [_mark(point) for point in mine if point["target"] == target] for target in targets}
        title = ", ".join(group)
        svg = trade_off_chart(series, (cost, quality), f"{quality} over {cost}: {title}")
        charts.append({"wide": False, "title": title, "svg": svg})
    best = [point for point in points if point["on_front"]]
    lines = [
        [point["target"], point["recipe"], *(point[axis] for axis in GROUP), f"{point['cost']:.4g}",
         f"{point['quality']:.4g}"]
        for point in best
    ]  # fmt: skip
    note = "Filled: no other cell of the chart is better in both. A pointer on a mark shows what it is."
    tables = [table(["target", "recipe", *GROUP, cost, quality], lines)]
    return [
        {"title": "What it costs and what it gives", "note": note, "key": targets, "charts": charts, "tables": tables}
    ]


def axis_names(manifest: Mapping[str, Any]) -> tuple[str, str]:
    """Cost with its unit, unless its name says it, and quality."""
    cost, unit = str(manifest["cost"]), str(manifest["cost_unit"])
    return cost if not unit or cost.endswith(unit.lower()) else f"{cost} [{unit}]", str(manifest["quality"])


def model_names(points: Sequence[Document]) -> list[str]:
    """Of every point: the last part of its model's path, or the whole path where two are alike."""
    models = {str(point["model"]) for point in points}
    short = {model: Path(model).name for model in models}
    distinct = len(set(short.values())) == len(models)
    return [short[point["model"]] if distinct else str(point["model"]) for point in points]


def _mark(point: Document) -> Mark:
    return Mark(point["cost"], point["quality"], point["on_front"], f"{point['target']} {point['recipe']}")
