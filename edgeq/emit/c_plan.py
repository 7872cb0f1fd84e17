"""The memory plan as a picture: time to the right, addresses upward, a box for every value from its making to its last use."""

from __future__ import annotations

from dataclasses import dataclass

from edgeq.drawing import box, line, picture, words
from edgeq.emit.c_place import Placed
from edgeq.ir import ops as o
from edgeq.passes.kernel import Program

COLORS = {"input": "#4c9f70", "output": "#c8553d", "value": "#588bae", "scratch": "#e0b04b"}
LEFT, TOP, HEIGHT = 80, 60, 420


@dataclass(frozen=True)
class Tenant:
    """What lies at `offset` for `size` bytes from step `first` to step `last`."""

    name: str
    kind: str
    offset: int
    size: int
    first: int
    last: int


def tenants(placed: Placed, program: Program) -> list[Tenant]:
    """Every value and every scratch area of the plan, in bytes; step -1 is before the first, step n after the last."""
    width, count = program.bits // 8, len(placed.kernels)
    kinds = {value: "input" for _, value in program.inputs}
    kinds |= {placed.root.get(value, value): "output" for _, value in program.outputs}
    lives: dict[o.Value, tuple[int, int]] = {value: (-1, -1) for _, value in program.inputs}
    for place, (_, kernel) in enumerate(placed.kernels):
        lives[kernel.out] = (place, place)
        for value in (placed.root.get(v, v) for v in kernel.reads):
            if value in lives:
                lives[value] = (lives[value][0], place)
    for value, kind in kinds.items():
        if kind == "output":
            lives[value] = (lives[value][0], count)
    found = [
        Tenant(v, kinds.get(v, "value"), width * placed.offset(v), width * program.type(v).size, first, last)
        for v, (first, last) in lives.items()
    ]
    for place, (step, kernel) in enumerate(placed.kernels):
        if step in placed.memory.scratch:
            size = placed.memory.scratch_sizes[step]
            at = width * placed.memory.scratch[step]
            found.append(Tenant(f"scratch of {kernel.out}", "scratch", at, width * size, place, place))
    return found


def plan_picture(title: str, placed: Placed, program: Program) -> str:
    """SVG of the plan beside the lower bound."""
    width, steps = program.bits // 8, len(placed.kernels) + 2
    arena, bound = width * placed.memory.arena_bytes, width * placed.memory.lower_bound
    column = max(14.0, min(40.0, 900 / steps))
    right = LEFT + column * steps

    def height(address: float) -> float:
        return TOP + HEIGHT * (1 - address / max(arena, 1))

    parts = [words(16, 24, f"{title}: {arena:,} bytes of RAM, lower bound {bound:,}", size=14)]
    parts += _legend(right)
    for t in tenants(placed, program):
        x, y = LEFT + column * (t.first + 1), height(t.offset + t.size)
        what = f"{t.name}: {t.size:,} bytes at {t.offset:,}, steps {t.first + 1} to {t.last + 1}"
        parts.append(box(x, y, column * (t.last - t.first + 1), height(t.offset) - y, COLORS[t.kind], what))
    parts += [
        line(LEFT, height(arena), right, height(arena), "#333"),
        words(LEFT - 4, height(arena) + 4, f"{arena:,}", anchor="end"),
    ]
    parts += [
        line(LEFT, height(bound), right, height(bound), "#b00", dashed=True),
        words(LEFT - 4, height(bound) + 16, f"{bound:,}", anchor="end"),
    ]
    parts += [line(LEFT, height(0), right, height(0), "#333"), words(LEFT - 4, height(0), "0", anchor="end")]
    parts.append(words(20, TOP + HEIGHT / 2, "address in the arena, bytes", anchor="middle", turned=True))
    every = max(1, round(30 / column))
    for place in range(0, len(placed.kernels), every):
        parts.append(words(LEFT + column * (place + 1.5), height(0) + 16, str(place + 1), size=9, anchor="middle"))
    parts.append(words((LEFT + right) / 2, height(0) + 34, "layer, in the order in which they run", anchor="middle"))
    return picture(max(right + 20, LEFT + 560), TOP + HEIGHT + 50, parts)


def _legend(right: float) -> list[str]:
    parts, x = [], float(LEFT)
    for kind, color in COLORS.items():
        parts += [box(x, 34, 12, 12, color), words(x + 16, 44, kind)]
        x += 28 + 8 * len(kind)
    return [
        *parts,
        line(x, 40, x + 24, 40, "#b00", dashed=True),
        words(x + 28, 44, "lower bound of any plan of this order"),
    ]
