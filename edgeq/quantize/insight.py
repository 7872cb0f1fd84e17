"""Where a quantized network loses: signal over noise of every layer, alone and with all that came before it.

Alone, a layer gets the float network's own values, rounded once as it reads them; accumulated, it gets what the
quantized network computed. Both are seen at its accumulator, before its result is rounded again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgeq.ir import ops as o
from edgeq.ir.bounds import is_codes
from edgeq.ir.graph import Array, Graph, Type
from edgeq.quantize.operators import is_weighted
from edgeq.quantize.plan import Plan
from edgeq.quantize.sensitivity import Noise, Weigh, relative_power
from edgeq.reference.interpret import Interpreter, real_of

Samples = Sequence[Mapping[o.Value, Array]]


@dataclass
class Ratio:
    """Running powers of a signal and of the noise on it."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, wanted: Tensor, found: Tensor) -> None:
        """Count another tensor of reals."""
        wanted, found = wanted.double(), found.double()
        self.signal += float(wanted.square().sum())
        self.noise += float((found - wanted).square().sum())

    @property
    def db(self) -> float:
        """10 log10 of the ratio; infinite without noise."""
        return math.inf if self.noise == 0 else 10 * math.log10(max(self.signal, 1e-300) / self.noise)


@dataclass
class Layer:
    """A weighted operator by its result: its noise alone and accumulated, and the noise it causes at the outputs.

    `weight_share` and `activation_share` are shares of all noise at the outputs, to first order; where several layers
    read a value, each is told the whole share of it.
    """

    operator: o.Value
    kind: str
    weight: str
    activation: str
    alone: Ratio = field(default_factory=Ratio)
    accumulated: Ratio = field(default_factory=Ratio)
    weight_share: float = 0.0
    activation_share: float = 0.0

    def document(self) -> dict[str, object]:
        """As plain JSON values."""
        return {
            "operator": self.operator, "kind": self.kind, "weight": self.weight, "activation": self.activation,
            "alone_db": self.alone.db, "accumulated_db": self.accumulated.db,
            "weight_share": self.weight_share, "activation_share": self.activation_share,
        }  # fmt: skip


def layers_of(
    graph: Graph, plan: Plan, lowered: Graph, noise: Noise, samples: Iterable[Mapping[o.Value, Array]]
) -> list[Layer]:
    """Every weighted operator of the real `graph`, in order, over `samples`; `lowered` is `graph` under `plan`."""
    found = {o.results(op)[0]: _layer(op, plan, noise) for op in graph.ops if is_weighted(op)}
    seen_as = {_accumulator(name, lowered): name for name in found}
    real, integer = Interpreter(graph), Interpreter(lowered)
    with torch.no_grad():
        for sample in samples:
            values: dict[o.Value, Tensor] = {}
            real(sample, values.__setitem__)

            def accumulated(name: o.Value, tensor: Tensor, values: dict[o.Value, Tensor] = values) -> None:
                if layer := seen_as.get(name):
                    found[layer].accumulated.add(values[layer], real_of(tensor, lowered.types[name]))

            def alone(name: o.Value, tensor: Tensor, values: dict[o.Value, Tensor] = values) -> Tensor | None:
                if layer := seen_as.get(name):
                    found[layer].alone.add(values[layer], real_of(tensor, lowered.types[name]))
                if name in plan.types and name in values and is_codes(lowered.types[name]):
                    return _codes(values[name], lowered.types[name])
                return None

            integer(sample, accumulated)
            integer(sample, alone)
    return list(found.values())


def _layer(op: o.Op, plan: Plan, noise: Noise) -> Layer:
    result, structure = o.results(op)[0], plan.structure
    if not structure.runs_on_codes(op):
        return Layer(result, type(op).__name__, "real", "real")
    total = max(noise.total, 1e-300)
    read = o.operands(op) if isinstance(op, o.MatMul) else o.operands(op)[:1]
    keys = tuple(dict.fromkeys(structure.key[value] for value in read))
    return Layer(
        result, type(op).__name__,
        str(plan.weights[result].format) if result in plan.weights else "",
        str(structure.formats[keys[0]]),
        weight_share=noise.weights.get(result, 0.0) / total,
        activation_share=sum(noise.activations.get(key, 0.0) for key in keys) / total,
    )  # fmt: skip


def _accumulator(name: o.Value, lowered: Graph) -> o.Value:
    """The value of `lowered` that holds the result of an operator before it is rounded."""
    return f"{name}.acc" if f"{name}.acc" in lowered.types else name


def _codes(x: Tensor, type_: Type) -> Tensor:
    (scale,) = type_.scale
    low, high = type_.format.low, type_.format.high  # type: ignore[union-attr]  # activations are integers
    return torch.clamp(torch.round(x / scale) + type_.zero_point, low, high)


def first_bad(layers: Sequence[Layer], least_db: float) -> Layer | None:
    """The first layer whose accumulated noise lies less than `least_db` below its signal."""
    return next((layer for layer in layers if layer.accumulated.db < least_db), None)


def output_db(graph: Graph, lowered: Graph, samples: Iterable[Mapping[o.Value, Array]], weigh: Weigh | None) -> float:
    """Signal over noise at the outputs, which `weigh` counts as the task does, in dB."""
    real, integer, noise, count = Interpreter(graph), Interpreter(lowered), 0.0, 0
    with torch.no_grad():
        for sample in samples:
            wanted, found = list(real(sample).values()), list(integer(sample).values())
            triples = zip(wanted, found, (weigh or relative_power)(wanted), strict=True)
            noise += sum(float(((y - x) * w).square().sum()) for x, y, w in triples if x.is_floating_point())
            count += 1
    return math.inf if noise == 0 else -10 * math.log10(noise / max(count, 1))
