"""Chains of small steps on tensors, which an accelerator runs as one recorded graph.

Starting a small step takes an accelerator's driver longer than the step itself. A chain that is run again and again on
tensors of the same shapes is recorded once, on buffers of its own, and then started as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

Chain = Callable[..., tuple[Tensor, ...]]
"""Tensors to tensors by kernels alone: nothing waits for the device, and nothing is decided by what it computed."""

MOST = 256
"""Chains that are kept; the oldest is forgotten first."""


@dataclass(frozen=True)
class Recording:
    """A chain as one graph of a GPU, on buffers of its own."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @classmethod
    def of(cls, chain: Chain, tensors: tuple[Tensor, ...], pool: Any = None) -> Recording:
        """Record `chain`, which must have run on tensors of these shapes before, since kernels are loaded by that.

        Nothing is computed by it. `pool`: memory for what it computes on the way (None for its own).
        """
        inputs = tuple(tensor.clone(memory_format=torch.contiguous_format) for tensor in tensors)
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(tensors[0].device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(tensors[0].device))
        with torch.cuda.stream(stream):
            graph.capture_begin(pool, capture_error_mode="thread_local")
            try:
                outputs = chain(*inputs)
            finally:
                graph.capture_end()
        torch.cuda.current_stream(tensors[0].device).wait_stream(stream)
        return cls(graph, inputs, outputs)

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """What the chain makes of `tensors`, in buffers that the next call overwrites."""
        for buffer, tensor in zip(self.inputs, tensors, strict=True):
            buffer.copy_(tensor)
        self.graph.replay()
        return self.outputs


_RECORDINGS: dict[Hashable, Recording | None] = {}


@cache
def _pool(device: torch.device) -> Any:
    """Memory for what chains compute on the way; no two of them run at once."""
    with torch.cuda.device(device):
        return torch.cuda.graph_pool_handle()


@torch.no_grad()
def run(chain: Chain, key: Hashable, *tensors: Tensor) -> tuple[Tensor, ...]:
    """`chain(*tensors)`; `key` names the chain and all it depends on besides. It may change its `tensors`.

    On an accelerator the results lie in buffers that the next run overwrites, and `tensors` keep their contents: what
    the chain made of them must be among its results. The first run of a chain on tensors of some shapes is never
    recorded, since kernels are loaded by it.
    """
    device = tensors[0].device
    if device.type != "cuda":
        return chain(*tensors)
    known = (key, device, *((tensor.shape, tensor.dtype) for tensor in tensors))
    if known not in _RECORDINGS:
        if len(_RECORDINGS) >= MOST:
            _RECORDINGS.pop(next(iter(_RECORDINGS)))
        _RECORDINGS[known] = None
        return chain(*(tensor.clone(memory_format=torch.contiguous_format) for tensor in tensors))
    recording = _RECORDINGS[known]
    if recording is None:
        _RECORDINGS[known] = recording = Recording.of(chain, tensors, _pool(device))
    return recording(*tensors)
