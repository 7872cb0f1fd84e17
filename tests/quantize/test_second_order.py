"""Second-order rounding against the definition of its error, and against nearest rounding in every format."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from edgeq.formats import INT4_NARROW, POST4, Float, Format, Int, bits_of, level_range
from edgeq.quantize.fused import SPREAD
from edgeq.quantize.second_order import (
    Fit,
    Moments,
    Problem,
    damped,
    first_fits,
    fit,
    search_scales,
)
from edgeq.quantize.simulate import nearest_level
from edgeq.quantize.sweeps import Grid, descend, spread_rounding

FORMATS: tuple[Format, ...] = (INT4_NARROW, Int(3, narrow=True), Int(8, narrow=True), Float(2, 1), POST4)


def problem(groups: int, inputs: int, outputs: int, *, centred: bool) -> tuple[Problem, torch.Tensor, torch.Tensor]:
    """Correlated inputs, whose quantized side is off by noise and a shift."""
    generator = torch.Generator().manual_seed(groups)
    mix = torch.randn(groups, inputs, inputs, generator=generator) / inputs**0.5
    real = (mix @ torch.randn(groups, inputs, 900, generator=generator)).relu()
    quantized = real + 0.1 * torch.randn(real.shape, generator=generator) + 0.05
    rows = torch.randn(groups, outputs, inputs, generator=generator)
    return Problem.of(rows, Moments.of(rows, real, quantized), centred=centred), real, quantized


def start(rows: torch.Tensor, format: Format) -> torch.Tensor:
    return rows.double().abs().amax(2, keepdim=True) / level_range(format)[1]


@pytest.mark.parametrize("centred", [False, True])
def test_errors_are_those_of_the_outputs(centred: bool) -> None:
    stated, real, quantized = problem(2, 12, 5, centred=centred)
    fitted = stated.rows + 0.1
    difference = fitted @ quantized.double() - stated.rows @ real.double()
    if centred:
        shift = stated.shift(fitted)
        assert torch.allclose(difference.mean(2), -shift, atol=1e-5)
        difference = difference + shift[:, :, None]
    assert torch.allclose(stated.errors(fitted), difference.square().mean(2), rtol=1e-4)


@pytest.mark.parametrize("format_", FORMATS, ids=str)
@pytest.mark.parametrize("groups", [1, 6])
def test_it_beats_nearest_rounding(format_: Format, groups: int) -> None:
    stated, _, _ = problem(groups, 24, 8, centred=True)
    scales, grid = start(stated.rows, format_), Grid(format_, free_scale=False)
    nearest = grid.nearest(stated.rows / scales) * scales
    found = fit(stated, scales, grid, 0.01)
    assert torch.equal(found.levels, nearest_level(found.levels, format_))
    assert torch.equal(found.scales, scales)
    assert len(found.levels.unique()) > 4
    share = 0.9 if bits_of(format_) < 8 else 0.99
    assert float(stated.errors(found.rows).sum()) < share * float(stated.errors(nearest).sum())
    loose = Grid(format_, free_scale=True)
    free = fit(stated, search_scales(stated, scales, loose), loose, 0.01)
    assert float(stated.errors(free.rows).sum()) < 1.05 * float(stated.errors(found.rows).sum())
    assert torch.equal(free.scales, free.scales.float().double())


def test_depthwise_rows_equal_an_exhaustive_search() -> None:
    stated, _, _ = problem(5, 3, 1, centred=False)
    format_ = Int(3, narrow=True)
    scales = start(stated.rows, format_)
    levels = torch.cartesian_prod(*[torch.arange(-3, 4).double()] * 3)
    every = torch.stack([stated.errors((level * scales[:, 0])[:, None]).sum(1) for level in levels])
    best = every.amin(0)
    found = fit(stated, scales, Grid(format_, free_scale=False), 1e-6)
    reached = stated.errors(found.rows).sum(1)
    assert bool((reached >= best - 1e-9).all())
    assert float(reached.sum()) < 1.2 * float(best.sum())
    assert isinstance(found, Fit)


def test_inputs_that_do_not_vary_are_no_obstacle() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(1, 5, 24, generator=generator)
    z = (3 * torch.randn(1, 24, 1, generator=generator)).expand(1, 24, 700).contiguous()
    stated = Problem.of(rows, Moments.of(rows, z, z), centred=True)
    assert float(stated.zz.diagonal(dim1=1, dim2=2).min()) < 1e-4
    found = fit(stated, start(stated.rows, INT4_NARROW), Grid(INT4_NARROW, free_scale=True), 0.01)
    assert len(found.levels.unique()) > 4
    assert float((found.rows - stated.rows).abs().max()) < 0.5


def plain_descent(levels: torch.Tensor, hessian: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """One code of one row after the other, each the best for all that is known."""
    levels = levels.clone()
    for _ in range(3):
        for k in range(levels.shape[2]):
            slope = ((rows - levels) @ hessian)[:, :, k] / hessian[:, k, k, None]
            levels[:, :, k] = (levels[:, :, k] + slope).round().clamp(-7, 7)
    return levels


def plain_spreading(rows: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    """The error of each column goes to where it is compensated best by those that are still free."""
    found = rows.clone()
    order = hessian.diagonal(dim1=1, dim2=2).argsort(1, descending=True)
    for g in range(len(rows)):
        free = order[g].tolist()
        while free:
            k, *free = free
            level = found[g, :, k].round().clamp(-7, 7)
            if free:
                shares = torch.linalg.solve(hessian[g][free][:, free], hessian[g][free][:, k])
                found[g][:, free] += (found[g, :, k] - level)[:, None] * shares
            found[g, :, k] = level
    return found


def test_blocks_of_columns_are_columns_one_by_one() -> None:
    """More columns than two blocks, whose errors reach one another within a block and beyond."""
    stated, _, _ = problem(2, 150, 6, centred=True)
    scales, grid = start(stated.rows, INT4_NARROW), Grid(INT4_NARROW, free_scale=False)
    hessian, rows = damped(stated, 0.01)
    spread = spread_rounding(rows, hessian, scales, grid)
    wanted = plain_spreading(rows / scales, hessian)
    assert len(spread.unique()) == 15
    assert float((spread == wanted).double().mean()) > 0.99  # what is left are ties of single precision
    assert float((spread == grid.nearest(rows / scales)).double().mean()) < 0.9
    descended = descend(spread, rows, hessian, scales, grid)
    assert float((descended == plain_descent(wanted, hessian, rows / scales)).double().mean()) > 0.98
    assert 0.005 < float((descended != spread).double().mean()) < 0.5
    together = list(first_fits(stated, scales, grid, (0.01, 0.1, 1.0)))
    for damping, found in zip((0.01, 0.1, 1.0), together, strict=True):
        hessian, rows = damped(stated, damping)
        assert torch.equal(found.levels, spread_rounding(rows, hessian, scales, grid))
    assert not torch.equal(together[0].levels, together[2].levels)


@pytest.mark.parametrize("weighed", [False, True])
def test_moments_of_several_sets_are_those_of_each(weighed: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(2, 5, 12, generator=generator)
    real, quantized = (torch.randn(6, 12, 40, generator=generator) for _ in range(2))
    importance = torch.rand(3, 40, generator=generator) if weighed else None
    for k, found in enumerate(Moments.of_each(rows, real, quantized, importance)):
        part = slice(2 * k, 2 * k + 2)
        wanted = Moments.of(rows, real[part], quantized[part], None if importance is None else importance[k])
        assert found.count == pytest.approx(wanted.count)
        for name in ("z", "x", "zz", "xz", "power"):
            assert torch.allclose(getattr(found, name), getattr(wanted, name), rtol=1e-4, atol=1e-4), name


@pytest.mark.parametrize(("groups", "inputs"), [(1, 150), (30, 9), (2, 64)])
def test_fused_steps_take_the_same_way(groups: int, inputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stated, _, _ = problem(groups, inputs, 7, centred=True)
    grid = Grid(Int(4), free_scale=True)
    scales = start(stated.rows, grid.format)
    wanted = fit(stated, scales, grid, 0.01)

    def fused(code: str, *_: object) -> Callable[..., torch.Tensor]:
        """What the kernels compute, in several steps."""
        if code == SPREAD:
            return lambda v, line, x: v - line * (x - grid.nearest(x))
        return lambda v, line, x, old: v - line * (grid.nearest(x) - old)

    monkeypatch.setattr("edgeq.quantize.sweeps.fused_step", fused)
    found = fit(stated, scales, grid, 0.01)
    assert (found.levels == wanted.levels).double().mean() > 0.99 and len(found.levels.unique()) > 10
    assert torch.allclose(stated.errors(found.rows).sum(), stated.errors(wanted.rows).sum(), rtol=1e-3)
