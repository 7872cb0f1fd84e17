"""Gradient descent on the rounding of one unit: its output, as the quantized network computes it, towards the float one.

Inputs are the quantized prefix's values, mixed at random with the float prefix's (QDrop), so that the codes do not
adapt to one realisation of the noise. Where weights alone are coarse nothing is mixed, since that would hide what the
unit could take back of the error that reaches it. Weight codes, biases and the scales of activations that the unit is
the first to compute are learned together. The best hard state on held-out images is kept, the start included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeq.formats import bits_of
from edgeq.ir import ops as o
from edgeq.quantize.distance import squared_error
from edgeq.quantize.rounding import Method, Rounding
from edgeq.quantize.simulate import Simulation
from edgeq.quantize.units import Unit

WARM_UP = 0.2
"""Share of the steps before AdaRound's penalty sets in."""

CHECKS = 8
"""The held-out loss of the hardened unit is looked at so many times, in the second half."""

HELD_OUT = 4
"""One image in so many is held out."""

NARROW_BITS = 8
"""Wider values keep the headroom that they were planned with."""

CROP = 32
"""Side of the windows that larger maps are learned on, where the unit only looks at neighbourhoods."""

_LOCAL = (o.Conv, o.Apply, o.Add, o.Sub, o.Mul, o.MaxPool, o.AveragePool, o.Concat, o.ChannelAffine)


@dataclass(frozen=True)
class Settings:
    """How long and how units are learned; `steps` 0 leaves the closed form of edgeq/quantize/second_order.py."""

    steps: int = 0
    method: Method = "adaround"
    images: int = 16
    drop: float = 0.5
    activation_rate: float = 1e-3
    bias_rate: float = 1e-3
    penalty: float = 1.0


@dataclass
class Parameters:
    """What is learned of one operator: its rounding, the scale of its levels, and the bias (None without one)."""

    rounding: Rounding
    scale: Tensor
    bias: Tensor | None
    spread: Tensor
    """Of the output, by which the bias is measured."""


@dataclass(frozen=True)
class Data:
    """Inputs of a unit on both sides and its float outputs, all images along the first axis.

    `importance` weighs errors of the outputs, broadcast against them.
    """

    quantized: Tensor
    real: Tensor
    targets: tuple[Tensor, ...]
    importance: tuple[Tensor | None, ...]

    def chosen(self, index: Tensor) -> Data:
        """Some of the images."""
        weights = tuple(w[index] if w is not None and len(w) > 1 else w for w in self.importance)
        return Data(self.quantized[index], self.real[index], tuple(t[index] for t in self.targets), weights)


@dataclass(frozen=True)
class Snapshot:
    """A hard state and its held-out loss."""

    loss: float
    levels: dict[o.Value, Tensor]
    biases: dict[o.Value, Tensor]
    scales: dict[o.Value, float]


class Refinement:
    """One unit while it is learned."""

    def __init__(
        self,
        unit: Unit,
        simulation: Simulation,
        parameters: Mapping[o.Value, Parameters],
        data: Data,
        settings: Settings,
        seed: int,
    ) -> None:
        self.unit, self.simulation, self.parameters, self.settings = unit, simulation, parameters, settings
        self.data = data
        self.random = torch.Generator().manual_seed(seed)
        simulation.generator = torch.Generator(simulation.device).manual_seed(seed)
        held = torch.arange(len(data.real)) % HELD_OUT == HELD_OUT - 1
        self.held, self.train = held.nonzero().flatten(), (~held).nonzero().flatten()
        if len(self.held) == 0:
            self.held = self.train
        self.steps = {key: torch.zeros((), device=simulation.device) for key in self._own_classes()}
        planned = simulation.plan.types
        self.first_scales = {
            key: float(simulation.scales.get(key, torch.tensor(planned[key].scale[0]))) for key in self.steps
        }
        self.window = self._window()

    def _own_classes(self) -> list[o.Value]:
        """Narrow classes whose every member is computed and rounded in this unit, and whose scale nobody prescribes."""
        structure = self.simulation.plan.structure
        inside = {v for op in self.unit.ops if structure.runs_on_codes(op) for v in o.results(op)}
        if not self.settings.activation_rate:
            return []
        return [
            key
            for key, members in structure.members.items()
            if key not in structure.fixed
            and inside.issuperset(members)
            and bits_of(structure.formats[key]) <= NARROW_BITS
        ]

    def _window(self) -> int | None:
        """The stride between input and output if windows of the maps can stand for them."""
        entry, exit_ = self.data.real.shape, self.data.targets[0].shape
        local = all(isinstance(op, _LOCAL) for op in self.unit.ops) and len(self.unit.exits) == 1
        local &= len(entry) == len(exit_) == 4
        if not local or min(entry[2:]) < 2 * CROP or entry[2] % exit_[2] or entry[3] % exit_[3]:
            return None
        stride = entry[2] // exit_[2]
        return stride if stride == entry[3] // exit_[3] and CROP % stride == 0 else None

    # --- running --------------------------------------------------------------------------------------------

    def _run(self, x: Tensor, *, real: bool = False) -> tuple[Tensor, ...]:
        values, step = {self.unit.entry: x}, self.simulation.real if real else self.simulation.quantized
        for op in self.unit.ops:
            values.update(zip(o.results(op), step(op, values.__getitem__), strict=True))
        return tuple(values[name] for name in self.unit.exits)

    def _install(self, *, hard: bool) -> None:
        for out, p in self.parameters.items():
            self.simulation.weights[out] = p.rounding.levels(hard=hard) * p.scale
            if p.bias is not None:
                self.simulation.biases[out] = p.bias * p.spread
        for key, log in self.steps.items():
            self.simulation.scales[key] = torch.exp(log) * self.first_scales[key]

    def _cropped(self, data: Data, place: Tensor) -> Data:
        """A window of the maps, the same for all images; its target is computed anew, with the window's own border."""
        if self.window is None:
            return data
        stride, size = self.window, data.real.shape[2:]
        top, left = (int(p * ((n - CROP) // stride + 1)) * stride for p, n in zip(place.tolist(), size, strict=True))
        quantized, real = (x[:, :, top : top + CROP, left : left + CROP] for x in (data.quantized, data.real))
        with torch.no_grad():
            (target,) = self._run(real, real=True)
        (weight,) = data.importance
        if weight is not None and weight.shape[2:] != (1, 1):
            weight = weight[:, :, top // stride :, left // stride :][:, :, : target.shape[2], : target.shape[3]]
        return Data(quantized, real, (target,), (weight,))

    def _loss(self, data: Data) -> Tensor:
        x = self.simulation.mixed(data.quantized, data.real) if self.simulation.drop else data.quantized
        return squared_error(self._run(x), data.targets, data.importance)

    @torch.no_grad()
    def _loss_over(self, images: Tensor) -> float:
        """The loss of what is installed on some images."""
        places = torch.tensor([[0.0, 0.0], [0.5, 0.5], [0.25, 0.75]] if self.window is not None else [[0.0, 0.0]])
        total = 0.0
        for part in torch.split(images, self.settings.images):
            whole = self.data.chosen(part)
            total += sum(float(self._loss(self._cropped(whole, place))) * len(part) for place in places)
        return total / len(images) / len(places)

    def _over_all(self, snapshot: Snapshot) -> float:
        """The loss of a hard state on all images."""
        for out, p in self.parameters.items():
            self.simulation.weights[out] = snapshot.levels[out] * p.scale
            if out in snapshot.biases:
                self.simulation.biases[out] = snapshot.biases[out]
        for key, scale in snapshot.scales.items():
            self.simulation.scales[key] = torch.full((), scale, device=self.simulation.device)
        return self._loss_over(torch.arange(len(self.data.real)))

    # --- learning -------------------------------------------------------------------------------------------

    def _groups(self) -> list[dict[str, object]]:
        settings = self.settings
        groups: list[dict[str, object]] = [
            {"params": p.rounding.theta, "lr": p.rounding.rate} for p in self.parameters.values()
        ]
        biases = [p.bias for p in self.parameters.values() if p.bias is not None]
        groups.append({"params": [bias.requires_grad_() for bias in biases], "lr": settings.bias_rate})
        groups.append({"params": [s.requires_grad_() for s in self.steps.values()], "lr": settings.activation_rate})
        return [group for group in groups if group["params"]]

    def _penalty(self, done: float) -> Tensor:
        if done < WARM_UP:
            return self.data.real.new_zeros(())
        beta = 20 - 18 * (done - WARM_UP) / (1 - WARM_UP)
        sizes = {out: p.rounding.start.numel() for out, p in self.parameters.items()}
        parts = [p.rounding.penalty(beta) * sizes[out] for out, p in self.parameters.items()]
        return torch.stack(parts).sum() / sum(sizes.values())

    def run(self) -> Snapshot:
        """Learn, and return the best hard state on the held-out images; the start where nothing beats it overall."""
        start = best = self._snapshot()
        settings, total = self.settings, self.settings.steps
        optimizer = torch.optim.Adam(self._groups(), betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 0.5 * (1 + math.cos(math.pi * k / total)))
        weight = settings.penalty * max(best.loss, 1e-12)
        for step in range(total):
            order = torch.randperm(len(self.train), generator=self.random)[: settings.images]
            place = torch.rand(2, generator=self.random)
            data = self._cropped(self.data.chosen(self.train[order]), place)
            self.simulation.drop = settings.drop
            self._install(hard=False)
            loss = self._loss(data) + weight * self._penalty(step / total)
            self.simulation.drop = 0.0
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if step + 1 == total or (step >= total // 2 and (step + 1) % max(total // (2 * CHECKS), 1) == 0):
                best = min(best, self._snapshot(), key=lambda snapshot: snapshot.loss)
        return best if self._over_all(best) <= self._over_all(start) else start

    @torch.no_grad()
    def _snapshot(self) -> Snapshot:
        self._install(hard=True)
        return Snapshot(
            self._loss_over(self.held),
            {out: p.rounding.levels(hard=True).clone() for out, p in self.parameters.items()},
            {out: (p.bias * p.spread).clone() for out, p in self.parameters.items() if p.bias is not None},
            {key: float(torch.exp(log)) * self.first_scales[key] for key, log in self.steps.items()},
        )
