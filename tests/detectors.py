"""Two compact detectors whose original packages are not installable beside this one: YOLOX-Nano and NanoDet-Plus-m.

They follow the published layouts (Ge et al., "YOLOX", 2021; the NanoDet-Plus model card, 2021): the operators and shapes
that an exported original has are the ones these give.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 80
REG_MAX = 7


def conv(cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1, act: nn.Module | None = None) -> nn.Module:
    """Convolution, batch norm and activation (SiLU unless given)."""
    return nn.Sequential(
        nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(cout, eps=1e-3),
        nn.SiLU() if act is None else act,
    )


def separable(cin: int, cout: int, kernel: int, stride: int = 1, leaky: bool = False) -> nn.Module:
    """Depthwise then pointwise, each with its norm and activation."""
    act = nn.LeakyReLU(0.1) if leaky else nn.SiLU()
    return nn.Sequential(conv(cin, cin, kernel, stride, cin, act), conv(cin, cout, 1, act=act))


class Focus(nn.Module):
    """Space to depth by strided slices, in YOLOX's order, then a convolution."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv = conv(4 * cin, cout, 3)

    def forward(self, x: Tensor) -> Tensor:
        even, odd = x[..., ::2, :], x[..., 1::2, :]
        corners = (even[..., ::2], odd[..., ::2], even[..., 1::2], odd[..., 1::2])
        out: Tensor = self.conv(torch.cat(corners, dim=1))
        return out


class Bottleneck(nn.Module):
    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(channels, channels, 1), separable(channels, channels, 3))
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.shortcut else y


class Csp(nn.Module):
    """Cross-stage partial block: one half through `depth` bottlenecks, the other past them."""

    def __init__(self, cin: int, cout: int, depth: int, shortcut: bool = True) -> None:
        super().__init__()
        half = cout // 2
        self.main, self.side, self.join = conv(cin, half, 1), conv(cin, half, 1), conv(cout, cout, 1)
        self.blocks = nn.Sequential(*(Bottleneck(half, shortcut) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.join(torch.cat((self.blocks(self.main(x)), self.side(x)), dim=1))
        return out


class Spp(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.join = conv(channels, channels // 2, 1), conv(channels * 2, channels, 1)
        self.pools = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in (5, 9, 13))

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        out: Tensor = self.join(torch.cat([x] + [pool(x) for pool in self.pools], dim=1))
        return out


class YoloxNano(nn.Module):
    """[1, 3, h, w] in 0..255 BGR -> [1, anchors, 5 + classes]: undecoded box, objectness and class probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Focus(3, 16)
        self.dark2 = nn.Sequential(separable(16, 32, 3, 2), Csp(32, 32, 1))
        self.dark3 = nn.Sequential(separable(32, 64, 3, 2), Csp(64, 64, 3))
        self.dark4 = nn.Sequential(separable(64, 128, 3, 2), Csp(128, 128, 3))
        self.dark5 = nn.Sequential(separable(128, 256, 3, 2), Spp(256), Csp(256, 256, 1, shortcut=False))
        self.lateral5, self.up4 = conv(256, 128, 1), Csp(256, 128, 1, shortcut=False)
        self.lateral4, self.up3 = conv(128, 64, 1), Csp(128, 64, 1, shortcut=False)
        self.down3, self.out4 = separable(64, 64, 3, 2), Csp(128, 128, 1, shortcut=False)
        self.down4, self.out5 = separable(128, 128, 3, 2), Csp(256, 256, 1, shortcut=False)
        self.stems = nn.ModuleList(conv(c, 64, 1) for c in (64, 128, 256))
        self.class_convs = nn.ModuleList(self._tower() for _ in range(3))
        self.box_convs = nn.ModuleList(self._tower() for _ in range(3))
        self.class_preds = nn.ModuleList(nn.Conv2d(64, CLASSES, 1) for _ in range(3))
        self.box_preds = nn.ModuleList(nn.Conv2d(64, 4, 1) for _ in range(3))
        self.object_preds = nn.ModuleList(nn.Conv2d(64, 1, 1) for _ in range(3))

    @staticmethod
    def _tower() -> nn.Module:
        return nn.Sequential(separable(64, 64, 3), separable(64, 64, 3))

    def _features(self, x: Tensor) -> list[Tensor]:
        c3 = self.dark3(self.dark2(self.stem(x)))
        c4 = self.dark4(c3)
        c5 = self.dark5(c4)
        p5 = self.lateral5(c5)
        p4 = self.lateral4(self.up4(torch.cat((F.interpolate(p5, scale_factor=2.0), c4), dim=1)))
        n3 = self.up3(torch.cat((F.interpolate(p4, scale_factor=2.0), c3), dim=1))
        n4 = self.out4(torch.cat((self.down3(n3), p4), dim=1))
        n5 = self.out5(torch.cat((self.down4(n4), p5), dim=1))
        return [n3, n4, n5]

    def forward(self, x: Tensor) -> Tensor:
        levels = []
        for i, feature in enumerate(self._features(x)):
            stem = self.stems[i](feature)
            box = self.box_convs[i](stem)
            scores = self.class_preds[i](self.class_convs[i](stem)).sigmoid()
            level = torch.cat((self.box_preds[i](box), self.object_preds[i](box).sigmoid(), scores), dim=1)
            levels.append(level.flatten(start_dim=2))
        return torch.cat(levels, dim=2).permute(0, 2, 1)


def shuffle(x: Tensor) -> Tensor:
    """Interleaves the two halves of the channels."""
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


class ShuffleUnit(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        half, self.stride = cout // 2, stride
        act = nn.LeakyReLU(0.1)
        inside = cin if stride == 2 else half
        self.main = nn.Sequential(
            conv(inside, half, 1, act=act),
            conv(half, half, 3, stride, half, nn.Identity()),
            conv(half, half, 1, act=act),
        )
        self.side = nn.Sequential(conv(cin, cin, 3, 2, cin, nn.Identity()), conv(cin, half, 1, act=act))

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 2:
            return shuffle(torch.cat((self.side(x), self.main(x)), dim=1))
        kept, worked = x.chunk(2, dim=1)
        return shuffle(torch.cat((kept, self.main(worked)), dim=1))


class GhostBlock(nn.Module):
    """Ghost bottleneck without stride: cheap depthwise features beside pointwise ones, plus a separable shortcut."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        half, act = cout // 2, nn.LeakyReLU(0.1)
        self.primary1, self.cheap1 = conv(cin, half, 1, act=act), conv(half, half, 3, 1, half, act)
        self.primary2, self.cheap2 = conv(cout, half, 1, act=nn.Identity()), conv(half, half, 3, 1, half, nn.Identity())
        self.side = nn.Sequential(conv(cin, cin, 5, 1, cin, nn.Identity()), conv(cin, cout, 1, act=nn.Identity()))

    def forward(self, x: Tensor) -> Tensor:
        a = self.primary1(x)
        b = torch.cat((a, self.cheap1(a)), dim=1)
        c = self.primary2(b)
        out: Tensor = torch.cat((c, self.cheap2(c)), dim=1) + self.side(x)
        return out


class NanodetPlusM(nn.Module):
    """[1, 3, h, w] -> [1, anchors, classes + 4 * (REG_MAX + 1)] over strides 8, 16, 32, 64."""

    def __init__(self) -> None:
        super().__init__()
        act = nn.LeakyReLU(0.1)
        self.stem = nn.Sequential(conv(3, 24, 3, 2, act=act), nn.MaxPool2d(3, 2, 1))
        stages = [(24, 116, 4), (116, 232, 8), (232, 464, 4)]
        self.stages = nn.ModuleList(
            nn.Sequential(ShuffleUnit(i, o, 2), *(ShuffleUnit(o, o, 1) for _ in range(n - 1))) for i, o, n in stages
        )
        self.reduce = nn.ModuleList(conv(c, 96, 1, act=act) for c in (116, 232, 464))
        self.top_down = nn.ModuleList(GhostBlock(192, 96) for _ in range(2))
        self.bottom_up = nn.ModuleList(GhostBlock(192, 96) for _ in range(2))
        self.down = nn.ModuleList(separable(96, 96, 5, 2, leaky=True) for _ in range(2))
        self.extra = nn.ModuleList(separable(96, 96, 5, 2, leaky=True) for _ in range(2))
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.towers = nn.ModuleList(
            nn.Sequential(separable(96, 96, 5, leaky=True), separable(96, 96, 5, leaky=True)) for _ in range(4)
        )
        self.preds = nn.ModuleList(nn.Conv2d(96, CLASSES + 4 * (REG_MAX + 1), 1) for _ in range(4))

    def _features(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        laterals = []
        for stage, reduce in zip(self.stages, self.reduce, strict=True):
            x = stage(x)
            laterals.append(reduce(x))
        p3, p4, p5 = laterals
        p4 = self.top_down[0](torch.cat((self.up(p5), p4), dim=1))
        p3 = self.top_down[1](torch.cat((self.up(p4), p3), dim=1))
        n4 = self.bottom_up[0](torch.cat((self.down[0](p3), p4), dim=1))
        n5 = self.bottom_up[1](torch.cat((self.down[1](n4), p5), dim=1))
        return [p3, n4, n5, self.extra[0](p5) + self.extra[1](n5)]

    def forward(self, x: Tensor) -> Tensor:
        levels = []
        for tower, pred, feature in zip(self.towers, self.preds, self._features(x), strict=True):
            scores, box = pred(tower(feature)).split([CLASSES, 4 * (REG_MAX + 1)], dim=1)
            levels.append(torch.cat((scores.sigmoid(), box), dim=1).flatten(start_dim=2))
        return torch.cat(levels, dim=2).permute(0, 2, 1)


def yolox_nano() -> nn.Module:
    return YoloxNano()


def nanodet_plus_m() -> nn.Module:
    return NanodetPlusM()
