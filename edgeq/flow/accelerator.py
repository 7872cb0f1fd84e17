"""Where images are computed: the one place that decides on a device, and the arithmetic that is asked of it.

Everything that a network computes on images takes the device of its CalibrationSet (edgeq/flow/inputs.py). Integers are
the same on every device; reals may differ in their last digits, since sums are made in another order, so results repeat
exactly on one kind of device, and between two of them up to such ties.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
import torch.nn.functional as F

from edgeq.errors import EdgeqError, UsageError
from edgeq.flow.processes import local_device


def device_of(name: str | None) -> torch.device:
    """The device called `name`, or the accelerator if there is one. Raises UsageError when it is not there."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            "this device cannot be used", value=name, allowed="cpu, or cuda with a GPU and a CUDA build of torch"
        ) from error
    return device


def begin(name: str | None) -> None:
    """Have the accelerator that `name` means, if it does, load its libraries on a thread of its own: that takes seconds."""
    with suppress(EdgeqError):
        device = local_device(device_of(name))
        if device.type == "cuda":
            threading.Thread(target=_load, args=(device,), name="begin").start()


def _load(device: torch.device) -> None:
    """One small call of every library that calibration and learning use."""
    with suppress(RuntimeError):  # it is told where it matters
        x = torch.ones(2, 8, 8, 8, device=device, requires_grad=True)
        for groups in (1, 8):
            y = F.conv2d(x, torch.ones(8, 8 // groups, 3, 3, device=device), groups=groups)
            torch.autograd.grad(y.sum(), x)
        square = torch.eye(8, dtype=torch.float64, device=device).repeat(2, 1, 1)
        factor, _ = torch.linalg.cholesky_ex(square @ square)
        torch.cholesky_solve(square, factor)
        torch.linalg.solve_triangular(factor, square, upper=False)
        torch.baddbmm(square.float(), square.float(), square.float())
        torch.cuda.synchronize(device)


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Single precision throughout, and the same sums in every run.

    By default a GPU rounds the operands of convolutions to ten bits, as coarse as codes.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
