"""Bias correction: rounding that is one-sided on average shifts a layer's output, and the bias can take it back.

With Q the rounding, the mean output of channel o moves by sum_ik Wq[o,i,k] E[Q(x_i) - x_i] + (Wq - W)[o,i,k] E[x_i];
the mean is taken over images and positions, padding apart. (Nagel et al., 2019, section 4.2, with measured means.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np
import torch
from torch import Tensor

from edgeq.formats import FloatArray
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph, observed, with_constants
from edgeq.passes.together import Together
from edgeq.quantize.plan import Plan
from edgeq.quantize.scale import bias_codes, bias_limit, dequantize_weight
from edgeq.quantize.sensitivity import rounding_error
from edgeq.reference.interpret import Device

Corrected = o.Conv | o.Linear
Values = Mapping[o.Value, Tensor]

MOST = 1 << 16
"""About how many elements of a value means are taken of in each image, where it is seen on the way of other work."""


@dataclass(frozen=True)
class Excerpts:
    """Rows of `values` in images that are run for another purpose: enough for means, without runs of their own.

    Of the images that pass by one in `every` is noted, the first among them.
    """

    values: frozenset[o.Value]
    every: int = 1
    images: list[dict[o.Value, Tensor]] = field(default_factory=list)
    _passed: Iterator[int] = field(default_factory=count)

    def note(self, found: Values, count: int = 1) -> None:
        """One more image passes by, or `count` of them one after the other along the first axis of the values."""
        noted = [k for k in range(count) if next(self._passed) % self.every == 0]
        if noted:
            self.images.append(
                {name: _rows(found[name].detach(), noted, count) for name in self.values if name in found}
            )

    @property
    def are_whole(self) -> bool:
        """Whether there are images and all values of each."""
        return bool(self.images) and all(image.keys() == self.values for image in self.images)


def _rows(x: Tensor, noted: list[int], count: int) -> Tensor:
    """Of the `noted` among `count` images rows of x [n,C,H,W] or x [n,T,C], evenly apart by an odd number, so that no
    stride of a layer picks the same."""
    if len(noted) < count:
        x = torch.cat([x.chunk(count)[k] for k in noted])
    axis = x.dim() - 2
    if axis < 1:
        return x.clone()
    step = x.numel() // (MOST * len(noted)) | 1
    rows = torch.arange(min(step, x.shape[axis]) // 2, x.shape[axis], step, device=x.device)
    return x.index_select(axis, rows)


def corrected_operands(graph: Graph) -> frozenset[o.Value]:
    """What the operators read whose biases can be corrected."""
    return frozenset(op.x for op in graph.ops if isinstance(op, Corrected) and op.bias is not None)


def operand_values(
    graph: Graph, samples: Iterable[Mapping[o.Value, Array]], device: Device = "cpu"
) -> Iterator[Values]:
    """The values of `corrected_operands` in every sample, of one image or of several (see with_batch)."""
    wanted = corrected_operands(graph)
    together = Together(observed(graph, wanted), device)
    for sample in samples:
        found: dict[o.Value, Tensor] = {}

        def keep(name: o.Value, tensor: Tensor, found: dict[o.Value, Tensor] = found) -> None:
            if name in wanted:
                found[name] = tensor

        with torch.no_grad():
            together(sample, keep)
        yield found


def _channel_means(
    ops: Iterable[Corrected], images: Iterable[Values], parts: Callable[[o.Value, Tensor], tuple[Tensor, ...]]
) -> dict[o.Value, tuple[FloatArray, ...]]:
    """Means of `parts` of the input of each operator, per channel, by its result."""
    found: dict[o.Value, list[tuple[FloatArray, ...]]] = {op.out: [] for op in ops}
    sizes: dict[o.Value, list[int]] = {op.out: [] for op in ops}
    for image in images:
        for op in ops:
            tensor = image[op.x]
            channels = tensor.dim() - 1 if isinstance(op, o.Linear) else 1
            axes = [axis for axis in range(tensor.dim()) if axis != channels]
            sizes[op.out].append(len(tensor))  # so many images, or a multiple
            found[op.out].append(tuple(_mean(part, axes) for part in parts(op.x, tensor)))
    shares = {out: np.array(size) / size[0] for out, size in sizes.items() if size}
    return {
        out: tuple(np.average(part, 0, shares[out]) for part in zip(*means, strict=True))
        for out, means in found.items()
    }


def _mean(x: Tensor, axes: list[int]) -> FloatArray:
    mean: FloatArray = x.mean(axes, dtype=torch.float64).cpu().numpy()
    return mean


def _shift(op: Corrected, graph: Graph, plan: Plan, means: tuple[FloatArray, ...]) -> FloatArray:
    """Mean change of each output channel, from the means of each input channel and of its rounding error."""
    exact = graph.constants[op.weight].astype(np.float64)
    type_ = plan.weights[op.out]
    rounded = dequantize_weight(plan.weight_codes(op.out, graph.constants[op.weight]), type_).astype(np.float64)
    taps, taps_error = (weight.reshape(*exact.shape[:2], -1).sum(2) for weight in (rounded, rounded - exact))
    mean, error = (_by_group(part, op, exact.shape[0]) for part in means)
    shift: FloatArray = (taps * error + taps_error * mean).sum(1)
    return shift


def correct_stored_biases(
    graph: Graph, stored: Graph, samples: Iterable[Mapping[o.Value, Array]], device: Device = "cpu"
) -> Graph:
    """`stored`, which is the real `graph` with weights as codes, with the mean shift of every layer taken back.

    Convolutions and linear layers with a constant bias of their own are corrected.
    """
    codes = {op.out: op.x for op in stored.ops if isinstance(op, o.Dequantize)}
    ops = [op for op in graph.ops if isinstance(op, Corrected) and op.weight in codes and _owns_bias(op, graph)]
    means = _channel_means(ops, operand_values(graph, samples, device), lambda _, tensor: (tensor,))
    biases: dict[o.Value, Array] = {}
    for op in ops:
        weight = graph.constants[op.weight].astype(np.float64)
        name = codes[op.weight]
        error = dequantize_weight(stored.constants[name].astype(np.int64), stored.types[name]) - weight
        taps = error.reshape(*error.shape[:2], -1).sum(2)
        shift = (taps * _by_group(means[op.out][0], op, len(weight))).sum(1)
        assert op.bias is not None, op
        biases[op.bias] = (graph.constants[op.bias] - shift).astype(np.float32)
    return with_constants(stored, biases)


def _owns_bias(op: Corrected, graph: Graph) -> bool:
    bias = op.bias
    return bias is not None and bias in graph.constants and len(graph.consumers[bias]) == 1


def _by_group(means: FloatArray, op: Corrected, outputs: int) -> FloatArray:
    """[outputs, inputs of one group]: the input channels that each output channel reads."""
    groups = op.groups if isinstance(op, o.Conv) else 1
    return np.repeat(means.reshape(groups, -1), outputs // groups, axis=0)


def correct_biases(graph: Graph, plan: Plan, images: Iterable[Values]) -> Plan:
    """`plan` with the mean shift of every convolution and linear layer that has a bias taken back.

    `images` are the `operand_values` of some, or `Excerpts` of them.
    """
    ops = [op for op in graph.ops if isinstance(op, Corrected) and op.out in plan.biases]
    means = _channel_means(ops, images, lambda x, tensor: (tensor, rounding_error(tensor, plan.types[x])))
    biases = dict(plan.biases)
    for op in ops:
        assert op.bias is not None, op
        bias = graph.constants[op.bias].astype(np.float64) - _shift(op, graph, plan, means[op.out])
        x, weight = plan.types[op.x], plan.weights[op.out]
        codes, scales = bias_codes(bias, x.scale[0], weight.scale, limit=bias_limit(op, x, weight))
        if scales == weight.scale:
            biases[op.out] = codes
    return replace(plan, biases=biases)
