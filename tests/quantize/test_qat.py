"""The trainable module: it starts as the plan, learns, and in evaluation it is the integer graph, bit for bit."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from edgeq.errors import UsageError
from edgeq.formats import INT4_NARROW, Int
from edgeq.ir import ops as o
from edgeq.ir.file import digest
from edgeq.ir.graph import Graph
from edgeq.passes.lower import lower
from edgeq.quantize.plan import Plan
from edgeq.quantize.qat import QatModule
from edgeq.reference.interpret import run
from edgeq.target import Target
from edgeq.targets import find_target
from tests.quantized import Net, inputs_of, planned, signal_to_noise_db

ONNX = find_target("onnx-int8")
FEW = replace(find_target("reference"), name="few", weight=INT4_NARROW, narrow=Int(4), wide=Int(8))


def net() -> Graph:
    """Convolutions, a residual and a classifier."""
    n = Net(1, 3, 8, 8)
    a = n.apply(n.conv("x", 8, "a"), "relu", "a1")
    b = n.apply(n.conv(a, 8, "b"), "silu", "b1")
    total = n.add(o.Add(a, b, "s"))
    pooled = n.add(o.Mean(total, "m", (2, 3)))
    flat = n.add(o.Reshape(pooled, "flat", (1, 8)))
    return n.graph(n.linear(flat, 5, "y"))


def module_of(target: Target = FEW) -> tuple[QatModule, Graph, Plan]:
    graph, _, plan = planned(net(), target, inputs_of(net()))
    return QatModule(graph, plan), graph, plan


def batch(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.concatenate([inputs_of(net(), seed + k)["x"] for k in range(count)]))


@pytest.mark.parametrize("target", [FEW, ONNX], ids=lambda t: t.name)
def test_before_training_it_converts_to_the_graph_of_its_plan(target: Target) -> None:
    module, graph, plan = module_of(target)
    assert digest(module.convert()) == digest(lower(graph, plan))


def trained(module: QatModule, steps: int = 20, rate: float = 3e-3) -> list[float]:
    """Losses on the way to other outputs."""
    module.train()
    optimizer = torch.optim.Adam(module.parameters(), rate)
    wanted, losses = torch.randn(4, 5, generator=torch.Generator().manual_seed(1)), []
    for _ in range(steps):
        loss = (module(batch(4)) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_training_lowers_the_loss_and_evaluation_is_the_integer_graph() -> None:
    module, _, _ = module_of()
    before = digest(module.convert())
    losses = trained(module, 60)
    assert losses[-1] < 0.7 * losses[0]
    learned = [p for p in module.parameters() if p.requires_grad]
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in learned)
    assert [name for name, p in module.named_parameters() if not p.requires_grad] == ["values.x.growth"]
    module.eval()
    found = module(batch(3))
    integers = module.convert()
    assert digest(integers) != before
    for k in range(3):
        (wanted,) = run(integers, {"x": batch(1, k)}).values()
        assert torch.equal(found[k : k + 1], wanted)
    assert len(found.unique()) > 10
    module.train()
    simulated = module(batch(3)).detach().numpy().astype(np.float64)
    assert signal_to_noise_db(found.numpy().astype(np.float64), simulated) > 25


def test_biases_count_in_whole_units_of_their_sums_while_training() -> None:
    module, graph, plan = module_of()
    op = next(op for op in graph.ops if isinstance(op, o.Conv) and op.out == "a")
    assert op.bias is not None
    bias, scales = module.trained[module._fields[op.bias]], plan.weights["a"].scale
    unit, codes = (
        torch.tensor(np.asarray(found)) for found in (plan.types["x"].scale[0] * np.array(scales), plan.biases["a"])
    )

    def sums(share: float) -> Tensor:
        bias.data = ((codes + share) * unit).float()
        return module.rounded({"x": batch(4)}, ("a",))[0]

    assert torch.equal(sums(0.4), sums(0.0)) and not torch.equal(sums(40.0), sums(0.0))
    sums(0.3).sum().backward()  # type: ignore[no-untyped-call]
    assert bias.grad is not None and bool((bias.grad != 0).any())


def test_rounding_passes_over_a_share_of_what_gradients_are_taken_of() -> None:
    module, _, plan = module_of()
    (scale,) = plan.types["a1"].scale
    images = {"x": batch(32)}

    def off_grid(share: float | None) -> float:
        """Of what does not saturate."""
        module.unrounded = None if share is None else torch.tensor(share)
        levels = module.rounded(images, ("a1",))[0].detach() / scale
        inside = levels[(levels > 0.5) & (levels < 14.5)]
        assert len(inside) > 1000
        return float(((inside - inside.round()).abs() > 1e-3).float().mean())

    assert off_grid(None) == off_grid(0.0) == 0.0
    assert off_grid(1.0) > 0.98
    assert off_grid(0.3) == pytest.approx(0.3, abs=0.06)
    with torch.no_grad():
        assert off_grid(1.0) == 0.0


def test_its_state_travels_as_a_state_dict() -> None:
    module, _, _ = module_of()
    trained(module, 5)
    other, _, _ = module_of()
    assert digest(other.convert()) != digest(module.convert())
    other.load_state_dict(module.state_dict())
    assert digest(other.convert()) == digest(module.convert())


def test_weights_that_are_not_numbers_are_named() -> None:
    module, _, _ = module_of()
    with torch.no_grad():
        next(iter(module.trained.values())).fill_(float("nan"))
    with pytest.raises(UsageError, match="training went astray: not a number; at "):
        module.convert()


def test_it_says_how_many_inputs_it_takes() -> None:
    module, _, _ = module_of()
    with pytest.raises(UsageError, match="wrong number of inputs; got 2; allowed: x"):
        module(batch(1), batch(1))


def _gradients_of_half(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.set_num_threads(1)
    module, _, _ = module_of()
    parallel = torch.nn.parallel.DistributedDataParallel(module.train())
    parallel(batch(4)[rank * 2 : rank * 2 + 2]).square().mean().backward()
    torch.save({name: p.grad for name, p in module.named_parameters()}, f"{folder}/{rank}.pt")
    os._exit(
        0
    )  # DistributedDataParallel's threads outlive destroy_process_group and may abort an interpreter that ends


def test_two_processes_learn_what_one_learns_from_both_halves(tmp_path: Path) -> None:
    mp.spawn(_gradients_of_half, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    module, _, _ = module_of()
    module.train()(batch(4)).square().mean().backward()
    halves = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert any(float(p.grad.abs().max()) > 1e-3 for p in module.parameters() if p.grad is not None)
    for name, parameter in module.named_parameters():
        for half in halves if parameter.requires_grad else ():
            assert torch.allclose(half[name], parameter.grad, rtol=1e-4, atol=1e-6), name


def test_prescribed_grids_stay_as_they_are() -> None:
    """The shares of a softmax on integers have the one scale that its kernel computes in."""
    n = Net(1, 3, 8, 8)
    tokens = n.add(o.Reshape(n.conv("x", 8, "a"), "t", (1, 8, 64)))
    scores = n.add(o.MatMul(n.add(o.Transpose(tokens, "u", (0, 2, 1))), tokens, "scores"))
    shares = n.add(o.Softmax(scores, "shares", 2))
    graph = n.graph(n.add(o.MatMul(shares, "u", "y")))
    graph, structure, plan = planned(graph, find_target("c-int8"), inputs_of(graph))
    assert structure.fixed
    module = QatModule(graph, plan).train()
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        module(batch(2)).square().mean().backward()
        optimizer.step()
    learned = module.learned_plan(module.learned_graph())
    for key, (scale, zero_point) in structure.fixed.items():
        assert (learned.types[key].scale, learned.types[key].zero_point) == ((scale,), zero_point)
    assert any(learned.types[value].scale != plan.types[value].scale for value in plan.types)
    assert any(isinstance(op, o.Softmax) and learned.types[op.out].format.bits == 16 for op in graph.ops)  # type: ignore[union-attr]
    integers = module.eval().convert()
    assert not any(type_.is_real for name, type_ in integers.types.items() if name.startswith("shares"))
