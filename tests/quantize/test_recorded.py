"""Chains of steps give the same whether they are recorded or not."""

import pytest
import torch
from torch import Tensor

from edgeq.formats import INT4
from edgeq.quantize import recorded
from edgeq.quantize.second_order import Moments, Problem, fit
from edgeq.quantize.sweeps import Grid

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def chain(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    for k in range(len(x)):
        x[k:].addcmul_(y[k:], x[k].clone(), value=-0.5)
    return x, x.round()


@pytest.mark.parametrize("device", DEVICES)
def test_every_run_is_the_chain_on_its_own_tensors(device: str) -> None:
    seen = []
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        x, y = (torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(2))
        wanted = chain(x.clone(), y.clone())
        found = recorded.run(chain, "test", x.to(device), y.to(device))
        for one, other in zip(wanted, found, strict=True):
            torch.testing.assert_close(one, other.cpu(), rtol=1e-12, atol=1e-12)
        seen.append(found[0].cpu().clone())
    assert len({tuple(part.flatten().tolist()) for part in seen}) == 4


@pytest.mark.parametrize("device", DEVICES)
def test_chains_are_told_apart_by_their_keys_and_shapes(device: str) -> None:
    x = torch.arange(6.0, device=device)
    for _ in range(3):
        assert recorded.run(lambda t: (t + 1,), "one more", x)[0].tolist() == [1, 2, 3, 4, 5, 6]
        assert recorded.run(lambda t: (t - 1,), "one less", x)[0].tolist() == [-1, 0, 1, 2, 3, 4]
        assert recorded.run(lambda t: (t + 1,), "one more", x[:2])[0].tolist() == [1, 2]
        assert x.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("groups", [1, 30])
def test_a_fit_on_a_gpu_is_as_good_as_one_on_the_cpu(groups: int) -> None:
    generator = torch.Generator().manual_seed(1)
    inputs, outputs = (100, 20) if groups == 1 else (9, 1)
    rows = torch.randn(groups, outputs, inputs, generator=generator)
    x = torch.randn(groups, inputs, 400, generator=generator)
    grid, errors = Grid(INT4, free_scale=True), {}
    for device in ("cpu", "cuda"):
        problem = Problem.of(rows.to(device), Moments.of(rows.to(device), x.to(device), x.to(device)), centred=True)
        scales = problem.rows.abs().amax(2, keepdim=True) / 7
        for _ in range(3):  # the first runs are not recorded
            found = fit(problem, scales, grid, 0.01)
            errors.setdefault(device, []).append(float(problem.errors(found.rows).sum()))
    nearest = float(problem.errors(grid.nearest(problem.rows / scales) * scales).sum())
    assert max(errors["cpu"]) < 0.9 * nearest
    assert max(errors["cuda"]) == pytest.approx(errors["cpu"][0], rel=0.01)
    assert min(errors["cuda"]) == pytest.approx(errors["cpu"][0], rel=0.01)
