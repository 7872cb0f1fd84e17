"""Training under rounding: what `edgeq train` does between the choice of ranges and lowering.

The plan of post-training quantization is the start, the float network the teacher. The state with the least loss on
held-out images wins, and never loses to the start. State is saved after every epoch, so that a killed run goes on
where it was.
"""

from __future__ import annotations

import csv
import io
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgeq.datasets.batches import Batches
from edgeq.datasets.dataset import Dataset
from edgeq.errors import DataError, UsageError
from edgeq.flow.ranges import objective_of
from edgeq.ir.graph import Graph
from edgeq.progress import Progress
from edgeq.quantize.distill import Teacher, classification_loss, noise
from edgeq.quantize.plan import Plan
from edgeq.quantize.qat import QatModule
from edgeq.quantize.sensitivity import Weigh

HELD_OUT = 0.05
MOST_HELD_OUT = 1000
LARGEST_SHIFT = 0.125
WARMUP = 0.05
"""Share of the steps over which the learning rate rises; then it falls along half a cosine."""


@dataclass(frozen=True)
class Training:
    """The options of training. `rate` is AdamW's learning rate; `flip` and `shift` move images at random."""

    epochs: int = 10
    batch: int = 64
    rate: float = 1e-3
    decay: float = 1e-4
    flip: bool = True
    shift: bool = True
    device: str | None = None
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    seed: int = 0
    compiled: bool = False


@dataclass(frozen=True)
class Trained:
    """The real graph with trained weights, its plan, and one row for each epoch."""

    graph: Graph
    plan: Plan
    history: list[dict[str, float]]
    notes: list[str]

    def log(self) -> bytes:
        """The history as CSV."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self.history[0]) if self.history else ["epoch"])
        writer.writeheader()
        writer.writerows(self.history)
        return text.getvalue().encode()


def device_of(name: str | None) -> torch.device:
    """The device called `name`, or the accelerator if there is one. Raises UsageError when it is not there."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            "this device cannot be used", value=name, allowed="cpu, or cuda with a GPU and a CUDA build of torch"
        ) from error
    return device


def train(
    graph: Graph, plan: Plan, data: Dataset, weigh: Weigh | None, run: TrainingRun, progress: Progress
) -> Trained:
    """Train `graph` under `plan` on the images of `data`; labels count for classifiers.

    Raises DataError when there are too few images, and UsageError when the loss is not a number.
    """
    loop = _Loop(graph, plan, data, weigh, run)
    loop.resume()
    for epoch in range(loop.epoch, run.training.epochs):
        loop.one_epoch(epoch, progress)
    return loop.result()


@dataclass(frozen=True)
class TrainingRun:
    """How and where: the options, how images enter, and the file that holds the state (None to keep none)."""

    training: Training
    preprocess: Any
    state: Path | None


class _Loop:
    def __init__(self, graph: Graph, plan: Plan, data: Dataset, weigh: Weigh | None, run: TrainingRun) -> None:
        self.run, self.options = run, run.training
        self.device = device_of(self.options.device)
        torch.manual_seed(self.options.seed)
        self.module = QatModule(graph, plan).to(self.device).train()
        self.objective = objective_of(plan.structure, weigh)
        self.teacher = Teacher(graph, self.objective, self.device)
        self.training, self.held_out = _split(data, run)
        (self.input,) = graph.inputs
        self.classifies = data.task == "classify"
        self.steps = self.options.epochs * len(self.training)
        self.optimizer = torch.optim.AdamW(_groups(self.module, self.options), lr=self.options.rate)
        self.module.prepare(self.training.size)
        self.compiled = torch.compile(self._values, dynamic=False) if self.options.compiled else self._values
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        self.probabilities = False
        self.best = self._snapshot(self._held_out_loss())
        self.start = self.best[0]

    # --- one step ---------------------------------------------------------------------------------------------

    def _values(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.module.rounded({self.input: images}, self.objective.outputs)

    def _loss(self, images: Tensor, labels: Tensor | None, *, compiled: bool = True) -> Tensor:
        wanted = self.teacher({self.input: images})
        found = (self.compiled if compiled else self._values)(images)
        if not self.classifies:
            return noise(self.objective, wanted, found)
        probabilities = bool((wanted[0] >= 0).all() and (wanted[0].sum(1) - 1).abs().max() < 1e-3)
        return classification_loss(wanted[0], found[0], labels, probabilities=probabilities)

    def one_epoch(self, epoch: int, progress: Progress) -> None:
        """Every training image once; then the held-out loss and the saved state."""
        started, losses = time.monotonic(), []
        for k, (images, labels) in enumerate(self._batches(self.training.epoch(self.options.seed + epoch), moved=True)):
            step = epoch * len(self.training) + k
            for group in self.optimizer.param_groups:
                group["lr"] = self.options.rate * _schedule(step / self.steps)
            loss = self._loss(images, labels)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
            self.optimizer.step()
            losses.append(loss.detach())
            progress("training", step + 1, self.steps)
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean):
            raise UsageError(
                "the training loss is not a number", where=f"epoch {epoch + 1}",
                next_step=f"Lower --rate; the best state so far is kept in {self.run.state}.",
            )  # fmt: skip
        held_out = self._held_out_loss()
        if held_out < self.best[0]:
            self.best = self._snapshot(held_out)
        seconds = time.monotonic() - started
        self.history.append({"epoch": epoch + 1, "loss": mean, "held_out": held_out, "seconds": round(seconds, 2)})
        self.epoch = epoch + 1
        self._save()

    def _batches(self, batches: Iterator[Any], *, moved: bool) -> Iterator[tuple[Tensor, Tensor | None]]:
        for images, labels in batches:
            tensor = torch.from_numpy(images).to(self.device, non_blocking=True)
            known = None if labels is None else torch.from_numpy(labels).to(self.device)
            yield self._moved(tensor) if moved else tensor, known

    def _moved(self, images: Tensor) -> Tensor:
        """Mirrored and shifted at random; what comes in from outside repeats the edge."""
        if self.options.flip:
            mirrored = torch.rand(len(images), device=images.device) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        if not self.options.shift:
            return images
        height, width = images.shape[2:]
        dy, dx = (max(1, int(side * LARGEST_SHIFT)) for side in (height, width))
        wide = F.pad(images, (dx, dx, dy, dy), mode="replicate")
        rows = torch.randint(0, 2 * dy + 1, (len(images), 1), device=images.device)
        columns = torch.randint(0, 2 * dx + 1, (len(images), 1), device=images.device)
        rows = rows + torch.arange(height, device=images.device)
        columns = columns + torch.arange(width, device=images.device)
        image = torch.arange(len(images), device=images.device)[:, None, None]
        return wide.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()

    @torch.no_grad()
    def _held_out_loss(self) -> float:
        losses, count = 0.0, 0
        for images, labels in self._batches(self.held_out.in_order(), moved=False):
            losses += float(self._loss(images, labels, compiled=False)) * len(images)
            count += len(images)
        return losses / max(count, 1)

    # --- state ------------------------------------------------------------------------------------------------

    def _snapshot(self, loss: float) -> tuple[float, dict[str, Tensor]]:
        return loss, {name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()}

    def _save(self) -> None:
        if self.run.state is None:
            return
        self.run.state.parent.mkdir(parents=True, exist_ok=True)
        partial = self.run.state.with_suffix(f".{os.getpid()}.partial")
        document = {
            "epoch": self.epoch, "history": self.history, "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(), "best": self.best, "start": self.start,
            "random": torch.get_rng_state(),
        }  # fmt: skip
        torch.save(document, partial)
        os.replace(partial, self.run.state)

    def resume(self) -> None:
        """Take up the saved state, if there is one."""
        if self.run.state is None or not self.run.state.is_file():
            return
        found = torch.load(self.run.state, map_location=self.device, weights_only=True)
        self.module.load_state_dict(found["module"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.epoch, self.history, self.best = found["epoch"], list(found["history"]), tuple(found["best"])
        self.start = found["start"]
        torch.set_rng_state(found["random"].cpu())

    def result(self) -> Trained:
        """The best state."""
        loss, state = self.best
        self.module.load_state_dict(state)
        graph = self.module.learned_graph()
        verb = "falls" if loss < self.start else "stays"
        note = f"training: the loss on {len(self.held_out.paths)} held-out images {verb} from {self.start:.4g} to {loss:.4g}"
        return Trained(graph, self.module.learned_plan(graph), self.history, [note])


def _split(data: Dataset, run: TrainingRun) -> tuple[Batches, Batches]:
    """Images to train on, and every so-manyth to hold out."""
    count = len(data.samples)
    if count < 4:
        raise DataError("too few images to train on", where=data.name, value=count, allowed="4 or more")
    held = max(1, min(int(count * HELD_OUT), MOST_HELD_OUT))
    out = {int(k) for k in np.linspace(0, count - 1, held)}
    options, labelled = run.training, data.task == "classify" and isinstance(data.samples[0].label, int)

    def part(rows: list[int]) -> Batches:
        labels = [data.samples[k].label for k in rows] if labelled else None
        paths = [data.samples[k].path for k in rows]
        return Batches(paths, labels, run.preprocess, options.batch, options.workers)  # type: ignore[arg-type]

    return part([k for k in range(count) if k not in out]), part(sorted(out))


def _groups(module: QatModule, options: Training) -> list[dict[str, Any]]:
    """Weights decay; scales, biases and gains do not."""
    decayed = [p for p in module.trained.parameters() if p.dim() > 1]
    others = [p for p in module.parameters() if p.requires_grad and not any(p is known for known in decayed)]
    return [{"params": decayed, "weight_decay": options.decay}, {"params": others, "weight_decay": 0.0}]


def _schedule(progress: float) -> float:
    return (
        progress / WARMUP if progress < WARMUP else 0.5 * (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP)))
    )
