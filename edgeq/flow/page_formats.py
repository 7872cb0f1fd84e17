"""The page of `edgeq formats`: signal over noise by bits and kind of format, the table of layers, the recommendation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeq.catalogue import Blocks, Choice, KMeans, Nupes
from edgeq.flow.charts import Point, line_chart, share_bar
from edgeq.flow.format_rows import FormatStudy, Measured
from edgeq.flow.page import render_sections
from edgeq.flow.page_table import Section, cell, table
from edgeq.formats import Codebook, Float, Int

_NOTE = (
    "SQNR in dB of each tensor alone, rounded to the format with the scales that edgeq would give it. Bits count a"
    " block's share of its scale. In the chart, the median over layers with the quarter below and above it."
)


def formats_page(study: FormatStudy) -> bytes:
    """The document; nothing in it is loaded from elsewhere."""
    kinds = [kind for kind in ("weight", "activation") if any(row.kind == kind for row in study.rows)]
    sections = [section for kind in kinds for section in _kind_sections(study, kind)]
    if study.recommended:
        sections.insert(1, _recommendation(study))
    subtitle = f"{len({row.layer for row in study.rows})} layers; formats for {study.target}"
    return render_sections(f"edgeq formats {study.model}", subtitle, sections)


def kind_of(choice: Choice) -> str:
    """The line of the chart that a format belongs to."""
    match choice:
        case Int():
            return "integer"
        case Float():
            return f"minifloat, {choice.exponent} exponent bits"
        case Codebook():
            return choice.name
        case KMeans():
            return "k-means"
        case Nupes():
            return "nupes"
        case Blocks():
            return "blocks with 2^n" if choice.power_of_two else "blocks"
        case _:
            return str(choice)


def finite(db: float) -> float:
    """dB for drawing: an exact tensor counts as 150."""
    return float(min(db, 150.0))


def _kind_sections(study: FormatStudy, kind: str) -> list[Section]:
    rows = [row for row in study.rows if row.kind == kind]
    title = f"{kind.capitalize()}s: signal over quantization noise"
    series: dict[str, list[Point]] = {}
    for name in dict.fromkeys(row.name for row in rows):
        mine = [row for row in rows if row.name == name]
        low, middle, high = np.percentile([finite(row.db) for row in mine], [25, 50, 75])
        series.setdefault(kind_of(mine[0].choice), []).append(
            Point(mine[0].bits, float(middle), float(low), float(high))
        )
    bits = sorted({round(row.bits) for row in rows})
    chart = line_chart(series, {b: f"{b} bits" for b in bits}, f"median SQNR of {kind}s by bits and kind of format")
    return [
        {"title": title, "note": _NOTE, "key": list(series), "charts": [{"wide": True, "title": "dB by bits", "svg": chart}]},
        {"title": f"{kind.capitalize()}s by layer", "tables": [_layer_table(rows)]},
    ]  # fmt: skip


def _layer_table(rows: Sequence[Measured]) -> Section:
    if len({row.name for row in rows}) > len({_column(row) for row in rows}):
        heads = list(dict.fromkeys(_column(row) for row in rows))
    else:
        heads = list(dict.fromkeys(row.name for row in rows))
    lines = []
    for layer in dict.fromkeys(row.layer for row in rows):
        mine = {(_column(row) if _column(row) in heads else row.name): row for row in rows if row.layer == layer}
        best = {
            b: max(r.db for r in mine.values() if round(r.bits) == b) for b in {round(r.bits) for r in mine.values()}
        }
        cells = [
            cell(f"{mine[h].db:.1f}", tone="good" if mine[h].db == best[round(mine[h].bits)] else "")
            if h in mine
            else ""
            for h in heads
        ]
        lines.append([layer, f"{next(iter(mine.values())).elements:,}", *cells])
    return table(["layer", "elements", *heads], lines)


def _column(row: Measured) -> str:
    """One column for a format and its unsigned sibling of as many bits."""
    if row.kind == "activation" and isinstance(row.choice, Int):
        return f"int{row.choice.bits}"
    if row.kind == "activation" and isinstance(row.choice, Float) and not row.choice.signed:
        return f"e{row.choice.exponent}m{row.choice.mantissa - 1}"
    return row.name


def _recommendation(study: FormatStudy) -> Section:
    most = max(finite(row.db) for row in study.recommended)
    lines = [
        [row.layer, f"{row.elements:,}", row.name, f"{row.bits:g}", f"{row.db:.1f}",
         cell("", svg=share_bar(finite(row.db) / max(most, 1e-9), f"{row.db:.1f} dB"))]
        for row in study.recommended
    ]  # fmt: skip
    head = ["layer", "elements", "format", "bits", "SQNR dB", ""]
    note = f"{study.mean_bits:.2f} bits a weight on average, of {study.avg_bits:g} allowed. " + " ".join(study.notes)
    text = {"title": "Options for edgeq quantize and edgeq export", "body": " \\\n".join(study.options), "open": False}
    return {"title": "Recommended weights", "note": note, "tables": [table(head, lines)], "texts": [text]}
