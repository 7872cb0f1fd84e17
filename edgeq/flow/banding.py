"""Where channels of very different ranges are computed apart, for efforts above fast: measured, and only if it pays.

Stretches that promise something are computed in bands on trial, ranges are chosen for the network with and without, and
those stay whose noise at the outputs falls by enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from glob import escape
from itertools import chain

from edgeq.calibrate.output_noise import choose_by_output_noise
from edgeq.flow.inputs import CalibrationSet
from edgeq.flow.ranges import sites_of
from edgeq.flow.statistics import Weighing, class_statistics, inputs_of, objective_of, watched_values
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.passes.bands import Bands, Stretch, in_bands, stretches
from edgeq.passes.together import images_at_once
from edgeq.progress import Progress
from edgeq.quantize.bands import LEAST_CHANNELS, USUAL, Worth, best_bands, measure_channels, promise
from edgeq.quantize.structure import Structure, analyse
from edgeq.recipe import KEPT_REAL, Recipe, Rule
from edgeq.target import Target

IMAGES = 8
_NARROW_BITS = 8


def banded(
    graph: Graph,
    recipe: Recipe,
    target: Target,
    calibration: CalibrationSet,
    notes: list[str],
    progress: Progress,
    worth: Worth = USUAL,
) -> tuple[Graph, Recipe]:
    """`graph` with stretches in bands where that pays, the recipe that names the bands, and a line in `notes` on it."""
    structure = analyse(graph, target, recipe)
    known = {value: stretch for value, stretch in stretches(graph).items() if _is_narrow(structure, stretch)}
    if not known:
        return graph, recipe
    progress("comparing channels", 0, 0)
    samples = inputs_of(graph, calibration.sample(IMAGES), images_at_once(graph, calibration.device))
    objective = objective_of(structure, calibration.weigh)
    least = max(LEAST_CHANNELS, target.least_channels)
    measured = measure_channels(structure, objective, known, samples, calibration.device)
    noisy = {value: item for value, item in measured.items() if item.whole_noise >= worth.promise}
    found = {value: bands for value, item in noisy.items() if (bands := best_bands(item, least, worth)) is not None}
    wanted = {value: bands for value, bands in found.items() if promise(measured[value], bands) >= worth.promise}
    kept = _worthwhile(graph, recipe, target, calibration, known, wanted, worth) if wanted else {}
    if not kept:
        return graph, recipe
    notes.append("channels computed in bands, each with its own scale: " + ", ".join(_told(kept)))
    return in_bands(graph, kept), _with_bands(recipe, [known[value] for value in kept])


def _told(kept: Mapping[o.Value, Bands]) -> list[str]:
    return [f"{value} ({' + '.join(str(len(band)) for band in bands)})" for value, bands in kept.items()]


def _is_narrow(structure: Structure, stretch: Stretch) -> bool:
    """Whether all of the stretch runs on codes, with values narrow enough for their rounding to matter."""
    rounded = [structure.key[value] for value in stretch.inside if value in structure.key]
    bits = [getattr(structure.formats[key], "bits", 0) for key in rounded]
    on_codes = all(value in structure.integer for value in stretch.inside)
    return on_codes and bool(bits) and min(bits) <= _NARROW_BITS


def _with_bands(recipe: Recipe, kept: list[Stretch]) -> Recipe:
    """What `recipe` says of an operator, it also says of its bands."""
    asked = {value: recipe.formats_of(value) for stretch in kept for value in stretch.inside}
    assert KEPT_REAL not in asked.values()
    rules = (Rule(f"{escape(value)}.band*", formats) for value, formats in asked.items() if formats is not None)
    return recipe.with_rules(rules)


def _worthwhile(
    graph: Graph,
    recipe: Recipe,
    target: Target,
    calibration: CalibrationSet,
    known: Mapping[o.Value, Stretch],
    wanted: Mapping[o.Value, Bands],
    worth: Worth,
) -> dict[o.Value, Bands]:
    """Those of `wanted` that lower the noise enough, with the ranges that would be chosen."""
    inside = {value: known[value].inside for value in wanted}
    parts = {
        value: [f"{name}.band{index}" for name in names for index in range(len(wanted[value]))]
        + [f"{end}.bands" for end in known[value].ends]
        for value, names in inside.items()
    }

    def noise(graph: Graph, recipe: Recipe, places: Mapping[o.Value, Sequence[o.Value]]) -> dict[o.Value, float]:
        found = _noise(graph, recipe, target, calibration, frozenset(chain(*places.values())))
        return {value: sum(found.get(name, 0.0) for name in names) for value, names in places.items()}

    whole = noise(graph, recipe, inside)
    apart = noise(in_bands(graph, wanted), _with_bands(recipe, [known[value] for value in wanted]), parts)
    return {
        value: bands
        for value, bands in wanted.items()
        if whole[value] - apart[value] >= worth.noise and whole[value] >= worth.factor * apart[value]
    }


def _noise(
    graph: Graph,
    recipe: Recipe,
    target: Target,
    calibration: CalibrationSet,
    classes: frozenset[o.Value],
) -> dict[o.Value, float]:
    """Of those of `classes` that have a narrow range, the noise that their rounding causes with the best candidate."""
    structure = analyse(graph, target, recipe)
    watched = {value for value in watched_values(structure) if structure.key[value] in classes}
    sites = sites_of(structure, target, classes)
    narrow = {key: site for key, site in sites.items() if site.format.bits <= _NARROW_BITS}
    weighing = Weighing(structure, narrow, calibration.sample(IMAGES))
    found = class_statistics(structure, weighing.statistics(calibration, watched))
    return {key: c.noise for key, c in choose_by_output_noise(structure, narrow, found, weighing.weighed).items()}
