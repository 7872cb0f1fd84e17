"""The three architectures of the zoo, in plain torch: small enough to embed, ordinary enough to stand for real ones.

detector: a convolutional pyramid with SiLU and an anchor-free head over strides 8, 16 and 32, its box sides given
as distributions over bins (Generalized Focal Loss, arXiv 2006.04388). classifier: a vision transformer
(arXiv 2010.11929). depth: inverted residuals with ReLU6 (MobileNetV2, arXiv 1801.04381) and a bilinear decoder.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDES = (8, 16, 32)
BINS = 8  # per box side; a side reaches at most (BINS - 1) * stride pixels from its centre
FARTHEST_M = 10.0  # what the depth model can say; the rooms end before it


class Convolution(nn.Module):
    """Convolution, batch normalization, activation."""

    def __init__(
        self, inputs: int, outputs: int, size: int = 1, stride: int = 1, groups: int = 1, act: type[nn.Module] = nn.SiLU
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.norm(self.conv(x)))
        return out


class Residual(nn.Module):
    """Two 3x3 convolutions added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(Convolution(width, width, 3), Convolution(width, width, 3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class Partial(nn.Module):
    """Cross-stage partial block: half the channels pass `depth` residuals, every stage's output is kept."""

    def __init__(self, inputs: int, outputs: int, depth: int = 1) -> None:
        super().__init__()
        self.width = outputs // 2
        self.enter = Convolution(inputs, 2 * self.width)
        self.stages = nn.ModuleList(Residual(self.width) for _ in range(depth))
        self.leave = Convolution((2 + depth) * self.width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        kept = list(torch.split(self.enter(x), [self.width, self.width], dim=1))
        for stage in self.stages:
            kept.append(stage(kept[-1]))
        out: Tensor = self.leave(torch.cat(kept, dim=1))
        return out


class PyramidPool(nn.Module):
    """Context from three chained 5x5 max pools."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = Convolution(width, width // 2)
        self.leave = Convolution(width * 2, width)

    def forward(self, x: Tensor) -> Tensor:
        kept = [self.enter(x)]
        for _ in range(3):
            kept.append(F.max_pool2d(kept[-1], 5, 1, 2))
        out: Tensor = self.leave(torch.cat(kept, dim=1))
        return out


class Branches(nn.Module):
    """One level of the head: box bins and class logits from separate branches, [B, 4 * BINS + classes, H, W]."""

    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.box = nn.Sequential(
            Convolution(inputs, width, 3), Convolution(width, width, 3), nn.Conv2d(width, 4 * BINS, 1)
        )
        self.score = nn.Sequential(
            Convolution(inputs, inputs, 3, groups=inputs), Convolution(inputs, width),
            Convolution(width, width, 3, groups=width), Convolution(width, width), nn.Conv2d(width, classes, 1),
        )  # fmt: skip
        nn.init.constant_(self.score[-1].bias, -4.0)  # type: ignore[arg-type]  # most places hold nothing

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.box(x), self.score(x)], dim=1)


class Detector(nn.Module):
    """images [B, 3, H, W] RGB in 0..1 -> [B, 4 + classes, N]: x y w h in pixels, then a score per class."""

    centres: Tensor
    strides: Tensor

    def __init__(self, classes: int = 8, side: int = 160, widths: tuple[int, ...] = (12, 24, 40, 52, 64)) -> None:
        super().__init__()
        a, b, c, d, e = widths
        self.classes = classes
        self.stem = nn.Sequential(Convolution(3, a, 3, 2), Convolution(a, b, 3, 2), Partial(b, b))
        self.down8 = nn.Sequential(Convolution(b, c, 3, 2), Partial(c, c, 2))
        self.down16 = nn.Sequential(Convolution(c, d, 3, 2), Partial(d, d))
        self.down32 = nn.Sequential(Convolution(d, e, 3, 2), Partial(e, e), PyramidPool(e))
        self.up16, self.up8 = Partial(d + e, d), Partial(c + d, c)
        self.to16, self.join16 = Convolution(c, c, 3, 2), Partial(c + d, d)
        self.to32, self.join32 = Convolution(d, d, 3, 2, groups=4), Partial(d + e, e)
        self.heads = nn.ModuleList(Branches(width, 32, classes) for width in (c, d, e))
        self.project = nn.Conv2d(BINS, 1, 1, bias=False).requires_grad_(False)
        self.project.weight.data = torch.arange(BINS, dtype=torch.float32).view(1, BINS, 1, 1)
        centres, strides = grid(side)
        self.register_buffer("centres", centres.T[None], persistent=False)  # [1, 2, N], in strides
        self.register_buffer("strides", strides[None, None], persistent=False)  # [1, 1, N]

    def levels(self, images: Tensor) -> list[Tensor]:
        """The head's raw outputs per stride."""
        f8 = self.down8(self.stem(images))
        f16 = self.down16(f8)
        f32 = self.down32(f16)
        n16 = self.up16(torch.cat([F.interpolate(f32, scale_factor=2.0, mode="nearest"), f16], dim=1))
        n8 = self.up8(torch.cat([F.interpolate(n16, scale_factor=2.0, mode="nearest"), f8], dim=1))
        n16 = self.join16(torch.cat([self.to16(n8), n16], dim=1))
        n32 = self.join32(torch.cat([self.to32(n16), f32], dim=1))
        return [head(x) for head, x in zip(self.heads, (n8, n16, n32), strict=True)]

    def raw(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Box bin logits [B, 4 * BINS, N] and class logits [B, classes, N]."""
        flat = torch.cat([x.flatten(2) for x in self.levels(images)], dim=2)
        bins, scores = torch.split(flat, [4 * BINS, self.classes], dim=1)
        return bins, scores

    def sides(self, bins: Tensor) -> Tensor:
        """Expected distances left, top, right, bottom of the centre, [B, 4, N] in strides."""
        count = bins.shape[2]
        spread = bins.view(-1, 4, BINS, count).transpose(1, 2).softmax(dim=1)
        out: Tensor = self.project(spread)
        return out.view(-1, 4, count)

    def corners(self, bins: Tensor) -> Tensor:
        """x0 y0 x1 y1 in pixels, [B, 4, N]."""
        near, far = torch.split(self.sides(bins), [2, 2], dim=1)
        return torch.cat([self.centres - near, self.centres + far], dim=1) * self.strides

    def forward(self, images: Tensor) -> Tensor:
        bins, scores = self.raw(images)
        near, far = torch.split(self.sides(bins), [2, 2], dim=1)
        low, high = self.centres - near, self.centres + far
        boxes = torch.cat([(low + high) / 2, high - low], dim=1) * self.strides
        return torch.cat([boxes, scores.sigmoid()], dim=1)


def grid(side: int) -> tuple[Tensor, Tensor]:
    """Cell centres [N, 2] (x, y, in strides) and strides [N] of all levels of a square image."""
    centres, strides = [], []
    for stride in STRIDES:
        steps = torch.arange(side // stride, dtype=torch.float32) + 0.5
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        centres.append(torch.stack([x.flatten(), y.flatten()], dim=1))
        strides.append(torch.full((x.numel(),), float(stride)))
    return torch.cat(centres), torch.cat(strides)


class Attention(nn.Module):
    """Multi-head self-attention, written as its matrix products."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q * self.scale @ k.transpose(2, 3)).softmax(dim=3)
        out: Tensor = self.out((weights @ v).transpose(1, 2).reshape(batch, tokens, width))
        return out


class Block(nn.Module):
    """A pre-normalization transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Classifier(nn.Module):
    """images [B, 3, side, side], normalized -> class logits [B, classes]."""

    def __init__(
        self, classes: int = 8, side: int = 96, patch: int = 8, width: int = 64, depth: int = 4, heads: int = 4
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.place = nn.Parameter(0.02 * torch.randn(1, (side // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.embed(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(images.shape[0], -1, -1), patches], dim=1) + self.place
        out: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return out


class Inverted(nn.Module):
    """Inverted residual: widen, filter each channel, narrow; added to the input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, widen: int = 4) -> None:
        super().__init__()
        inner = inputs * widen
        self.same = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            Convolution(inputs, inner, act=nn.ReLU6),
            Convolution(inner, inner, 3, stride, inner, act=nn.ReLU6),
            Convolution(inner, outputs, act=nn.Identity),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return x + out if self.same else out


class Merge(nn.Module):
    """Double the coarse features' size, add the projected fine ones, and filter."""

    def __init__(self, coarse: int, fine: int, outputs: int) -> None:
        super().__init__()
        self.narrow, self.skip = (
            Convolution(coarse, outputs, act=nn.Identity),
            Convolution(fine, outputs, act=nn.Identity),
        )
        self.filter = nn.Sequential(
            Convolution(outputs, outputs, 3, groups=outputs, act=nn.ReLU6), Convolution(outputs, outputs, act=nn.ReLU6)
        )

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        grown = F.interpolate(self.narrow(coarse), scale_factor=2.0, mode="bilinear", align_corners=False)
        out: Tensor = self.filter(grown + self.skip(fine))
        return out


class Depth(nn.Module):
    """images [B, 3, H, W], normalized, sides divisible by 32 -> depth [B, 1, H, W] in metres, 0..FARTHEST_M."""

    def __init__(self, widths: tuple[int, ...] = (16, 20, 28, 44, 72)) -> None:
        super().__init__()
        a, b, c, d, e = widths
        self.stem = nn.Sequential(Convolution(3, a, 3, 2, act=nn.ReLU6), Inverted(a, a, widen=1))
        self.down4 = nn.Sequential(Inverted(a, b, 2), Inverted(b, b))
        self.down8 = nn.Sequential(Inverted(b, c, 2), Inverted(c, c))
        self.down16 = nn.Sequential(Inverted(c, d, 2), Inverted(d, d))
        self.down32 = nn.Sequential(Inverted(d, e, 2), Inverted(e, e))
        self.up16, self.up8 = Merge(e, d, d), Merge(d, c, c)
        self.up4, self.up2 = Merge(c, b, b), Merge(b, a, a)
        self.head = nn.Conv2d(a, 1, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        f2 = self.stem(images)
        f4 = self.down4(f2)
        f8 = self.down8(f4)
        f16 = self.down16(f8)
        x = self.up16(self.down32(f16), f16)
        x = self.up2(self.up4(self.up8(x, f8), f4), f2)
        grown = F.interpolate(self.head(x), scale_factor=2.0, mode="bilinear", align_corners=False)
        return grown.sigmoid() * FARTHEST_M
