"""What was learned for a network: by layer codes, scales and bias; kept as plain arrays, and put into a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from edgeq.formats import encode
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph, Type
from edgeq.quantize.columns import Weighted
from edgeq.quantize.plan import Plan
from edgeq.quantize.scale import bias_codes, bias_limit, quantize_weight


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


def unpacked(arrays: Mapping[str, Array], plan: Plan, device: torch.device) -> Learned:
    """What `packed` made arrays of, where it still fits `plan`."""
    learned = Learned()
    if not {"names", "classes", "scales"} <= arrays.keys():
        return learned
    weights = plan.weights
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
            x = plan.types[op.x]
            limit = bias_limit(op, x, type_)
            biases[op.out], scales = bias_codes(layer.bias, x.scale[0], type_.scale, limit=limit, half=half)
            if scales != type_.scale:
                raised = replace(type_, scale=scales)
                kept = raised.scales == type_.scales
                found = np.where(kept, found, quantize_weight(graph.constants[op.weight], raised))
                type_ = raised
        weights[op.out], codes[op.out] = type_, found
    return replace(plan, weights=weights, biases=biases, codes=codes)
