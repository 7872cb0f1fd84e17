"""`edgeq robustness`: accuracy under degradation, of a float model and of artifacts made from it.

Every runner sees the same pixels in every condition, so differences are paired: one set of bootstrap resamples of the
images serves all cells. Losses are given against the float model on clean images, never only against a runner's own
clean figure, which flatters a runner that is bad to begin with.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.calibrate.degrade import at_severity, parse_degradation, study
from edgeq.calibrate.mixture import STUDY_SEED, Mixture
from edgeq.calibrate.robust import interval_of, resamples
from edgeq.calibrate.severity import MOST_SEVERE, SCALES, STUDY
from edgeq.datasets.outcomes import SURE, BoxOutcomes, Outcomes
from edgeq.emit.artifact import output_folder
from edgeq.emit.onnx import build_model, to_bytes
from edgeq.errors import UsageError
from edgeq.flow.artifacts import RUNNABLE, open_runtime
from edgeq.flow.cells import Cell, Condition, Runner, data_digest, file_digest, measure_cells
from edgeq.flow.check import FP32, LOWER_IS_BETTER
from edgeq.flow.inputs import InputRule, choose_preprocess, evaluation_set, task_of
from edgeq.flow.pictures import picture_rows
from edgeq.flow.robustness_tables import MEAN
from edgeq.flow.run_files import write_report
from edgeq.formats import FloatArray
from edgeq.frontend.model import Model, open_model, ports_of
from edgeq.passes.simplify import simplify
from edgeq.progress import Progress, silent
from edgeq.report import Report, Row

CLEAN, MIXED = "clean", "mixed"
PRESETS = ("severity", "study")
USUAL_SEVERITIES = (1, 3, 5)


@dataclass(frozen=True)
class RobustnessRequest:
    """The options of `edgeq robustness`; `artifacts` are files or run folders, each as PATH or LABEL=PATH."""

    model: str
    artifacts: tuple[str, ...]
    data: str
    data_images: int | None = None
    preset: str = "severity"
    degrade: str | None = None
    preprocess: str | None = None
    resamples: int = 300
    workers: int | None = None
    seed: int = STUDY_SEED
    no_cache: bool = False
    imgsz: str | None = None
    arch: str | None = None
    trust_pickle: bool = False
    out: Path | None = None
    exist_ok: bool = False


@dataclass(frozen=True)
class Figure:
    """One metric of one cell with its interval, and its paired differences in points with theirs.

    `lost` is below FP32 on clean images, `lost_beside` below FP32 under the same condition, `gained` above the first
    artifact under the same condition.
    """

    runner: str
    condition: str
    metric: str
    value: float
    low: float
    high: float
    lost: tuple[float, float, float]
    lost_beside: tuple[float, float, float]
    gained: tuple[float, float, float]
    n: int
    more: Mapping[str, float | None] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """One flat JSON object."""
        found = {name: getattr(self, name) for name in ("runner", "condition", "metric", "value", "low", "high", "n")}
        for name in ("lost", "lost_beside", "gained"):
            found |= dict(zip((name, f"{name}_low", f"{name}_high"), getattr(self, name), strict=True))
        return {**found, **self.more}


def conditions_of(request: RobustnessRequest) -> list[Condition]:
    """Clean images first; then what `degrade` lists, else the preset. Raises UsageError."""
    if request.preset not in PRESETS:
        raise UsageError("unknown preset", value=request.preset, allowed=", ".join(PRESETS))
    found = [Condition(CLEAN)]
    if request.degrade is not None:
        found += [
            condition
            for name in request.degrade.split(",")
            for condition in conditions_named(name.strip(), request.seed)
        ]
    elif request.preset == "study":
        found += [Condition(part.name, part) for part in study()] + conditions_named(MIXED, request.seed)
    else:
        found += [Condition(d.name, d) for kind in SCALES for d in (at_severity(kind, s) for s in USUAL_SEVERITIES)]
    return list({condition.name: condition for condition in found}.values())


def conditions_named(name: str, seed: int) -> list[Condition]:
    """clean, blur:3, blur (all its severities), a name of the study, or mixed. Raises UsageError."""
    if name == CLEAN:
        return [Condition(CLEAN)]
    if name == MIXED:
        return [Condition(MIXED, mixture=Mixture(study(), seed=seed))]
    if name in SCALES and name not in STUDY:
        parts = [at_severity(name, severity) for severity in range(1, MOST_SEVERE + 1)]
        return [Condition(part.name, part) for part in parts]
    return [Condition(name, parse_degradation(name))]


def measure_robustness(request: RobustnessRequest, progress: Progress = silent) -> Report:
    """Measure all cells and compare them; `report.cells` holds one flat record per figure.

    Raises UsageError for what is no artifact or has no labels, UnsupportedError for what cannot be run or read.
    """
    started = time.monotonic()
    conditions = conditions_of(request)
    folder = output_folder(request.out, Path(request.model).stem, "robustness", exist_ok=request.exist_ok)
    named = [_artifact(text) for text in request.artifacts]
    model = open_model(request.model, imgsz=request.imgsz, arch=request.arch, trust_pickle=request.trust_pickle)
    artifacts = [_runner(label, path, model) for label, path in named]
    if len({runner.label for runner in artifacts} | {FP32}) <= len(artifacts):
        raise UsageError("two runners have the same name", next_step="Name them: LABEL=PATH.")
    rule = _rule(request, model, artifacts)
    data = evaluation_set(request.data, request.data_images, rule, task_of(model))
    with _float_runner(model) as baseline:
        runners, digest = [baseline, *artifacts], data_digest(data)
        cells = [Cell(r, c, data, digest, rule.preprocess, request.seed) for c in conditions for r in runners]
        workers = request.workers or os.cpu_count() or 1
        outcomes = measure_cells(cells, workers, progress, use_cache=not request.no_cache)
    labels, names = [runner.label for runner in runners], [condition.name for condition in conditions]
    progress("resampling", 0, 0)
    figures = compare(outcomes, labels, names, request.resamples)
    report = Report("robustness")
    report.notes.append(f"preprocessing ({rule.how}): {rule.preprocess.describe()}")
    report.rows = [
        Row(f"{item.metric} {item.condition}", item.value, "", item.n, item.runner, f"on {data.name}")
        for item in figures
    ]
    report.cells = [item.document() for item in figures]
    report.manifest = _manifest(request, runners, conditions, digest, rule)
    report.seconds = time.monotonic() - started
    files = [sample.path.name for sample in data.samples]
    done = {condition.name: condition.assign(files) for condition in conditions}
    report.pictures = picture_rows(data, done, labels, outcomes, request.seed)
    write_report(folder, report)
    report.artifact = [{"path": str(path), "bytes": path.stat().st_size} for path in sorted(folder.glob("report.*"))]
    return report


def _artifact(text: str) -> tuple[str, Path]:
    """(label, file): of a folder, the one file in it that can be run."""
    label, separator, rest = text.partition("=")
    path = Path(rest) if separator and not Path(text).exists() else Path(text)
    if path.is_dir() and path.suffix not in RUNNABLE:
        inside = sorted(p for p in path.iterdir() if p.suffix in RUNNABLE and p.suffix != ".c")
        if len(inside) != 1:
            raise UsageError("the folder does not hold one artifact that runs here", where=path, value=len(inside))
        path = inside[0]
    if not path.exists():
        raise UsageError("no such artifact", where=path, next_step="edgeq export prints the path of what it wrote.")
    return (label if separator and str(path).startswith(rest) else path.stem), path


def _runner(label: str, path: Path, model: Model) -> Runner:
    runtime = open_runtime(path, 1)
    ports = ports_of(path.stem, runtime.input_shapes, runtime.output_shapes, runtime.metadata)
    return Runner(label, path, {**model.metadata, **ports.metadata}, file_digest(path))


def _rule(request: RobustnessRequest, model: Model, artifacts: Sequence[Runner]) -> InputRule:
    """As given, or as the first artifact declares it, or as the model does."""
    if request.preprocess is None and artifacts:
        runtime = open_runtime(artifacts[0].path, 1)
        return choose_preprocess(
            None, ports_of(model.name, runtime.input_shapes, runtime.output_shapes, runtime.metadata)
        )
    return choose_preprocess(request.preprocess, model)


@contextmanager
def _float_runner(model: Model) -> Iterator[Runner]:
    """The float model as an ONNX file, there while cells are measured."""
    built, _ = build_model(simplify(model.graph), "onnxruntime")
    with tempfile.TemporaryDirectory(prefix="edgeq-") as folder:
        path = Path(folder) / "fp32.onnx"
        path.write_bytes(to_bytes(built))
        yield Runner(FP32, path, model.metadata, file_digest(path))


def compare(
    outcomes: Mapping[tuple[str, str], Outcomes], runners: Sequence[str], conditions: Sequence[str], count: int
) -> list[Figure]:
    """Figures of every cell; `count` bootstrap resamples of the images, the same ones for all cells.

    The mean over all degraded conditions is one more condition.
    """
    images = len(outcomes[runners[0], conditions[0]])
    weights = np.concatenate([np.ones((1, images)), resamples(images, count)])
    accuracy = {place: cell.accuracy(weights) for place, cell in outcomes.items()}
    if len(conditions) > 2:
        accuracy |= {(runner, MEAN): _mean([accuracy[runner, c] for c in conditions[1:]]) for runner in runners}
    figures = []
    for condition in [*conditions, *([MEAN] if len(conditions) > 2 else [])]:
        for runner in runners:
            more = {}
            if condition != MEAN and runner != runners[0]:
                more = _beside(outcomes[runner, condition], outcomes[runners[0], condition])
            others = [
                (runners[0], conditions[0]),
                (runners[0], condition),
                (runners[min(1, len(runners) - 1)], condition),
            ]
            for metric, values in accuracy[runner, condition].items():
                lost, beside, behind = (_lost(metric, accuracy[place][metric], values) for place in others)
                gained = (0.0, 0.0, 0.0) if runner == runners[0] else (-behind[0], -behind[2], -behind[1])
                interval = interval_of(float(values[0]), values[1:])
                bounds = (interval.mean, interval.low, interval.high)
                figures.append(Figure(runner, condition, metric, *bounds, lost, beside, gained, images, more))
    return figures


def _mean(parts: Sequence[Mapping[str, FloatArray]]) -> dict[str, FloatArray]:
    return {metric: np.mean([part[metric] for part in parts], axis=0) for metric in parts[0]}


def _lost(metric: str, base: FloatArray, values: FloatArray) -> tuple[float, float, float]:
    """Points lost (errors count upward) with the interval of the paired difference."""
    sign = -100.0 if metric in LOWER_IS_BETTER else 100.0
    less = sign * (base - values)
    interval = interval_of(float(less[0]), less[1:])
    return interval.mean, interval.low, interval.high


def _beside(mine: Outcomes, reference: Outcomes) -> dict[str, float | None]:
    """Agreement with the reference's answers, the mean change of the confidence, and the refit threshold."""
    parts = mine.beside(reference)  # type: ignore[arg-type]  # both are outcomes of one data set
    if not parts:
        return {}
    agreement = 2 * float(parts["same"].sum()) / max(float(parts["sure"].sum()), 1.0)
    found: dict[str, float | None] = {"agreement": agreement, "score_shift": float(parts["shift"].mean())}
    if isinstance(mine, BoxOutcomes) and isinstance(reference, BoxOutcomes):
        precision = reference.precision_above(SURE)
        found["refit_threshold"] = mine.threshold_for(precision) if np.isfinite(precision) else None
    return found


def _manifest(
    request: RobustnessRequest, runners: Sequence[Runner], conditions: Sequence[Condition], digest: str, rule: InputRule
) -> dict[str, Any]:
    return {
        "model": request.model,
        "runners": [{"name": r.label, "file": r.path.name, "sha256": r.digest} for r in runners],
        "conditions": {condition.name: condition.document() for condition in conditions},
        "data": {"name": request.data, "sha256": digest},
        "preprocess": rule.preprocess.to_dict(),
        "resamples": request.resamples,
        "seed": request.seed,
        "preset": request.preset if request.degrade is None else None,
    }
