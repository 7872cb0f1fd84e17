"""Grids that learn more than a scale: each against the formula of its paper, and in the integer graph."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeq.errors import UsageError
from edgeq.formats import INT8, INT8_NARROW, UINT8, Fixed, Int
from edgeq.ir.graph import Graph, Type
from edgeq.quantize.fake import Grid
from edgeq.quantize.grids import AdaptiveGrid, BinaryGrid, NestedGrid, OffsetGrid, Strategy, nested_codes, rate_of
from edgeq.quantize.qat import QatModule
from edgeq.reference.interpret import run
from edgeq.target import Target
from tests.quantize.test_qat import FEW, ONNX, batch, net, trained
from tests.quantized import inputs_of, planned


def module_of(strategy: Strategy, target: Target = FEW) -> QatModule:
    graph, _, plan = planned(net(), target, inputs_of(net()))
    return QatModule(graph, plan, strategy)


def values(*numbers: float) -> Tensor:
    return torch.tensor(numbers, requires_grad=True)


def test_an_offset_moves_by_what_lies_outside_and_zero_stays_a_level() -> None:
    grid = OffsetGrid(Type((4,), UINT8, (0.5,), zero_point=10), elements=4)
    x = values(-9.0, -1.2, 30.3, 900.0)  # below, inside, inside, above
    slopes = torch.tensor([1.0, 2.0, 4.0, 8.0])
    grid(x).backward(slopes)
    assert x.grad is not None and x.grad.tolist() == [0, 2, 4, 0]
    # beta = -zero_point * scale: dy/dbeta = 1 outside, so dy/dz = -scale; one step of the shift is 255 codes
    assert grid.shift.grad is not None
    assert float(grid.shift.grad) == pytest.approx(-0.5 * (1 + 8) * 255)
    with torch.no_grad():
        grid.shift.fill_(7.3 / 255)
    found = grid(torch.tensor([-100.0, 0.0, 1.0]))
    assert found.tolist() == [-8.5, 0.0, 1.0]
    assert grid.learned_type().zero_point == 17
    with torch.no_grad():
        grid.shift.fill_(9.0)
    assert grid.learned_type().zero_point == 255


def test_a_binary_point_has_the_gradient_of_fixed_point_training() -> None:
    """dL/df = -ln 2 s sum(dL/dy (level outside, round(v) - v inside)), with s = 2^-round(f)."""
    grid = BinaryGrid(Type((4,), Int(4), (0.3,)), elements=1)
    x = values(-9.0, 0.31, 0.45, 7.0)
    slopes = torch.tensor([1.0, -2.0, 4.0, 0.5])
    found = grid(x)
    step = 0.25  # 2^-round(-log2 0.3)
    v = x.detach() / step
    levels = torch.where((v < -8) | (v > 7), v.clamp(-8, 7), torch.round(v) - v)
    assert torch.equal(found, torch.round(v).clamp(-8, 7) * step)
    found.backward(slopes)
    wanted = math.log(2) * step * float((slopes * levels).sum()) * grid.damping  # growth is -f
    assert grid.growth.grad is not None and float(grid.growth.grad) == pytest.approx(wanted, rel=1e-5)
    fixed = BinaryGrid(Type((4,), Fixed(8, 4), (2.0**-4,)), elements=1)
    with torch.no_grad():
        fixed.growth.fill_(1.4)
    assert fixed.learned_type() == Type((4,), Fixed(8, 3), (2.0**-3,))


def test_a_scale_for_each_image_follows_its_definition_and_freezes_to_its_mean() -> None:
    torch.manual_seed(0)
    grid = AdaptiveGrid(Type((1, 8, 3, 3), Int(4, signed=False), (0.2,)), elements=72, channels=8)
    x = torch.rand(5, 8, 3, 3) * 4
    first, _, second = grid.regulator
    assert isinstance(first, nn.Linear) and first.out_features == 2 and isinstance(second, nn.Linear)
    with torch.no_grad():
        first.weight.abs_()
        second.weight.fill_(-0.1)
    beta = torch.relu(second(torch.relu(first(x.mean((2, 3)))))).clamp_min(1e-8)[:, :, None, None]
    assert len(beta.unique()) == 5
    scale = 0.2 * beta
    wanted = torch.round(torch.clamp(x / scale, 0, 15)) * scale
    assert torch.allclose(grid(x), wanted, atol=1e-6)
    grid(x).square().sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in (second.weight, second.bias, grid.growth))
    with torch.no_grad():
        second.bias.fill_(1.5)
        for _ in range(800):
            grid(x)
    assert grid.learned_type().scale[0] == pytest.approx(0.2 * float(grid.beta(x).detach().mean()), rel=1e-2)
    small = AdaptiveGrid(Type((1, 4, 3, 3), Int(4), (0.2,)), elements=36, channels=4)
    assert len(small.regulator) == 1


def test_eight_bits_serve_fewer_by_a_second_rounding() -> None:
    weight = torch.rand(6, 16, 3, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    scale = tuple((weight.flatten(1).abs().amax(1) / 127).tolist())
    grid = NestedGrid(Type((6, 16, 3, 3), INT8_NARROW, scale, axis=0), 144, (6, 4, 2))
    whole = torch.round(weight / torch.tensor(scale)[:, None, None, None]).clamp(-127, 127)
    for bits in (6, 4, 2):
        grid.width = bits
        most = 2 ** (bits - 1) - 1
        codes = torch.round(whole / 2 ** (8 - bits)).clamp(-most, most)
        assert torch.equal(nested_codes(whole, bits), codes.long())
        assert len(codes.unique()) == 2 * most + 1
        step = torch.tensor(scale)[:, None, None, None] * 2 ** (8 - bits)
        assert torch.allclose(grid(weight), codes * step, rtol=1e-5)
        grid.zero_grad()
        grid(weight).sum().backward()
        slope = grid.narrower[str(bits)].grad
        assert slope is not None and torch.allclose(slope, (codes * step).flatten(1).sum(1), atol=1e-3)
        assert grid.growth.grad is None or not bool(grid.growth.grad.any())
    assert [rate_of(f"weights.a.narrower.{bits}") for bits in (6, 4, 2)] == [1.0, 0.1, 0.01]
    assert rate_of("weights.a.growth") == 1.0


@pytest.mark.parametrize("name", ["offsets", "adaptive", "binary-points"])
def test_what_each_strategy_learns_is_in_the_integer_graph(name: str) -> None:
    module = module_of(Strategy.named(name), ONNX if name == "offsets" else FEW)
    before = {value: module.plan.types[value] for value in module.plan.types}
    losses = trained(module, 40)
    assert losses[-1] < losses[0]
    after = module.learned_plan(module.learned_graph()).types
    if name == "binary-points":
        learned = [type_ for value, type_ in after.items() if value != "x"]
        assert learned and all(math.log2(type_.scale[0]).is_integer() for type_ in learned)
    if name == "offsets":
        assert any(after[value].zero_point != type_.zero_point for value, type_ in before.items())
    module.eval()
    found, integers = module(batch(3)), module.convert()
    for k in range(3):
        (wanted,) = run(integers, {"x": batch(1, k)}).values()
        assert torch.equal(found[k : k + 1], wanted)
    assert len(found.unique()) > 8


def array_dims(name: str, graph: Graph) -> int:
    return graph.constants[name].ndim


def test_one_trained_network_gives_a_graph_for_every_width() -> None:
    module = module_of(Strategy(nested=(4, 2)), ONNX)
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], 2e-3)
    for step in range(12):
        module.use_width((8, 4, 2)[step % 3])
        optimizer.zero_grad()
        module.train()(batch(4)).square().mean().backward()
        optimizer.step()
    graphs = {}
    for bits in (8, 4, 2):
        module.use_width(bits)
        graphs[bits] = module.convert()
        (found,) = run(graphs[bits], {"x": batch(1)}).values()
        assert torch.equal(module.eval()(batch(1)), found)
    weights = [name for name in graphs[8].constants if name.endswith(".q") and array_dims(name, graphs[8]) > 1]
    assert len(weights) >= 2
    for bits in (4, 2):
        for name in weights:
            whole = torch.from_numpy(np.asarray(graphs[8].constants[name]).astype(np.int64))
            assert np.array_equal(graphs[bits].constants[name], nested_codes(whole, bits).numpy())
    with pytest.raises(UsageError, match="weights of this width are not learned; got 6; allowed: "):
        module.use_width(6)
    with pytest.raises(UsageError, match="weights of this width are not learned"):
        module_of(Strategy()).use_width(4)


def test_names_of_strategies_are_checked() -> None:
    assert Strategy.named("") == Strategy() and Strategy.named("offsets") == Strategy(offsets=True)
    with pytest.raises(UsageError, match="nothing of this name can be learned; got wings; allowed: offsets, adaptive"):
        Strategy.named("wings")
    with pytest.raises(UsageError, match="only one of these"):
        Strategy.named("offsets,adaptive")
    wide = Strategy(offsets=True).value_grid(Type((2,), Int(16), (0.1,)), 2, 0, learned=True)
    assert (
        type(wide) is Grid
        and type(Strategy(offsets=True).value_grid(Type((2,), INT8, (0.1,)), 2, 0, learned=False)) is Grid
    )
