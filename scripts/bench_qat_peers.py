"""Other tools' training under rounding: modules for scripts/bench-qat (steps) and scripts/bench-qat-accuracy.

Each is set up as its own documentation does for these formats, with eight bits for first and last layers and for what
the first give.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions and a shortcut without weights."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1, self.relu1 = nn.BatchNorm2d(outputs), nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(outputs), nn.ReLU()
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, outputs, H / stride, W / stride]."""
        found = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        if self.more:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more // 2, self.more // 2))
        result: Tensor = self.relu2(found + x)
        return result


class ResNet20(nn.Module):
    """The CIFAR network of He et al., with the names of akamaster's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        sizes = ((16, 16, 1), (16, 32, 2), (32, 64, 2))
        for index, (inputs, outputs, stride) in enumerate(sizes, 1):
            first = Block(inputs, outputs, stride)
            blocks = nn.Sequential(first, Block(outputs, outputs, 1), Block(outputs, outputs, 1))
            self.add_module(f"layer{index}", blocks)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, 32, 32] to logits [N, 10]."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        found: Tensor = self.linear(x.mean((2, 3)))
        return found


def float_resnet20(path: str) -> ResNet20:
    """With the weights in the file at `path`."""
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    model = ResNet20()
    model.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()})
    return model.eval()


def quick_brevitas_percentiles() -> None:
    """Brevitas' percentiles from the few largest numbers: equal numbers, sooner.

    For 300 steps it reads the 99.999th percentile of every activation with torch.kthvalue, which on a GPU gives a whole
    tensor to one of its many multiprocessors. The k-th smallest of n numbers is the (n - k + 1)-th largest.
    """
    from brevitas.core.stats import stats_op

    def kthvalue(x: Tensor, k: int, *rest: Any, **named: Any) -> tuple[Tensor, Tensor]:
        if rest or named or x.dim() != 1:
            found: tuple[Tensor, Tensor] = torch.kthvalue(x, k, *rest, **named)
            return found
        values, places = torch.topk(x, len(x) - k + 1)
        return values[-1], places[-1]

    stats_op.kthvalue = kthvalue


def brevitas_resnet20(model: ResNet20, weight_bits: int, activation_bits: int) -> nn.Module:
    """Brevitas layers in place of torch's: weights per channel, learned scales of activations, batch norms kept."""
    import brevitas.nn as qnn
    from brevitas.quant import Int8WeightPerChannelFloat, Uint8ActPerTensorFloat

    quick_brevitas_percentiles()

    def swapped(module: nn.Module, bits: int) -> nn.Module:
        if isinstance(module, nn.Conv2d):
            found = qnn.QuantConv2d(
                module.in_channels, module.out_channels, 3, module.stride, 1, bias=False,
                weight_quant=Int8WeightPerChannelFloat, weight_bit_width=bits,
            )  # fmt: skip
        else:
            assert isinstance(module, nn.Linear)
            found = qnn.QuantLinear(64, 10, True, weight_quant=Int8WeightPerChannelFloat, weight_bit_width=bits)
        found.load_state_dict(module.state_dict(), strict=False)
        result: nn.Module = found
        return result

    ends = (model.conv1, model.linear)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d | nn.Linear):
                setattr(parent, name, swapped(child, 8 if child in ends else weight_bits))
            elif isinstance(child, nn.ReLU):
                wide = child is model.relu or child is model.layer3[2].relu2  # of the first layer, read by the last
                bits = 8 if wide else activation_bits
                setattr(parent, name, qnn.QuantReLU(act_quant=Uint8ActPerTensorFloat, bit_width=bits))
    return model


def torch_ao_resnet20(model: ResNet20, weight_bits: int, activation_bits: int, sample: Tensor) -> nn.Module:
    """torch.ao's FX quantization-aware training: moving ranges, fused batch norms."""
    from torch.ao.quantization import QConfig, QConfigMapping
    from torch.ao.quantization.quantize_fx import prepare_qat_fx

    def config(weight: int, activation: int) -> Any:
        from torch.ao.quantization import (
            FakeQuantize,
            MovingAverageMinMaxObserver,
            MovingAveragePerChannelMinMaxObserver,
        )

        values = FakeQuantize.with_args(
            observer=MovingAverageMinMaxObserver, quant_min=0, quant_max=2**activation - 1, dtype=torch.quint8
        )
        weights = FakeQuantize.with_args(
            observer=MovingAveragePerChannelMinMaxObserver, quant_min=1 - 2 ** (weight - 1),
            quant_max=2 ** (weight - 1) - 1, dtype=torch.qint8, qscheme=torch.per_channel_symmetric,
        )  # fmt: skip
        return QConfig(activation=values, weight=weights)

    mapping = QConfigMapping().set_global(config(weight_bits, activation_bits))
    for name in ("conv1", "linear"):
        mapping = mapping.set_module_name(name, config(8, 8))
    found: nn.Module = prepare_qat_fx(model.train(), mapping, (sample,))
    return found


def torch_ao(module: nn.Module, images: Tensor) -> nn.Module:
    """torch.ao's FX quantization-aware training in eight bits."""
    from torch.ao.quantization import get_default_qat_qconfig_mapping
    from torch.ao.quantization.quantize_fx import prepare_qat_fx

    found: nn.Module = prepare_qat_fx(module.train(), get_default_qat_qconfig_mapping("x86"), (images[:1],))
    return found


def torchao_pt2e(module: nn.Module, images: Tensor) -> nn.Module:
    """torchao's training of an exported program in eight bits."""
    from torchao.quantization.pt2e import allow_exported_model_train_eval
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    program = torch.export.export(module.train(), (images,)).module()
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_qat=True))
    found: nn.Module = prepare_qat_pt2e(program, quantizer)
    allow_exported_model_train_eval(found)
    found.train()  # which returns nothing here
    return found


def brevitas_layers(module: nn.Module, *, collecting: bool) -> nn.Module:
    """Brevitas' layers in eight bits: inputs and weights of every layer.

    collecting: as in its first 300 steps, which take scales from percentiles; otherwise as from the third step here on,
    with learned scales.
    """
    from brevitas.graph.quantize import layerwise_quantize

    quick_brevitas_percentiles()
    found: nn.Module = layerwise_quantize(module.train())
    for part in found.modules() if not collecting else ():
        if hasattr(part, "collect_stats_steps"):
            part.collect_stats_steps = 1
    return found.train()
