"""What `edgeq export`, `quantize` and `train` are asked: their options as one value, and which of them fit together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgeq.errors import UsageError
from edgeq.flow.calib_mode import AUTO, CLEAN, ModeRequest
from edgeq.flow.effort import Effort
from edgeq.flow.limits import Budgets
from edgeq.flow.memory_budget import MemoryBudget, check_memory_budget
from edgeq.flow.training import Training
from edgeq.quantize.asked import Asked
from edgeq.recipe import Recipe, keep_real
from edgeq.target import Target
from edgeq.targets import find_target

IMAGES = 128
FAST_IMAGES = 16
"""Calibration images unless told; `fast` is as accurate with fewer, of which each takes as long as all else it does."""


@dataclass(frozen=True)
class ExportRequest:
    """The options of `edgeq export`; `max_drop` maps a metric to the largest loss in points.

    Without `calib_images` there are 128, or 16 clean ones of `fast`.
    """

    model: str
    target: str
    calib: str | None = None
    calib_images: int | None = None
    calibration: ModeRequest = field(default_factory=ModeRequest)
    data: str | None = None
    data_images: int | None = None
    preprocess: str | None = None
    estimator: str | None = None
    float_share: float | None = None
    effort: Effort | None = None
    keep_real: tuple[str, ...] = ()
    formats: Asked = field(default_factory=Asked)
    budgets: Budgets = field(default_factory=Budgets)
    max_drop: Mapping[str, float] = field(default_factory=dict)
    memory: MemoryBudget = field(default_factory=MemoryBudget)
    raw_head: bool = False
    out: Path | None = None
    exist_ok: bool = False
    no_cache: bool = False
    seed: int = 0
    dry_run: bool = False
    imgsz: str | None = None
    arch: str | None = None
    trust_pickle: bool = False
    threads: int | None = None
    device: str | None = None
    fpga: str | None = None
    fps: float | None = None
    training: Training | None = None
    train_data: str | None = None

    @property
    def chosen_target(self) -> Target:
        """The target's row with the options that replace its fields. Raises UsageError for an unknown name."""
        target = find_target(self.target)
        if self.memory.ram_kb is not None:
            target = replace(target, ram_bytes=int(1024 * self.memory.ram_kb))
        target = target if self.float_share is None else replace(target, float_share=self.float_share)
        if target.emitter == "hls":
            return replace(target, fpga=self.fpga or target.fpga, fps=self.fps or 0.0)
        if self.fpga or self.fps:
            raise UsageError("only designs for FPGAs have a board", value=target.name, allowed="targets named fpga-…")
        return target

    @property
    def most_images(self) -> int:
        """Calibrate on at most this many."""
        few = self.effort == "fast" and self.calibration.mode == CLEAN
        return self.calib_images or (FAST_IMAGES if few else IMAGES)

    def recipe(self, target: Target) -> Recipe:
        """What is asked of quantization before formats."""
        estimator = target.estimator if self.estimator is None else self.estimator
        return Recipe(estimator, tuple(map(keep_real, self.keep_real)), output_codes=self.raw_head)

    def deciding(self, target: Target) -> dict[str, Any]:
        """The options that decide what is written; places and gates are left out."""
        names = ("effort", "keep_real", "raw_head", "seed", "imgsz", "arch")
        found: dict[str, Any] = {"calib_images": self.most_images}
        found |= {name: getattr(self, name) for name in names}
        found |= {name: vars(getattr(self, name)) for name in ("formats", "calibration", "budgets")}
        return {
            **found,
            "estimator": self.recipe(target).estimator,
            "float_share": target.float_share,
            "fpga": target.fpga,
            "fps": target.fps,
        }


def check_options(request: ExportRequest, target: Target) -> None:
    """Raises UsageError for options that do not fit together, or not `target`."""
    check_memory_budget(request.memory, target)
    if target.is_integer and request.calib is None and not request.dry_run:
        raise UsageError(
            f"{target.name} needs images to calibrate on",
            next_step="Give --calib a folder of typical images (scenes renders some, for the built-in models).",
        )
    if (request.training is None) != (request.train_data is None):
        raise UsageError("training needs images", next_step="Give --train-data a folder of them.")
    if request.training is not None and not target.is_integer:
        raise UsageError("there is nothing to train for a float target", value=target.name)
    if request.training is not None and request.training.learn.offsets and target.symmetric:
        raise UsageError("this target has no zero points to learn", where=target.name, value="offsets")
    if request.budgets.is_wanted and (request.formats.weights or request.formats.activations):
        raise UsageError(
            "budgets choose the formats", value="--weights, --activations", next_step="Give --choices instead."
        )
    if request.calibration.mode == AUTO and not target.is_integer:
        raise UsageError("only integer targets choose a calibration mode", where=target.name, value=AUTO)
    if request.max_drop and request.data is None:
        raise UsageError("--max-drop needs labelled images", next_step="Give --data as well.")
