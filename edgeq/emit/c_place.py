"""The memory plan of a program: where each value lies, which kernels read in place, and which run in bands.

A kernel that only renames bytes (a reshape of row-major data) is a view and no step at all. Kernels run in bands of rows
(edgeq/emit/c_bands.py) only where a limit of RAM asks for it, since rows that bands share are computed twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeq.emit.c_bands import Banded, banded_choices, rooted
from edgeq.emit.c_layout import source_places
from edgeq.emit.c_steps import reads_in_place, step_of
from edgeq.ir import ops as o
from edgeq.passes.kernel import Kernel, Program
from edgeq.passes.schedule import Memory, Step, naive_bytes, needs, plan_memory
from edgeq.target import Instructions

Work = Kernel | Banded
"""What runs as one step of the plan."""

ROUNDS, TRIES = 6, 3
"""At most so many parts of a network run in bands; how often a smaller plan is sought."""


@dataclass(frozen=True)
class Placed:
    """`kernels` in execution order, each with the number of its step; `root` maps a view to the value it shows.

    `direct` are the convolutions that read their input in place. Without overlaps it would take `plain_bytes`.
    `needs` are the bytes that each step needs at once.
    """

    kernels: tuple[tuple[int, Work], ...]
    root: Mapping[o.Value, o.Value]
    memory: Memory
    direct: frozenset[int]
    plain_bytes: int
    needs: tuple[int, ...]

    def offset(self, value: o.Value) -> int:
        """Where a value lies in the arena."""
        return self.memory.offsets[self.root.get(value, value)]


@dataclass(frozen=True)
class _Plan:
    """What a plan is made from: the program, the set of kernels, and what shows what."""

    program: Program
    instructions: Instructions
    root: Mapping[o.Value, o.Value]

    @property
    def inputs(self) -> list[o.Value]:
        return list(dict.fromkeys(v for _, v in self.program.inputs))

    @property
    def outputs(self) -> list[o.Value]:
        return list(dict.fromkeys(self.root.get(v, v) for _, v in self.program.outputs))

    def sizes(self, works: Sequence[Work]) -> dict[o.Value, int]:
        """Of every value that lies in the arena."""
        values = {v for work in works for v in (*work.reads, work.out)} | {*self.inputs, *self.outputs}
        names = {self.root.get(v, v) for v in values} - self.program.graph.constants.keys()
        return {name: self.program.size(name) for name in names}

    def step(self, work: Work, *, direct: bool) -> Step:
        if isinstance(work, Banded):
            return work.step
        direct = direct and reads_in_place(work, self.program, self.instructions)
        return rooted(step_of(work, self.program, self.instructions, direct=direct), self.root)

    def steps(self, works: Sequence[Work]) -> tuple[list[Step], list[Step], frozenset[int]]:
        """The steps, the same with every 1x1 convolution in place, and which are in place."""
        sizes = self.sizes(works)
        overlapping = [self.step(work, direct=False) for work in works]
        straight = [self.step(work, direct=True) for work in works]
        ports = self.inputs, self.outputs
        # A 1x1 convolution reads its input in place unless memory is the limit there.
        enough = max(map(min, needs(overlapping, sizes, *ports), needs(straight, sizes, *ports)))
        direct = frozenset(
            k for k, (work, need) in enumerate(zip(works, needs(straight, sizes, *ports), strict=True))
            if isinstance(work, Kernel) and reads_in_place(work, self.program, self.instructions) and need <= enough
        )  # fmt: skip
        return [straight[k] if k in direct else overlapping[k] for k in range(len(works))], straight, direct

    def needs(self, works: Sequence[Work]) -> list[int]:
        return needs(self.steps(works)[0], self.sizes(works), self.inputs, self.outputs)

    def placed(self, works: Sequence[Work]) -> Placed:
        sizes, (steps, straight, direct) = self.sizes(works), self.steps(works)
        memory = plan_memory(steps, sizes, self.inputs, self.outputs)
        plain = naive_bytes(straight, sizes, self.inputs, self.outputs)
        ordered = needs([steps[k] for k in memory.order], sizes, self.inputs, self.outputs)
        return Placed(tuple((k, works[k]) for k in memory.order), self.root, memory, direct, plain, tuple(ordered))


def place(program: Program, instructions: Instructions, limit: int | None = None) -> Placed:
    """The memory plan of `program` for a set of kernels; in at most `limit` units of its codes where bands can help."""
    root: dict[o.Value, o.Value] = {}
    kernels: list[Work] = []
    for kernel in program.kernels:
        if _is_view(kernel, program):
            source = kernel.reads[0]
            root[kernel.out] = root.get(source, source)
        else:
            kernels.append(kernel)
    plan = _Plan(program, instructions, root)
    placed = plan.placed(kernels)
    if limit is None:
        return placed
    goal = limit
    for _ in range(TRIES):
        excess = placed.memory.arena_bytes - limit
        if excess <= 0:
            break
        tried = plan.placed(_in_bands(plan, kernels, goal))
        goal = max(tried.needs) - excess  # a plan may need a little more than its lower bound
        placed = min(placed, tried, key=lambda found: found.memory.arena_bytes)
    return placed


def _in_bands(plan: _Plan, works: list[Work], limit: int) -> list[Work]:
    """`works` with what needs most in bands: where that is enough the choice with the least work, else the smallest."""
    for _ in range(ROUNDS):
        wanted = plan.needs(works)
        peak = int(np.argmax(wanted))
        if wanted[peak] <= limit:
            break
        best: tuple[tuple[int, int], list[Work]] | None = None
        for first, banded in banded_choices(works, peak, plan.program, plan.instructions, plan.root):
            tried = [*works[:first], banded, *works[first + len(banded.kernels) :]]
            need = max(plan.needs(tried))
            cost = (0, banded.macs) if need <= limit else (need, banded.macs)
            if need < wanted[peak] and (best is None or cost < best[0]):
                best = cost, tried
        if best is None:
            break
        works = best[1]
    return works


def _is_view(kernel: Kernel, program: Program) -> bool:
    match kernel.op:
        case o.Reshape() | o.Transpose() | o.Slice() | o.Expand():
            if kernel.x in program.graph.constants:
                return False
            return np.array_equal(source_places(kernel, program), np.arange(program.type(kernel.x).size))
        case _:
            return False
