"""Where images are computed: the one place that decides on a device, and the arithmetic that is asked of it.

Everything that a network computes on images takes the device of its CalibrationSet (edgeq/flow/inputs.py). Integers are
the same on every device; reals may differ in their last digits, since sums are made in another order, so results repeat
exactly on one kind of device, and between two of them up to such ties.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from edgeq.errors import UsageError


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
