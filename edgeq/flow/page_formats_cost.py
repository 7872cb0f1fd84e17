"""The section of the report's page about what formats cost on an FPGA and what they keep."""

from __future__ import annotations

from edgeq.flow.charts import Mark, trade_off_chart
from edgeq.flow.page_table import Document, Section, cell, table


def format_cost_sections(front: Document | None) -> list[Section]:
    """Formats by cost and quality, and their front; `front` is what `edgeq explore` put into the manifest."""
    if not front:
        return []
    found = [item for item in front["formats"] if item["share"] is not None]
    if not found:
        return []
    marks = {
        item["formats"]: [Mark(100 * item["share"], item["quality"], item["on_front"], item["formats"])]
        for item in found
    }
    axes = f"% of the fullest resource of {front['board']}", front["quality"]
    label = f"{front['quality']} over cost on {front['board']} at {front['fps']:.1f} frames a second"
    chart = {"wide": True, "title": "Front", "svg": trade_off_chart(marks, axes, label)}
    head = ["weights/activations", front["quality"], "LUT", "DSP", "BRAM (18 Kibit)", "FF", "fullest", "front"]
    lines = [
        [item["formats"], f"{item['quality']:.2f}", *(f"{item[name]:,}" for name in ("lut", "dsp", "bram18", "ff")),
         f"{item['share']:.0%}", cell("yes", tone="good") if item["on_front"] else ""]
        for item in found
    ]  # fmt: skip
    note = f"Every design runs at {front['fps']:.1f} frames a second at least; figures are estimates from formulas."
    return [{"title": "Formats on the board", "note": note, "charts": [chart], "tables": [table(head, lines)]}]
