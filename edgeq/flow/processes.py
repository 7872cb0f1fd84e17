"""Several processes that train one network, as torchrun starts them: one for each GPU, or on CPUs by gloo.

Each takes its share of every batch; gradients and losses are averaged, so that together they do what one process would
do with the whole batch. The first one alone writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from edgeq.errors import UsageError


@dataclass(frozen=True)
class Processes:
    """Which process this is, of how many."""

    rank: int = 0
    world: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process keeps the state and goes on to export."""
        return self.rank == 0

    def start_alike(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by that of the first process: two GPUs may have calibrated in another order of sums."""
        for tensor in tensors if self.world > 1 else ():
            dist.broadcast(tensor, 0)

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the processes: all of one kind together, since each exchange waits."""
        kinds: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors if self.world > 1 else ():
            kinds.setdefault(tensor.dtype, []).append(tensor)
        for own in kinds.values():
            flat = torch.cat([tensor.flatten() for tensor in own])
            dist.all_reduce(flat)
            for tensor, mean in zip(own, torch.split(flat.div_(self.world), [t.numel() for t in own]), strict=True):
                tensor.copy_(mean.view_as(tensor))

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over the processes."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def greatest(self, value: float, device: torch.device) -> float:
        """The greatest of the processes' values."""
        if self.world < 2:
            return value
        found = torch.tensor(value, dtype=torch.float64, device=device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return float(found)

    def leave(self) -> None:
        """End what the processes share: threads of it that outlive the interpreter abort the process as it ends."""
        if self.world > 1:
            dist.destroy_process_group()


def is_first() -> bool:
    """Whether this process is the one that writes; the others end when training does."""
    return int(os.environ.get("WORLD_SIZE", "1")) < 2 or os.environ.get("RANK", "0") == "0"


def processes(device: torch.device) -> Processes:
    """Join the processes that torchrun started, if it did."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world < 2:
        return Processes()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Processes(dist.get_rank(), world)


def local_device(device: torch.device) -> torch.device:
    """The GPU of this process where torchrun started several. Raises UsageError when there are fewer."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type != "cuda" or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return device
    if local >= torch.cuda.device_count():
        raise UsageError(
            "more processes than GPUs", value=local + 1, allowed=torch.cuda.device_count(),
            next_step="Give torchrun a smaller --nproc-per-node.",
        )  # fmt: skip
    torch.cuda.set_device(local)
    return torch.device("cuda", local)
