"""Fake quantization: the grid is the format's own, and the gradients are those of learned step sizes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from edgeq.formats import (
    INT4_NARROW,
    INT8,
    POST4,
    POT4,
    UINT8,
    Fixed,
    Float,
    Format,
    Int,
    code_range,
    decode,
    encode,
    level_range,
)  # fmt: skip
from edgeq.ir.graph import Type
from edgeq.quantize.fake import Grid, _table, fake_quantize, round_to

FORMATS: list[tuple[Format, int]] = [
    (INT8, 0), (INT8, -128), (UINT8, 117), (INT4_NARROW, 0), (Int(2, narrow=True), 0), (Fixed(6, 3), 0),
    (Float(2, 1), 0), (Float(4, 3), 0), (POST4, 0), (POT4, 0),
]  # fmt: skip


@pytest.mark.parametrize(("format_", "zero_point"), FORMATS, ids=str)
def test_values_become_levels_of_the_format(format_: Format, zero_point: int) -> None:
    """Every level is hit, stays where it is, and nothing else comes out."""
    low, high = code_range(format_)
    levels = np.unique(decode(format_, np.arange(low, high + 1), zero_point))
    scale = 0.37
    fixed = fake_quantize(torch.from_numpy(levels * scale).float(), torch.tensor(scale), format_, zero_point)
    assert torch.allclose(fixed / scale, torch.from_numpy(levels).float(), rtol=1e-6)
    x = np.concatenate([np.linspace(levels[0] * 1.5 - 1, levels[-1] * 1.5 + 1, 4001), levels + 0.1, levels - 0.1])
    found = fake_quantize(
        torch.from_numpy(x * scale), torch.tensor(scale, dtype=torch.float64), format_, zero_point
    ).numpy()
    wanted = decode(format_, encode(format_, x, zero_point), zero_point) * scale
    near_tie = np.abs(found - wanted) > 1e-9
    assert near_tie.mean() < 0.01  # ties between levels of a table may go either way
    assert len(np.unique(wanted)) == len(levels)


def test_gradients_follow_the_rule_of_learned_steps() -> None:
    """Inside: dy/dx = 1, dy/ds = round(v) - v. Outside: 0 and the extreme level."""
    x = torch.tensor([-9.0, -0.31, 0.0, 0.24, 0.5, 7.0], requires_grad=True)
    scale = torch.tensor(0.1, requires_grad=True)
    fake_quantize(x, scale, Int(4)).backward(torch.ones(6))
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 0]
    wanted = 0.0
    for value in x.tolist():
        v = value / 0.1
        wanted += max(-8.0, min(7.0, v)) if not -8 < v < 7 else round(v) - v
    assert float(scale.grad) == pytest.approx(wanted, abs=1e-4)


def test_what_is_passed_over_stays_and_says_nothing_of_scale_and_bounds() -> None:
    x = torch.tensor([-9.0, -0.31, 0.0, 0.24, 0.5, 7.0], requires_grad=True)
    passed = torch.tensor([True, False, False, True, False, False])

    def results(x: torch.Tensor, passed: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        leaves = [x, *(torch.tensor(number, requires_grad=True) for number in (0.1, -8.0, 7.0))]
        y = round_to(x, leaves[1], None, leaves[2], leaves[3], passed)
        return y.detach(), *torch.autograd.grad((y * torch.arange(1.0, 7.0)).sum(), leaves)

    y, of_x, of_scale, of_low, of_high = results(x, passed)
    assert y.tolist() == pytest.approx([-9.0, -0.3, 0.0, 0.24, 0.5, 0.7])
    assert of_x.tolist() == [1, 2, 3, 4, 5, 0]
    whole = results(x, None)
    assert of_scale != whole[2] and whole[3] != 0
    assert of_scale == pytest.approx(float(whole[2]) - 1 * -8.0 - 4 * (2 - 2.4), abs=1e-4)
    assert (of_low, of_high) == (0.0, whole[4]) and of_high != 0


@pytest.mark.parametrize(("format_", "zero_point"), [(Int(4), 3), (POST4, 0)], ids=str)
@pytest.mark.parametrize("spread", ["lone", "channels"])
@pytest.mark.parametrize("bounds", ["fixed", "learned"])
@pytest.mark.parametrize("share", [0.0, 0.5], ids=["all", "half"])
def test_a_compiled_step_has_the_gradients_of_the_step(
    format_: Format, zero_point: int, spread: str, bounds: str, share: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    low, high = level_range(format_, zero_point)
    table = _table(format_)
    x = 3 * torch.randn(2, 5, 7, 3, generator=generator)
    scale = (torch.tensor(0.2) if spread == "lone" else torch.rand(1, 5, 1, 1, generator=generator) / 4) * 7 / high
    weights = torch.randn(x.shape, generator=generator)
    passed = torch.rand(x.shape, generator=generator) < share if share else None

    operands = [x, scale, *([torch.tensor(float(low)), torch.tensor(float(high))] if bounds == "learned" else [])]

    def step(*leaves: torch.Tensor) -> torch.Tensor:
        return round_to(leaves[0], leaves[1], table, *(leaves[2:] or (low, high)), passed)  # type: ignore[arg-type]

    def results(step: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, ...]:
        leaves = [operand.clone().requires_grad_() for operand in operands]
        rounded = step(*leaves)
        return rounded.detach(), *torch.autograd.grad((weights * rounded).sum(), leaves)

    torch.compiler.reset()  # or so many cases of one function are too many recompilations
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    for mine, theirs in zip(results(compiled), results(step), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-5)
        assert bool(theirs.abs().max() > 0.01)


def test_each_channel_has_its_own_scale_and_gradients_are_damped() -> None:
    weight = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    type_ = Type((3, 4, 2, 2), INT4_NARROW, (0.1, 0.2, 0.4), axis=0)
    grid = Grid(type_, elements=16)
    rounded = grid(weight)
    for channel, scale in enumerate(type_.scale):
        alone = fake_quantize(weight[channel], torch.tensor(scale), INT4_NARROW)
        assert torch.allclose(rounded[channel], alone)
    rounded.sum().backward()
    assert grid.growth.grad is not None
    slopes = []
    for channel, scale in enumerate(type_.scale):
        step = torch.tensor(scale, requires_grad=True)
        fake_quantize(weight[channel], step, INT4_NARROW).sum().backward()
        slopes.append(float(step.grad) * scale / (16 * 7) ** 0.5)  # of the logarithm, damped
    assert grid.growth.grad.tolist() == pytest.approx(slopes, rel=1e-4)


def test_blocks_of_a_channel_have_their_own_scales() -> None:
    type_ = Type((2, 8), Int(4), (1.0, 2.0, 4.0, 8.0), axis=0, block=4)
    found = Grid(type_, elements=4)(torch.full((2, 8), 3.4))
    assert found.tolist() == [[3.0] * 4 + [4.0] * 4, [4.0] * 4 + [0.0] * 4]


def test_learned_scales_come_back_as_single_precision() -> None:
    grid = Grid(Type((2,), INT8, (0.5,)), 2)
    with torch.no_grad():
        grid.growth.fill_(0.25)
    (scale,) = grid.learned_type().scale
    assert scale == float(np.float32(scale)) == pytest.approx(0.5 * np.exp(0.25), rel=1e-6)
    assert not Grid(Type((2,), Fixed(8, 4), (2.0**-4,)), 2).growth.requires_grad
