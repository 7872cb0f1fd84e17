"""Layer by layer: a runtime beside the reference, each layer given the codes that the runtime itself computed before.

So a difference belongs to the layer that shows it, and the first in execution order is where the two part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from edgeq.flow.check import HALF_FLOOR
from edgeq.ir.bounds import is_codes
from edgeq.ir.graph import Array, Graph, Type
from edgeq.ir.ops import Value
from edgeq.progress import Progress
from edgeq.reference.interpret import Interpreter

_FARTHEST = 1 << 31
Inputs = Mapping[Value, Array]
Execution = Callable[[Inputs], tuple[Mapping[Value, Array], Mapping[Value, Array]]]
"""Runs one input; gives the outputs as the graph has them, and codes of values inside."""


@dataclass
class Layer:
    """Running comparison of one value, in codes; of reals, in steps of 1/255 of their range."""

    value: Value
    is_output: bool = False
    is_real: bool = False
    equal: int = 0
    count: int = 0
    largest: int = 0
    signal: float = 0.0
    noise: float = 0.0
    largest_real: float = 0.0

    @property
    def signal_to_noise_db(self) -> float:
        """Of the numbers themselves; infinite when they are identical."""
        return 10 * math.log10(max(self.signal, 1e-300) / self.noise) if self.noise else math.inf

    @property
    def equal_share(self) -> float:
        """Share of equal codes."""
        return self.equal / max(self.count, 1)

    def add(self, reference: Array, artifact: Array, step: float) -> None:
        """Compare one tensor; of reals, what half precision cannot hold is no noise."""
        wanted, found = reference.astype(np.float64), artifact.astype(np.float64)
        if wanted.shape != found.shape:
            self.count, self.largest = self.count + wanted.size, _FARTHEST
            return
        with np.errstate(invalid="ignore"):
            apart = np.rint(np.abs(found - wanted) / step)
        apart = np.nan_to_num(apart, nan=_FARTHEST, posinf=_FARTHEST)
        self.signal += float((wanted**2).sum())
        floor = HALF_FLOOR if self.is_real else 0.0
        self.noise += float(
            np.nan_to_num(np.where(np.abs(found - wanted) > floor, found - wanted, 0.0) ** 2, nan=math.inf).sum()
        )
        self.largest_real = max(self.largest_real, float(np.abs(found - wanted).max(initial=0.0)))
        self.equal += int((apart == 0).sum())
        self.count += apart.size
        self.largest = max(self.largest, int(apart.max(initial=0)))


def layers(graph: Graph, execution: Execution, inputs: Iterable[Inputs], progress: Progress, total: int) -> list[Layer]:
    """Every value that `execution` shows, in execution order, then the outputs that follow from them."""
    reference = Interpreter(graph)
    found: dict[Value, Layer] = {}
    outputs = {name: Layer(name, is_output=True, is_real=graph.types[name].is_real) for name in graph.outputs}
    for done, given in enumerate(inputs, start=1):
        results, seen = execution(given)

        def compare(name: Value, tensor: torch.Tensor, seen: Mapping[Value, Array] = seen) -> torch.Tensor | None:
            if name not in seen or name in graph.inputs:
                return None
            type_ = graph.types[name]
            layer = found.setdefault(name, Layer(name, is_real=type_.is_real))
            layer.add(tensor.numpy(), seen[name], _step(type_, tensor))
            return torch.from_numpy(np.array(seen[name])) if seen[name].shape == tuple(tensor.shape) else None

        with torch.no_grad():
            wanted = reference(given, compare)
        for name, tensor in wanted.items():
            outputs[name].add(tensor.numpy(), results[name], _step(graph.types[name], tensor))
        progress("comparing with the reference", done, total)
    return [*found.values(), *outputs.values()]


def _step(type_: Type, tensor: torch.Tensor) -> float:
    return 1.0 if is_codes(type_) else max(float(np.ptp(tensor.numpy())) / 255, 1e-12)


def first_parting(found: Iterable[Layer]) -> Layer | None:
    """The first layer with a code that differs."""
    return next((layer for layer in found if layer.largest), None)
