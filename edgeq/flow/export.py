"""`edgeq export`: the straight line from a model to a checked artifact. The file to read first."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from edgeq.calibrate import cache
from edgeq.datasets.dataset import Dataset, Task
from edgeq.emit.artifact import GRAPH_FILE, Artifact, output_folder, to_json
from edgeq.errors import UsageError
from edgeq.flow.allocation import Budgets, IsGood, within_budgets
from edgeq.flow.artifacts import emitter_of
from edgeq.flow.calib_mode import AUTO, ModeRequest, ModeTrial, apply_mode, shift_notes
from edgeq.flow.check import (
    FP32,
    REFERENCE,
    UNTRAINED,
    Run,
    accuracy,
    agreement,
    apply_accuracy_budget,
    apply_agreement_promise,
    decoded_run,
    equal_codes_row,
    float_runtime,
    interpreter_run,
    latency,
    measure,
    runtime_run,
)
from edgeq.flow.codes import export_codes, is_quantized
from edgeq.flow.effort import Effort, learned, migrated
from edgeq.flow.inputs import (
    CalibrationSet,
    InputRule,
    calibration_set,
    choose_preprocess,
    evaluation_set,
    overlapping_images,
    task_of,
    training_set,
    weigh_for_task,
)
from edgeq.flow.layer_noise import IMAGES as NOISE_IMAGES
from edgeq.flow.layer_noise import signal_to_noise
from edgeq.flow.manifest import manifest_of, metadata_of
from edgeq.flow.ranges import ChosenRange, Quantization, quantize, store_weights
from edgeq.flow.run_files import write_report
from edgeq.flow.train import Trained, Training, TrainingRun, train
from edgeq.frontend.model import Model, open_model
from edgeq.ir.cost import constant_bytes, parameters, total_macs
from edgeq.ir.file import digest, to_bytes
from edgeq.ir.graph import Graph
from edgeq.ir.text import to_text
from edgeq.ir.verify import verify
from edgeq.passes.copies import with_narrow_copies
from edgeq.passes.decompose import decompose
from edgeq.passes.heads import SplitHead, split_head
from edgeq.passes.lower import lower
from edgeq.passes.separate import separate
from edgeq.passes.simplify import simplify
from edgeq.progress import Progress, silent
from edgeq.quantize.asked import Asked, with_formats
from edgeq.quantize.coverage import coverage
from edgeq.quantize.lift import Lift
from edgeq.quantize.plan import Plan
from edgeq.recipe import Recipe, keep_real
from edgeq.reference.xnnpack import as_xnnpack
from edgeq.report import Report, Row
from edgeq.target import Target
from edgeq.targets import find_target


@dataclass(frozen=True)
class ExportRequest:
    """The options of `edgeq export`; `max_drop` maps a metric to the largest loss in points."""

    model: str
    target: str
    calib: str | None = None
    calib_images: int = 128
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
    training: Training | None = None
    train_data: str | None = None


def export_model(request: ExportRequest, progress: Progress = silent) -> Report:
    """Quantize, write and check one model; the report's `exit` tells whether every budget was met.

    Raises EdgeqError for anything that cannot be done; nothing is left behind then.
    """
    started = time.monotonic()
    target = _target(request)
    model = open_model(request.model, imgsz=request.imgsz, arch=request.arch, trust_pickle=request.trust_pickle)
    if is_quantized(model):
        report, artifact = export_codes(model, target, request.out, request.seed, progress, exist_ok=request.exist_ok)
        return _written(_finished(report, started), artifact)
    _check_options(request, target)
    whole = simplify(model.graph)
    head = split_head(whole) if request.raw_head else None
    graph = as_computed(head.trunk if head else whole, target)
    recipe, notes = with_formats(_recipe(request, target), request.formats, graph, target)
    report = Report("export", target.name, rows=_costs(graph), notes=notes + _coverage_notes(graph, target, recipe))
    if request.dry_run:
        return _finished(report, started)

    folder = output_folder(request.out, model.name, target.name, exist_ok=request.exist_ok)
    rule, task = choose_preprocess(request.preprocess, model), task_of(model)
    report.notes.append(f"preprocessing ({rule.how}): {rule.preprocess.describe()}")
    data = evaluation_set(request.data, request.data_images, rule, task) if request.data else None
    trial = ModeTrial(graph, target, recipe, model.digest, use_cache=not request.no_cache)
    calibration = _calibration(request, trial, rule, task, model, report, progress)
    if calibration is not None:
        graph = migrated(graph, target, calibration, request.effort, report.notes, progress)
    report.notes += _data_notes(calibration, data)
    if request.budgets.is_wanted and calibration is not None:
        recipe, notes, report.manifest["allocation"] = within_budgets(
            graph, target, recipe, calibration, request.budgets, model.digest, progress,
            use_cache=not request.no_cache,
            is_good=_accuracy_gate(request, whole, graph, target, model, rule, calibration, data, head, progress),
        )  # fmt: skip
        report.notes += notes
    graph = with_narrow_copies(graph, recipe)

    lowered, chosen, more_files = graph, list[ChosenRange](), dict[str, bytes]()
    if target.is_integer:
        assert calibration is not None  # _check_options
        found = _quantized(graph, target, recipe, calibration, request, model, task, progress)
        lowered, chosen, report.layers = lower(graph, found.plan), found.chosen, found.layers()
        report.notes += _lift_notes(found.lifts) + shift_notes(found.shifts)
        if request.training is not None:
            if data is not None:
                report.rows += measure(data, rule, model.metadata, {UNTRAINED: interpreter_run(lowered)}, progress)
            trained = _trained(graph, found.plan, request, calibration, rule, task, model, progress)
            lowered = lower(trained.graph, trained.plan)
            report.notes += trained.notes
            more_files = {"training.csv": trained.log()}
    if target.stored_weights:
        report.notes += _stored_notes(calibration)
        lowered = store_weights(lowered, target, recipe, calibration, progress)
    verify(lowered)
    report.manifest |= manifest_of(model, target, rule, calibration, lowered, chosen, _options(request, target))
    artifact = emitter_of(target)(
        lowered,
        target,
        folder,
        model.name,
        metadata_of(model, rule, task),
        report.manifest,
        {**_more_files(head, lowered), **more_files},
    )
    report.artifact = artifact.document()
    report.rows += _sizes(lowered, artifact, target)
    _check(report, request, whole, lowered, artifact, target, model, rule, calibration, data, head, progress)
    return _written(_finished(report, started), artifact)


def _recipe(request: ExportRequest, target: Target) -> Recipe:
    kept = tuple(map(keep_real, request.keep_real))
    return Recipe(_estimator(request, target), kept, output_codes=request.raw_head)


def _quantized(
    graph: Graph,
    target: Target,
    recipe: Recipe,
    calibration: CalibrationSet,
    request: ExportRequest,
    model: Model,
    task: Task | None,
    progress: Progress,
) -> Quantization:
    """Ranges and biases, and what --effort learns on top."""
    use_cache = not request.no_cache
    found = quantize(graph, target, recipe, calibration, model.digest, progress, use_cache=use_cache)
    return learned(
        graph, found, target, calibration, request.effort, task, progress, seed=request.seed, use_cache=use_cache
    )


def _trained(
    graph: Graph,
    plan: Plan,
    request: ExportRequest,
    calibration: CalibrationSet,
    rule: InputRule,
    task: Task | None,
    model: Model,
    progress: Progress,
) -> Trained:
    """The graph and its plan after training on --train-data; a run of the same content goes on where it was."""
    assert request.training is not None and request.train_data is not None
    images = training_set(request.train_data, rule, task)
    state = None
    if not request.no_cache:
        options = {name: value for name, value in vars(request.training).items() if name not in ("workers", "device")}
        state = cache.state_file(
            model=model.digest,
            preprocess=rule.preprocess.to_dict(),
            images=[str(sample.path) for sample in images.samples],
            settings={**options, "plan": digest(lower(graph, plan))},
        )
    run = TrainingRun(request.training, rule.preprocess, state)
    return train(graph, plan, images, calibration.weigh, run, progress)


def as_computed(graph: Graph, target: Target) -> Graph:
    """`graph` with the operators that the target computes."""
    graph = decompose(graph, target.decomposed)
    return separate(graph) if target.separate_layers else graph


def _target(request: ExportRequest) -> Target:
    target = find_target(request.target)
    return target if request.float_share is None else replace(target, float_share=request.float_share)


def _check_options(request: ExportRequest, target: Target) -> None:
    if target.is_integer and request.calib is None and not request.dry_run:
        raise UsageError(
            f"{target.name} needs images to calibrate on",
            next_step="Give --calib a folder of typical images (scenes renders some, for the built-in models).",
        )
    if (request.training is None) != (request.train_data is None):
        raise UsageError("training needs images", next_step="Give --train-data a folder of them.")
    if request.training is not None and not target.is_integer:
        raise UsageError("there is nothing to train for a float target", value=target.name)
    if request.budgets.is_wanted and (request.formats.weights or request.formats.activations):
        raise UsageError(
            "budgets choose the formats", value="--weights, --activations", next_step="Give --choices instead."
        )
    if request.calibration.mode == AUTO and not target.is_integer:
        raise UsageError("only integer targets choose a calibration mode", where=target.name, value=AUTO)
    if request.max_drop and request.data is None:
        raise UsageError("--max-drop needs labelled images", next_step="Give --data as well.")


def _calibration(
    request: ExportRequest,
    trial: ModeTrial,
    rule: InputRule,
    task: Task | None,
    model: Model,
    report: Report,
    progress: Progress,
) -> CalibrationSet | None:
    """The images as the calibration mode asks for them, or None where none are needed."""
    if request.calib is None or not (trial.target.is_integer or trial.target.stored_weights):
        return None
    images = calibration_set(request.calib, request.calib_images, rule, task)
    images = replace(images, weigh=weigh_for_task(task, model, trial.graph))
    return apply_mode(request.calibration, images, trial, report.notes, progress)


def _options(request: ExportRequest, target: Target) -> dict[str, Any]:
    """The options that decide what is written; places and gates are left out."""
    names = ("calib_images", "estimator", "float_share", "effort", "keep_real", "raw_head", "seed", "imgsz", "arch")
    found = {name: getattr(request, name) for name in names}
    found |= {name: vars(getattr(request, name)) for name in ("formats", "calibration", "budgets")}
    return {**found, "estimator": _estimator(request, target), "float_share": target.float_share}


def _accuracy_gate(
    request: ExportRequest,
    whole: Graph,
    graph: Graph,
    target: Target,
    model: Model,
    rule: InputRule,
    calibration: CalibrationSet,
    data: Dataset | None,
    head: SplitHead | None,
    progress: Progress,
) -> IsGood | None:
    """Whether `graph` under a recipe keeps --max-drop in the reference; None where that is not asked."""
    if data is None or not request.max_drop:
        return None

    def is_good(recipe: Recipe) -> bool:
        split = with_narrow_copies(graph, recipe)
        found = _quantized(split, target, recipe, calibration, request, model, task_of(model), progress)
        lowered = lower(split, found.plan)
        run = interpreter_run(lowered)
        if head is not None:
            run = decoded_run(run, head.decode, [lowered.types[value] for value in lowered.outputs])
        runs: dict[str, Run] = {FP32: runtime_run(float_runtime(whole, request.threads)), REFERENCE: run}
        trial = Report("trial", rows=measure(data, rule, model.metadata, runs, progress))
        apply_accuracy_budget(trial, request.max_drop)
        return trial.exit == 0

    return is_good


def _estimator(request: ExportRequest, target: Target) -> str:
    return target.estimator if request.estimator is None else request.estimator


def _costs(graph: Graph) -> list[Row]:
    return [
        Row("parameters", parameters(graph), "", 1, "fp32", "counted"),
        Row("macs", total_macs(graph), "", 1, "fp32", "counted"),
    ]


def _sizes(lowered: Graph, artifact: Artifact, target: Target) -> list[Row]:
    counted = constant_bytes(lowered, target.real_bits)
    return [
        Row("constant_bytes", counted, "B", 1, "reference", "constants in their formats"),
        Row("file_bytes", artifact.primary_bytes, "B", 1, "artifact", "size of the file"),
    ]


def _coverage_notes(graph: Graph, target: Target, recipe: Recipe) -> list[str]:
    if not target.is_integer:
        return []
    found = coverage(graph, target, recipe)
    share = found.integer_macs / max(found.all_macs, 1)
    kinds = ", ".join(f"{count} {kind}" for kind, count in found.real.items())
    note = f"{found.integer_ops} of {found.all_ops} operators and {share:.1%} of the work run on integers"
    return [f"{note}; in float: {kinds}" if kinds else note]


def _lift_notes(lifts: list[Lift]) -> list[str]:
    if not lifts:
        return []
    names = ", ".join(value for lift in lifts for value in lift.operators)
    noise, work = (sum(getattr(lift, share) for lift in lifts) for share in ("noise_share", "work_share"))
    return [
        f"kept in float, {noise:.0%} of the noise for {work:.1%} of the work: {names} (--float-share 0 turns it off)"
    ]


def _stored_notes(calibration: CalibrationSet | None) -> list[str]:
    if calibration is not None:
        return []
    return ["biases are not corrected; --calib IMAGES takes back the shift that rounded weights cause"]


def _data_notes(calibration: CalibrationSet | None, data: Dataset | None) -> list[str]:
    notes = []
    if calibration is not None:
        names = ", ".join(f"{item.path} ({item.reason})" for item in calibration.rejected[:5])
        if names:
            notes.append(f"left out {len(calibration.rejected)} unreadable calibration images: {names}")
        if len(calibration.images) < 16:
            notes.append(f"only {len(calibration.images)} calibration images; 64 or more give steadier ranges")
        shared = overlapping_images(calibration, data) if data else 0
        if shared:
            notes.append(f"warning: {shared} images both calibrate and measure, so the accuracy is not held out")
    return notes


def _check(
    report: Report,
    request: ExportRequest,
    graph: Graph,
    lowered: Graph,
    artifact: Artifact,
    target: Target,
    model: Model,
    rule: InputRule,
    calibration: CalibrationSet | None,
    data: Dataset | None,
    head: SplitHead | None,
    progress: Progress,
) -> None:
    """Compare the artifact with the reference, measure accuracy where there are labels, and apply the budgets."""
    samples = calibration if calibration is not None else rule
    if target.emitter != "graph":  # which is the reference itself
        report.agreement = agreement(
            lowered, artifact, samples, request.seed, request.threads, progress,
            real_layers=target.agreement.real_layer_db is not None,
        )  # fmt: skip
    if calibration is not None and report.layers:
        inputs = ({graph.inputs[0]: tensor} for tensor in islice(calibration.tensors(), NOISE_IMAGES))
        noise = signal_to_noise(graph, lowered, inputs)
        report.layers = [layer | {"sqnr_db": noise.get(layer["key"])} for layer in report.layers]
    if target.kernels == "tflite":  # the promise is of the reference kernels; users get the quicker ones
        quick = as_xnnpack(lowered)
        found = agreement(quick, artifact, samples, request.seed, request.threads, progress, exact=False, images=1)
        report.rows.append(equal_codes_row(found, "LiteRT's default kernels beside XNNPACK's rounding"))
    if target.runs_here:
        report.rows += latency(graph, artifact, request.threads)
    if data is not None:
        report.rows += accuracy(
            graph, lowered, artifact, target, model, rule, data, head, request.threads, progress, report.pictures
        )
    apply_accuracy_budget(report, request.max_drop)
    apply_agreement_promise(report, target)
    report.next_commands = _next_commands(request, artifact, target)


def _more_files(head: SplitHead | None, lowered: Graph) -> dict[str, bytes]:
    """The emitted graph; and the decode that a raw head leaves out, as data: a description and its graph."""
    files = {GRAPH_FILE: to_bytes(lowered)}
    if head is None:
        return files
    types = dict(zip((item.value for item in head.outputs), (lowered.types[v] for v in lowered.outputs), strict=True))
    return files | {
        "head.json": to_json(head.document(types, to_text(head.decode))),
        "decode.edgeq": to_bytes(head.decode),
    }


def _next_commands(request: ExportRequest, artifact: Artifact, target: Target) -> list[str]:
    runtime = target.runtime
    validate = f"edgeq validate {artifact.primary} --data {request.data or 'DATA'} --against {request.model}"
    if target.emitter == "c":
        return [*artifact.next_commands, validate]
    if target.emitter == "graph":
        return []
    commands = [f"edgeq verify {artifact.primary}", validate]
    if artifact.primary.suffix in (".onnx", ".tflite"):
        commands.append(f"edgeq lint {artifact.primary} --for {runtime}")
    return [*commands, f"{artifact.folder}/build_engine.sh   # on the Jetson"] if runtime == "tensorrt" else commands


def _written(report: Report, artifact: Artifact) -> Report:
    write_report(artifact.folder, report)
    return report


def _finished(report: Report, started: float) -> Report:
    report.seconds = time.monotonic() - started
    return report
