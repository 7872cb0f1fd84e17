"""Architectures are built by name from literals alone, and weights must fit them exactly."""

from __future__ import annotations

import pytest
import torch

from edgeq.errors import EdgeqError, UnsupportedError, UsageError
from edgeq.frontend.architecture import build, load_weights, parse_options
from edgeq.frontend.cifar_resnet import DEPTHS, cifar_resnet
from tests.architectures import ARCHITECTURES

BUILT = [
    ("timm:mobilenetv2_050,pad_type=same", (3, 224, 224), "EfficientNet"),
    ("timm:vit_tiny_patch16_224,img_size=32,patch_size=4,depth=2,num_classes=10", (3, 32, 32), "VisionTransformer"),
    ("timm:vit_tiny_patch16_224,img_size=(32, 64),depth=1,in_chans=1", (1, 32, 64), "VisionTransformer"),
    ("torchvision:squeezenet1_1,num_classes=7", (3, 224, 224), "SqueezeNet"),
    ("edgeq:resnet20", (3, 32, 32), "CifarResNet"),
    ("edgeq:resnet56,classes=100", (3, 32, 32), "CifarResNet"),
]


@pytest.mark.parametrize(("arch", "size", "kind"), BUILT)
def test_registries_build_by_name(arch: str, size: tuple[int, int, int], kind: str) -> None:
    built = build(arch)
    assert built.input_size == size
    assert type(built.module).__name__ == kind


@pytest.mark.parametrize(
    ("arch", "reason"),
    [
        ("resnet18", "unknown architecture registry"),
        ("hub:resnet18", "unknown architecture registry"),
        ("timm:mobilnetv2_100", r"Did you mean mobilenetv2_100\?"),
        ("timm:hf-hub:timm/resnet18.a1_in1k", "unknown timm architecture"),
        ("timm:local-dir:/tmp/net", "unknown timm architecture"),
        ("torchvision:resnet19", r"Did you mean resnet1\d\?"),
        ("torchvision:fasterrcnn_resnet50_fpn", "unknown torchvision architecture"),  # its builder downloads a backbone
        ("torchvision.models:resnet18", "unknown architecture registry"),
        ("edgeq:resnet18", "allowed: resnet20, resnet32"),
        ("timm:resnet18,pretrained=True", "would load weights"),
        ("timm:resnet18,pretrained_cfg={'file': 'x'}", "would load weights"),
        ("timm:resnet18,checkpoint_path='x.pth'", "would load weights"),
        ("torchvision:resnet18,weights='DEFAULT'", "would load weights"),
        ("timm:resnet18,num_classes=__import__('os').getpid()", "must be name=literal"),
        ("timm:resnet18,num_classes=(lambda: 3)()", "must be name=literal"),
        ("timm:resnet18,num_classes=", "must be name=literal"),
        ("timm:resnet18,10", "must be name=literal"),
        ("timm:resnet18,**{'num_classes': 3}", "must be name=literal"),
        ("timm:resnet18,colour=red", "does not take these options"),
        ("edgeq:resnet20,classes=ten", "does not take these options"),
    ],
)
def test_what_cannot_be_built_is_named(arch: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as refused:
        build(arch)
    assert "\n" not in str(refused.value)


def test_a_bare_word_is_text_and_everything_else_a_literal() -> None:
    assert parse_options("a", "p=same,q='x,y',r=[1, (2, -3.5)],s=True,t=None,u={'k': 1}") == {
        "p": "same",
        "q": "x,y",
        "r": [1, (2, -3.5)],
        "s": True,
        "t": None,
        "u": {"k": 1},
    }
    assert parse_options("a", "") == {}


def test_weights_that_fit_are_copied() -> None:
    source, _ = ARCHITECTURES["resnet20"].build()
    built = build("edgeq:resnet20")
    tensors = {n: t for n, t in source.state_dict().items() if not n.endswith("num_batches_tracked")}
    load_weights(built.module, tensors, arch="edgeq:resnet20")
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(built.module.eval()(image), source(image))


def test_weights_that_do_not_fit_are_listed() -> None:
    tensors = dict(cifar_resnet(20, classes=100).state_dict())
    del tensors["conv1.weight"]
    tensors |= {f"extra{i}": torch.zeros(1) for i in range(5)}
    with pytest.raises(UnsupportedError) as refused:
        load_weights(cifar_resnet(20), tensors, arch="edgeq:resnet20")
    assert str(refused.value) == (
        "the weights do not fit the architecture; at edgeq:resnet20; got 1 missing: conv1.weight; "
        "5 not in the architecture: extra0, extra1, extra2 and 2 more; "
        "2 of another shape: linear.weight [100, 64] for [10, 64], linear.bias [100] for [10]. "
        "Check --arch and its options"
    )


@pytest.mark.parametrize(("depth", "parameters"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018)])
def test_cifar_resnets_have_the_published_sizes(depth: int, parameters: int) -> None:
    assert sum(p.numel() for p in cifar_resnet(depth).parameters()) == parameters
    assert depth in DEPTHS


def test_a_depth_the_paper_lacks_is_refused() -> None:
    with pytest.raises(EdgeqError, match="allowed: 20, 32"):
        cifar_resnet(18)
