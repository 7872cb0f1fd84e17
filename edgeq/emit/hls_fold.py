"""How many products each layer makes at once: the fastest design that a board holds.

Every layer starts with one. The slowest layer gets the next larger pair of divisors (output channels, inputs) again and
again, until the board is full, a stage that has no such choice is the slowest, or the wanted interval is reached.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeq.emit.hls_boards import BOARDS, FpgaBoard
from edgeq.emit.hls_build import build
from edgeq.emit.hls_cost import Cost, design_cost, macs_cost, total
from edgeq.emit.hls_stage import Fold, Macs, Stage
from edgeq.emit.hls_weighted import interval_cycles
from edgeq.errors import BudgetError
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph

SHARE = {"lut": 0.7, "ff": 0.7, "dsp": 0.95, "bram18": 0.9}
"""How much of a board a design may fill, so that it can be routed."""

MOST_LANES = 256
"""Products of one layer at once: what tools unroll without trouble."""


@dataclass
class _Layer:
    macs: Macs
    tokens: int
    choices: list[Fold]
    place: int = 0

    @property
    def fold(self) -> Fold:
        return self.choices[self.place]

    @property
    def cycles(self) -> int:
        return interval_cycles(self.macs, self.fold, self.tokens)


def choose_folds(graph: Graph, board: FpgaBoard, most_cycles: int = 0) -> dict[o.Value, Fold]:
    """Parallel units for each layer of `graph` by its result, so that a frame takes at most `most_cycles` (0: as few as fit).

    Raises BudgetError if `board` cannot hold the design one product at a time, or not that fast.
    """
    design = build(graph, {}, "design", graph.name)
    costs = design_cost(design, {})
    base = total(costs)
    check_held(base, board)
    layers = {stage.value: _layer(stage) for stage in design.stages if stage.work.macs is not None}
    fixed = max((stage.work.cycles for stage in design.stages if stage.work.macs is None), default=0)
    _speed_up(layers, base, board, max(fixed, most_cycles))
    reached = max([fixed, *(layer.cycles for layer in layers.values())])
    if most_cycles and reached > most_cycles:
        raise BudgetError(
            "the board cannot run this design so fast", where=board.name, value=f"{most_cycles:,} cycles a frame",
            allowed=f"{reached:,} or more", next_step="Use fewer bits, a larger board or a smaller image.",
        )  # fmt: skip
    return {value: layer.fold for value, layer in layers.items()}


def check_held(cost: Cost, board: FpgaBoard) -> None:
    """Raise BudgetError, naming a board that is large enough, if `board` cannot hold what costs that much."""
    if missing := _missing(cost, board):
        raise BudgetError("the board cannot hold this design", where=board.name, value=missing, next_step=_larger(cost))


def _layer(stage: Stage) -> _Layer:
    macs = stage.work.macs
    assert macs is not None
    divisors = [k for k in range(1, macs.outputs + 1) if macs.outputs % k == 0]
    inputs = [k for k in range(1, macs.inputs + 1) if macs.inputs % k == 0]
    choices = [Fold(pe, simd) for pe in divisors for simd in inputs if pe * simd <= MOST_LANES]
    tokens = stage.reads[0].count
    return _Layer(macs, tokens, _fronts(macs, tokens, choices))


def _fronts(macs: Macs, tokens: int, choices: list[Fold]) -> list[Fold]:
    """Of all pairs those that no cheaper one beats, the slowest first."""
    found: list[Fold] = []
    for fold in sorted(choices, key=lambda f: (f.pe * f.simd, interval_cycles(macs, f, tokens))):
        if not found or interval_cycles(macs, fold, tokens) < interval_cycles(macs, found[-1], tokens):
            found.append(fold)
    return found


def _speed_up(layers: dict[o.Value, _Layer], base: Cost, board: FpgaBoard, goal: int) -> None:
    used = {"lut": base.lut, "ff": base.ff, "dsp": base.dsp}
    while layers:
        slowest = max(layers.values(), key=lambda layer: layer.cycles)
        if slowest.cycles <= goal or slowest.place + 1 == len(slowest.choices):
            return
        before = macs_cost(slowest.macs, slowest.fold)
        slowest.place += 1
        after = macs_cost(slowest.macs, slowest.fold)
        changed = {k: used[k] + after[n] - before[n] for n, k in enumerate(("lut", "ff", "dsp"))}
        if any(changed[k] > SHARE[k] * getattr(board, k) for k in changed):
            slowest.place -= 1
            return
        used = changed


def _missing(cost: Cost, board: FpgaBoard) -> str:
    """The first resource of which a design needs more than the board's share, or ""."""
    for name in ("bram18", "lut", "dsp", "ff"):
        needed, held = getattr(cost, name), getattr(board, name)
        if needed > SHARE[name] * held:
            return f"{needed:,} {name} of {held:,}"
    return ""


def _larger(cost: Cost) -> str:
    holding = [board.name for board in BOARDS if not _missing(cost, board)]
    return f"{holding[0]} holds it." if holding else "No board here holds it; use fewer bits or a smaller image."
