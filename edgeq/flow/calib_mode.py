"""Which images calibrate: clean ones, a mixture with degraded ones, or both under a risk; and which of these is best.

`auto` asks images that were kept aside: each mode is calibrated without them, and the noise that it leaves at the
outputs, on the kept images clean and under every degradation, decides. The mixture says how much clean and degraded
images count. A mode replaces clean calibration only where the whole bootstrap interval of its gain is above zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from edgeq.calibrate.mixture import DegradedImage, Mixture, degraded, parse_mixture
from edgeq.calibrate.robust import RISKS, Interval, RiskKind, bootstrap_mean
from edgeq.datasets.folder import ImageFile
from edgeq.errors import UsageError, did_you_mean
from edgeq.flow.inputs import CalibrationSet
from edgeq.flow.ranges import quantize
from edgeq.formats import FloatArray
from edgeq.ir.graph import Array, Graph
from edgeq.passes.lower import lower
from edgeq.progress import Progress
from edgeq.quantize.sensitivity import relative_power
from edgeq.recipe import Recipe
from edgeq.reference.interpret import Interpreter
from edgeq.target import Target

CLEAN, MIXED, ROBUST, AUTO = MODES = ("clean", "mixed", "robust", "auto")
KEPT_EVERY = 4
MOST_KEPT = 12
LEAST_IMAGES = 8


@dataclass(frozen=True)
class ModeRequest:
    """How to calibrate: the mode, the degradations with their weights, their share, and the risk that robust minimizes.

    Raises UsageError for a value that cannot be used.
    """

    mode: str = CLEAN
    degrade: str = "study"
    share: float = 0.5
    risk: RiskKind = "cvar"

    def __post_init__(self) -> None:
        for value, allowed in ((self.mode, MODES), (self.risk, RISKS)):
            if value not in allowed:
                hint = did_you_mean(value, allowed)
                raise UsageError("cannot calibrate so", value=value, allowed=", ".join(allowed), next_step=hint)
        parse_mixture(self.degrade, self.share)

    @property
    def mixture(self) -> Mixture:
        """Which images are degraded and how."""
        return parse_mixture(self.degrade, self.share)


def in_mode(calibration: CalibrationSet, request: ModeRequest) -> CalibrationSet:
    """The clean `calibration` as a mode other than auto has it."""
    if request.mode == CLEAN:
        return calibration
    if request.mode == MIXED:
        return calibration.mixed(request.mixture)
    return replace(calibration.guarded_mixed(request.mixture), risk=request.risk)


@dataclass(frozen=True)
class ModeChoice:
    """The mode chosen, and the gain of the others over clean calibration in dB of output noise on kept images."""

    mode: str
    gains: Mapping[str, Interval]
    clean_gains: Mapping[str, Interval]
    images: int

    def describe(self) -> str:
        """One line for people."""
        tried = "; ".join(
            f"{mode} {gain} dB less output noise over the mixture, {self.clean_gains[mode]} dB on clean images"
            for mode, gain in self.gains.items()
        )
        chosen = f"chose {self.mode}" if self.mode != CLEAN else "no gain, so clean"
        return f"calibration mode: {chosen} ({tried}; {self.images} images kept aside, 95 % intervals)"

    def document(self) -> dict[str, Any]:
        """As plain JSON values."""
        parts = {mode: {**vars(gain), "clean": vars(self.clean_gains[mode])} for mode, gain in self.gains.items()}
        return {"mode": self.mode, "images": self.images, "gain_db": parts}


@dataclass(frozen=True)
class ModeTrial:
    """What is quantized to try a mode, and on which terms."""

    graph: Graph
    target: Target
    recipe: Recipe
    model_digest: str
    use_cache: bool

    def lowered(self, calibration: CalibrationSet, progress: Progress) -> Graph:
        """The integer graph that these images make, with real outputs."""
        recipe = replace(self.recipe, output_codes=False)
        found = quantize(
            self.graph, self.target, recipe, calibration, self.model_digest, progress, use_cache=self.use_cache
        )
        return lower(self.graph, found.plan)


def apply_mode(
    request: ModeRequest, calibration: CalibrationSet, trial: ModeTrial, notes: list[str], progress: Progress
) -> CalibrationSet:
    """The calibration images as `request` wants them; what `auto` found is added to `notes`."""
    if request.mode != AUTO:
        return in_mode(calibration, request)
    choice = choose_mode(calibration, request, trial, progress)
    notes.append(choice.describe())
    return in_mode(calibration, replace(request, mode=choice.mode))


def choose_mode(calibration: CalibrationSet, request: ModeRequest, trial: ModeTrial, progress: Progress) -> ModeChoice:
    """Try clean, mixed and robust calibration on a part of the clean `calibration` images.

    Raises UsageError if there are fewer than 8.
    """
    images = [image for image in calibration.images if isinstance(image, ImageFile)]
    if len(images) < LEAST_IMAGES:
        raise UsageError("too few images to choose a calibration mode", value=len(images), allowed=f"{LEAST_IMAGES} up")
    kept = images[KEPT_EVERY - 1 :: KEPT_EVERY][:MOST_KEPT]
    fitted = replace(calibration, images=tuple(image for image in images if image not in kept))
    lowered = {
        mode: trial.lowered(in_mode(fitted, replace(request, mode=mode)), progress) for mode in (CLEAN, MIXED, ROBUST)
    }
    noise = _noise_by_condition(trial.graph, lowered, calibration, request.mixture, kept, progress)
    return _decided(noise, request.share)


def _decided(noise: Mapping[str, FloatArray], share: float) -> ModeChoice:
    """`noise` in dB by mode: [images, conditions], the clean condition first."""
    gains, clean_gains = {}, {}
    for mode in (MIXED, ROBUST):
        less = noise[CLEAN] - noise[mode]
        gains[mode] = bootstrap_mean((1 - share) * less[:, 0] + share * less[:, 1:].mean(1))
        clean_gains[mode] = bootstrap_mean(less[:, 0])
    better = [mode for mode, gain in gains.items() if gain.low > 0]
    mode = max(better, key=lambda mode: gains[mode].mean, default=CLEAN)
    return ModeChoice(mode, gains, clean_gains, len(noise[CLEAN]))


def _noise_by_condition(
    graph: Graph,
    lowered: Mapping[str, Graph],
    calibration: CalibrationSet,
    mixture: Mixture,
    kept: Sequence[ImageFile],
    progress: Progress,
) -> dict[str, FloatArray]:
    run, others = (
        _run(graph, calibration.device),
        {mode: _run(other, calibration.device) for mode, other in lowered.items()},
    )
    weigh = calibration.weigh or relative_power
    found: dict[str, list[list[float]]] = {mode: [[] for _ in kept] for mode in lowered}
    for row, image in enumerate(kept):
        progress("comparing calibration modes", row, len(kept))
        conditions: list[ImageFile | DegradedImage] = [image]
        conditions += [degraded(image, part, mixture.seed) for part in mixture.parts]
        for shown in conditions:
            tensor = calibration.preprocess.apply(shown.read())
            wanted = run(tensor)
            weights = weigh(wanted)
            for mode, other in others.items():
                errors = zip(weights, other(tensor), wanted, strict=True)
                power = sum(float((weight * (y - exact)).square().sum()) for weight, y, exact in errors)
                found[mode][row].append(10 * np.log10(max(power, 1e-20)))
    return {mode: np.array(rows) for mode, rows in found.items()}


def shift_notes(shifts: Mapping[str, float]) -> list[str]:
    """How much wider values are in degraded images, and where most."""
    if not shifts:
        return []
    ranked = sorted(shifts, key=lambda key: -abs(math.log(max(shifts[key], 1e-9))))
    most = ", ".join(f"{key} {shifts[key]:.2f}" for key in ranked[:3])
    middle = sorted(shifts.values())[len(shifts) // 2]
    return [f"ranges in degraded images, as multiples of those in clean ones: median {middle:.2f}; furthest: {most}"]


def _run(graph: Graph, device: torch.device) -> Callable[[Array], list[torch.Tensor]]:
    interpreter = Interpreter(graph, device)
    (name,) = graph.inputs

    def run(tensor: Array) -> list[torch.Tensor]:
        with torch.no_grad():
            return list(interpreter({name: tensor}).values())

    return run
