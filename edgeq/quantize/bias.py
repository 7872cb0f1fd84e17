"""Bias correction: rounding that is one-sided on average shifts a layer's output, and the bias can take it back.

With Q the rounding, the mean output of channel o moves by sum_ik Wq[o,i,k] E[Q(x_i) - x_i] + (Wq - W)[o,i,k] E[x_i];
the mean is taken over images and positions, padding apart. (Nagel et al., 2019, section 4.2, with measured means.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from edgeq.formats import FloatArray
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph, observed, with_constants
from edgeq.quantize.plan import Plan
from edgeq.quantize.scale import bias_codes, dequantize_weight
from edgeq.quantize.sensitivity import rounding_error
from edgeq.reference.interpret import Interpreter

Means = tuple[FloatArray, FloatArray]
"""Of a value, per channel: its mean, and the mean of its rounding error."""


def _means(
    graph: Graph, plan: Plan, values: set[o.Value], samples: Iterable[Mapping[o.Value, Array]]
) -> dict[o.Value, Means]:
    found: dict[o.Value, list[Means]] = {}

    def watch(name: o.Value, tensor: Tensor) -> None:
        if name in values:
            channels = 1 if tensor.dim() == 4 else tensor.dim() - 1
            axes = [axis for axis in range(tensor.dim()) if axis != channels]
            error = rounding_error(tensor, plan.types[name])
            found.setdefault(name, []).append((_mean(tensor, axes), _mean(error, axes)))

    interpreter = Interpreter(observed(graph, values))
    with torch.no_grad():
        for sample in samples:
            interpreter(sample, watch)
    return {
        name: (np.mean([m for m, _ in means], 0), np.mean([e for _, e in means], 0)) for name, means in found.items()
    }


def _mean(x: Tensor, axes: list[int]) -> FloatArray:
    mean: FloatArray = x.mean(axes, dtype=torch.float64).numpy()
    return mean


def _shift(op: o.Conv | o.Linear, graph: Graph, plan: Plan, means: Means) -> FloatArray:
    """Mean change of each output channel."""
    exact = graph.constants[op.weight].astype(np.float64)
    type_ = plan.weights[op.out]
    rounded = dequantize_weight(plan.weight_codes(op.out, graph.constants[op.weight]), type_).astype(np.float64)
    taps, taps_error = (weight.reshape(*exact.shape[:2], -1).sum(2) for weight in (rounded, rounded - exact))
    mean, error = (_by_group(part, op, exact.shape[0]) for part in means)
    shift: FloatArray = (taps * error + taps_error * mean).sum(1)
    return shift


def correct_stored_biases(graph: Graph, stored: Graph, samples: Iterable[Mapping[o.Value, Array]]) -> Graph:
    """`stored`, which is the real `graph` with weights as codes, with the mean shift of every layer taken back.

    Convolutions and linear layers with a constant bias of their own are corrected.
    """
    codes = {op.out: op.x for op in stored.ops if isinstance(op, o.Dequantize)}
    ops = [op for op in graph.ops if isinstance(op, o.Conv | o.Linear) and op.weight in codes and _owns_bias(op, graph)]
    means = _real_means(graph, ops, samples)
    biases: dict[o.Value, Array] = {}
    for op in ops:
        weight = graph.constants[op.weight].astype(np.float64)
        name = codes[op.weight]
        error = dequantize_weight(stored.constants[name].astype(np.int64), stored.types[name]) - weight
        taps = error.reshape(*error.shape[:2], -1).sum(2)
        shift = (taps * _by_group(means[op.out], op, len(weight))).sum(1)
        assert op.bias is not None, op
        biases[op.bias] = (graph.constants[op.bias] - shift).astype(np.float32)
    return with_constants(stored, biases)


def _owns_bias(op: o.Conv | o.Linear, graph: Graph) -> bool:
    bias = op.bias
    return bias is not None and bias in graph.constants and len(graph.consumers[bias]) == 1


def _real_means(
    graph: Graph, ops: Iterable[o.Conv | o.Linear], samples: Iterable[Mapping[o.Value, Array]]
) -> dict[o.Value, FloatArray]:
    """Mean of every input channel of each operator, by its result."""
    channels = {op.x: len(graph.types[op.x].shape) - 1 if isinstance(op, o.Linear) else 1 for op in ops}
    found: dict[o.Value, list[FloatArray]] = {}

    def watch(name: o.Value, tensor: Tensor) -> None:
        if name in channels:
            axes = [axis for axis in range(tensor.dim()) if axis != channels[name]]
            found.setdefault(name, []).append(_mean(tensor, axes))

    interpreter = Interpreter(observed(graph, channels))
    with torch.no_grad():
        for sample in samples:
            interpreter(sample, watch)
    return {op.out: np.mean(found[op.x], 0) for op in ops}


def _by_group(means: FloatArray, op: o.Conv | o.Linear, outputs: int) -> FloatArray:
    """[outputs, inputs of one group]: the input channels that each output channel reads."""
    groups = op.groups if isinstance(op, o.Conv) else 1
    return np.repeat(means.reshape(groups, -1), outputs // groups, axis=0)


def correct_biases(graph: Graph, plan: Plan, samples: Iterable[Mapping[o.Value, Array]]) -> Plan:
    """`plan` with the mean shift of every convolution and linear layer that has a bias taken back."""
    ops = [op for op in graph.ops if isinstance(op, o.Conv | o.Linear) and op.out in plan.biases]
    means = _means(graph, plan, {op.x for op in ops}, samples)
    biases = dict(plan.biases)
    for op in ops:
        assert op.bias is not None, op
        bias = graph.constants[op.bias].astype(np.float64) - _shift(op, graph, plan, means[op.x])
        codes, scales = bias_codes(bias, plan.types[op.x].scale[0], plan.weights[op.out].scale)
        if scales == plan.weights[op.out].scale:
            biases[op.out] = codes
    return replace(plan, biases=biases)
