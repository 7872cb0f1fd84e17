"""What `edgeq formats` measured, as its page and its tables read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape
from typing import Any

import numpy as np

from edgeq.catalogue import Choice, short_name

SCHEMA = "edgeq.formats/1"


@dataclass(frozen=True)
class Measured:
    """One tensor in one format: `bits` with the share of a block's scale, `db` its SQNR (infinite where exact)."""

    layer: str
    kind: str
    elements: int
    choice: Choice
    bits: float
    db: float

    @property
    def name(self) -> str:
        """The name of the format."""
        return short_name(self.choice)

    def document(self) -> dict[str, Any]:
        """As plain JSON values; an exact tensor has no SQNR."""
        return {
            "layer": self.layer, "kind": self.kind, "elements": self.elements, "format": self.name,
            "bits": self.bits, "sqnr_db": self.db if np.isfinite(self.db) else None,
        }  # fmt: skip


@dataclass(frozen=True)
class FormatStudy:
    """What `study_formats` found; `recommended` are weight formats by layer, at `mean_bits` on average."""

    model: str
    rows: tuple[Measured, ...]
    recommended: tuple[Measured, ...]
    avg_bits: float
    target: str
    notes: tuple[str, ...]

    @property
    def mean_bits(self) -> float:
        """Bits of a weight under the recommendation, on average."""
        return sum(r.bits * r.elements for r in self.recommended) / max(sum(r.elements for r in self.recommended), 1)

    @property
    def options(self) -> list[str]:
        """The options of edgeq that quantize as recommended."""
        return [f"--format '{escape(row.layer)}={row.name}/int8'" for row in self.recommended]

    def document(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "schema": SCHEMA,
            "command": "formats",
            "model": self.model,
            "target": self.target,
            "rows": [row.document() for row in self.rows],
            "recommended": [row.document() for row in self.recommended],
            "avg_bits": self.avg_bits,
            "mean_bits": self.mean_bits,
            "options": self.options,
            "notes": list(self.notes),
            "exit": 0,
        }


def best_by_bits(rows: Sequence[Measured]) -> dict[int, Measured]:
    """Of one layer's rows the best format at every whole number of bits."""
    found: dict[int, Measured] = {}
    for row in rows:
        if row.bits == int(row.bits) and (int(row.bits) not in found or row.db > found[int(row.bits)].db):
            found[int(row.bits)] = row
    return dict(sorted(found.items()))
