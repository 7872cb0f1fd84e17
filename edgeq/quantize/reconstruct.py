"""Learned rounding: weights whose codes are chosen for what the layer computes, one layer after the other.

Each layer sees the inputs that the quantized network before it really produces and aims at what the float network
computes from float inputs, so it also takes back part of the error that reached it. A quarter of the images is held
out: it decides between settings, and rounding to the nearest stays where nothing beats it there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from edgeq.formats import IntArray, bits_of, decode, encode
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph, Type
from edgeq.progress import Progress, silent
from edgeq.quantize.columns import Learned, columns, from_rows, groups_of, kernel_of, rows
from edgeq.quantize.frontier import Frontier, Values, batches, images_that_fit
from edgeq.quantize.plan import Plan
from edgeq.quantize.scale import bias_codes, dequantize_weight, quantize_weight
from edgeq.quantize.second_order import DAMPING, Fit, Grid, Moments, Problem, fit
from edgeq.quantize.simulate import Simulation

FREE_SCALE_BITS = 6
"""Up to here scales are fitted too; finer grids are kept, since weights may lie on them exactly."""

HELD_OUT = 4
"""One image in so many is held out."""

POSITIONS_PER_INPUT = 24
LEAST_POSITIONS = 16_384
"""Positions sampled over all images: so many for each input of an output, and at least these."""


@dataclass(frozen=True)
class Layer:
    """What was learned for one operator: codes, the type they are of, and the bias in float64."""

    codes: IntArray
    type: Type
    bias: Array | None


@dataclass
class Outcome:
    """The learned layers by result, and each one's held-out error over that of nearest rounding."""

    layers: dict[o.Value, Layer] = field(default_factory=dict)
    gains: dict[o.Value, float] = field(default_factory=dict)


def learn_rounding(
    graph: Graph,
    plan: Plan,
    samples: Sequence[Mapping[o.Value, Array]],
    *,
    half: bool = False,
    seed: int = 0,
    device: torch.device | None = None,
    progress: Progress = silent,
) -> Plan:
    """`plan` with weight codes, scales and biases fitted to `samples` (calibration inputs of batch 1)."""
    simulation = Simulation.of(graph, plan, device or torch.device("cpu"))
    found = batches(simulation, samples[: images_that_fit(graph)])
    frontier = Frontier(simulation, found)
    outcome = Outcome()
    total = len(plan.weights)
    generator = torch.Generator().manual_seed(seed)
    for op in graph.ops:
        if isinstance(op, Learned) and op.out in plan.weights:
            layer = _solved(op, frontier, plan, half, generator)
            if layer is not None:
                outcome.layers[op.out] = layer
                _install(simulation, op, layer)
            progress("learning to round", len(outcome.layers), total)
        frontier.advance(op)
        frontier.drop([op])
    return _with_layers(plan, graph, outcome.layers, half)


def _split(count: int) -> tuple[list[int], list[int]]:
    """Indices of the batches to learn from, and of those held out."""
    held = [index for index in range(count) if index % HELD_OUT == HELD_OUT - 1]
    return [index for index in range(count) if index not in held], held


def _solved(op: Learned, frontier: Frontier, plan: Plan, half: bool, generator: torch.Generator) -> Layer | None:
    weight = frontier.simulation.constants[op.weight]
    parts = _moments(op, weight, frontier, generator)
    train, held = _split(len(parts))
    if not held:
        train, held = list(range(len(parts))), list(range(len(parts)))
    type_ = plan.weights[op.out]
    grid = Grid(type_.format, bits_of(type_.format) <= FREE_SCALE_BITS, half)
    centred = op.bias is not None
    matrix = rows(op, weight)
    problems = [
        Problem.of(matrix, _total([parts[k] for k in chosen]), centred=centred)
        for chosen in (train, held, range(len(parts)))
    ]
    scales = _row_scales(op, type_, matrix).to(matrix.device)
    nearest = Fit(grid.nearest(matrix.double() / scales), scales)
    losses = {None: float(problems[1].errors(nearest.rows).sum())}
    for damping in DAMPING:
        losses[damping] = float(problems[1].errors(fit(problems[0], scales, grid, damping, quick=True).rows).sum())
    best = min(losses, key=losses.__getitem__)
    chosen = nearest if best is None else fit(problems[2], scales, grid, best)
    if float(problems[2].errors(chosen.rows).sum()) > float(problems[2].errors(nearest.rows).sum()):
        chosen = nearest
    return _layer(op, chosen, type_, weight, problems[2], frontier)


def _total(parts: Sequence[Moments]) -> Moments:
    first, *others = parts
    for other in others:
        first = first.joined(other)
    return first


def _moments(op: Learned, weight: Tensor, frontier: Frontier, generator: torch.Generator) -> list[Moments]:
    """One set of moments per batch."""
    simulation, matrix, kernel = frontier.simulation, rows(op, weight), kernel_of(op, weight)
    images = sum(values[op.x].shape[0] for values in frontier.real)
    wanted = max(LEAST_POSITIONS, POSITIONS_PER_INPUT * matrix.shape[2])
    shape = simulation.graph.types[op.out].shape
    per_image = int(np.prod(shape[1:-1] if isinstance(op, o.Linear) else shape[2:]))
    few = -(-wanted // images)
    found = []
    with torch.no_grad():
        for real, quantized in zip(frontier.real, frontier.quantized, strict=True):
            at = None
            if few < per_image:
                at = torch.randperm(per_image, generator=generator)[:few].to(simulation.device)
            x = columns(op, real[op.x], kernel, at)
            z = columns(op, simulation.operand(op.x, quantized.__getitem__), kernel, at)
            part = Moments()
            part.add(matrix, x, z)
            found.append(part)
    return found


def _row_scales(op: Learned, type_: Type, matrix: Tensor) -> Tensor:
    """The planned scales as [groups, r, 1]."""
    scales = torch.tensor(type_.scale, dtype=torch.float64)
    return scales.expand(matrix.shape[0] * matrix.shape[1]).reshape(matrix.shape[0], matrix.shape[1], 1)


def _layer(op: Learned, fit: Fit, type_: Type, weight: Tensor, problem: Problem, frontier: Frontier) -> Layer:
    levels = from_rows(op, fit.levels, tuple(weight.shape)).cpu().numpy()
    scales = tuple(fit.scales.reshape(-1).tolist()) if len(type_.scale) > 1 else (float(fit.scales.reshape(-1)[0]),)
    bias = None
    if op.bias is not None:
        shift = problem.shift(fit.rows).reshape(-1).cpu().numpy()
        bias = frontier.simulation.graph.constants[op.bias].astype(np.float64) + shift
    return Layer(encode(type_.format, levels), replace(type_, scale=scales), bias)


def _install(simulation: Simulation, op: Learned, layer: Layer) -> None:
    """Let the quantized side compute with `layer`."""
    device = simulation.device
    simulation.weights[op.out] = torch.from_numpy(dequantize_weight(layer.codes, layer.type)).to(device)
    if layer.bias is not None:
        simulation.biases[op.out] = torch.from_numpy(layer.bias.astype(np.float32)).to(device)


def _with_layers(plan: Plan, graph: Graph, layers: Mapping[o.Value, Layer], half: bool) -> Plan:
    """`plan` with everything learned; a channel whose scale a large bias raises is rounded to the nearest again."""
    weights, biases, codes = dict(plan.weights), dict(plan.biases), dict(plan.codes)
    for op in graph.ops:
        if not isinstance(op, Learned) or op.out not in layers:
            continue
        layer = layers[op.out]
        type_, found = layer.type, layer.codes
        if layer.bias is not None:
            biases[op.out], scales = bias_codes(layer.bias, plan.types[op.x].scale[0], type_.scale, half=half)
            if scales != type_.scale:
                raised = replace(type_, scale=scales)
                changed = replace(type_, scale=tuple(float(a != b) for a, b in zip(scales, type_.scale, strict=True)))
                found = np.where(changed.scales != 0, quantize_weight(graph.constants[op.weight], raised), found)
                type_ = raised
        weights[op.out], codes[op.out] = type_, found
    return replace(plan, weights=weights, biases=biases, codes=codes)
