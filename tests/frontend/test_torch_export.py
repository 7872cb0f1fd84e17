"""Exported networks compute what the torch networks compute, and exporting leaves nothing changed or behind."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgeq.errors import UnsupportedError, UntrustedInputError, UsageError
from edgeq.frontend import torch_file
from edgeq.frontend.torch_export import ExportedModel, to_onnx
from tests.architectures import ARCHITECTURES

TOLERANCE = 1e-4  # of the largest output; the runtime sums in another order
EVERY_RUN = ("resnet20", "squeezenet", "mobilenetv2_same", "yolox_nano", "nanodet_plus_m", "mobilevit_xs", "vit_tiny")
NETWORKS = [
    pytest.param(name, marks=() if name in EVERY_RUN else pytest.mark.slow)
    for name, architecture in ARCHITECTURES.items()
    if architecture.kind == "torch"
]


def run(exported: ExportedModel, *inputs: Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(exported.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {port.name: value.numpy() for port, value in zip(session.get_inputs(), inputs, strict=True)}
    return list(session.run(None, feeds))


def assert_close(computed: np.ndarray, expected: Tensor) -> None:
    reference = expected.detach().numpy()
    assert computed.shape == reference.shape
    assert np.abs(computed - reference).max() <= TOLERANCE * np.abs(reference).max()
    assert len(np.unique(reference.round(6))) > min(8, reference.size // 2)  # not all the same


def assert_static(proto: onnx.ModelProto) -> None:
    onnx.checker.check_model(proto)
    for port in (*proto.graph.input, *proto.graph.output):
        assert all(d.dim_value > 0 for d in port.type.tensor_type.shape.dim), port.name
    assert not any(tensor.external_data for tensor in proto.graph.initializer)
    assert proto.ir_version <= 10


class ManyOutputs(nn.Module):
    """One result twice, the input itself, a weight, and a result that another reads."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found = self.layer(images)
        return found, images, found, self.layer.weight, found.relu()


def test_every_output_has_a_name_of_its_own() -> None:
    module, image = ManyOutputs().eval(), torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    exported = to_onnx(module, (image,))
    assert_static(exported.proto)
    assert [o.name for o in exported.proto.graph.output] == [f"output{k}" for k in range(5)]
    with torch.no_grad():
        for computed, expected in zip(run(exported, image), module(image), strict=True):
            assert_close(computed, expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_exported_network_equals_eager_torch(name: str) -> None:
    module, image = ARCHITECTURES[name].build()
    exported = to_onnx(module, (image,))
    assert_static(exported.proto)
    assert [i.name for i in exported.proto.graph.input] == ["images"]
    assert [o.name for o in exported.proto.graph.output] == ["output0"]
    with torch.no_grad():
        assert_close(run(exported, image)[0], module(image))


class TwoHeads(nn.Module):
    """A small network with batch norm and dropout, two inputs and nested outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout()

    def forward(self, image: Tensor, offset: Tensor) -> dict[str, object]:
        y = self.drop(self.norm(self.conv(image))) + offset
        return {"map": y, "rest": [y.mean((2, 3)), (y.amax(1),)]}


def test_several_inputs_and_nested_outputs_keep_their_order() -> None:
    module, inputs = TwoHeads().train(), (torch.rand(2, 3, 8, 8), torch.rand(4, 1, 1))
    exported = to_onnx(module, inputs, input_names=("image", "offset"), metadata={"names": {0: "cat"}, "batch": 2})
    assert_static(exported.proto)
    assert [o.name for o in exported.proto.graph.output] == ["output0", "output1", "output2"]
    expected = module.eval()(*inputs)
    outputs = run(exported, *inputs)
    for computed, tensor in zip(outputs, (expected["map"], expected["rest"][0], expected["rest"][1][0]), strict=True):
        assert_close(computed, tensor)
    assert {p.key: p.value for p in exported.proto.metadata_props} == {"names": "{0: 'cat'}", "batch": "2"}
    assert exported.metadata["names"] == {0: "cat"}


def test_exporting_leaves_the_module_as_it_was() -> None:
    module = TwoHeads().train()
    module.norm.eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    to_onnx(module, (torch.rand(1, 3, 8, 8), torch.rand(4, 1, 1)), input_names=("image", "offset"))
    assert (module.training, module.norm.training, module.drop.training) == (True, False, True)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_exporting_is_silent_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    module, image = ARCHITECTURES["resnet20"].build()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_onnx(module, (image,))
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_the_same_network_gives_the_same_bytes() -> None:
    first, second = (to_onnx(*_with_tuple("resnet20")).proto.SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def _with_tuple(name: str) -> tuple[nn.Module, tuple[Tensor]]:
    module, image = ARCHITECTURES[name].build()
    return module, (image,)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return out


def test_fused_attention_is_exported_and_stays_enabled() -> None:
    module, tokens = Attention().eval(), torch.rand(1, 9, 16)
    assert torch.backends.mha.get_fastpath_enabled()
    exported = to_onnx(module, (tokens,))
    assert torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad():
        assert_close(run(exported, tokens)[0], module(tokens))


class Normalized(nn.Module):
    """RMS normalization, which only the torch.export exporter knows."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, (16,))


def test_what_tracing_refuses_goes_through_torch_export() -> None:
    tokens = torch.rand(1, 9, 16)
    exported = to_onnx(Normalized(), (tokens,))
    assert_static(exported.proto)
    assert [i.name for i in exported.proto.graph.input] == ["images"]
    assert_close(run(exported, tokens)[0], Normalized()(tokens))


class Eigenvalues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = torch.linalg.eigvals(x).real
        return values


def test_what_no_exporter_can_express_is_named() -> None:
    with pytest.raises(
        UnsupportedError, match=r"cannot express this model in ONNX .*linalg_eig.*at Eigenvalues"
    ) as error:
        to_onnx(Eigenvalues(), (torch.rand(4, 4),))
    assert "\n" not in str(error.value)


def test_a_network_that_fails_is_named_with_its_input() -> None:
    with pytest.raises(UnsupportedError, match=r"fails on its example input .*at Conv2d; got \[1, 5, 8, 8\]"):
        to_onnx(nn.Conv2d(3, 4, 3), (torch.rand(1, 5, 8, 8),))


def test_a_module_without_an_example_is_refused() -> None:
    with pytest.raises(UsageError, match="needs an example input"):
        to_onnx(nn.ReLU())


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_saved_program_equals_its_module(tmp_path: Path, dynamic: bool) -> None:
    module, image = ARCHITECTURES["resnet20"].build()
    image = torch.cat((image, image.flip(3)))
    shapes = {"x": {0: torch.export.Dim.DYNAMIC}} if dynamic else None
    program = torch.export.export(module, (image,), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(UntrustedInputError, match=r"can run code .*net\.pt2\. Pass --trust-pickle"):
        torch_file.load(tmp_path / "net.pt2")
    exported = torch_file.load(tmp_path / "net.pt2", trust_pickle=True)
    assert_static(exported.proto)
    with torch.no_grad():
        assert_close(run(exported, image)[0], module(image))


def test_a_damaged_program_is_named(tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(UsageError, match=r"not a readable torch\.export program"):
        torch_file.load(tmp_path / "net.pt2", trust_pickle=True)
