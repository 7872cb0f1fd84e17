"""Steps of sweeps over columns as one kernel each: on an accelerator most of their time is in starting them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

from edgeq.formats import Format, Int, level_range

SPREAD = """template <typename T> T spread_step(T v, T line, T x, T low, T high) {
    return v - line * (x - fmin(fmax(rint(x), low), high));
}"""
"""What is left of column values v after the column of value x was rounded, whose error moves them by `line`."""

DESCEND = """template <typename T> T descend_step(T v, T line, T x, T old, T low, T high) {
    return v - line * (fmin(fmax(rint(x), low), high) - old);
}"""
"""What columns are best at after the level of one that is best at x has changed from `old`."""


def fused_step(code: str, format: Format, device: torch.device) -> Callable[..., Tensor] | None:
    """The kernel of `code` for the levels of `format`, which takes tensors that broadcast; None where it takes several."""
    if device.type != "cuda" or not isinstance(format, Int):
        return None
    low, high = map(float, level_range(format))
    return partial(_compiled(code), low=low, high=high)


@cache
def _compiled(code: str) -> Callable[..., Tensor]:
    made: Callable[..., Tensor] = torch.cuda.jiterator._create_jit_fn(code, low=0.0, high=0.0)
    return made
