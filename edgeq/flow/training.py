"""What training under rounding is asked, and what comes out: plain values, read by everything that trains."""

from __future__ import annotations

import csv
import io
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from edgeq.ir.graph import Graph
from edgeq.quantize.grids import Strategy
from edgeq.quantize.plan import Plan

USUAL_RATE = 1e-2
USUAL_STEPS = 400
LONG_RATE = 2e-2
MEANING = 2
"""Counts up when the same options come to mean another training, so that no state of the old one goes on in the new."""


def usual_rate(steps: int) -> float:
    """A learning rate for so many steps: short trainings cannot take back what large steps disturb (QAT.md).

    It goes with the root of the steps up to USUAL_STEPS, with their third root from there, and is LONG_RATE at most.
    """
    share = steps / USUAL_STEPS
    return min(LONG_RATE, USUAL_RATE * (math.sqrt(share) if share < 1 else share ** (1 / 3)))


@dataclass(frozen=True)
class Training:
    """The options of training. `rate` is AdamW's learning rate, with weights counted by their usual size (see QatModule; None
    for that of `usual_rate`); `flip` and `shift` move images at random.

    `learn`: what is learned beside weights and scales. `freeze`: how often a code may turn back before it is fixed (a
    share of the steps, four times as often at first; None for ever). `settle`: the last share of the training, over which all codes of weights stay and
    the rest is learned on (0 for none). `drop`: the share of elements that rounding passes over at first (QDrop), falling to
    none as codes settle. `sharpness`: radius within which the worst point decides the gradients (GAQAT), in the
    same units.
    `features`: how much what leaves blocks of the float network counts beside its outputs.
    `patience`: end after so many epochs without a better state. `minutes`: end then, with the schedule fitted to it.
    `half`: compute in bfloat16 where that is safe.
    """

    epochs: int = 10
    batch: int = 64
    rate: float | None = None
    decay: float = 1e-4
    flip: bool = True
    shift: bool = True
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    seed: int = 0
    compiled: bool = False
    half: bool = False
    learn: Strategy = field(default_factory=Strategy)
    freeze: float | None = None
    settle: float = 0.0
    drop: float = 0.0
    sharpness: float | None = None
    features: float = 0.0
    patience: int | None = None
    minutes: float | None = None

    def deciding(self) -> dict[str, Any]:
        """The options that decide what comes out, as plain values."""
        known = {name: value for name, value in vars(self).items() if name not in ("workers", "learn")}
        return {**known, "learn": vars(self.learn), "meaning": MEANING}


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


@dataclass(frozen=True)
class TrainingRun:
    """How and where: the options, how images enter, the file that holds the state (None to keep none), whether scales
    must fit half precision, the device, and what decodes the outputs before a detector is judged by them (None: nothing)."""

    training: Training
    preprocess: Any
    state: Path | None
    half_scales: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    decode: Graph | None = None
