"""Oscillating weights and scales in conflict are fixed by the rules of their papers."""

from __future__ import annotations

import torch
from torch import Tensor

from edgeq.quantize.freeze import Oscillation, Settled, Sharpness
from edgeq.quantize.qat import QatModule
from tests.quantize.test_qat import batch, module_of


def first_weight(module: QatModule) -> tuple[str, Tensor, Tensor]:
    """Its field, the weight, and its scales in the units of the weight."""
    field, (weight, unit, grid) = next(iter(module.weights_and_grids()))
    return field, weight, grid.spread().detach() / unit


def test_a_code_that_turns_too_often_is_fixed_at_its_mean() -> None:
    module, _, _ = module_of()
    field, weight, scale = first_weight(module)
    with torch.no_grad():
        weight.copy_(torch.round(weight / scale).clamp(-6, 5) * scale)
    counter = Oscillation(module, threshold=0.25, momentum=0.1)
    start, frequency, mean, code = weight.detach().clone(), 0.0, None, None
    for step in range(12):
        with torch.no_grad():
            weight[0, 0, 0, 0] = start[0, 0, 0, 0] + (step % 3 > 0) * float(scale.flatten()[0])  # 0 1 1 0 1 1 …
            weight[1, 0, 0, 0] = start[1, 0, 0, 0] + min(step, 2) * float(scale.flatten()[1])  # walks one way
        counter.after_step()
        if code is None:
            code = mean = round(float(start[0, 0, 0, 0] / scale.flatten()[0]))
        if frequency <= 0.25:
            turned = step >= 3 and step % 3 in (0, 1)  # the first move is no turn
            frequency = 0.9 * frequency + 0.1 * turned
            mean = 0.9 * mean + 0.1 * (code + (step % 3 > 0))
    fixed = counter.fixed_of(field)
    assert frequency > 0.25 and bool(fixed[0, 0, 0, 0]) and int(fixed.sum()) == 1
    assert float(weight.detach()[0, 0, 0, 0]) == float(torch.tensor(float(round(mean))) * scale.flatten()[0])
    assert 0 < counter.share < 0.01
    other = Oscillation(module, threshold=0.25)
    other.load_state_dict(counter.state_dict())
    assert bool(other.fixed_of(field)[0, 0, 0, 0])


def codes_of(module: QatModule) -> list[Tensor]:
    return [torch.round(grid(p * unit) / grid.spread()) for _, (p, unit, grid) in module.weights_and_grids()]


def test_settled_weights_keep_their_codes_while_the_rest_is_learned() -> None:
    module, _, _ = module_of()
    module.train()
    settled, before = Settled(module), codes_of(module)
    scales = [grid.scale.detach().clone() for _, (_, _, grid) in module.weights_and_grids()]
    wanted, losses = torch.randn(4, 5, generator=torch.Generator().manual_seed(1)), []
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(40):
        loss = (module(batch(4)) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        settled.before_step()
        optimizer.step()
        settled.after_step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    for (_, (_, _, grid)), old in zip(module.weights_and_grids(), scales, strict=True):
        assert float((grid.scale.detach() / old - 1).abs().max()) > 0.01
    assert all(torch.equal(now, old) for now, old in zip(codes_of(module), before, strict=True))
    assert sum(len(codes.unique()) for codes in before) > 30
    kept = [weight.detach().clone() for _, (weight, _, _) in module.weights_and_grids()]
    Settled(module)
    assert all(torch.equal(p, known) for (_, (p, _, _)), known in zip(module.weights_and_grids(), kept, strict=True))
    module.eval()
    assert float((module(batch(4)) - wanted).square().mean()) < losses[0]  # of the integer graph


def test_scales_of_settled_weights_learn_by_the_gradient_of_a_product() -> None:
    module, _, _ = module_of()
    module.train()
    settled, parts = Settled(module), dict(module.weights_and_grids())
    codes = dict(zip(parts, codes_of(module), strict=True))
    module(batch(4)).square().mean().backward()
    settled.before_step()
    found = {name: grid.growth.grad for name, (_, _, grid) in parts.items()}
    assert all(weight.grad is None for weight, _, _ in parts.values())
    module.zero_grad()
    for name, (_, _, grid) in parts.items():
        grid.forward = lambda _, name=name, grid=grid: codes[name] * grid.spread()  # type: ignore[method-assign]
    module(batch(4)).square().mean().backward()
    for name, (_, _, grid) in parts.items():
        slope, wanted = found[name], grid.growth.grad
        assert slope is not None and wanted is not None
        assert torch.allclose(slope, wanted, rtol=1e-3, atol=1e-6), name
        assert float(wanted.abs().max()) > 1e-4


def test_gradients_come_from_the_worst_point_nearby() -> None:
    module, _, _ = module_of()
    module.train()
    weights = {name: p.detach().clone() for name, p in module.trained.named_parameters()}
    sharpness = Sharpness(module, radius=0.5)
    sharpness.backward(lambda: module(batch(4)).square().mean())
    found = {name: p.grad.clone() for name, p in module.trained.named_parameters() if p.grad is not None}
    assert all(torch.allclose(p, weights[name], atol=1e-6) for name, p in module.trained.named_parameters())

    module.zero_grad()
    module(batch(4)).square().mean().backward()
    slopes = {name: p.grad.clone() for name, p in module.trained.named_parameters() if p.grad is not None}
    norm = torch.sqrt(sum((slope.square().sum() for slope in slopes.values()), torch.zeros(())))
    with torch.no_grad():
        for name, p in module.trained.named_parameters():
            p.copy_(weights[name] + 0.5 * slopes[name] / norm)
    module.zero_grad()
    module(batch(4)).square().mean().backward()
    for name, p in module.trained.named_parameters():
        assert p.grad is not None and torch.allclose(p.grad, found[name], rtol=1e-3, atol=1e-5)
    assert any(not torch.allclose(found[name], slope, rtol=1e-2) for name, slope in slopes.items())


def test_a_scale_in_conflict_is_fixed_for_a_window() -> None:
    module, _, _ = module_of()
    module.train()
    sharpness = Sharpness(module, radius=0.1, window=2, most=0.5)
    names = [name for name, p in module.named_parameters() if name.endswith("growth") and p.requires_grad]
    (contrary, peaceful), calls = names[:2], 0

    def loss() -> Tensor:
        """Slopes of +1 here and -1 nearby for one scale, of +1 and +2 for the other."""
        nonlocal calls
        nearby = calls % 2 == 1
        calls += 1
        parts = dict(module.named_parameters())
        signs = {contrary: -1.0 if nearby else 1.0, peaceful: 2.0 if nearby else 1.0}
        return sum((sign * parts[name].sum() for name, sign in signs.items()), module(batch(2)).square().mean() * 0)

    def learned() -> set[str]:
        sharpness.backward(loss)
        moved = {name for name, p in module.named_parameters() if p.grad is not None and bool(p.grad.any())}
        module.zero_grad()
        return moved & {contrary, peaceful}

    assert learned() == learned() == {contrary, peaceful}
    assert sharpness.frozen == {contrary}
    assert learned() == learned() == {peaceful}
