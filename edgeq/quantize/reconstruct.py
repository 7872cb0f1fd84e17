"""Learned rounding: weights whose codes are chosen for what the layer computes, one layer after the other.

Each layer sees the inputs that the quantized network before it really produces and aims at what the float network
computes from float inputs, so it also takes back part of the error that reached it. Units of several layers may be
refined by gradient descent from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph
from edgeq.progress import Progress, silent
from edgeq.quantize.columns import Weighted
from edgeq.quantize.frontier import Frontier, batches, images_that_fit
from edgeq.quantize.importance import Importance
from edgeq.quantize.layerwise import solve_layer
from edgeq.quantize.learned import Layer, Learned, Store, packed, unpacked
from edgeq.quantize.plan import Plan
from edgeq.quantize.refine import Data, Parameters, Refinement, Settings
from edgeq.quantize.rounding import Method, Rounding
from edgeq.quantize.simulate import Simulation
from edgeq.quantize.units import Unit, units


def learn(
    graph: Graph,
    plan: Plan,
    samples: Sequence[Mapping[o.Value, Array]],
    settings: Settings,
    *,
    importance: Mapping[o.Value, Importance] | None = None,
    half: bool = False,
    seed: int = 0,
    device: torch.device | None = None,
    store: Store | None = None,
    progress: Progress = silent,
) -> Learned:
    """Weights, biases and scales of activations fitted to `samples` (calibration inputs of batch 1).

    `importance`, measured on the same samples, weighs errors inside. `store` keeps what was learned after every unit,
    and units found there are not learned again.
    """
    simulation = Simulation.of(graph, plan, device or torch.device("cpu"))
    frontier = Frontier(simulation, batches(simulation, samples[: images_that_fit(graph)], together=True))
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
        self.known = unpacked(store.load(), simulation.plan, simulation.device) if store else Learned()
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
                    layers[op.out] = solve_layer(
                        op, frontier, plan, self.half, self.importance.get(op.out), self._generator(op)
                    )
                    _install(self.simulation, op.out, layers[op.out])
                frontier.advance(op)
                frontier.drop([op], keep=(unit.entry, *unit.exits))
            if self.settings.steps:
                layers = self._refined(unit, layers)
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
            self.simulation.scales[key] = torch.full((), scale, device=self.simulation.device)
        self.found.scales |= scales

    def _generator(self, op: o.Op) -> torch.Generator:
        """One for each operator, so that a run that goes on draws what an uninterrupted one would."""
        return torch.Generator().manual_seed(self.seed + self.simulation.graph.ops.index(op))

    def _refined(self, unit: Unit, layers: dict[o.Value, Layer]) -> dict[o.Value, Layer]:
        """What gradient descent makes of `layers`, where the images of `unit` can be told apart."""
        simulation, frontier = self.simulation, self.frontier
        if not all(map(simulation.batches.are_rows, (unit.entry, *unit.exits))):
            return layers
        data = Data(
            torch.cat([values[unit.entry] for values in frontier.quantized]),
            torch.cat([values[unit.entry] for values in frontier.real]),
            tuple(torch.cat([values[name] for values in frontier.real]) for name in unit.exits),
            tuple(self._weight(name) for name in unit.exits),
        )
        parameters = {out: self._parameters(out, layer, self.settings.method) for out, layer in layers.items()}
        best = Refinement(unit, simulation, parameters, data, self.settings, self.seed).run()
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


def _install(simulation: Simulation, out: o.Value, layer: Layer) -> None:
    """Let the quantized side compute with `layer`."""
    simulation.weights[out] = (layer.levels * layer.scale).float()
    if layer.bias is not None:
        simulation.biases[out] = torch.from_numpy(layer.bias.astype(np.float32)).to(simulation.device)
