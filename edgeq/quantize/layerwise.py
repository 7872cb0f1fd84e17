"""One layer: moments over the images, and the rounding that a quarter of them, held out, finds best.

The layer sees the inputs that the quantized network before it really produces and aims at what the float network
computes from float inputs. Rounding to the nearest stays where nothing beats it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from edgeq.formats import bits_of
from edgeq.ir import ops as o
from edgeq.ir.graph import Type
from edgeq.quantize.columns import Weighted, columns, from_rows, kernel_of, rows
from edgeq.quantize.frontier import Frontier
from edgeq.quantize.importance import Importance
from edgeq.quantize.learned import Layer
from edgeq.quantize.plan import Plan
from edgeq.quantize.refine import HELD_OUT
from edgeq.quantize.second_order import DAMPING, Fit, Moments, Problem, first_fits, fit, search_scales
from edgeq.quantize.sweeps import Grid

FREE_SCALE_BITS = 6
"""Up to here scales are fitted too; finer grids are kept, since weights may lie on them exactly."""

POSITIONS_PER_INPUT = 24
LEAST_POSITIONS = 16_384
"""Positions sampled over all images: so many for each input of an output, and at least these."""


def _split(count: int) -> tuple[list[int], list[int]]:
    """Indices of the batches to learn from, and of those held out."""
    held = [index for index in range(count) if index % HELD_OUT == HELD_OUT - 1]
    return [index for index in range(count) if index not in held], held


def solve_layer(
    op: Weighted,
    frontier: Frontier,
    plan: Plan,
    half: bool,
    importance: Importance | None,
    generator: torch.Generator,
) -> Layer:
    """The layer of `op` whose inputs wait at `frontier`; never worse than nearest rounding on these images.

    `importance` weighs the positions of its output; `generator` draws which of them are looked at.
    """
    weight = frontier.simulation.constants[op.weight]
    parts = _moments(op, weight, frontier, importance, generator)
    train, held = _split(len(parts))
    if not held:
        train = held = list(range(len(parts)))
    type_ = plan.weights[op.out]
    grid = Grid(type_.format, bits_of(type_.format) <= FREE_SCALE_BITS, half)
    centred = op.bias is not None
    matrix = rows(op, weight)
    learned_from, judged_on = (_total([parts[k] for k in some]) for some in (train, held))
    everything = learned_from.joined(judged_on) if held is not train else learned_from
    problems = [Problem.of(matrix, moments, centred=centred) for moments in (learned_from, judged_on, everything)]
    scales = _row_scales(op, type_, matrix).to(matrix.device)
    nearest = Fit(grid.nearest(matrix.double() / scales), scales, matrix.double())
    start = search_scales(problems[2], scales, grid)
    tried = [nearest, *first_fits(problems[0], start, grid, DAMPING)]
    losses = torch.stack([problems[1].errors(found.rows).sum() for found in tried]).tolist()
    best = losses.index(min(losses))
    chosen = nearest if best == 0 else fit(problems[2], start, grid, DAMPING[best - 1])
    if best and bool(problems[2].errors(chosen.rows).sum() > problems[2].errors(nearest.rows).sum()):
        chosen = nearest
    return _layer(op, chosen, type_, weight, problems[2], frontier)


def _total(parts: Sequence[Moments]) -> Moments:
    first, *others = parts
    for other in others:
        first = first.joined(other)
    return first


def _moments(
    op: Weighted, weight: Tensor, frontier: Frontier, importance: Importance | None, generator: torch.Generator
) -> list[Moments]:
    """One set of moments for each set of images."""
    simulation, matrix, kernel = frontier.simulation, rows(op, weight), kernel_of(op, weight)
    images = sum(values[op.x].shape[0] for values in frontier.real)
    wanted = max(LEAST_POSITIONS, POSITIONS_PER_INPUT * matrix.shape[2])
    shape = simulation.graph.types[op.out].shape
    per_image = int(np.prod(shape[1:-1] if isinstance(op, o.Linear) else shape[2:]))
    few, start = -(-wanted // images), 0
    found = list[Moments]()

    def drawn() -> Tensor:
        return torch.randperm(per_image, generator=generator)[:few] if few < per_image else torch.arange(per_image)

    with torch.no_grad():
        for real, quantized, sets in zip(frontier.real, frontier.quantized, frontier.sets, strict=True):
            at = torch.stack([drawn() for _ in range(sets)]).to(simulation.device)
            x = columns(op, real[op.x], kernel, at)
            z = columns(op, simulation.operand(op.x, quantized.__getitem__), kernel, at)
            stop = start + real[op.x].shape[0]
            heavy = None
            if importance is not None:
                rest = importance.flat()[start:stop].to(at.device).chunk(sets)
                heavy = torch.stack([part[:, places].flatten() for part, places in zip(rest, at, strict=True)])
            found += Moments.of_each(matrix, x, z, heavy)
            start = stop
    return found


def _row_scales(op: Weighted, type_: Type, matrix: Tensor) -> Tensor:
    """The planned scales as [groups, r, 1]."""
    scales = torch.tensor(type_.scale, dtype=torch.float64)
    return scales.expand(matrix.shape[0] * matrix.shape[1]).reshape(matrix.shape[0], matrix.shape[1], 1)


def _layer(op: Weighted, fit: Fit, type_: Type, weight: Tensor, problem: Problem, frontier: Frontier) -> Layer:
    shape = tuple(weight.shape)
    scales = tuple(fit.scales.reshape(-1).tolist()) if len(type_.scale) > 1 else (float(fit.scales.reshape(-1)[0]),)
    type_ = replace(type_, scale=scales)
    bias = None
    if op.bias is not None:
        shift = problem.shift(fit.rows).reshape(-1).cpu().numpy()
        bias = frontier.simulation.graph.constants[op.bias].astype(np.float64) + shift
    scale = torch.from_numpy(type_.scales).to(weight.device)
    return Layer(from_rows(op, fit.levels, shape), from_rows(op, fit.wanted, shape) / scale, scale, type_, bias)
