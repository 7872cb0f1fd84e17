"""Two compact monocular depth networks: the layouts of MiDaS-small (RefineNet decoder) and Depth-Anything-small (DPT head).

Encoders are timm's, decoders are written out after Ranftl et al., "Towards Robust Monocular Depth Estimation" (2020) and
"Vision Transformers for Dense Prediction" (2021).
"""

from __future__ import annotations

from typing import Any

import timm
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualUnit(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(F.relu(self.conv1(F.relu(x))))
        return x + y


class Refine(nn.Module):
    """Adds a skip feature, refines, resizes (bilinear, aligned corners) and projects."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.skip, self.body = ResidualUnit(channels), ResidualUnit(channels)
        self.out = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, skip: Tensor | None, size: tuple[int, int] | None) -> Tensor:
        x = x if skip is None else x + self.skip(skip)
        scale = 2.0 if size is None else None
        x = F.interpolate(self.body(x), size=size, scale_factor=scale, mode="bilinear", align_corners=True)
        out: Tensor = self.out(x)
        return out


class MidasSmall(nn.Module):
    """[1, 3, h, w] -> [1, 1, h, w] inverse depth; h and w are multiples of 32."""

    def __init__(self) -> None:
        super().__init__()
        encoder: Any = timm.create_model("tf_efficientnet_lite3", features_only=True, out_indices=(1, 2, 3, 4))
        self.encoder = encoder
        widths = (64, 128, 256, 512)
        channels = encoder.feature_info.channels()
        self.adapt = nn.ModuleList(
            nn.Conv2d(c, w, 3, padding=1, bias=False) for c, w in zip(channels, widths, strict=True)
        )
        self.refine = nn.ModuleList(Refine(w, max(w // 2, 64)) for w in widths)
        self.head = nn.Sequential(
            nn.Conv2d(64, 32, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 1, 1),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        skips = [adapt(f) for adapt, f in zip(self.adapt, self.encoder(x), strict=True)]
        y = self.refine[3](skips[3], None, None)
        for i in (2, 1, 0):
            y = self.refine[i](y, skips[i], None)
        out: Tensor = self.head(y)
        return out


class DepthAnythingSmall(nn.Module):
    """[1, 3, h, w] -> [1, h, w] relative depth; a DINOv2-style ViT-S encoder (patch 14) with a DPT head."""

    def __init__(self, side: int = 84) -> None:
        super().__init__()
        self.grid = side // 14
        self.encoder = timm.create_model("vit_small_patch14_dinov2", img_size=side, num_classes=0)
        widths = (48, 96, 192, 384)
        self.project = nn.ModuleList(nn.Conv2d(384, w, 1) for w in widths)
        self.resize = nn.ModuleList(
            [
                nn.ConvTranspose2d(48, 48, 4, stride=4),
                nn.ConvTranspose2d(96, 96, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(384, 384, 3, stride=2, padding=1),
            ]
        )
        self.adapt = nn.ModuleList(nn.Conv2d(w, 64, 3, padding=1, bias=False) for w in widths)
        self.refine = nn.ModuleList(Refine(64, 64) for _ in widths)
        self.neck = nn.Conv2d(64, 32, 3, padding=1)
        self.head = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 1, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        encoder: Any = self.encoder
        tokens = encoder.forward_intermediates(
            x, indices=[2, 5, 8, 11], norm=True, intermediates_only=True, output_fmt="NLC"
        )
        skips = []
        for i, t in enumerate(tokens):
            feature = t.permute(0, 2, 1).reshape(-1, 384, self.grid, self.grid)
            skips.append(self.adapt[i](self.resize[i](self.project[i](feature))))
        sizes = [None, *((s.shape[2], s.shape[3]) for s in skips[:3])]
        y = self.refine[3](skips[3], None, sizes[3])
        for i in (2, 1, 0):
            y = self.refine[i](y, skips[i], sizes[i])
        side = self.grid * 14
        y = F.interpolate(self.neck(y), size=(side, side), mode="bilinear", align_corners=True)
        out: Tensor = self.head(y)
        return out.squeeze(1)


def midas_small() -> nn.Module:
    return MidasSmall()


def depth_anything_small() -> nn.Module:
    return DepthAnythingSmall()
