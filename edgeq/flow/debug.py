"""`edgeq debug`: which layer spoils a quantized network, and what would help; figures, pictures of ranges, gains.

The network is rounded to the nearest; learned rounding is one of the changes that are tried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from glob import escape
from pathlib import Path

from edgeq.calibrate.statistics import Statistics
from edgeq.datasets.dataset import Task
from edgeq.emit.artifact import output_folder, to_json, write_files
from edgeq.errors import UsageError
from edgeq.flow.accelerator import device_of, exact_arithmetic
from edgeq.flow.banding import banded
from edgeq.flow.debug_page import Range, page
from edgeq.flow.effort import learned
from edgeq.flow.export import as_computed
from edgeq.flow.inputs import CalibrationSet, calibration_set, choose_preprocess, task_of, weigh_for_task
from edgeq.flow.ranges import Quantization, plan_of, quantize
from edgeq.flow.statistics import (
    Inputs,
    class_statistics,
    collect_statistics,
    inputs_of,
    objective_of,
    pooled,
    watched_values,
)
from edgeq.formats import INT16, Int, level_range
from edgeq.frontend.model import open_model
from edgeq.ir.file import digest
from edgeq.ir.graph import Graph
from edgeq.ir.ops import Value
from edgeq.passes.copies import with_narrow_copies
from edgeq.passes.lower import lower
from edgeq.passes.simplify import simplify
from edgeq.progress import Progress, silent
from edgeq.quantize.asked import Asked, with_formats
from edgeq.quantize.insight import Layer, first_bad, layers_of, output_db
from edgeq.quantize.sensitivity import measure_noise
from edgeq.recipe import KEPT_REAL, Formats, Recipe, Rule, keep_real
from edgeq.report import Report, Row
from edgeq.target import Target
from edgeq.targets import find_target

WORST = 3
"""So many layers are tried on their own."""

INT16_NARROW = Int(16, narrow=True)
WIDE = Formats(INT16_NARROW, INT16)


@dataclass(frozen=True)
class DebugRequest:
    """The options of `edgeq debug`; a layer below `least_db` is bad."""

    model: str
    target: str = "reference"
    calib: str | None = None
    calib_images: int = 64
    images: int = 8
    preprocess: str | None = None
    estimator: str | None = None
    formats: Asked = field(default_factory=Asked)
    keep_real: tuple[str, ...] = ()
    least_db: float = 20.0
    out: Path | None = None
    exist_ok: bool = False
    no_cache: bool = False
    imgsz: str | None = None
    arch: str | None = None
    trust_pickle: bool = False


@dataclass(frozen=True)
class Gain:
    """What a change would make of the signal over noise at the outputs, in dB: before, after, and what it is."""

    change: str
    before_db: float
    after_db: float


@dataclass(frozen=True)
class _Run:
    """One network under one recipe; `graph` has no narrow copies yet."""

    graph: Graph
    target: Target
    recipe: Recipe
    calibration: CalibrationSet
    digest: str
    task: Task | None
    use_cache: bool

    def quantized(self, progress: Progress) -> tuple[Graph, Quantization]:
        """The graph that was quantized, and the decisions."""
        graph = with_narrow_copies(self.graph, self.recipe)
        found = quantize(
            graph, self.target, self.recipe, self.calibration, self.digest, progress, use_cache=self.use_cache
        )
        return graph, found

    def samples(self, count: int) -> list[Inputs]:
        return list(inputs_of(self.graph, self.calibration.sample(count)))


Method = Callable[[_Run, Progress], Graph]
"""Quantizes and lowers a network in some other way."""


@exact_arithmetic()
def debug_model(request: DebugRequest, progress: Progress = silent) -> Report:
    """Noise of every layer, the first bad one, and what changes would gain; with `out`, a page with pictures of ranges.

    Raises EdgeqError as `export_model` does.
    """
    started = time.monotonic()
    if request.calib is None:
        raise UsageError("debugging needs images", next_step="Give --calib a folder of typical images.")
    run = _run(request)
    folder = None if request.out is None else output_folder(request.out, "", "debug", exist_ok=request.exist_ok)
    samples = run.samples(request.images)
    graph, found = run.quantized(progress)
    lowered = lower(graph, found.plan)
    progress("measuring layers", 0, 0)
    noise = measure_noise(
        graph, found.plan, samples, objective_of(found.plan.structure, run.calibration.weigh),
        device=run.calibration.device,
    )  # fmt: skip
    layers = layers_of(graph, found.plan, lowered, noise, samples)
    before = output_db(graph, lowered, samples, run.calibration.weigh)
    report = Report("debug", run.target.name)
    report.rows.append(Row("sqnr", before, "dB", len(samples), "reference", "signal over noise at the outputs"))
    report.layers = [layer.document() for layer in layers]
    gains = list(_gains(run, layers, before, samples, progress))
    report.manifest = {"gains": [asdict(gain) for gain in gains], "task": run.task}
    report.notes += _notes(layers, gains, request.least_db)
    if folder is not None:
        content = page(Path(request.model).name, layers, gains, _ranges(run, graph, found), request.least_db)
        write_files(folder, {"debug.html": content.encode(), "debug.json": to_json(report.document())})
        report.notes.append(f"wrote {folder / 'debug.html'}")
    report.seconds = time.monotonic() - started
    return report


def _run(request: DebugRequest) -> _Run:
    target = replace(find_target(request.target), float_share=0.0)
    if not target.is_integer:
        raise UsageError("this target computes on reals", value=target.name, next_step="Leave --target out.")
    model = open_model(request.model, imgsz=request.imgsz, arch=request.arch, trust_pickle=request.trust_pickle)
    graph = as_computed(simplify(model.graph), target)
    recipe = Recipe(request.estimator or target.estimator, tuple(map(keep_real, request.keep_real)))
    recipe, _ = with_formats(recipe, request.formats, graph, target)
    rule, task = choose_preprocess(request.preprocess, model), task_of(model)
    assert request.calib is not None
    images = calibration_set(request.calib, request.calib_images, rule, task, device_of(None))
    images = replace(images, weigh=weigh_for_task(task, model, graph))
    return _Run(graph, target, recipe, images, model.digest, task, not request.no_cache)


# --- what would help ----------------------------------------------------------------------------------------------


def _methods(run: _Run, layers: Sequence[Layer]) -> Iterator[tuple[str, Method]]:
    """Changes to try, each by what it is called."""
    on_codes = [layer for layer in layers if layer.weight != "real"]
    worst = sorted(on_codes, key=lambda layer: -(layer.weight_share + layer.activation_share))[:WORST]
    if run.target.kernels == "exact":
        yield "all weights in 16 bits", _with_rules(Rule("*", Formats(INT16_NARROW, None)), keep="activation")
        yield "all activations in 16 bits", _with_rules(Rule("*", Formats(None, INT16)), keep="weight")
        for layer in worst:
            yield f"{layer.operator} in 16 bits", _with_rules(Rule(escape(layer.operator), WIDE))
    for layer in worst:
        yield f"{layer.operator} in float", _with_rules(Rule(escape(layer.operator), KEPT_REAL))
    for estimator in ("minmax", "percentile", "mse", "auto"):
        if estimator != run.recipe.estimator:
            yield f"ranges by {estimator}", _with_estimator(estimator)
    yield "no bias correction", _without_correction
    yield "channels in bands (any --effort but fast)", _in_bands
    yield "rounding learned (--effort balanced)", _with_learning


def _with_rules(*rules: Rule, keep: str | None = None) -> Method:
    """Quantize with `rules` first; what `keep` names (weight or activation) stays as each operator has it."""

    def method(run: _Run, progress: Progress) -> Graph:
        ops = [op for rule in rules if rule.pattern == "*" for op in run.graph.producer]
        own = {name: run.recipe.formats_of(name) or Formats() for name in ops}
        first = rules[0].formats
        each = [
            Rule(escape(name), replace(first, **{str(keep): getattr(formats, str(keep))}))
            for name, formats in own.items()
            if formats != KEPT_REAL
        ]
        changed = replace(run, recipe=run.recipe.with_rules(each or rules))
        graph, found = changed.quantized(progress)
        return lower(graph, found.plan)

    return method


def _with_estimator(name: str) -> Method:
    def method(run: _Run, progress: Progress) -> Graph:
        graph, found = replace(run, recipe=replace(run.recipe, estimator=name)).quantized(progress)
        return lower(graph, found.plan)

    return method


def _without_correction(run: _Run, progress: Progress) -> Graph:
    graph, found = run.quantized(progress)
    return lower(graph, plan_of(found.plan.structure, found.chosen, run.target, run.recipe))


def _in_bands(run: _Run, progress: Progress) -> Graph:
    graph, recipe = banded(run.graph, run.recipe, run.target, run.calibration, [], progress)
    source = run.digest if graph is run.graph else digest(graph)
    graph, found = replace(run, graph=graph, recipe=recipe, digest=source).quantized(progress)
    return lower(graph, found.plan)


def _with_learning(run: _Run, progress: Progress) -> Graph:
    graph, found = run.quantized(progress)
    better = learned(graph, found, run.target, run.calibration, "balanced", progress, use_cache=run.use_cache)
    return lower(graph, better.plan)


def _gains(
    run: _Run, layers: Sequence[Layer], before: float, samples: Sequence[Inputs], progress: Progress
) -> Iterator[Gain]:
    methods = list(_methods(run, layers))
    for done, (name, method) in enumerate(methods, start=1):
        after = output_db(run.graph, method(run, silent), samples, run.calibration.weigh)
        yield Gain(name, before, after)
        progress("trying changes", done, len(methods))


def _notes(layers: Sequence[Layer], gains: Sequence[Gain], least_db: float) -> list[str]:
    bad = first_bad(layers, least_db)
    notes = [
        f"no layer is below {least_db:g} dB"
        if bad is None
        else f"the first layer below {least_db:g} dB is {bad.operator}: {bad.accumulated.db:.1f} dB accumulated,"
        f" {bad.alone.db:.1f} dB alone"
    ]
    best = sorted(gains, key=lambda gain: gain.before_db - gain.after_db)[:WORST]
    notes += [
        f"{gain.change}: {gain.after_db - gain.before_db:+.1f} dB" for gain in best if gain.after_db > gain.before_db
    ]
    return notes


# --- ranges -------------------------------------------------------------------------------------------------------


def _ranges(run: _Run, graph: Graph, found: Quantization) -> list[Range]:
    """What the page draws: the distribution of every class of values, and where its codes end."""
    structure = found.plan.structure
    observed = collect_statistics(
        structure.graph, watched_values(structure), run.calibration, run.digest, silent, use_cache=run.use_cache
    )
    per_class = class_statistics(structure, pooled(observed))
    chosen = {item.key: item.estimator for item in found.chosen}
    return [_range(key, item, found, chosen.get(key, "")) for key, item in per_class.items()]


def _range(key: Value, statistics: Statistics, found: Quantization, estimator: str) -> Range:
    type_ = found.plan.types[found.plan.structure.members[key][0]]
    low, high = (level * type_.scale[0] for level in level_range(type_.format, type_.zero_point))
    return Range(key, str(type_.format), estimator, statistics, low, high)
