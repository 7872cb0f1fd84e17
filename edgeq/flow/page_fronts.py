"""The section of the report's page about a sweep: quality over cost, a chart for each group of cells that compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeq.flow.charts import Mark, trade_off_chart
from edgeq.flow.page_table import Document, Section, table
from edgeq.flow.results import GROUP


def front_sections(points: Sequence[Document], manifest: Mapping[str, Any]) -> list[Section]:
    """The chart of every group, and the cells on its front as a table."""
    if not points:
        return []
    targets = list(dict.fromkeys(point["target"] for point in points))
    unit = f" {manifest['cost_unit']}" if manifest["cost_unit"] else ""
    cost, quality = f"{manifest['cost']}{unit}", str(manifest["quality"])
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


def _mark(point: Document) -> Mark:
    return Mark(point["cost"], point["quality"], point["on_front"], f"{point['target']} {point['recipe']}")
