"""Learned rounding: weights whose codes are chosen for what the layer computes, one layer after the other.

Each layer sees the inputs that the quantized network before it really produces and aims at what the float network
computes from float inputs, so it also takes back part of the error that reached it. A quarter of the images is held
out: it decides between settings, and rounding to the nearest stays where nothing beats it there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from edgeq.formats import bits_of, encode
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph, Type
from edgeq.progress import Progress, silent
from edgeq.quantize.columns import Weighted, columns, from_rows, kernel_of, rows
from edgeq.quantize.distance import Loss, squared_error
from edgeq.quantize.frontier import Frontier, Values, batches, images_that_fit
from edgeq.quantize.importance import Importance
from edgeq.quantize.plan import Plan
from edgeq.quantize.refine import HELD_OUT, Data, Parameters, Refinement, Settings
from edgeq.quantize.rounding import Method, Rounding
from edgeq.quantize.scale import bias_codes, quantize_weight
from edgeq.quantize.second_order import DAMPING, Fit, Grid, Moments, Problem, fit, search_scales
from edgeq.quantize.simulate import Simulation
from edgeq.quantize.units import Unit, units, whole

FREE_SCALE_BITS = 6
"""Up to here scales are fitted too; finer grids are kept, since weights may lie on them exactly."""

POSITIONS_PER_INPUT = 24
LEAST_POSITIONS = 16_384
"""Positions sampled over all images: so many for each input of an output, and at least these."""

WHOLE_BYTES = 4 << 30
"""Memory for the values of a whole network and their gradients."""


@dataclass(frozen=True)
class Layer:
    """What was learned for one operator.

    `levels` and `wanted` (what they approximate, in units of the scale) have the weight's shape; `scale` broadcasts
    against it and `type` holds the same numbers. `bias` is float64, or None where there is none.
    """

    levels: Tensor
    wanted: Tensor
    scale: Tensor
    type: Type
    bias: Array | None


@dataclass
class Learned:
    """Learned layers by the operators' results, and learned scales of classes of values."""

    layers: dict[o.Value, Layer] = field(default_factory=dict)
    scales: dict[o.Value, float] = field(default_factory=dict)


def learn(
    graph: Graph,
    plan: Plan,
    samples: Sequence[Mapping[o.Value, Array]],
    settings: Settings,
    *,
    loss: Loss = squared_error,
    importance: Mapping[o.Value, Importance] | None = None,
    half: bool = False,
    seed: int = 0,
    device: torch.device | None = None,
    store: Store | None = None,
    progress: Progress = silent,
) -> Learned:
    """Weights, biases and scales of activations fitted to `samples` (calibration inputs of batch 1).

    `loss` compares the outputs of the network where `settings` also learn it as a whole. `importance`, measured on the
    same samples, weighs errors inside. `store` keeps what was
    learned after every unit, and units found there are not learned again.
    """
    simulation = Simulation.of(graph, plan, device or torch.device("cpu"))
    images = batches(simulation, samples[: images_that_fit(graph)])
    frontier = Frontier(simulation, [dict(values) for values in images])
    work = _Work(simulation, frontier, settings, importance or {}, half, seed, store)
    starts, done = units(graph, plan.weights.keys()), set[o.Op]()
    for op in graph.ops:
        if op in done:
            continue
        unit = starts.get(op)
        if unit is None:
            frontier.advance(op)
            frontier.drop([op])
            continue
        work.learn(unit)
        done.update(unit.ops)
        progress("learning to round", len(work.found.layers), len(plan.weights))
    if settings.whole_steps and len(graph.inputs) == 1:
        work.learn_whole(images, loss, progress)
    return work.found


class _Work:
    """What is shared by all units while they are learned in turn."""

    def __init__(
        self,
        simulation: Simulation,
        frontier: Frontier,
        settings: Settings,
        importance: Mapping[o.Value, Importance],
        half: bool,
        seed: int,
        store: Store | None,
    ) -> None:
        self.simulation, self.frontier, self.settings, self.half, self.seed = (
            simulation, frontier, settings, half, seed
        )  # fmt: skip
        self.importance = importance
        self.store = store
        self.known = unpacked(store.load(), simulation) if store else Learned()
        self.found = Learned()

    def learn(self, unit: Unit) -> None:
        """The layers of `unit`, and the values behind it on both sides."""
        frontier, plan = self.frontier, self.simulation.plan
        wanted = {op.out: op for op in unit.ops if isinstance(op, Weighted) and op.out in plan.weights}
        layers: dict[o.Value, Layer] = {}
        if self.known.layers.keys() >= wanted.keys():
            layers = {out: self.known.layers[out] for out in wanted}
            self._take_scales(self.known.scales)
            for out, layer in layers.items():
                _install(self.simulation, out, layer)
            self._advance(unit)
        else:
            for op in unit.ops:
                if isinstance(op, Weighted) and op.out in wanted:
                    layers[op.out] = _solved(
                        op, frontier, plan, self.half, self.importance.get(op.out), self._generator(op)
                    )
                    _install(self.simulation, op.out, layers[op.out])
                frontier.advance(op)
                frontier.drop([op], keep=(unit.entry, *unit.exits))
            if self.settings.steps:
                layers = self._refined(unit, layers, self.settings, squared_error)
                frontier.again(unit)
        frontier.drop(unit.ops)
        self.found.layers.update(layers)
        if self.store and not self.known.layers.keys() >= wanted.keys():
            self.store.save(packed(self.found))

    def _advance(self, unit: Unit) -> None:
        for op in unit.ops:
            self.frontier.advance(op)
            self.frontier.drop([op], keep=(unit.entry, *unit.exits))

    def _take_scales(self, scales: Mapping[o.Value, float]) -> None:
        for key, scale in scales.items():
            self.simulation.scales[key] = torch.tensor(scale, device=self.simulation.device)
        self.found.scales |= scales

    def _generator(self, op: o.Op) -> torch.Generator:
        """One for each operator, so that a run that goes on draws what an uninterrupted one would."""
        return torch.Generator().manual_seed(self.seed + self.simulation.graph.ops.index(op))

    def learn_whole(self, images: Sequence[Values], loss: Loss, progress: Progress) -> None:
        """All layers together, for the outputs of the network."""
        simulation, frontier, settings = self.simulation, self.frontier, self.settings
        unit = whole(simulation.graph)
        for values, quantized in zip(images, frontier.quantized, strict=True):
            quantized[unit.entry] = values[unit.entry]
        fit_in = WHOLE_BYTES // (16 * sum(type_.size for type_ in simulation.graph.types.values()))
        together = replace(
            settings,
            steps=settings.whole_steps,
            method="adaquant",
            rate=settings.whole_rate,
            images=max(1, min(settings.images, fit_in)),
        )
        for real, values in zip(frontier.real, images, strict=True):
            real[unit.entry] = values[unit.entry]
        progress("learning the whole", 0, 0)
        self.found.layers = self._refined(unit, self.found.layers, together, loss)

    def _refined(
        self, unit: Unit, layers: dict[o.Value, Layer], settings: Settings, loss: Loss
    ) -> dict[o.Value, Layer]:
        simulation, frontier = self.simulation, self.frontier
        data = Data(
            torch.cat([values[unit.entry] for values in frontier.quantized]),
            torch.cat([values[unit.entry] for values in frontier.real]),
            tuple(torch.cat([values[name] for values in frontier.real]) for name in unit.exits),
            tuple(self._weight(name) for name in unit.exits),
        )
        parameters = {out: self._parameters(out, layer, settings.method) for out, layer in layers.items()}
        best = Refinement(unit, simulation, parameters, data, settings, loss, self.seed).run()
        self._take_scales(best.scales)
        found = {
            out: replace(
                layer,
                levels=best.levels[out],
                bias=best.biases[out].double().cpu().numpy() if out in best.biases else None,
            )
            for out, layer in layers.items()
        }
        for out, layer in found.items():
            _install(simulation, out, layer)
        return found

    def _weight(self, name: o.Value) -> Tensor | None:
        found, images = self.importance.get(name), sum(len(next(iter(v.values()))) for v in self.frontier.real)
        return None if found is None else found.both[:images].to(self.simulation.device)

    def _parameters(self, out: o.Value, layer: Layer, method: Method) -> Parameters:
        simulation = self.simulation
        rounding = Rounding.of(method, layer.levels.float(), layer.wanted.float(), layer.type.format)
        if layer.bias is None:
            return Parameters(rounding, layer.scale.float(), None, torch.ones((), device=simulation.device))
        bias = torch.from_numpy(layer.bias.astype(np.float32)).to(simulation.device)
        spread = bias.std(unbiased=False).clamp_min(1e-6) if bias.numel() > 1 else bias.abs().clamp_min(1e-6)
        return Parameters(rounding, layer.scale.float(), bias / spread, spread)


class Store(Protocol):
    """Where what was learned so far is kept."""

    def load(self) -> dict[str, Array]:
        """What was saved last; nothing the first time."""

    def save(self, arrays: dict[str, Array]) -> None:
        """Keep `arrays` in place of what was saved before."""


def packed(learned: Learned) -> dict[str, Array]:
    """`learned` as plain arrays; `unpacked` is the inverse."""
    found: dict[str, Array] = {"names": np.array(list(learned.layers), dtype=np.str_)}
    found["classes"] = np.array(list(learned.scales), dtype=np.str_)
    found["scales"] = np.array(list(learned.scales.values()), dtype=np.float64)
    for index, layer in enumerate(learned.layers.values()):
        found[f"{index}.levels"] = layer.levels.cpu().numpy().astype(np.float32)
        found[f"{index}.wanted"] = layer.wanted.cpu().numpy().astype(np.float32)
        found[f"{index}.scale"] = np.array(layer.type.scale, dtype=np.float64)
        if layer.bias is not None:
            found[f"{index}.bias"] = layer.bias
    return found


def unpacked(arrays: Mapping[str, Array], simulation: Simulation) -> Learned:
    """What `packed` made arrays of, where it still fits the plan of `simulation`."""
    learned = Learned()
    if not {"names", "classes", "scales"} <= arrays.keys():
        return learned
    weights, device = simulation.plan.weights, simulation.device
    for index, name in enumerate(map(str, arrays["names"])):
        levels, wanted, scale = (arrays.get(f"{index}.{part}") for part in ("levels", "wanted", "scale"))
        if name not in weights or levels is None or wanted is None or scale is None:
            return Learned()
        type_ = replace(weights[name], scale=tuple(scale.tolist()))
        if levels.shape != type_.shape or len(type_.scale) != len(weights[name].scale):
            return Learned()
        parts = [torch.from_numpy(part.astype(np.float64)).to(device) for part in (levels, wanted, type_.scales)]
        learned.layers[name] = Layer(parts[0], parts[1], parts[2], type_, arrays.get(f"{index}.bias"))
    learned.scales.update(zip(map(str, arrays["classes"]), arrays["scales"].tolist(), strict=True))
    return learned


def _split(count: int) -> tuple[list[int], list[int]]:
    """Indices of the batches to learn from, and of those held out."""
    held = [index for index in range(count) if index % HELD_OUT == HELD_OUT - 1]
    return [index for index in range(count) if index not in held], held


def _solved(
    op: Weighted,
    frontier: Frontier,
    plan: Plan,
    half: bool,
    importance: Importance | None,
    generator: torch.Generator,
) -> Layer:
    weight = frontier.simulation.constants[op.weight]
    parts = _moments(op, weight, frontier, importance, generator)
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
    nearest = Fit(grid.nearest(matrix.double() / scales), scales, matrix.double())
    start = search_scales(problems[2], scales, grid)
    losses: dict[float | None, float] = {None: float(problems[1].errors(nearest.rows).sum())}
    for damping in DAMPING:
        losses[damping] = float(problems[1].errors(fit(problems[0], start, grid, damping, quick=True).rows).sum())
    best = min(losses, key=losses.__getitem__)
    chosen = nearest if best is None else fit(problems[2], start, grid, best)
    if float(problems[2].errors(chosen.rows).sum()) > float(problems[2].errors(nearest.rows).sum()):
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
    """One set of moments per batch."""
    simulation, matrix, kernel = frontier.simulation, rows(op, weight), kernel_of(op, weight)
    images = sum(values[op.x].shape[0] for values in frontier.real)
    wanted = max(LEAST_POSITIONS, POSITIONS_PER_INPUT * matrix.shape[2])
    shape = simulation.graph.types[op.out].shape
    per_image = int(np.prod(shape[1:-1] if isinstance(op, o.Linear) else shape[2:]))
    few, start = -(-wanted // images), 0
    found = []
    with torch.no_grad():
        for real, quantized in zip(frontier.real, frontier.quantized, strict=True):
            at = torch.randperm(per_image, generator=generator)[:few] if few < per_image else torch.arange(per_image)
            at = at.to(simulation.device)
            x = columns(op, real[op.x], kernel, at)
            z = columns(op, simulation.operand(op.x, quantized.__getitem__), kernel, at)
            stop = start + real[op.x].shape[0]
            heavy = None if importance is None else importance.flat()[start:stop].to(at.device)[:, at].flatten()
            found.append(Moments.of(matrix, x, z, heavy))
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


def _install(simulation: Simulation, out: o.Value, layer: Layer) -> None:
    """Let the quantized side compute with `layer`."""
    simulation.weights[out] = (layer.levels * layer.scale).float()
    if layer.bias is not None:
        simulation.biases[out] = torch.from_numpy(layer.bias.astype(np.float32)).to(simulation.device)


def with_learned(plan: Plan, graph: Graph, learned: Learned, *, half: bool = False) -> Plan:
    """`plan` (whose activations have the learned scales) with the learned weights and biases.

    A channel whose scale must rise to hold a large bias is rounded to the nearest again.
    """
    weights, biases, codes = dict(plan.weights), dict(plan.biases), dict(plan.codes)
    for op in graph.ops:
        if not isinstance(op, Weighted) or op.out not in learned.layers:
            continue
        layer = learned.layers[op.out]
        type_, found = layer.type, encode(layer.type.format, layer.levels.cpu().numpy())
        if layer.bias is not None:
            biases[op.out], scales = bias_codes(layer.bias, plan.types[op.x].scale[0], type_.scale, half=half)
            if scales != type_.scale:
                raised = replace(type_, scale=scales)
                kept = raised.scales == type_.scales
                found = np.where(kept, found, quantize_weight(graph.constants[op.weight], raised))
                type_ = raised
        weights[op.out], codes[op.out] = type_, found
    return replace(plan, weights=weights, biases=biases, codes=codes)
