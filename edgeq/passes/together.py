"""Several images in one pass over a real graph, where that is quicker.

A CPU computes one image after the other as quickly as all at once. An accelerator waits most of the time for small
pieces of work, so it takes as many images as its memory holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

import numpy as np
import torch

from edgeq.ir.graph import Array, Graph
from edgeq.ir.ops import Value
from edgeq.passes.batch import Batches, with_batch
from edgeq.reference.interpret import Device, Interpreter, Watch

MOST = 32
"""Images at once: more of them keep no accelerator busier."""

_SHARE = 4
"""Of a device's memory one part in so many is for the values of a pass."""

_COPIES = 6
"""Of all values in float32: they themselves, what gradients need, and what is being made of one of them."""

Inputs = Mapping[Value, Array]


def images_at_once(graph: Graph, device: Device) -> int:
    """How many images a pass takes on `device`: one on a CPU and where channels or operators would mix images."""
    device = torch.device(device)
    if device.type != "cuda" or not _are_apart(graph):
        return 1
    image = 4 * _COPIES * sum(graph.types[value].size for value in graph.types if value not in graph.constants)
    held: int = torch.cuda.get_device_properties(device).total_memory // _SHARE
    return min(MOST, max(1, held // image))


def _are_apart(graph: Graph) -> bool:
    """Whether the images of every computed value lie along its first axis, which holds no channels."""
    axes = Batches(graph).axes
    return set(graph.outputs) <= axes.keys() and all(
        axis == 0 and len(graph.types[value].shape) > 1 for value, axis in axes.items()
    )


def joined(samples: Iterable[Inputs], count: int) -> Iterator[Inputs]:
    """Inputs of one image each as inputs of `count`, the last of fewer."""
    left = iter(samples)
    while some := list(islice(left, count)):
        yield some[0] if len(some) == 1 else {name: np.concatenate([s[name] for s in some]) for name in some[0]}


class Together:
    """Interpreters of `graph` on `device`, one for each number of images (see with_batch)."""

    def __init__(self, graph: Graph, device: Device) -> None:
        self.graph, self.device = graph, device
        self._known: dict[int, Interpreter] = {}

    def count(self, inputs: Mapping[Value, Array | torch.Tensor]) -> int:
        """How many images `inputs` hold; what has no first axis holds one."""
        name = next((name for name in self.graph.inputs if self.graph.types[name].shape), None)
        if name is None or name not in inputs or not inputs[name].shape:
            return 1
        return inputs[name].shape[0] // self.graph.types[name].shape[0] or 1

    def of(self, count: int) -> Interpreter:
        """The interpreter for `count` images."""
        if count not in self._known:
            graph = self.graph if count == 1 else with_batch(self.graph, count)
            self._known[count] = Interpreter(graph, self.device)
        return self._known[count]

    def __call__(
        self, inputs: Mapping[Value, Array | torch.Tensor], watch: Watch | None = None
    ) -> dict[Value, torch.Tensor]:
        """Outputs by name for as many images as `inputs` hold."""
        return self.of(self.count(inputs))(inputs, watch)
