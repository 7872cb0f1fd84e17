"""Rows of a large value: enough to tell how its elements are distributed, at a fraction of the work."""

from __future__ import annotations

import torch
from torch import Tensor

MOST = 1 << 16
"""About how many elements of each image are taken."""


def rows(x: Tensor, images: int = 1) -> Tensor:
    """Rows of x [N,C,H,W] or x [N,T,C], evenly apart by an odd number, so that no stride of a layer picks the same.

    x itself where it is small. `images` is how many x holds.
    """
    axis, step = x.dim() - 2, x.numel() // images // MOST | 1
    if axis < 1 or step == 1:
        return x
    return x.index_select(axis, torch.arange(min(step, x.shape[axis]) // 2, x.shape[axis], step, device=x.device))
