"""What the zoo's models are trained to minimize.

The detector follows task-aligned assignment (TOOD, arXiv 2108.07755): the places that answer for an object are those
inside it whose score and overlap are jointly best, and their score's target is how well they do. Boxes are trained by
complete IoU (arXiv 1911.08287) and distribution focal loss (arXiv 2006.04388).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from zoo_models import BINS, FARTHEST_M, Detector

_CANDIDATES = 10  # places per object
_SCORE_POWER, _OVERLAP_POWER = 0.5, 6.0
_BOX_WEIGHT, _SCORE_WEIGHT, _BINS_WEIGHT = 7.5, 0.5, 1.5


@dataclass(frozen=True)
class Assignment:
    """Per place: whether it answers for an object, that object's box, and a target score per class."""

    chosen: Tensor  # bool [B, N]
    boxes: Tensor  # [B, N, 4] x0 y0 x1 y1
    scores: Tensor  # [B, N, classes]


def detection_loss(model: Detector, images: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    """Loss of a batch: images 0..1, boxes [B, M, 4] in pixels, labels [B, M] with -1 where there is no object."""
    bins, scores = model.raw(images)
    with torch.autocast(images.device.type, enabled=False):
        return _placed_loss(model, bins.float(), scores.float(), boxes, labels)


def _placed_loss(model: Detector, bins: Tensor, scores: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    corners = model.corners(bins).transpose(1, 2)
    logits = scores.transpose(1, 2)
    centres, strides = model.centres[0].T, model.strides[0, 0]
    target = assign(logits.detach().sigmoid(), corners.detach(), centres * strides[:, None], boxes, labels)
    total = target.scores.sum().clamp(min=1.0)
    score_loss = F.binary_cross_entropy_with_logits(logits, target.scores, reduction="sum") / total
    weight = target.scores.sum(dim=2) * target.chosen
    box_loss = ((1 - complete_iou(corners, target.boxes)) * weight).sum() / total
    near, far = torch.split(target.boxes, 2, dim=2)
    scale = strides[None, :, None]
    sides = torch.cat([centres - near / scale, far / scale - centres], dim=2)
    bins_loss = (_bins_loss(bins, sides) * weight).sum() / total
    return _SCORE_WEIGHT * score_loss + _BOX_WEIGHT * box_loss + _BINS_WEIGHT * bins_loss


@torch.no_grad()
def assign(scores: Tensor, corners: Tensor, centres: Tensor, boxes: Tensor, labels: Tensor) -> Assignment:
    """Match places to objects: scores [B, N, C], corners [B, N, 4], centres [N, 2] px, boxes [B, M, 4], labels [B, M]."""
    real = labels >= 0
    known = labels.clamp(min=0)
    overlap = complete_iou(corners[:, None], boxes[:, :, None]).clamp(min=0)  # [B, M, N]
    score = scores.transpose(1, 2).gather(1, known[:, :, None].expand(-1, -1, scores.shape[1]))
    offsets = torch.cat([centres - boxes[:, :, None, :2], boxes[:, :, None, 2:] - centres], dim=3)
    inside = (offsets.amin(dim=3) > 0) & real[:, :, None]
    fit = score**_SCORE_POWER * overlap**_OVERLAP_POWER * inside
    best = fit.topk(_CANDIDATES, dim=2)
    picked = torch.zeros_like(inside).scatter_(2, best.indices, True) & inside
    owner = torch.where(picked, overlap, -1.0).argmax(dim=1)  # [B, N]
    picked &= F.one_hot(owner, boxes.shape[1]).transpose(1, 2).bool()
    fit, overlap = fit * picked, overlap * picked
    worth = (fit * overlap.amax(dim=2, keepdim=True) / fit.amax(dim=2, keepdim=True).clamp(min=1e-9)).amax(dim=1)
    target = F.one_hot(known.gather(1, owner), scores.shape[2]) * worth[:, :, None]
    return Assignment(picked.any(dim=1), boxes.gather(1, owner[:, :, None].expand(-1, -1, 4)), target)


def complete_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU less the distance of centres and the difference of aspect, over the last axis (x0 y0 x1 y1)."""
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(dim=-1)
    size_a, size_b = (a[..., 2:] - a[..., :2]).clamp(min=1e-6), (b[..., 2:] - b[..., :2]).clamp(min=1e-6)
    iou = inner / (size_a.prod(dim=-1) + size_b.prod(dim=-1) - inner + 1e-7)
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    apart = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]).square().sum(dim=-1) / 4
    angles = torch.atan(size_a[..., 0] / size_a[..., 1]) - torch.atan(size_b[..., 0] / size_b[..., 1])
    shape = (4 / math.pi**2) * angles.square()
    trade = (shape / (1 - iou + shape + 1e-7)).detach()
    return iou - apart / (hull.square().sum(dim=-1) + 1e-7) - trade * shape


def _bins_loss(bins: Tensor, sides: Tensor) -> Tensor:
    """Cross entropy against the two bins beside each true side: bins [B, 4 * BINS, N], sides [B, N, 4] -> [B, N]."""
    count = bins.shape[2]
    log_share = bins.view(-1, 4, BINS, count).log_softmax(dim=2)
    sides = sides.clamp(0, BINS - 1.01).transpose(1, 2)  # [B, 4, N]
    low = sides.long()
    part = sides - low
    below = log_share.gather(2, low[:, :, None])[:, :, 0]
    above = log_share.gather(2, low[:, :, None] + 1)[:, :, 0]
    return -(below * (1 - part) + above * part).mean(dim=1)


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), labels, label_smoothing=0.05)


def depth_loss(depth: Tensor, target: Tensor) -> Tensor:
    """Mean error of log depth, and of its steps to the neighbours right and below; both [B, 1, H, W]."""
    error = depth.float().clamp(min=0.05).log() - target.clamp(max=FARTHEST_M).log()
    steps = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return error.abs().mean() + 0.5 * steps
