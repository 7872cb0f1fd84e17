"""Which images calibrate: clean ones, a mixture with degraded ones, or both under a risk; and which of these is best.

`auto` asks images that were kept aside: each mode is calibrated without them, and the noise that it leaves at the
outputs, on the kept images clean and under every degradation, decides. The mixture says how much clean and degraded
images count. A mode replaces clean calibration only where the whole bootstrap interval of its gain is above zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from edgeq.calibrate.mixture import DegradedImage, Mixture, degraded
from edgeq.calibrate.robust import Interval, RiskKind, bootstrap_mean
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


def parse_mode(name: str) -> str:
    """One of MODES; raises UsageError."""
    if name not in MODES:
        hint = did_you_mean(name, MODES)
        raise UsageError("unknown calibration mode", value=name, allowed=", ".join(MODES), next_step=hint)
    return name


def in_mode(calibration: CalibrationSet, mode: str, mixture: Mixture, risk: RiskKind) -> CalibrationSet:
    """The clean `calibration` as `mode` (not auto) has it."""
    if mode == CLEAN:
        return calibration
    return calibration.mixed(mixture) if mode == MIXED else replace(calibration.guarded_mixed(mixture), risk=risk)


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


def choose_mode(
    graph: Graph,
    target: Target,
    recipe: Recipe,
    calibration: CalibrationSet,
    mixture: Mixture,
    risk: RiskKind,
    model_digest: str,
    progress: Progress,
    *,
    use_cache: bool,
) -> ModeChoice:
    """Try clean, mixed and robust calibration of the integer `target` on a part of the clean `calibration` images.

    Raises UsageError if there are fewer than 8.
    """
    images = [image for image in calibration.images if isinstance(image, ImageFile)]
    if len(images) < LEAST_IMAGES:
        raise UsageError("too few images to choose a calibration mode", value=len(images), allowed=f"{LEAST_IMAGES} up")
    kept = images[KEPT_EVERY - 1 :: KEPT_EVERY][:MOST_KEPT]
    fitted = replace(calibration, images=tuple(image for image in images if image not in kept))
    real = replace(recipe, output_codes=False)
    lowered: dict[str, Graph] = {}
    for mode in (CLEAN, MIXED, ROBUST):
        part = in_mode(fitted, mode, mixture, risk)
        plan = quantize(graph, target, real, part, model_digest, progress, use_cache=use_cache).plan
        lowered[mode] = lower(graph, plan)
    noise = _noise_by_condition(graph, lowered, calibration, mixture, kept, progress)
    return _decided(noise, mixture.share)


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
    run, others = _run(graph), {mode: _run(other) for mode, other in lowered.items()}
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


def _run(graph: Graph) -> Callable[[Array], list[torch.Tensor]]:
    interpreter = Interpreter(graph)
    (name,) = graph.inputs

    def run(tensor: Array) -> list[torch.Tensor]:
        with torch.no_grad():
            return list(interpreter({name: tensor}).values())

    return run
