"""Quantization-aware training: a real graph and its plan as an ordinary torch module.

While training, values and weights are rounded where the plan says so, in real arithmetic with straight-through
gradients. In evaluation mode the module *is* the integer graph: it lowers what has been learned and runs the reference
interpreter, so the accuracy seen there is the accuracy of every artifact printed from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from edgeq.errors import UsageError
from edgeq.formats import IntArray
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph, with_constants
from edgeq.passes.batch import with_batch
from edgeq.passes.lower import lower
from edgeq.quantize.assign import storable
from edgeq.quantize.fake import Grid
from edgeq.quantize.grids import NestedGrid, Strategy, nested_codes
from edgeq.quantize.operators import is_expectation, moves_codes, weight_of
from edgeq.quantize.plan import Plan
from edgeq.quantize.scale import bias_codes, bias_limit, quantize_weight
from edgeq.quantize.simulate import straight
from edgeq.reference.interpret import Interpreter
from edgeq.reference.meaning import evaluate

_LEARNING = (o.Conv, o.ConvTranspose, o.Linear, o.LayerNorm, o.GroupNorm, o.ChannelAffine)
"""Operators whose constant operands are learned."""

Outputs = Tensor | tuple[Tensor, ...]


def trained_constants(graph: Graph) -> tuple[o.Value, ...]:
    """Constants that training may change: weights, biases, and the gains of normalizations."""
    found: dict[o.Value, None] = {}
    for op in graph.ops:
        if isinstance(op, _LEARNING) and not is_expectation(op, graph):
            found.update(dict.fromkeys(value for value in o.operands(op) if value in graph.constants))
    return tuple(value for value in found if graph.types[value].is_real)


@dataclass(frozen=True)
class _Step:
    """One operator of the graph for a number of images, with everything decided that does not depend on tensors.

    `first`: the operand that it reads first. `rounds`: those that it reads on their grids. `bias`: what is added to its
    sums, in their units. `planned`: its result has a grid; `moves`: and is on it already.
    """

    op: o.Op
    first: o.Value
    results: tuple[o.Value, ...]
    on_codes: bool
    rounds: tuple[o.Value, ...]
    weight: o.Value | None
    weight_grid: str
    bias: o.Value | None
    planned: bool
    moves: bool


class QatModule(nn.Module):
    """`graph` (real, simplified) under `plan`, trainable; inputs and outputs are the graph's, for any number of images.

    forward takes one tensor [N, ...] per input and gives one per output (a tuple unless there is one). A weight is a
    parameter in units of its usual size in each channel: batch norms are folded, so that channels differ widely in
    size and nothing takes back a step that is too large for them; one rate suits all of these parameters. Raises
    UnsupportedError for N > 1 where an operator would mix images. Call `prepare(N)` before torch.compile.

    `unrounded`, if there is any: the share of the elements of values, drawn anew each time, that rounding passes over where
    gradients are taken (QDrop).
    """

    def __init__(
        self, graph: Graph, plan: Plan, strategy: Strategy | None = None, *, half_scales: bool = False
    ) -> None:
        super().__init__()
        self.graph, self.plan, self.half_scales = graph, plan, half_scales
        strategy = strategy or Strategy()
        self._fields = _field_names([*graph.constants, *plan.types, *plan.weights])
        self._steps: dict[int, tuple[_Step, ...]] = {}
        self._images = graph.types[graph.inputs[0]].shape[0]
        self._integers: tuple[tuple[int, ...], Graph] | None = None
        self.unrounded: Tensor | None = None
        self._interpreters: dict[int, Interpreter] = {}
        trained = trained_constants(graph)
        self.units, self.trained, self.fixed = nn.Module(), nn.ParameterDict(), nn.Module()
        axes = _channel_axes(graph, plan)
        for value in trained:
            unit, field = _unit(graph.constants[value], axes.get(value)), self._fields[value]
            self.units.register_buffer(field, unit)
            learned = strategy.weights or value not in axes
            self.trained[field] = nn.Parameter(_tensor(graph.constants[value]) / unit, requires_grad=learned)
        for value in graph.constants.keys() - set(trained):
            self.fixed.register_buffer(self._fields[value], _tensor(graph.constants[value]), persistent=False)
        self.values = nn.ModuleDict(
            {
                self._fields[key]: strategy.value_grid(
                    plan.types[key], _size(graph, members), _channels(graph, members), learned=self._is_learned(key)
                )
                for key, members in plan.structure.members.items()
                if any(value not in graph.constants for value in members)
            }
        )
        self._grids = {
            value: self._fields[key] if self._fields[key] in self.values else None
            for value, key in plan.structure.key.items()
        }
        self.weights = nn.ModuleDict(
            {
                self._fields[out]: strategy.weight_grid(type_, type_.size // max(len(type_.scale), 1))
                for out, type_ in plan.weights.items()
            }
        )

    def _is_learned(self, key: o.Value) -> bool:
        """Not where the runtime prescribes the grid, nor of inputs: their range is known, and to learn it would cost
        the gradient of the first layer with respect to images."""
        structure = self.plan.structure
        return key not in structure.fixed and not any(v in self.graph.inputs for v in structure.members[key])

    def _unit(self, field: str) -> Tensor:
        found: Tensor = getattr(self.units, field)
        return found

    def forward(self, *inputs: Tensor) -> Outputs:
        """Outputs as reals: through straight-through rounding while training, from the integer graph otherwise."""
        if len(inputs) != len(self.graph.inputs):
            raise UsageError("wrong number of inputs", value=len(inputs), allowed=", ".join(self.graph.inputs))
        named = dict(zip(self.graph.inputs, inputs, strict=True))
        found = self.rounded(named, self.graph.outputs) if self.training else self._evaluate(named)
        return found[0] if len(found) == 1 else found

    # --- training ---------------------------------------------------------------------------------------------

    def rounded(self, inputs: Mapping[o.Value, Tensor], wanted: Sequence[o.Value]) -> tuple[Tensor, ...]:
        """Any values of the graph, as reals, with straight-through rounding."""
        reals = dict(inputs)
        codes: dict[o.Value, Tensor] = {}

        def real(name: o.Value) -> Tensor:
            return reals[name] if name in reals else self._constant(name)

        for step in self._steps_for(inputs):
            if not step.on_codes:
                reals.update(zip(step.results, evaluate(step.op, real), strict=True))
                continue
            for name in step.rounds:
                if name not in codes:
                    codes[name] = self._rounded(name, real(name))

            def operand(name: o.Value, step: _Step = step) -> Tensor:
                if name == step.weight:
                    found: Tensor = self.weights[step.weight_grid](real(name))
                    return found
                if name == step.bias:
                    return self._in_units_of_sums(real(name), step)
                return codes[name] if name in codes else real(name)

            (result,) = evaluate(step.op, operand)
            out = step.results[0]
            if step.planned:
                result = codes[out] = result if step.moves else self._rounded(out, result)
            reals[out] = result
        return tuple(real(name) for name in wanted)

    def exact(self, inputs: Mapping[o.Value, Tensor], wanted: Sequence[o.Value]) -> tuple[Tensor, ...]:
        """Any values of the graph without rounding, from the weights as they are."""
        reals = dict(inputs)

        def real(name: o.Value) -> Tensor:
            return reals[name] if name in reals else self._constant(name)

        for step in self._steps_for(inputs):
            reals.update(zip(step.results, evaluate(step.op, real), strict=True))
        return tuple(real(name) for name in wanted)

    def _rounded(self, name: o.Value, x: Tensor) -> Tensor:
        field = self._grids[name]
        if field is None:  # constants alone, whose grid follows from them
            return x
        passed = None
        if self.unrounded is not None and torch.is_grad_enabled():
            passed = torch.rand_like(x) < self.unrounded
        found: Tensor = self.values[field](x, passed)
        return found

    def _in_units_of_sums(self, bias: Tensor, step: _Step) -> Tensor:
        """`bias` in whole units of the sums that it is added to, as it is stored: where weights have few bits a unit is no
        small part of the result's step."""
        x, field = step.first, self._grids[step.first]
        scale = self.plan.types[x].scale[0] if field is None else self._grid(self.values, field).lasting()
        unit = (scale * self._grid(self.weights, step.weight_grid).lasting()).detach()
        return straight(torch.round(bias / unit) * unit, bias)

    def _constant(self, name: o.Value) -> Tensor:
        field = self._fields[name]
        found: Tensor = self.trained[field] * self._unit(field) if field in self.trained else getattr(self.fixed, field)
        return found

    def _steps_for(self, inputs: Mapping[o.Value, Tensor]) -> tuple[_Step, ...]:
        tensor = inputs[self.graph.inputs[0]]
        count = int(tensor.shape[0]) // self._images
        if count not in self._steps:
            self.prepare(count)
        return self._steps[count]

    @_disable_dynamo  # the one thing here that is not arithmetic on tensors; torch.compiler's own takes 1 s to import
    def prepare(self, count: int) -> None:
        """Get ready for `count` images at a time; after it torch.compile sees one graph."""
        self._steps[count] = tuple(self._step(op) for op in with_batch(self.graph, count).ops)

    def _step(self, op: o.Op) -> _Step:
        plan, out = self.plan, o.results(op)[0]
        weight = weight_of(op) if out in plan.weights else None
        rounds = tuple(v for v in o.operands(op) if v in plan.types and v != weight)
        grid = self._fields[out] if weight is not None else ""
        on_codes = plan.structure.runs_on_codes(op)
        bias = op.bias if isinstance(op, o.Conv | o.ConvTranspose | o.Linear) and out in plan.biases else None
        first, planned = next(iter(o.operands(op)), out), out in plan.types
        return _Step(op, first, o.results(op), on_codes, rounds, weight, grid, bias, planned, moves_codes(op))

    # --- what has been learned --------------------------------------------------------------------------------

    def learned_graph(self) -> Graph:
        """The real graph with the weights learned so far."""
        learned: dict[o.Value, Array] = {}
        for value in trained_constants(self.graph):
            tensor = self._constant(value).detach().cpu().float()
            if not bool(torch.isfinite(tensor).all()):
                raise UsageError(
                    "training went astray: not a number", where=value, next_step="Lower the learning rate."
                )
            learned[value] = tensor.numpy().copy()
        return with_constants(self.graph, learned)

    def learned_plan(self, graph: Graph) -> Plan:
        """The plan with the scales learned so far, for `graph` with the weights learned so far."""
        types = dict(self.plan.types)
        for key, members in self.plan.structure.members.items():
            if (field := self._fields[key]) in self.values and self._is_learned(key):
                found = self._grid(self.values, field).learned_type()
                grid = {"scale": self._storable(found.scale), "zero_point": found.zero_point, "format": found.format}
                types.update({value: replace(types[value], **grid) for value in members})  # type: ignore[arg-type]
        weights, biases = dict(self.plan.weights), dict(self.plan.biases)
        for op in graph.ops:
            if not isinstance(op, o.Conv | o.ConvTranspose | o.Linear) or op.out not in weights:
                continue
            weight = self._grid(self.weights, self._fields[op.out]).learned_type()
            weight = replace(weight, scale=self._storable(weight.scale))
            if op.bias is not None:
                bias, x, half = graph.constants[op.bias], types[op.x], self.half_scales
                limit = bias_limit(op, x, weight)
                biases[op.out], scales = bias_codes(bias, x.scale[0], weight.scale, limit=limit, half=half)
                weight = replace(weight, scale=scales)
            weights[op.out] = weight
        structure, codes = replace(self.plan.structure, graph=graph), self._nested_codes(graph)
        return replace(self.plan, structure=structure, types=types, weights=weights, biases=biases, codes=codes)

    def _storable(self, scales: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(storable(scale, half=True) for scale in scales) if self.half_scales else scales

    def _nested_codes(self, graph: Graph) -> dict[o.Value, IntArray]:
        """Codes of weights that are rounded from their eight-bit codes."""
        found: dict[o.Value, IntArray] = {}
        for op in graph.ops:
            weight, out = weight_of(op), o.results(op)[0]
            grid = self.weights[self._fields[out]] if out in self.plan.weights else None
            if weight is not None and isinstance(grid, NestedGrid) and grid.width < 8:
                whole = quantize_weight(graph.constants[weight], grid.at_eight())
                found[out] = nested_codes(torch.from_numpy(whole), grid.width).numpy()
        return found

    @staticmethod
    def _grid(grids: nn.ModuleDict, field: str) -> Grid:
        grid = grids[field]
        assert isinstance(grid, Grid)
        return grid

    def weights_and_grids(self) -> Iterator[tuple[str, tuple[nn.Parameter, Tensor, Grid]]]:
        """By the grid's field: the learned weights that are rounded, the units they are in, and their grids."""
        for op in self.graph.ops:
            weight, out = weight_of(op), o.results(op)[0]
            if weight is not None and out in self.plan.weights and self._fields[weight] in self.trained:
                field, known = self._fields[out], self._fields[weight]
                yield field, (self.trained[known], self._unit(known), self._grid(self.weights, field))

    def use_width(self, bits: int) -> None:
        """Weights of `bits` from here on, where they are nested (see `Strategy`); convert() then gives their graph.

        Raises UsageError for a width that was not asked for.
        """
        nested = [grid for grid in self.weights.values() if isinstance(grid, NestedGrid)]
        allowed = {8, *(int(width) for grid in nested for width in grid.narrower)}
        if not nested or bits not in allowed:
            raise UsageError("weights of this width are not learned", value=bits, allowed=sorted(allowed))
        for grid in nested:
            grid.width = bits
        self._integers = None

    def convert(self) -> Graph:
        """The exact integer graph of what has been learned so far, ready for every emitter."""
        versions = tuple(p._version for p in self.parameters())
        if self._integers is None or self._integers[0] != versions:
            graph = self.learned_graph()
            self._integers = (versions, lower(graph, self.learned_plan(graph)))
            self._interpreters.clear()
        return self._integers[1]

    @torch.no_grad()
    def _evaluate(self, inputs: Mapping[o.Value, Tensor]) -> tuple[Tensor, ...]:
        integers = self.convert()
        name, tensor = next(iter(inputs.items()))
        count = int(tensor.shape[0]) // self.graph.types[name].shape[0]
        if count not in self._interpreters:
            self._interpreters[count] = Interpreter(with_batch(integers, count), tensor.device)
        return tuple(self._interpreters[count](inputs).values())


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(np.array(array))


def _channel_axes(graph: Graph, plan: Plan) -> dict[o.Value, int | None]:
    """By weight, along which axis its scales lie."""
    found: dict[o.Value, int | None] = {}
    for op in graph.ops:
        weight, out = weight_of(op), o.results(op)[0]
        if weight is not None and out in plan.weights:
            found[weight] = plan.weights[out].axis
    return found


def _unit(array: Array, axis: int | None) -> Tensor:
    """What a step of the optimizer counts in: of weights their usual size in each channel, as a power of two."""
    if array.ndim < 2:
        return torch.ones(())
    rest = tuple(k for k in range(array.ndim) if k != axis)
    sizes = np.sqrt(np.square(array, dtype=np.float64).mean(rest, keepdims=True))
    usual = np.where(sizes > 0, sizes, sizes.max() or 1.0)
    return torch.from_numpy(np.exp2(np.round(np.log2(usual))).astype(np.float32))


def _size(graph: Graph, members: tuple[o.Value, ...]) -> int:
    return max(graph.types[value].size for value in members)


def _channels(graph: Graph, members: tuple[o.Value, ...]) -> int:
    """Channels of the maps [N, C, H, W] among `members`; 0 where they differ or there is none."""
    found = {graph.types[value].shape[1] for value in members if len(graph.types[value].shape) == 4}
    return found.pop() if len(found) == 1 else 0


def _field_names(values: list[o.Value]) -> dict[o.Value, str]:
    """A name that a module's field may have for each value, readable and unique."""
    found: dict[o.Value, str] = {}
    taken = {*dir(nn.ParameterDict()), *dir(nn.ModuleDict())}  # which a field must not hide
    for value in dict.fromkeys(values):
        field = stem = re.sub(r"\W", "_", value) or "_"
        count = 0
        while field in taken:
            count += 1
            field = f"{stem}_{count}"
        found[value] = field
        taken.add(field)
    return found
