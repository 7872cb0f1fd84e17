"""--max-ram-kb and --max-flash-kb: what of generated C misses its budget, at which layer, and what would help.

1 kB is 1,024 bytes. `edgeq bench` measures flash and RAM on a board; `edgeq export` knows the constants and the arena,
both exact, while code and stack wait for a compiler.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.errors import UsageError
from edgeq.flow.check import EXIT_BUDGET
from edgeq.report import Report
from edgeq.runtimes.folder import read_folder
from edgeq.target import Target


@dataclass(frozen=True)
class MemoryBudget:
    """The most kB of RAM and of flash; None where anything goes."""

    ram_kb: float | None = None
    flash_kb: float | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether anything is limited."""
        return self.ram_kb is not None or self.flash_kb is not None


def check_memory_budget(budget: MemoryBudget, target: Target) -> None:
    """Raise UsageError if `target` writes nothing whose memory is known."""
    if budget.is_wanted and target.emitter != "c":
        raise UsageError(
            "only generated C has a memory plan", where=target.name, value="--max-ram-kb, --max-flash-kb",
            next_step="Choose a C target: see edgeq targets.",
        )  # fmt: skip


def apply_export_budget(report: Report, budget: MemoryBudget, folder: Path) -> None:
    """Hold the constants and the arena of a generated folder against the budget."""
    if budget.is_wanted:
        document = read_folder(folder)
        apply_memory_budget(report, budget, document, document["constant_bytes"], document["arena_bytes"], "the model")


def apply_memory_budget(
    report: Report, budget: MemoryBudget, document: Mapping[str, Any], flash: int, ram: int, who: str
) -> None:
    """Set the report's exit code to 4 where `flash` or `ram` bytes exceed the budget, and say why."""
    missed = [_flash(budget.flash_kb, document, flash, who), _ram(budget.ram_kb, document, ram, who)]
    notes = [note for note in missed if note]
    report.notes += notes
    report.exit = report.exit or (EXIT_BUDGET if notes else 0)


def _flash(allowed: float | None, document: Mapping[str, Any], needed: int, who: str) -> str:
    if allowed is None or needed <= 1024 * allowed:
        return ""
    most = max(document["layers"], key=lambda layer: int(layer["constant_bytes"]))
    return (
        f"budget missed: {who} needs {needed / 1024:.1f} kB of flash, {document['constant_bytes'] / 1024:.1f} of it"
        f" constants; allowed {allowed:g}. Most are those of {most['value']} ({most['kind']},"
        f" {most['constant_bytes'] / 1024:.1f} kB). Fewer channels there, or weights of fewer bits, would help"
    )


def _ram(allowed: float | None, document: Mapping[str, Any], needed: int, who: str) -> str:
    if allowed is None or needed <= 1024 * allowed:
        return ""
    peak = max(document["layers"], key=lambda layer: int(layer["memory_bytes"]))
    besides = needed - document["arena_bytes"]
    share = math.sqrt(max(1024 * allowed - besides, 0) / document["arena_bytes"])
    smaller = f"of about {share:.0%} of its height and width" if share else "at a fraction of the size"
    return (
        f"budget missed: {who} needs {needed / 1024:.1f} kB of RAM, allowed {allowed:g}; most at {peak['value']}"
        f" ({peak['kind']}, {peak['memory_bytes'] / 1024:.1f} kB at once). An input {smaller}, or fewer channels"
        " there, would help"
    )
