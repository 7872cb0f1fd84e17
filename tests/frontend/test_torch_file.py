"""One door for every file that torch writes: the suffix and the content decide, the outcome is an ONNX model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgeq.errors import UnsupportedError, UntrustedInputError, UsageError
from edgeq.frontend import torch_file
from edgeq.frontend.torch_export import ExportedModel
from tests.architectures import ARCHITECTURES


def run(exported: ExportedModel, image: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(exported.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    output: np.ndarray = session.run(None, {"images": image.numpy()})[0]
    return output


@pytest.mark.parametrize("suffix", [".pth", ".th", ".pt", ".safetensors"])
def test_bare_weights_open_with_their_architecture(tmp_path: Path, suffix: str) -> None:
    module, image = ARCHITECTURES["resnet20"].build()
    file = tmp_path / f"net{suffix}"
    tensors = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    if suffix == ".safetensors":
        save_file(tensors, file)
    else:
        torch.save({"state_dict": tensors}, file, _use_new_zipfile_serialization=suffix != ".th")
    exported = torch_file.load(file, arch="edgeq:resnet20")
    assert exported.metadata == {"arch": "edgeq:resnet20", "imgsz": [32, 32], "batch": 1, "channels": 3}
    expected = module(image).detach().numpy()
    np.testing.assert_allclose(run(exported, image), expected, atol=1e-5 * np.abs(expected).max())
    with pytest.raises(UsageError, match=r"holds weights but no network; .*Pass --arch"):
        torch_file.load(file)


def test_a_whole_network_of_plain_layers_needs_its_size(tmp_path: Path) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 4, 5)
    ).eval()
    torch.save(network, tmp_path / "net.pt")
    with pytest.raises(UsageError, match="does not say its input size"):
        torch_file.load(tmp_path / "net.pt")
    exported = torch_file.load(tmp_path / "net.pt", imgsz=(8, 6))
    image = torch.rand(1, 3, 8, 6)
    np.testing.assert_allclose(run(exported, image), network(image).detach().numpy(), atol=1e-5)
    with pytest.raises(UnsupportedError, match="fails on its example input"):
        torch_file.load(tmp_path / "net.pt", imgsz=9)


def test_a_whole_network_of_other_classes_needs_trust(tmp_path: Path) -> None:
    network, image = ARCHITECTURES["resnet20"].build()
    torch.save(network, tmp_path / "net.pt")
    with pytest.raises(
        UntrustedInputError, match=r"got edgeq\.frontend\.cifar_resnet\.CifarResNet\. Pass --trust-pickle"
    ):
        torch_file.load(tmp_path / "net.pt", imgsz=32)
    exported = torch_file.load(tmp_path / "net.pt", imgsz=32, trust_pickle=True)
    np.testing.assert_allclose(run(exported, image), network(image).detach().numpy(), atol=1e-5)


def test_weights_that_do_not_fit_are_named_with_the_architecture(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "net.pth")
    with pytest.raises(UnsupportedError, match="do not fit the architecture; at edgeq:resnet20"):
        torch_file.load(tmp_path / "net.pth", arch="edgeq:resnet20")


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "arch", "classes"),
    [
        ("mobilenetv2_100_keras_deq8.pth", "timm:mobilenetv2_100,pad_type=same", 1000),
        ("resnet20-12fca82f.th", "edgeq:resnet20", 10),
        (
            "vit_tiny_cifar10.safetensors",
            "timm:vit_tiny_patch16_224,img_size=32,patch_size=4,depth=9,num_classes=10",
            10,
        ),
    ],
)
def test_real_weights_open(real: Path, name: str, arch: str, classes: int) -> None:
    exported = torch_file.load(real / "models" / name, arch=arch)
    size = exported.metadata["imgsz"]
    assert run(exported, torch.rand(1, 3, *size)).shape == (1, classes)
