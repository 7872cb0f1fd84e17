"""Training images moved at random, on the device they are on, and true boxes with them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeq.datasets.box_table import mirrored_boxes, shifted_boxes

LARGEST_SHIFT = 0.125


def mirrored(images: Tensor, boxes: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Half of the images [N, C, H, W], flipped left to right."""
    chosen = torch.rand(len(images), device=images.device) < 0.5
    moved = torch.where(chosen[:, None, None, None], images.flip(3), images)
    return moved, None if boxes is None else mirrored_boxes(boxes, chosen, images.shape[3])


def shifted(images: Tensor, boxes: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Each image moved by up to an eighth of its sides; what comes in from outside repeats the edge."""
    height, width = images.shape[2:]
    dy, dx = (max(1, int(side * LARGEST_SHIFT)) for side in (height, width))
    wide = F.pad(images, (dx, dx, dy, dy), mode="replicate")
    rows = torch.randint(0, 2 * dy + 1, (len(images), 1), device=images.device)
    columns = torch.randint(0, 2 * dx + 1, (len(images), 1), device=images.device)
    if boxes is not None:
        boxes = shifted_boxes(boxes, dx - columns[:, 0], dy - rows[:, 0], (height, width))
    rows = rows + torch.arange(height, device=images.device)
    columns = columns + torch.arange(width, device=images.device)
    image = torch.arange(len(images), device=images.device)[:, None, None]
    moved = wide.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2).contiguous(), boxes
