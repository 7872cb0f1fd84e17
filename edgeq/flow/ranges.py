"""From calibration images to the range of every class of values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgeq.calibrate.choose import choose, parse_estimator
from edgeq.calibrate.estimators import MinMax, central_width
from edgeq.calibrate.output_noise import Site, choose_by_output_noise
from edgeq.calibrate.robust import MEAN
from edgeq.calibrate.statistics import Statistics
from edgeq.flow.accelerator import exact_arithmetic
from edgeq.flow.inputs import CalibrationSet
from edgeq.flow.statistics import (
    Observed,
    Weighing,
    class_statistics,
    collect_statistics,
    inputs_of,
    objective_of,
    pooled,
    watched_values,
)
from edgeq.formats import Format, Int, bits_of, is_table, level_range
from edgeq.ir.graph import Graph
from edgeq.ir.ops import Value
from edgeq.passes.together import images_at_once
from edgeq.progress import Progress
from edgeq.quantize.assign import assign
from edgeq.quantize.bias import Excerpts, correct_biases, correct_stored_biases, corrected_operands, operand_values
from edgeq.quantize.lift import Lift, choose_lifts
from edgeq.quantize.plan import Plan
from edgeq.quantize.sensitivity import measure_noise
from edgeq.quantize.structure import Structure, analyse
from edgeq.quantize.weights import quantize_weights
from edgeq.recipe import Recipe
from edgeq.target import Target

AUTO = "auto"
AUTO_IMAGES = 32
NOISE_IMAGES = 12
BIAS_IMAGES = 16
QUICK_IMAGES = 8
"""What noise and biases are measured on where time counts more; four spoil MobileNetV2."""
QUICK_ELEMENTS = 1 << 16
"""Of a map in one image so many are looked at then, besides its ends: more tell no more of the next image."""
NARROW_BITS = 8
WIDE_HEADROOM = 1.5
"""Wide values are printed as floats by some runtimes, which do not saturate; leave room above what was seen."""


@dataclass(frozen=True)
class ChosenRange:
    """The grid of one class of values and the estimator that proposed it; `gain` is its advantage over min-max."""

    key: Value
    scale: float
    zero_point: int
    format: str
    estimator: str
    gain: float | None = None

    def document(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dict(vars(self))


def sites_of(structure: Structure, target: Target, only: Collection[Value] | None = None) -> dict[Value, Site]:
    """The classes, all or `only` some, whose grid is to be chosen: those with a computed member and no prescribed grid."""
    constants = structure.graph.constants
    return {
        key: site_of(structure, key, target)
        for key in structure.members
        if key not in structure.fixed
        and (only is None or key in only)
        and any(value not in constants for value in structure.sources(key))
    }


def choose_ranges(
    structure: Structure,
    observed: Observed,
    target: Target,
    estimator: str,
    weighing: Weighing | None,
    only: Collection[Value] | None = None,
) -> list[ChosenRange]:
    """A grid for every class, or for `only` some: by the named estimator, for `auto` by the noise that it causes."""
    fixed = [
        ChosenRange(key, *grid, str(structure.formats[key]), "prescribed")
        for key, grid in structure.fixed.items()
        if only is None or key in only
    ]
    per_class, sites = class_statistics(structure, pooled(observed)), sites_of(structure, target, only)
    if weighing is None:
        chosen = ranges_by_estimator(sites, per_class, target, estimator)
    else:
        chosen = _by_output_noise(structure, sites, per_class, observed, weighing)
    return fixed + [in_table(item, sites[item.key].format, structure.formats[item.key]) for item in chosen]


def _by_output_noise(
    structure: Structure,
    sites: Mapping[Value, Site],
    statistics: Mapping[Value, Statistics],
    observed: Observed,
    weighing: Weighing,
) -> list[ChosenRange]:
    parts = None
    if weighing.sample.guarded and len(observed) > 1:
        parts = {name: class_statistics(structure, part) for name, part in observed.items()}
    narrow = {key: site for key, site in sites.items() if _is_narrow(site)}
    found = choose_by_output_noise(
        structure, narrow, statistics, weighing.weighed, parts=parts, risk=weighing.risk if parts else MEAN
    )
    chosen = [
        ChosenRange(key, c.scale, c.zero_point, str(sites[key].format), c.estimator, c.gain) for key, c in found.items()
    ]
    wide = MinMax(WIDE_HEADROOM)
    for key in sites.keys() - narrow.keys():
        grid = choose(statistics[key], sites[key].format, symmetric=sites[key].symmetric, estimator=wide)
        chosen.append(ChosenRange(key, *grid, str(sites[key].format), str(wide)))
    return chosen


def in_table(chosen: ChosenRange, stand_in: Int, format: Format) -> ChosenRange:
    """The range found for integers of as many bits, for the levels of a table; itself where the format is no table."""
    if not is_table(format):
        return chosen
    scale = float(np.float32(chosen.scale * stand_in.high / level_range(format)[1]))
    return replace(chosen, scale=scale, zero_point=0, format=str(format))


def ranges_by_estimator(
    sites: Mapping[Value, Site], statistics: Mapping[Value, Statistics], target: Target, estimator: str
) -> list[ChosenRange]:
    """The grid that the named estimator finds for every one of `sites`; wide values keep all that was seen."""
    named, chosen = parse_estimator(estimator), []
    for key, site in sites.items():
        wide = site.format.bits > target.narrow.bits
        used = MinMax(WIDE_HEADROOM) if wide else named
        grid = choose(
            statistics[key],
            site.format,
            symmetric=target.symmetric,
            estimator=used,
            through=None if wide else site.through,
        )
        chosen.append(ChosenRange(key, *grid, str(site.format), str(used)))
    return chosen


def site_of(structure: Structure, key: Value, target: Target) -> Site:
    """What the grid of a class must hold."""
    format = structure.formats[key]
    if is_table(format):  # the range is sought for integers of as many bits
        stand_in = Int(bits_of(format), signed=level_range(format)[0] < 0, narrow=True)
        return Site(replace(stand_in, narrow=stand_in.signed), True, None)
    assert isinstance(format, Int), format
    return Site(format, target.symmetric or format.bits > NARROW_BITS, structure.through(key))


def _is_narrow(site: Site) -> bool:
    return site.format.bits <= NARROW_BITS


def plan_of(structure: Structure, chosen: list[ChosenRange], target: Target, recipe: Recipe) -> Plan:
    """The plan that the chosen ranges make."""
    plan = assign(structure, {item.key: (item.scale, item.zero_point) for item in chosen}, target)
    return replace(plan, output_codes=recipe.output_codes)


@dataclass(frozen=True)
class Quantization:
    """The finished decisions: the plan, the ranges behind it, what was lifted to float and why, and range shifts.

    `shifts` says by class how much wider its values are in degraded images than in clean ones (1: as wide).
    """

    plan: Plan
    chosen: list[ChosenRange]
    lifts: list[Lift]
    shifts: dict[Value, float] = field(default_factory=dict)

    def layers(self) -> list[dict[str, Any]]:
        """One plain JSON record per class: its grid, and its shift where degraded images were seen."""
        seen = self.shifts
        return [item.document() | ({"shift": seen[item.key]} if item.key in seen else {}) for item in self.chosen]


def quantize(
    graph: Graph,
    target: Target,
    recipe: Recipe,
    calibration: CalibrationSet,
    model_digest: str,
    progress: Progress,
    *,
    use_cache: bool,
    quick: bool = False,
) -> Quantization:
    """Ranges for every value, the most disturbed operators in float as far as the target allows, biases corrected.

    `quick` measures noise and biases on QUICK_IMAGES, unless hard images are guarded; statistics are of all images still.
    Biases are measured on what passes by as ranges are chosen by noise, else in a pass of their own.
    """
    quick = quick and not calibration.guarded
    if quick:
        calibration = replace(calibration, least=QUICK_ELEMENTS)
    images = (QUICK_IMAGES, QUICK_IMAGES) if quick else (AUTO_IMAGES, BIAS_IMAGES)
    every = max(1, len(calibration.sample(images[0]).images) // images[1])
    excerpts = None if calibration.guarded else Excerpts(corrected_operands(graph), every)
    found = _lifted(
        graph, target, recipe, calibration, model_digest, progress,
        use_cache=use_cache, images=images[0], excerpts=excerpts,
    )  # fmt: skip
    progress("correcting biases", 0, 0)
    seen = excerpts.images if excerpts and excerpts.are_whole else None
    together = images_at_once(graph, calibration.device)
    values = seen or operand_values(
        graph, inputs_of(graph, calibration.sample(images[1]), together), calibration.device
    )
    return replace(found, plan=correct_biases(graph, found.plan, values))


@exact_arithmetic()
def store_weights(
    graph: Graph, target: Target, recipe: Recipe, calibration: CalibrationSet | None, progress: Progress
) -> Graph:
    """`graph` with its weights as codes; with images, the shift that their rounding causes is taken back."""
    stored = quantize_weights(graph, target, recipe)
    if calibration is None:
        return stored
    progress("correcting biases", 0, 0)
    return correct_stored_biases(graph, stored, inputs_of(graph, calibration.sample(BIAS_IMAGES)), calibration.device)


def _lifted(
    graph: Graph,
    target: Target,
    recipe: Recipe,
    calibration: CalibrationSet,
    model_digest: str,
    progress: Progress,
    *,
    use_cache: bool,
    images: int,
    excerpts: Excerpts | None,
) -> Quantization:
    sample = calibration.sample(images)

    def seen(
        structure: Structure, values: frozenset[Value], only: Collection[Value] | None = None
    ) -> tuple[Observed, Weighing | None]:
        weighing = None
        if recipe.estimator == AUTO:
            narrow = {key: site for key, site in sites_of(structure, target, only).items() if _is_narrow(site)}
            weighing = Weighing(structure, narrow, sample, excerpts if only is None else None)
        observed = collect_statistics(
            graph, values, calibration, model_digest, progress, use_cache=use_cache, weighing=weighing
        )
        return observed, weighing

    structure = analyse(graph, target, recipe)
    watched = watched_values(structure)
    observed, weighing = seen(structure, watched)
    shifts = range_shifts(structure, observed)
    chosen = choose_ranges(structure, observed, target, recipe.estimator, weighing)
    plan = plan_of(structure, chosen, target, recipe)
    if not target.float_share:
        return Quantization(plan, chosen, [], shifts)
    progress("weighing the noise", 0, 0)
    samples = list(inputs_of(graph, calibration.sample(NOISE_IMAGES)))
    noise = measure_noise(graph, plan, samples, objective_of(structure, calibration.weigh), device=calibration.device)
    lifts = choose_lifts(graph, plan, noise, target)
    if not lifts:
        return Quantization(plan, chosen, [], shifts)
    lifted = analyse(graph, target, recipe.with_real(value for lift in lifts for value in lift.operators))
    changed = _changed(structure, lifted)
    more, weighing = seen(lifted, watched_values(lifted) - watched, changed)
    observed = {name: part | more[name] for name, part in observed.items()}
    chosen = _kept(structure, lifted, chosen)
    chosen += choose_ranges(lifted, observed, target, recipe.estimator, weighing, changed)
    return Quantization(plan_of(lifted, chosen, target, recipe), chosen, lifts, shifts)


def range_shifts(structure: Structure, observed: Observed) -> dict[Value, float]:
    """By class: the range of nearly all values over the degraded images, as a multiple of that over the clean ones."""
    if len(observed) < 2:
        return {}
    clean, degraded = (class_statistics(structure, observed[name]) for name in ("clean", "degraded"))
    return {key: central_width(degraded[key]) / max(central_width(clean[key]), 1e-30) for key in clean}


def _changed(before: Structure, after: Structure) -> frozenset[Value]:
    """Classes of `after` that are not the same values in the same format in `before`."""
    return frozenset(
        key
        for key, members in after.members.items()
        if before.members.get(key) != members
        or before.formats[key] != after.formats[key]
        or before.through(key) != after.through(key)
    )


def _kept(before: Structure, after: Structure, chosen: list[ChosenRange]) -> list[ChosenRange]:
    changed = _changed(before, after)
    return [item for item in chosen if item.key in after.members and item.key not in changed]
