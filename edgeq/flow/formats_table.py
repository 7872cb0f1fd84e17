"""`edgeq formats` on a terminal: the best format of every layer at every width, or all formats of few layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from edgeq.flow.format_rows import FormatStudy, Measured, best_by_bits

FEW_LAYERS = 4
"""Up to so many layers every format has a row."""


def print_formats(study: FormatStudy, console: Console, *, quiet: bool = False) -> None:
    """The tables, the recommendation, and (unless `quiet`) notes."""
    chosen = {row.layer: row for row in study.recommended}
    for kind in dict.fromkeys(row.kind for row in study.rows):
        rows = [row for row in study.rows if row.kind == kind]
        layers = list(dict.fromkeys(row.layer for row in rows))
        made = _by_format(rows, layers) if len(layers) <= FEW_LAYERS else _by_layer(rows, layers, chosen)
        made.title = f"{kind}s: SQNR in dB" + ("" if len(layers) <= FEW_LAYERS else ", best format of each width")
        console.print(made)
        if len(layers) > FEW_LAYERS:
            console.print(_summary(rows))
    if not quiet:
        for note in study.notes:
            console.print(f"note: {note}", highlight=False)


def _by_format(rows: Sequence[Measured], layers: Sequence[str]) -> Table:
    made = Table("format", "bits", *layers)
    for name in dict.fromkeys(row.name for row in sorted(rows, key=lambda row: row.bits)):
        mine = {row.layer: row for row in rows if row.name == name}
        bits = next(iter(mine.values())).bits
        made.add_row(name, f"{bits:g}", *(f"{mine[layer].db:.1f}" if layer in mine else "" for layer in layers))
    return made


def _by_layer(rows: Sequence[Measured], layers: Sequence[str], chosen: dict[str, Measured]) -> Table:
    weights = rows[0].kind == "weight"
    best = {layer: best_by_bits([row for row in rows if row.layer == layer]) for layer in layers}
    widths = sorted({bits for found in best.values() for bits in found})
    made = Table("layer", *(f"{bits} bits" for bits in widths), *(["recommended"] if weights else []))
    for layer in layers:
        cells = [f"{best[layer][b].name} {best[layer][b].db:.1f}" if b in best[layer] else "" for b in widths]
        made.add_row(layer, *cells, *([chosen[layer].name if layer in chosen else ""] if weights else []))
    return made


def _summary(rows: Sequence[Measured]) -> Table:
    made = Table("format", "bits", "median", "lowest", "layers", title=f"{rows[0].kind}s by format")
    for name in dict.fromkeys(row.name for row in sorted(rows, key=lambda row: row.bits)):
        mine = [row for row in rows if row.name == name]
        db = [row.db for row in mine]
        made.add_row(name, f"{mine[0].bits:g}", f"{np.median(db):.1f}", f"{min(db):.1f}", str(len(mine)))
    return made
