"""Learnable rounding starts at the given levels, ends on levels of the format, and can move to neighbours."""

from __future__ import annotations

import pytest
import torch

from edgeq.formats import INT4_NARROW, POST4, POT4, Float, Format, level_range
from edgeq.quantize.rounding import Method, Rounding, neighbours
from edgeq.quantize.simulate import nearest_level

FORMATS: tuple[Format, ...] = (INT4_NARROW, Float(2, 1), POST4, POT4)
METHODS: tuple[Method, ...] = ("adaround", "flexround", "adaquant")


def wanted(format_: Format) -> torch.Tensor:
    high = level_range(format_)[1]
    return torch.randn(6, 40, generator=torch.Generator().manual_seed(2)) * high / 2.5


@pytest.mark.parametrize("format_", FORMATS, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_the_start_is_the_given_rounding(method: Method, format_: Format) -> None:
    target = wanted(format_)
    levels = nearest_level(target, format_)
    rounding = Rounding.of(method, levels, target, format_)
    assert torch.equal(rounding.levels(hard=True), levels)
    assert len(levels.unique()) > 5


@pytest.mark.parametrize("format_", FORMATS, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_gradients_move_levels_towards_a_goal(method: Method, format_: Format) -> None:
    target = wanted(format_).clamp(*level_range(format_))
    levels = nearest_level(target, format_)
    below, above = neighbours(levels, target, format_)
    rounding = Rounding.of(method, levels, target, format_)
    goal = above + below - levels  # the other neighbour of each
    optimizer = torch.optim.Adam(rounding.theta, lr=0.1)
    for _ in range(150):
        loss = (rounding.levels() - goal).square().sum() + rounding.penalty(2.0)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    found = rounding.levels(hard=True).detach()
    assert torch.equal(found, nearest_level(found, format_))
    movable = (goal != levels) & (levels != 0)
    assert float((found == goal)[movable].float().mean()) > 0.6
    if method == "adaround":
        assert bool(((found == below) | (found == above)).all())
        assert float(rounding.penalty(2.0).detach()) < 0.3
