"""The budgets of bit allocation as the user gives them, and as sums over operators that the searches keep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeq.errors import BudgetError, UsageError
from edgeq.ir.cost import constant_bytes
from edgeq.quantize.allocate import Item, least_cost
from edgeq.quantize.costs import ACTIVATION_BITS, BYTES, MILLISECONDS, WEIGHT_BITS, LatencyTable, weight_elements
from edgeq.quantize.items import read_classes, weighted_results
from edgeq.quantize.losses import Kind
from edgeq.quantize.structure import Structure

Search = Literal["ilp", "greedy", "bisect", "closed"]


@dataclass(frozen=True)
class Budgets:
    """The options of bit allocation: mean bits, bytes of weights, milliseconds, and how to search."""

    avg_bits: float | None = None
    max_size: int | None = None
    max_latency_ms: float | None = None
    latency_table: Path | None = None
    choices: tuple[str, ...] = ()
    sensitivity: Kind = "noise"
    search: Search = "ilp"

    @property
    def is_wanted(self) -> bool:
        """Whether bits are allocated at all."""
        return any(limit is not None for limit in (self.avg_bits, self.max_size, self.max_latency_ms)) or (
            self.search == "bisect"
        )


def limits_of(
    structure: Structure, items: Sequence[Item], budgets: Budgets, latency: LatencyTable | None
) -> dict[str, float]:
    """What the costs of all operators may sum up to, by kind. Raises UsageError for latency without its table."""
    found: dict[str, float] = {}
    if budgets.avg_bits is not None:
        results = weighted_results(structure)
        found[WEIGHT_BITS] = budgets.avg_bits * weight_elements(structure.graph, results)
        if len({choice.formats.activation for item in items for choice in item.choices}) > 1:
            read = {key for result in results for key in read_classes(structure, result)}
            found[ACTIVATION_BITS] = budgets.avg_bits * sum(structure.graph.types[key].size for key in read)
    if budgets.max_size is not None:
        found[BYTES] = budgets.max_size - _other_bytes(structure)
    if budgets.max_latency_ms is not None:
        if latency is None:
            raise UsageError("--max-latency-ms needs --latency-table", next_step="edgeq profile-ops measures one.")
        found[MILLISECONDS] = budgets.max_latency_ms - latency.rest_ms
    return found


def _other_bytes(structure: Structure) -> int:
    """Constants that are not weights of operators on codes, in float; biases take four bytes on codes, too."""
    return constant_bytes(structure.graph) - 4 * weight_elements(structure.graph, weighted_results(structure))


def check_limits(items: Sequence[Item], limits: Mapping[str, float], budgets: Budgets) -> None:
    """Raise BudgetError, in the units of the options, where the cheapest formats of all operators exceed one of `limits`."""
    for kind, limit in limits.items():
        least = least_cost(items, kind)
        if least > limit * (1 + 1e-9):
            wanted, reachable = _in_units(kind, least, limit, budgets)
            raise BudgetError(
                "no choice of formats keeps this budget", value=wanted, allowed=f"{reachable} and more",
                next_step="Allow formats of fewer bits (--choices w2a8 --choices w4a8), or raise the budget.",
            )  # fmt: skip


def _in_units(kind: str, least: float, limit: float, budgets: Budgets) -> tuple[str, str]:
    """The budget and what is reachable, each with its unit and rounded up. Bytes and milliseconds count what is fixed, too."""
    if kind == BYTES and budgets.max_size is not None:
        return f"{budgets.max_size:,} bytes", f"{math.ceil(budgets.max_size + least - limit):,}"
    if kind == MILLISECONDS and budgets.max_latency_ms is not None:
        reachable = math.ceil(1000 * (budgets.max_latency_ms + least - limit)) / 1000
        return f"{budgets.max_latency_ms:g} ms", f"{reachable:g}"
    assert budgets.avg_bits is not None
    return f"{budgets.avg_bits:g} {kind} on average", f"{math.ceil(100 * least / limit * budgets.avg_bits) / 100:g}"
