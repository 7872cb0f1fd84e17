"""Training images moved at random, on the device they are on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST_SHIFT = 0.125


def mirrored(images: Tensor) -> Tensor:
    """Half of the images [N, C, H, W], flipped left to right."""
    chosen = torch.rand(len(images), device=images.device) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


def shifted(images: Tensor) -> Tensor:
    """Each image moved by up to an eighth of its sides; what comes in from outside repeats the edge."""
    height, width = images.shape[2:]
    dy, dx = (max(1, int(side * LARGEST_SHIFT)) for side in (height, width))
    wide = F.pad(images, (dx, dx, dy, dy), mode="replicate")
    rows = torch.randint(0, 2 * dy + 1, (len(images), 1), device=images.device)
    columns = torch.randint(0, 2 * dx + 1, (len(images), 1), device=images.device)
    rows = rows + torch.arange(height, device=images.device)
    columns = columns + torch.arange(width, device=images.device)
    image = torch.arange(len(images), device=images.device)[:, None, None]
    return wide.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
