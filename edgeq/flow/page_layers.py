"""The sections of the report's page about layers: ranges and noise, instructions, agreement with the reference."""

from __future__ import annotations

from collections.abc import Sequence

from edgeq.flow.charts import range_bar, share_bar
from edgeq.flow.page_table import Document, Section, cell, table
from edgeq.formats import level_range, parse_format


def layer_sections(document: Document) -> list[Section]:
    """Ranges and noise of every value."""
    layers = [layer for layer in document["layers"] if "scale" in layer]
    if not layers:
        return []
    ranges = {layer["key"]: _range(layer) for layer in layers}
    widest = max(max(abs(low), abs(high)) for low, high in ranges.values())
    noise = [layer["sqnr_db"] for layer in layers if layer.get("sqnr_db") is not None]
    most = max(noise, default=1.0)
    shifted = any("shift" in layer for layer in layers)
    head = ["value", "range (logarithmic)", "from", "to", "format", "estimator", "gain", "SQNR dB", ""]
    lines = []
    for layer in layers:
        low, high = ranges[layer["key"]]
        sqnr = layer.get("sqnr_db")
        line = [
            layer["key"], cell("", svg=range_bar(low, high, widest, f"from {low:.3g} to {high:.3g}")),
            f"{low:.3g}", f"{high:.3g}", layer["format"], layer["estimator"],
            "" if layer["gain"] is None else f"{layer['gain']:.2f}",
            "" if sqnr is None else f"{sqnr:.1f}",
            "" if sqnr is None else cell("", svg=share_bar(sqnr / max(most, 1e-9), f"{sqnr:.1f} dB")),
        ]  # fmt: skip
        lines.append([*line, f"{layer['shift']:.2f}" if "shift" in layer else ""] if shifted else line)
    note = (
        "SQNR: the value in the integer network beside the real one on calibration images, errors of all layers before"
        " included. Gain: output noise of the observed range over that of the chosen one."
    )
    if shifted:
        note += " Shift: the range in degraded images as a multiple of that in clean ones."
        head.append("shift")
    worst = f"Lowest SQNR {min(noise):.1f} dB. " if noise else ""
    values = table(head, lines, f"{len(lines)} values", folded=True)
    return [{"title": "Layers", "note": worst + note, "tables": [values]}]


def _range(layer: Document) -> tuple[float, float]:
    low, high = level_range(parse_format(layer["format"]), layer["zero_point"])
    return low * layer["scale"], high * layer["scale"]


def board_sections(layers: Sequence[Document]) -> list[Section]:
    """What boards counted or timed of every layer."""
    counted = [layer for layer in layers if "instructions" in layer]
    timed = [layer for layer in layers if "mean_ms" in layer]
    found: list[Section] = []
    if counted:
        heads = ["instructions", "cycles"] if any("cycles" in row for row in counted) else ["instructions"]
        lines = [
            [*_layer(row), *(f"{row[h]:,}" if h in row else "" for h in heads), f"{row['macs']:,}", *_share(row)]
            for row in counted
        ]
        counts = table(["layer", "kind", *heads, "MACs", "share", ""], lines)
        found.append({"title": f"{' and '.join(heads).capitalize()} by layer", "tables": [counts]})
    if timed:
        lines = [[*_layer(row), f"{row['mean_ms']:.4f}", *_share(row)] for row in timed]
        found.append({"title": "Times by layer", "tables": [table(["layer", "precision", "ms", "share", ""], lines)]})
    return found


def _layer(row: Document) -> list[str]:
    return [f"{row['board']} {row['value']}", row["kind"]]


def _share(row: Document) -> list[object]:
    share = f"{row['share']:.1%}"
    return [share, cell("", svg=share_bar(row["share"], share))]


def agreement_sections(items: Sequence[Document]) -> list[Section]:
    """How far the artifact is from the reference."""
    if not items:
        return []
    lines = [
        [item["value"], item["kind"], item["where"], f"{item['equal_share']:.3%}", item["largest_code_difference"],
         "exact" if item["signal_to_noise_db"] is None else f"{item['signal_to_noise_db']:.1f}"]
        for item in items
    ]  # fmt: skip
    outputs = [line for line, item in zip(lines, items, strict=True) if item["kind"] == "output"]
    head = ["value", "kind", "where", "equal codes", "largest difference", "SNR dB"]
    tables = [table(head, outputs), table(head, lines, f"all {len(lines)} values", folded=True)]
    return [{"title": "Artifact beside the reference", "tables": tables}]
