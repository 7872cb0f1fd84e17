"""The two functions for one's own training loop, on a torch module, a file and a graph."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import edgeq
from edgeq.errors import UnsupportedError, UsageError
from edgeq.formats import POST4, Int
from edgeq.ir.graph import Graph
from edgeq.quantize.grids import Strategy
from edgeq.reference.interpret import run


def module() -> nn.Module:
    torch.manual_seed(0)
    found = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(),
        nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ).eval()  # fmt: skip
    for parameter in found.parameters():  # larger than usual, so that images differ at the output
        if parameter.dim() > 1:
            parameter.data *= 3
    return found


def samples(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def formats_of(graph: Graph) -> set[str]:
    return {str(graph.types[name].format) for name in graph.constants if name.endswith(".q")}


def test_three_lines_train_a_torch_module_and_give_its_integers() -> None:
    images = samples()
    student = edgeq.prepare_qat(module(), [images], formats="w4a4")
    optimizer = torch.optim.Adam(student.parameters(), 2e-3)
    wanted = torch.randn(len(images), 4, generator=torch.Generator().manual_seed(2))
    errors = []
    for _ in range(60):
        loss = (student(images) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.5 * errors[0]
    graph = edgeq.convert(student)
    assert {"int4", "int8n"} <= formats_of(graph)
    student.eval()
    found = student(images)
    assert len(found.unique()) > 8
    for k in range(len(images)):
        (one,) = run(graph, {graph.inputs[0]: images[k : k + 1]}).values()
        assert torch.equal(found[k : k + 1], one)


def test_formats_files_and_wrappers() -> None:
    student = edgeq.prepare_qat("zoo:classifier", [torch.randn(2, 3, 96, 96)], formats="post4/int8")
    types = {type_.format for type_ in student.plan.weights.values()}
    assert types == {POST4, Int(8, narrow=True)}
    wrapped = nn.Module()
    wrapped.module = student
    assert edgeq.convert(wrapped).outputs == edgeq.convert(student).outputs


def test_one_module_serves_several_widths() -> None:
    student = edgeq.prepare_qat(module(), [samples()], strategy=Strategy(nested=(4, 2)))
    found = {}
    for bits in (8, 4, 2):
        student.use_width(bits)
        found[bits] = formats_of(edgeq.convert(student))
    assert "int4n" in found[4] and "int2n" in found[2] and not {"int4n", "int2n"} & found[8]
    with pytest.raises(UsageError, match="this target has no zero points to learn; at jetson-int8; got offsets"):
        edgeq.prepare_qat(module(), [samples()], target="jetson-int8", strategy=Strategy(offsets=True))


def test_what_cannot_be_is_said_in_one_line() -> None:
    with pytest.raises(UsageError, match="needs samples"):
        edgeq.prepare_qat(module(), [])
    with pytest.raises(UsageError, match="unknown formats; got w4; allowed: w4a8"):
        edgeq.prepare_qat(module(), [samples()], formats="w4")
    with pytest.raises(UsageError, match="nothing to train for a float target"):
        edgeq.prepare_qat(module(), [samples()], target="onnx-fp32")
    with pytest.raises(UnsupportedError):
        edgeq.prepare_qat(module(), [samples()], formats="e4m3/int8", target="rpi-int8")
    with pytest.raises(UsageError, match="only a module that prepare_qat made"):
        edgeq.convert(module())
    with pytest.raises(AttributeError, match="no attribute 'prepare'"):
        edgeq.prepare  # noqa: B018
