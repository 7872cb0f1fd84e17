"""Kernels that run in bands: a chain of layers on a few rows at a time, so that what lies between them never exists whole.

This is the patch-based execution of MCUNetV2 (Lin et al., 2021), with patches as wide as the image. Each band computes
the rows of the last layer from those of the input that it sees through the chain; rows at the edge of two bands are
computed in both. A band is the same kernels on smaller images: only its first and last rows are padded.

The chain is one step of the memory plan. Its scratch memory holds the values of one band, and its result may lie over
rows of the input that no later band reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeGuard

from edgeq.emit.c_steps import step_of
from edgeq.ir import ops as o
from edgeq.ir.cost import macs
from edgeq.ir.graph import Type
from edgeq.passes.kernel import Kernel, Program
from edgeq.passes.schedule import Memory, Overlap, Step, plan_memory
from edgeq.target import Instructions

COUNTS = (2, 3, 4, 6, 8, 12, 16, 24)
LONGEST = 8
"""Numbers of bands to try, and the most layers of a chain."""


@dataclass(frozen=True)
class Band:
    """`kernels` with the padding that this band has, on the rows that `program` gives; `first` rows of input and output."""

    program: Program
    kernels: tuple[Kernel, ...]
    first: tuple[int, int]


@dataclass(frozen=True)
class Banded:
    """A chain of `kernels` that runs in `bands`; `memory` is the plan of what one band needs besides input and output."""

    kernels: tuple[Kernel, ...]
    bands: tuple[Band, ...]
    memory: Memory
    gap: int
    macs: int

    @property
    def reads(self) -> tuple[o.Value, ...]:
        """What the first kernel reads."""
        return self.kernels[0].reads

    @property
    def out(self) -> o.Value:
        """What the last kernel gives."""
        return self.kernels[-1].out

    @property
    def step(self) -> Step:
        """The step of the whole chain."""
        return Step(self.reads, self.out, self.memory.arena_bytes, (Overlap(self.reads[0], self.gap),))


def banded_choices(
    works: Sequence[Kernel | Banded],
    peak: int,
    program: Program,
    instructions: Instructions,
    root: Mapping[o.Value, o.Value],
) -> Iterator[tuple[int, Banded]]:
    """Chains that hold step `peak`, in any number of bands, each with the number of its first step."""
    low = high = peak
    while low > 0 and peak - low < LONGEST and _follows(works, low, program, root):
        low -= 1
    while high + 1 < len(works) and high - peak < LONGEST and _follows(works, high + 1, program, root):
        high += 1
    for first in range(low, peak + 1):
        for last in range(max(peak, first + 1), min(high, first + LONGEST - 1) + 1):
            chain = tuple(work for work in works[first : last + 1] if _is_simple(work))
            if len(chain) <= last - first or chain[0].reads[0] in root:
                continue
            for count in COUNTS:
                found = _banded(chain, count, program, instructions)
                if found is not None:
                    yield first, found


def _follows(works: Sequence[Kernel | Banded], k: int, program: Program, root: Mapping[o.Value, o.Value]) -> bool:
    """Whether only step k reads what step k - 1 gives."""
    value = works[k - 1].out
    shown = {value, *(view for view, source in root.items() if source == value)}
    readers = [work for work in works if shown & {*work.reads}]
    return (
        works[k].reads == (value,)
        and len(readers) == 1
        and value not in {v for _, v in program.outputs}
        and len(shown) == 1
    )


def _is_simple(work: Kernel | Banded) -> TypeGuard[Kernel]:
    """Whether a step sees each row through a window, and nothing else."""
    if not isinstance(work, Kernel) or work.residual or work.joining or work.moves:
        return False
    return isinstance(work.op, o.Conv | o.MaxPool | o.Lookup)


def _banded(chain: tuple[Kernel, ...], count: int, program: Program, instructions: Instructions) -> Banded | None:
    """`chain` in `count` bands, or None if its values are no images with so many rows."""
    values = (chain[0].reads[0], *(kernel.out for kernel in chain))
    types = [program.type(value) for value in values]
    if program.bits != 8 or any(
        len(t.shape) != 4 or t.shape[0] != 1 or program.bits_of(v) != 8 for t, v in zip(types, values, strict=True)
    ):
        return None
    rows = types[-1].shape[2]
    if rows < count or {*values} & (program.rows | program.graph.constants.keys()):
        return None
    ends = [rows * k // count for k in range(count + 1)]
    bands = [_band(chain, program, first, last) for first, last in pairwise(ends)]
    starts = [band.first[0] for band in bands[1:]]
    row_in, row_out = (t.shape[1] * t.shape[3] for t in (types[0], types[-1]))
    gap = max(end * row_out - start * row_in for end, start in zip(ends[1:], starts, strict=False))
    work = sum(macs(kernel.op, band.program.graph) for band in bands for kernel in band.kernels)
    return Banded(chain, tuple(bands), _memory(bands, instructions), gap, work)


def _band(chain: tuple[Kernel, ...], program: Program, first: int, last: int) -> Band:
    """The kernels that give the rows from `first` to `last` of the result."""
    types, kernels, start = dict(program.graph.types), [], first
    for kernel in reversed(chain):
        op = kernel.op
        types |= {value: _with_rows(types[value], last - first) for value in (kernel.out, op.out)}
        if isinstance(op, o.Conv | o.MaxPool):
            height = types[op.x].shape[2]
            size = op.kernel[0] if isinstance(op, o.MaxPool) else types[op.weight].shape[2]
            low = first * op.stride[0] - op.padding[0]
            high = (last - 1) * op.stride[0] - op.padding[0] + (size - 1) * op.dilation[0] + 1
            first, last = max(low, 0), min(high, height)
            padding = (first - low, op.padding[1], high - last, op.padding[3])
            op = replace(op, padding=padding)
        kernels.append(replace(kernel, op=op))
    types[chain[0].reads[0]] = _with_rows(types[chain[0].reads[0]], last - first)
    smaller = replace(program, graph=replace(program.graph, types=types))
    return Band(smaller, tuple(reversed(kernels)), (first, start))


def _with_rows(type_: Type, rows: int) -> Type:
    return replace(type_, shape=(*type_.shape[:2], rows, type_.shape[3]))


def _memory(bands: Sequence[Band], instructions: Instructions) -> Memory:
    """The plan of the values inside a band, the same for all: as large as the largest, overlapping where every one may."""
    chain = bands[0].kernels
    inner = {kernel.out for kernel in chain[:-1]}
    sizes = {v: max(band.program.size(v) for band in bands) for v in inner} | {chain[-1].out: 0}
    steps = []
    for k, kernel in enumerate(chain):
        found = [step_of(band.kernels[k], band.program, instructions, direct=False) for band in bands]
        overlaps = tuple(v for step in found for v in step.overlaps if v.operand in inner and kernel.out in inner)
        steps.append(merged(Step(kernel.reads, kernel.out, max(step.scratch for step in found), overlaps)))
    return plan_memory(steps, sizes, (), ())


def rooted(step: Step, root: Mapping[o.Value, o.Value]) -> Step:
    """`step` on what views show."""
    overlaps = tuple(replace(overlap, operand=root.get(overlap.operand, overlap.operand)) for overlap in step.overlaps)
    return merged(replace(step, reads=tuple(root.get(v, v) for v in step.reads), overlaps=overlaps))


def merged(step: Step) -> Step:
    """One overlap per operand: of two for the same one, what both allow."""
    found: dict[str, Overlap] = {}
    for overlap in step.overlaps:
        known = found.get(overlap.operand, overlap)
        found[overlap.operand] = Overlap(
            overlap.operand,
            _larger(known.forward_gap, overlap.forward_gap),
            _larger(known.reverse_gap, overlap.reverse_gap),
            exact=known.exact or overlap.exact,
        )
    return replace(step, overlaps=tuple(found.values()))


def _larger(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else max(a, b)
