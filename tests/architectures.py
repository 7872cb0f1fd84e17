"""The architectures that the frontend must read, with seeded random weights that keep every activation alive.

`ARCHITECTURES` maps a name to an `Architecture`; `build()` returns the module in eval mode and an example input.
Random weights alone make a deep network vanish or explode, so `enliven` gives every batch norm the statistics of a batch
of random images, the first of which is the example input.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgeq.frontend import torchvision_shim

torchvision_shim.install()


@dataclass(frozen=True)
class Architecture:
    """`module` builds the bare network; `input_shape` is NCHW; `kind` is how it is opened: torch or ultralytics."""

    name: str
    module: Callable[[], nn.Module]
    input_shape: tuple[int, int, int, int]
    kind: str = "torch"

    def build(self) -> tuple[nn.Module, Tensor]:
        """The network in eval mode with lively weights, and an input in [0, 1); the same at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(sum(map(ord, self.name)))
            batch = images(8, self.input_shape)
            return enliven(self.module().eval(), batch), batch[:1]


def images(count: int, input_shape: tuple[int, int, int, int]) -> Tensor:
    """Smooth random fields with a little noise, in [0, 1]: unlike plain noise they still vary in the deepest layers."""
    _, channels, height, width = input_shape
    contrast = torch.empty(count, channels, 1, 1).uniform_(0.4, 1.0)
    coarse = contrast * torch.rand(count, channels, max(2, height // 16), max(2, width // 16))
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return 0.8 * smooth + 0.2 * torch.rand(count, channels, height, width)


def enliven(module: nn.Module, batch: Tensor) -> nn.Module:
    """Gives scales and biases ordinary values, and every batch norm the statistics of `batch`."""
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            continue
        if name.endswith(("weight", "gamma")):
            nn.init.uniform_(parameter, 0.6, 1.4)
        else:
            nn.init.normal_(parameter, mean=float(parameter.numel() == 1), std=0.2)
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = 1.0
    with torch.no_grad():
        module(batch)
    for norm in norms:
        norm.eval().momentum = 0.1
    return module


def _timm(name: str, **kwargs: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        module: nn.Module = timm.create_model(name, pretrained=False, **kwargs)
        return module

    return build


def _torchvision(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import torchvision

        module: nn.Module = torchvision.models.get_model(name, weights=None)
        return module

    return build


def _cifar_resnet(depth: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from edgeq.frontend.cifar_resnet import cifar_resnet

        return cifar_resnet(depth)

    return build


def _own(file: str, name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        module: nn.Module = getattr(importlib.import_module(f"tests.{file}"), name)()
        return module

    return build


def _yolo(yaml: str) -> Callable[[], nn.Module]:
    """A network of the installed ultralytics package, from its own description file; nothing is downloaded."""

    def build() -> nn.Module:
        from edgeq.frontend.ultralytics import import_ultralytics

        import_ultralytics()
        module: nn.Module = importlib.import_module("ultralytics").YOLO(yaml, verbose=False).model
        return module

    return build


_YOLO_NAMES = [
    "yolov5n",
    *(f"yolo{version}n{task}" for version in ("v8", "11", "26") for task in ("", "-seg", "-pose", "-cls", "-obb")),
]
_YOLOS = [Architecture(name, _yolo(f"{name}.yaml"), (1, 3, 96, 96), "ultralytics") for name in _YOLO_NAMES]
_OTHERS = [
    Architecture("yolox_nano", _own("detectors", "yolox_nano"), (1, 3, 96, 96)),
    Architecture("nanodet_plus_m", _own("detectors", "nanodet_plus_m"), (1, 3, 128, 128)),
    Architecture("mobilenetv2", _timm("mobilenetv2_100"), (1, 3, 96, 96)),
    Architecture("mobilenetv2_same", _timm("mobilenetv2_100", pad_type="same"), (1, 3, 96, 96)),
    Architecture("mobilenetv2_torchvision", _torchvision("mobilenet_v2"), (1, 3, 96, 96)),
    Architecture("mobilenetv3", _timm("mobilenetv3_small_100"), (1, 3, 96, 96)),
    Architecture("resnet18", _torchvision("resnet18"), (1, 3, 96, 96)),
    Architecture("resnet50", _torchvision("resnet50"), (1, 3, 96, 96)),
    Architecture("resnet20", _cifar_resnet(20), (1, 3, 32, 32)),
    Architecture("resnet56", _cifar_resnet(56), (1, 3, 32, 32)),
    Architecture("squeezenet", _torchvision("squeezenet1_1"), (1, 3, 96, 96)),
    Architecture("efficientnet_b0", _timm("efficientnet_b0"), (1, 3, 96, 96)),
    Architecture("mobilevit_xs", _timm("mobilevit_xs"), (1, 3, 128, 128)),
    Architecture("deit_tiny", _timm("deit_tiny_patch16_224", img_size=96), (1, 3, 96, 96)),
    Architecture("deit_tiny_distilled", _timm("deit_tiny_distilled_patch16_224", img_size=96), (1, 3, 96, 96)),
    Architecture("vit_tiny", _timm("vit_tiny_patch16_224", img_size=96), (1, 3, 96, 96)),
    Architecture("vit_b_32", _torchvision("vit_b_32"), (1, 3, 224, 224)),
    Architecture("swin_tiny", _timm("swin_tiny_patch4_window7_224", img_size=112), (1, 3, 112, 112)),
    Architecture("swin_t_torchvision", _torchvision("swin_t"), (1, 3, 112, 112)),
    Architecture("midas_small", _own("depth_nets", "midas_small"), (1, 3, 96, 96)),
    Architecture("depth_anything_small", _own("depth_nets", "depth_anything_small"), (1, 3, 84, 84)),
]
ARCHITECTURES = {a.name: a for a in _YOLOS + _OTHERS}
