"""The CIFAR-10 residual networks of He et al., "Deep Residual Learning" (2015), section 4.2: 6n + 2 layers.

Shortcuts across a stride are the paper's option A: every second pixel, channels padded with zeros on both sides, no
weights. Parameter names are those that published checkpoints use (`conv1`, `bn1`, `layer1.0.conv1`, `linear`).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from edgeq.errors import UsageError

DEPTHS = (20, 32, 44, 56, 110)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a parameter-free shortcut; halves height and width when `stride` is 2."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.padding = stride, (channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1 or self.padding:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(y + x)


class CifarResNet(nn.Module):
    """[n, 3, 32, 32] -> [n, classes] logits."""

    def __init__(self, depth: int, classes: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))


def cifar_resnet(depth: int, classes: int = 10) -> CifarResNet:
    """The network with `depth` weighted layers. Raises UsageError for a depth the paper does not have."""
    if depth not in DEPTHS:
        raise UsageError("no CIFAR ResNet of this depth", value=depth, allowed=", ".join(map(str, DEPTHS)))
    return CifarResNet(depth, classes)
