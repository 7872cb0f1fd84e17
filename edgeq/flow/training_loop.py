"""The loop behind `edgeq train`: steps, held-out loss, and the state that a killed run goes on from."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from edgeq.datasets.batches import Batch
from edgeq.datasets.detection import DetectionHead
from edgeq.datasets.detection_distance import detection_distance, label_distance
from edgeq.errors import UsageError
from edgeq.flow.augment import mirrored, shifted
from edgeq.flow.processes import local_device, processes
from edgeq.flow.statistics import objective_of
from edgeq.flow.training import Trained, TrainingRun, usual_rate
from edgeq.flow.training_data import Material, head_of
from edgeq.flow.training_step import Step
from edgeq.ir.graph import Graph
from edgeq.passes.together import Together
from edgeq.progress import Progress
from edgeq.quantize.distance import squared_error
from edgeq.quantize.distill import Follows, Teacher, classification_loss, noise
from edgeq.quantize.plan import Plan
from edgeq.quantize.qat import QatModule
from edgeq.quantize.sensitivity import Objective, Weigh, relative_power

LEAST_LIKENESS = 0.9
"""Cosine of the gradients of the step and of the compiled step: half precision adds in another order."""
LOOK_EVERY = 50
"""Steps between two looks at whether the loss is still a number."""


class Loop:
    """One training run, epoch by epoch: of `graph` under `plan`, towards the outputs of `teacher` (the graph itself).

    `follows` says by what else than is usual for the task, if anything.
    """

    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        material: Material,
        weigh: Weigh | None,
        run: TrainingRun,
        follows: Follows | None = None,
    ) -> None:
        self.run, self.options, self.device = run, run.training, local_device(run.device)
        self.processes = processes(self.device)
        torch.manual_seed(self.options.seed)
        self.module = QatModule(graph, plan, self.options.learn, half_scales=run.half_scales).to(self.device).train()
        self.processes.start_alike(tensor.data for tensor in self.module.state_dict().values())
        self.decode = None if run.decode is None else Together(run.decode, self.device)
        self.objective = objective_of(plan.structure, weigh if self.decode is None else None)
        self.follows = follows or Follows(graph)
        self.watched = Objective((*self.objective.outputs, *self.follows.hints))
        self.teacher = Teacher(self.follows.teacher, self.watched, self.device)
        (self.input,) = graph.inputs
        self.classifies, self.head = material.classifies, head_of(weigh)
        self.training, self.held_out = material.training, material.held_out
        self.steps = self.options.epochs * len(self.training)
        rate = usual_rate(self.steps) if self.options.rate is None else self.options.rate
        self.step = Step(self.module, self._loss, self.options, rate, self.processes, self.device)
        self.compiled = torch.compile(self._values, dynamic=False) if self.options.compiled else self._values
        self.epoch, self.seconds, self.is_compiled = 0, 0.0, False
        self.history: list[dict[str, float]] = []
        self.probabilities = self.classifies and self._gives_probabilities()
        self.best = self._snapshot(self._held_out_loss())
        self.start, self.best_epoch, self.best_settled = self.best[0], 0, False

    @property
    def is_finished(self) -> bool:
        """Whether epochs, time or patience have run out."""
        options = self.options
        tired = options.patience is not None and self.epoch - self.best_epoch >= options.patience
        return tired or self._share(self.epoch * len(self.training), 0.0) >= 1

    # --- one step ---------------------------------------------------------------------------------------------

    def _values(self, images: Tensor) -> tuple[Tensor, ...]:
        half = torch.autocast(images.device.type, torch.bfloat16) if self.options.half else nullcontext()
        with half:
            return self.module.rounded({self.input: images}, self.watched.outputs)

    def _loss(self, images: Tensor, labels: Tensor | None = None, *, compiled: bool = True) -> Tensor:
        wanted = self.teacher({self.input: images})
        found = (self.compiled if compiled else self._values)(images)
        count = len(self.objective.outputs)
        loss = self._task_loss(wanted[:count], found[:count], labels)
        if self.follows.hints and torch.is_grad_enabled():  # what is held out is judged by the outputs alone
            hints = squared_error(found[count:], wanted[count:], [None] * len(self.follows.hints))
            loss = loss + self.follows.weight * hints
        return loss

    def _task_loss(self, wanted: list[Tensor], found: tuple[Tensor, ...], labels: Tensor | None) -> Tensor:
        follows = self.follows
        loss = follows.loss if torch.is_grad_enabled() else follows.judge or follows.loss
        if loss is not None:
            count = len(self.module.graph.outputs)
            return loss(found[:count], wanted[:count], [None] * count)
        if self.classifies:
            return classification_loss(wanted[0], found[0], labels, probabilities=self.probabilities)
        if self.head is not None:
            return self._distance_of_detections(self.head, wanted, found, labels)
        return noise(self.objective, wanted, found)

    def _distance_of_detections(
        self, head: DetectionHead, wanted: list[Tensor], found: tuple[Tensor, ...], truth: Tensor | None
    ) -> Tensor:
        """Boxes and scores, from the teacher's and in equal parts from the labels; the noise where the integer part ends."""
        count = len(self.module.graph.outputs)
        inner = Objective(self.objective.outputs[count:], relative_power)
        goal, rows = (self._decoded(part[:count]) for part in (wanted, found))
        distance = detection_distance(head, goal, rows)
        if truth is not None:
            distance = (distance + label_distance(head, goal, rows, truth, self.run.preprocess.size)) / 2
        return distance + noise(inner, wanted[count:], found[count:]) if inner.outputs else distance

    def _decoded(self, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        if self.decode is None:
            return outputs
        return list(self.decode(dict(zip(self.decode.graph.inputs, outputs, strict=True))).values())

    @torch.no_grad()
    def _gives_probabilities(self) -> bool:
        """Whether the teacher answers with a distribution, or with what a softmax makes one of."""
        images, _ = next(self.training.epoch(self.options.seed))
        wanted = self.teacher({self.input: images})[0]
        return bool((wanted >= 0).all() and (wanted.sum(1) - 1).abs().max() < 1e-3)

    def one_epoch(self, progress: Progress) -> None:
        """Every training image once; then the held-out loss and the saved state.

        From the first state with codes that stay which does better than the start, those of before count no more: while
        codes move, a good loss on few images is often chance.
        """
        started = counted = time.monotonic()
        losses, seconds = list[Tensor](), 0.0
        for k, (images, labels) in enumerate(self.training.epoch(self.options.seed + self.epoch)):
            step = self.epoch * len(self.training) + k
            if self.processes.world < 2 or k % LOOK_EVERY == 0:  # several processes have to end at the same step
                seconds = self.processes.greatest(time.monotonic() - counted, self.device)
            share = self._share(step, seconds)
            if share >= 1 and losses:
                break
            share = min(share, 1.0)
            moved = self._moved(images, labels)
            if not self.is_compiled:  # which takes as long as many steps, and no share of --minutes
                if self.options.compiled:
                    self._check_compiled(*moved)
                counted, seconds, self.is_compiled = time.monotonic(), 0.0, True
            losses.append(self.step(*moved, share))
            if k % LOOK_EVERY == 0:
                self._check(losses[-1])
            progress("training", step + 1, self.steps)
        self._check(mean := self.processes.total(torch.stack(losses).mean()) / self.processes.world)
        held_out = self._held_out_loss()
        self.epoch += 1
        settled = self.step.settled is not None
        if held_out < (self.best[0] if self.best_settled == settled else self.start):
            self.best, self.best_epoch, self.best_settled = self._snapshot(held_out), self.epoch, settled
        seconds = time.monotonic() - started
        self.seconds += self.processes.greatest(time.monotonic() - counted, self.device)
        row = {"epoch": self.epoch, "loss": float(mean), "held_out": held_out, "seconds": round(seconds, 2)}
        oscillation = self.step.oscillation
        self.history.append(row | ({} if oscillation is None else {"fixed": round(oscillation.share, 5)}))
        self._save()

    def _check_compiled(self, images: Tensor, labels: Tensor | None) -> None:
        """Raise UsageError where the compiled step has other gradients: some compilers lose them without a word."""
        wanted, found = (self._slopes(self._loss(images, labels, compiled=compiled)) for compiled in (False, True))
        if (likeness := float(torch.cosine_similarity(found, wanted, dim=0))) < LEAST_LIKENESS:
            raise UsageError(
                "torch.compile gives other gradients than the step it compiles", where=f"torch {torch.__version__}",
                value=f"cosine {likeness:.3f}", allowed=f"{LEAST_LIKENESS} or more", next_step="Train without --compile.",
            )  # fmt: skip

    def _slopes(self, loss: Tensor) -> Tensor:
        learned = [p for p in self.module.parameters() if p.requires_grad]
        slopes = torch.autograd.grad(loss, learned, materialize_grads=True)
        return torch.cat([slope.flatten() for slope in slopes])

    def _share(self, step: int, seconds: float) -> float:
        """How much of the training is done, by steps or by time."""
        share = step / max(self.steps, 1)
        if self.options.minutes is not None:
            share = max(share, (self.seconds + seconds) / (60 * self.options.minutes))
        return share

    def _check(self, loss: Tensor) -> None:
        if not math.isfinite(float(loss)):
            raise UsageError(
                "the training loss is not a number", where=f"epoch {self.epoch + 1}",
                next_step=f"Lower --rate; the best state so far is kept in {self.run.state}.",
            )  # fmt: skip

    def _moved(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        boxes = None if self.classifies else labels
        if self.options.flip:
            images, boxes = mirrored(images, boxes)
        if self.options.shift:
            images, boxes = shifted(images, boxes)
        return images, labels if self.classifies else boxes

    @torch.no_grad()
    def _held_out_loss(self) -> float:
        found = torch.zeros(2, dtype=torch.float64, device=self.device)
        batches: Iterator[Batch] = self.held_out.in_order()
        for images, labels in batches:
            loss = self._loss(images, labels, compiled=False)
            found[0] += loss.double() * len(images)
            found[1] += len(images)
        total, count = self.processes.total(found).tolist()
        return float(total / max(count, 1))

    # --- state ------------------------------------------------------------------------------------------------

    def _snapshot(self, loss: float) -> tuple[float, dict[str, Tensor]]:
        return loss, {name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()}

    def _save(self) -> None:
        if self.run.state is None or not self.processes.writes:
            return
        self.run.state.parent.mkdir(parents=True, exist_ok=True)
        partial_file = self.run.state.with_suffix(f".{os.getpid()}.partial")
        document = {
            "epoch": self.epoch, "history": self.history, "module": self.module.state_dict(),
            "best": self.best, "start": self.start, **self.step.state_dict(),
            "best_epoch": self.best_epoch, "best_settled": self.best_settled, "seconds": self.seconds, "random": torch.get_rng_state(),
            "device_random": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }  # fmt: skip
        torch.save(document, partial_file)
        os.replace(partial_file, self.run.state)

    def resume(self) -> None:
        """Take up the saved state, if there is one. Raises UsageError for a state that does not fit; it stays."""
        if self.run.state is None or not self.run.state.is_file():
            return
        try:
            found = torch.load(self.run.state, map_location=self.device, weights_only=True)
            self._take_up(found)
        except Exception as error:  # damaged, or of another network: torch's list of errors is open
            raise UsageError(
                "the saved state does not fit this training", where=self.run.state, value=_first_line(error),
                next_step="Move the file away, or give --no-cache to train without it.",
            ) from error  # fmt: skip

    def _take_up(self, found: dict[str, Any]) -> None:
        self.module.load_state_dict(found["module"])
        self.step.load_state_dict(found, self.device)
        self.epoch, self.history, self.best = found["epoch"], list(found["history"]), tuple(found["best"])
        self.start, self.seconds = found["start"], found["seconds"]
        self.best_epoch, self.best_settled = found["best_epoch"], found["best_settled"]
        torch.set_rng_state(found["random"].cpu())
        if found["device_random"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(found["device_random"].cpu(), self.device)

    def result(self) -> Trained:
        """The best state."""
        loss, state = self.best
        self.module.load_state_dict(state)
        graph = self.module.learned_graph()
        verb = "falls" if loss < self.start else "stays"
        images = len(self.held_out.reads)
        notes = [f"training: the loss on {images} held-out images {verb} from {self.start:.4g} to {loss:.4g}"]
        if self.options.learn.adaptive:
            notes.append("training: scales that followed each image are frozen to their mean over the training images")
        return Trained(graph, self.module.learned_plan(graph), self.history, notes)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:160]
