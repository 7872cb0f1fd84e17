"""The quantization noise at every value: the integer network beside the real one on the same images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch

from edgeq.ir.bounds import is_codes
from edgeq.ir.graph import Array, Graph
from edgeq.ir.ops import Value
from edgeq.reference.interpret import Device, Interpreter, real_of

IMAGES = 2


def signal_to_noise(
    graph: Graph, lowered: Graph, samples: Iterable[Mapping[Value, Array]], device: Device = "cpu"
) -> dict[Value, float]:
    """SQNR in dB of each value that `graph` has as reals and `lowered` as codes; errors of all layers before count.

    Values without any error are left out.
    """
    shared = {
        value
        for value, type_ in lowered.types.items()
        if is_codes(type_) and value in graph.types and graph.types[value].is_real
        and value not in graph.constants and graph.types[value].shape == type_.shape
    }  # fmt: skip
    signal, noise = dict.fromkeys(shared, 0.0), dict.fromkeys(shared, 0.0)
    real, coded = Interpreter(graph, device), Interpreter(lowered, device)
    for inputs in samples:
        exact: dict[Value, torch.Tensor] = {}

        def keep(name: Value, tensor: torch.Tensor, exact: dict[Value, torch.Tensor] = exact) -> None:
            if name in shared:
                exact[name] = tensor

        def compare(name: Value, tensor: torch.Tensor, exact: dict[Value, torch.Tensor] = exact) -> None:
            if name in exact:
                error = real_of(tensor, lowered.types[name]) - exact[name]
                signal[name] += float(exact[name].square().sum())
                noise[name] += float(error.square().sum())

        with torch.no_grad():
            real(inputs, keep)
            coded(inputs, compare)
    return {v: 10 * math.log10(max(signal[v], 1e-30) / noise[v]) for v in sorted(shared) if noise[v] > 0}
