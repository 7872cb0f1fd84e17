"""How many products each layer makes at once: the fastest design that a board holds.

Every layer starts with one. The slowest layer gets the next larger pair of divisors (output channels, inputs) again and
again, until the board is full, a stage that has no such choice is the slowest, or the wanted interval is reached.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgeq.emit.hls_boards import BOARDS, FpgaBoard
from edgeq.emit.hls_build import build
from edgeq.emit.hls_cost import Cost, design_cost, stage_cost, total
from edgeq.emit.hls_stage import Design, Fold, Macs, Stage
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
    """A layer's stage with one product at once, and the folds to choose from; `place` is the one chosen so far."""

    stage: Stage
    depths: Mapping[str, int]
    choices: list[Fold]
    place: int = 0

    @property
    def fold(self) -> Fold:
        return self.choices[self.place]

    @property
    def cost(self) -> Cost:
        return stage_cost(_folded(self.stage, self.fold), self.depths)


def choose_folds(
    graph: Graph, board: FpgaBoard, most_cycles: int = 0, depths: Mapping[str, int] | None = None
) -> dict[o.Value, Fold]:
    """Parallel units for each layer of `graph` by its result, so that a frame takes at most `most_cycles` (0: as few as fit).

    `depths` are those of the streams, which do not depend on folds. Raises BudgetError if `board` cannot hold the design
    one product at a time, or not that fast.
    """
    design, depths = build(graph, {}, "design", graph.name), depths or {}
    check_held(total(design_cost(design, depths)), board)
    folds, reached = _fastest(design, depths, board, most_cycles)
    if most_cycles and reached > most_cycles:
        wanted = board.clock_mhz * 1e6 / most_cycles
        raise BudgetError(
            "the board cannot run this design so fast", where=board.name,
            value=f"{wanted:,.1f} frames a second", allowed=f"up to {_rate(board, reached)}",
            next_step=_faster(design, depths, wanted),
        )  # fmt: skip
    return folds


def _fastest(
    design: Design, depths: Mapping[str, int], board: FpgaBoard, most_cycles: int
) -> tuple[dict[o.Value, Fold], int]:
    """Folds of the layers, and the cycles of a frame with them."""
    layers = {stage.value: _layer(stage, depths) for stage in design.stages if stage.work.macs is not None}
    fixed = max((stage.work.cycles for stage in design.stages if stage.work.macs is None), default=0)
    _speed_up(layers, total(design_cost(design, depths)), board, max(fixed, most_cycles))
    reached = max([fixed, *(layer.cost.cycles for layer in layers.values())])
    return {value: layer.fold for value, layer in layers.items()}, reached


def _rate(board: FpgaBoard, cycles: int) -> str:
    """Frames a second, rounded down to what can be asked for."""
    return f"{math.floor(board.clock_mhz * 1e7 / cycles) / 10:,.1f} ({cycles:,} cycles each at {board.clock_mhz} MHz)"


def _faster(design: Design, depths: Mapping[str, int], wanted: float) -> str:
    """The board that runs `design` so fast, or the one that comes nearest."""
    base = total(design_cost(design, depths))
    held = [board for board in BOARDS if not _missing(base, board)]
    cycles = {board.name: _fastest(design, depths, board, int(board.clock_mhz * 1e6 / wanted))[1] for board in held}
    enough = [board for board in held if board.clock_mhz * 1e6 / cycles[board.name] >= wanted]
    if enough:
        return f"{enough[0].name} runs it so fast."
    best = max(held, key=lambda board: board.clock_mhz / cycles[board.name])
    return f"The fastest board here, {best.name}, reaches {_rate(best, cycles[best.name])}; or use a smaller image."


def check_held(cost: Cost, board: FpgaBoard) -> None:
    """Raise BudgetError, naming a board that is large enough, if `board` cannot hold what costs that much."""
    if missing := _missing(cost, board):
        raise BudgetError("the board cannot hold this design", where=board.name, value=missing, next_step=_larger(cost))


def _layer(stage: Stage, depths: Mapping[str, int]) -> _Layer:
    macs = stage.work.macs
    assert macs is not None
    divisors = [k for k in range(1, macs.outputs + 1) if macs.outputs % k == 0]
    inputs = [k for k in range(1, macs.inputs + 1) if macs.inputs % k == 0]
    choices = [Fold(pe, simd) for pe in divisors for simd in inputs if pe * simd <= MOST_LANES]
    return _Layer(stage, depths, _fronts(macs, stage.reads[0].count, choices))


def _folded(stage: Stage, fold: Fold) -> Stage:
    """What a layer's stage with one product at once costs with `fold`: wider words of weights and of the line buffer."""
    ((words, bits),), (weights, biases), macs = stage.work.buffers, stage.tables, stage.work.macs
    assert macs is not None
    at_once = min(fold.simd if stage.config["groups"] == 1 else fold.pe, int(stage.config["in_c"]))
    cycles = interval_cycles(macs, fold, stage.reads[0].count)
    kept = ((-(-words // at_once), bits * at_once),)
    wide = replace(weights, content=weights.content.reshape(-1, fold.pe * fold.simd))
    return replace(stage, tables=(wide, biases), work=replace(stage.work, cycles=cycles, buffers=kept, fold=fold))


def _fronts(macs: Macs, tokens: int, choices: list[Fold]) -> list[Fold]:
    """Of all pairs those that no cheaper one beats, the slowest first."""
    found: list[Fold] = []
    for fold in sorted(choices, key=lambda f: (f.pe * f.simd, interval_cycles(macs, f, tokens))):
        if not found or interval_cycles(macs, fold, tokens) < interval_cycles(macs, found[-1], tokens):
            found.append(fold)
    return found


def _speed_up(layers: dict[o.Value, _Layer], used: Cost, board: FpgaBoard, goal: int) -> None:
    while layers:
        slowest = max(layers.values(), key=lambda layer: layer.cost.cycles)
        before = slowest.cost
        if before.cycles <= goal or slowest.place + 1 == len(slowest.choices):
            return
        slowest.place += 1
        changes = {name: getattr(slowest.cost, name) - getattr(before, name) for name in SHARE}
        used = replace(used, **{name: getattr(used, name) + change for name, change in changes.items()})
        if _missing(used, board):
            slowest.place -= 1
            return


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
