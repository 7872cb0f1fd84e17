"""`edgeq export`: the straight line from a model to a checked artifact. The file to read first."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from edgeq.calibrate import cache
from edgeq.emit.artifact import GRAPH_FILE, Artifact, output_folder, to_json
from edgeq.flow.accelerator import begin, device_of, exact_arithmetic
from edgeq.flow.allocation import IsGood, within_budgets
from edgeq.flow.artifacts import emitter_of
from edgeq.flow.calib_mode import ModeTrial, apply_mode, shift_notes
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
from edgeq.flow.contest import Candidate, Job, candidates_of, quantized, winner_of
from edgeq.flow.export_notes import (
    costs,
    coverage_notes,
    data_notes,
    idle_notes,
    lift_notes,
    next_commands,
    sizes,
    stored_notes,
)
from edgeq.flow.inputs import (
    CalibrationSet,
    calibration_set,
    choose_preprocess,
    evaluation_set,
    named,
    task_of,
    training_set,
    weigh_for_task,
)
from edgeq.flow.layer_noise import IMAGES as NOISE_IMAGES
from edgeq.flow.layer_noise import signal_to_noise
from edgeq.flow.manifest import manifest_of, metadata_of
from edgeq.flow.memory_budget import apply_export_budget
from edgeq.flow.processes import is_first, local_device
from edgeq.flow.ranges import ChosenRange, store_weights
from edgeq.flow.request import ExportRequest, check_options
from edgeq.flow.run_files import write_report
from edgeq.flow.statistics import inputs_of
from edgeq.flow.train import train
from edgeq.flow.training import Trained, TrainingRun
from edgeq.frontend.model import open_model
from edgeq.ir.file import digest, to_bytes
from edgeq.ir.graph import Graph
from edgeq.ir.text import to_text
from edgeq.passes.copies import with_narrow_copies
from edgeq.passes.decompose import decompose
from edgeq.passes.heads import SplitHead, split_head
from edgeq.passes.held import as_held
from edgeq.passes.idle_channels import without_idle_channels
from edgeq.passes.lower import lower
from edgeq.passes.separate import separate
from edgeq.passes.simplify import simplify
from edgeq.progress import Progress, silent
from edgeq.quantize.asked import with_formats
from edgeq.quantize.plan import Plan
from edgeq.recipe import Recipe
from edgeq.reference.xnnpack import as_xnnpack
from edgeq.report import Report
from edgeq.runtimes.litert import DEFAULT_KERNELS, REFERENCE_KERNELS
from edgeq.target import Target


def export_model(request: ExportRequest, progress: Progress = silent) -> Report:
    """Quantize, write and check one model; the report's `exit` tells whether every budget was met.

    Raises EdgeqError for anything that cannot be done; nothing is left behind then.
    """
    started = time.monotonic()
    target = request.chosen_target
    begin(request.device)
    model = open_model(request.model, imgsz=request.imgsz, arch=request.arch, trust_pickle=request.trust_pickle)
    if is_quantized(model):
        report, artifact = export_codes(model, target, request.out, request.seed, progress, exist_ok=request.exist_ok)
        apply_export_budget(report, request.memory, artifact.folder)
        return _written(_finished(report, started), artifact)
    check_options(request, target)
    whole = simplify(model.graph)
    head = split_head(whole) if request.raw_head else None
    graph = as_computed(head.trunk if head else whole, target)
    recipe, notes = with_formats(request.recipe(target), request.formats, graph, target)
    report = Report("export", target.name, rows=costs(graph), notes=notes + coverage_notes(graph, target, recipe))
    if request.dry_run:
        return _finished(report, started)

    folder = output_folder(request.out, model.name, target.name, exist_ok=request.exist_ok)
    rule, task = choose_preprocess(request.preprocess, model), task_of(model)
    report.notes.append(f"preprocessing ({rule.how}): {rule.preprocess.describe()}")
    data = evaluation_set(request.data, request.data_images, rule, task) if request.data else None
    job = Job(request, target, model, whole, head, rule, task, data, progress, local_device(device_of(request.device)))
    calibration = _calibration(job, graph, recipe, report)
    report.notes += data_notes(calibration, data)
    lowered, chosen, more_files = graph, list[ChosenRange](), dict[str, bytes]()
    if calibration is not None:
        recipe = _allocated(job, graph, recipe, calibration, report)
        candidates = candidates_of(job, graph, recipe, calibration, report.notes)
        recipe, lowered = candidates[0].recipe, candidates[0].graph
    if target.is_integer:
        assert calibration is not None  # check_options
        graph, found = winner_of(job, candidates, calibration, report.notes)
        lowered, chosen, report.layers = lower(graph, found.plan), found.chosen, found.layers()
        report.notes += lift_notes(found.lifts) + shift_notes(found.shifts)
        if request.training is not None:
            trained = _trained(job, graph, found.plan, calibration, report)
            if not is_first():
                return _finished(report, started)
            lowered, more_files = lower(trained.graph, trained.plan), {"training.csv": trained.log()}
    if target.stored_weights:
        report.notes += stored_notes(calibration)
        lowered = store_weights(lowered, target, recipe, calibration, progress)
    lowered, notes = _as_written(lowered, target)
    report.notes += notes
    report.manifest |= manifest_of(model, target, rule, calibration, lowered, chosen, request.deciding(target))
    metadata, more_files = metadata_of(model, rule, task), {**_more_files(head, lowered), **more_files}
    artifact = emitter_of(target)(lowered, target, folder, model.name, metadata, report.manifest, more_files)
    report.seconds_to_artifact, report.cpu_seconds_to_artifact = time.monotonic() - started, time.process_time()
    report.artifact, report.rows = artifact.document(), [*report.rows, *sizes(lowered, artifact, target)]
    _check(job, report, lowered, artifact, calibration)
    return _written(_finished(report, started), artifact)


def _as_written(lowered: Graph, target: Target) -> tuple[Graph, list[str]]:
    """The integer graph as the target's files hold it, and notes on what they leave out."""
    held = as_held(lowered, target)
    if target.emitter != "c":
        return held, []
    reduced = without_idle_channels(held)
    return reduced.graph, idle_notes(reduced)


def as_computed(graph: Graph, target: Target) -> Graph:
    """`graph` with the operators that the target computes."""
    graph = decompose(graph, target.decomposed)
    return separate(graph) if target.separate_layers else graph


@exact_arithmetic()
def _calibration(job: Job, graph: Graph, recipe: Recipe, report: Report) -> CalibrationSet | None:
    """The images as the calibration mode asks for them, or None where none are needed."""
    request, target = job.request, job.target
    if request.calib is None or not (target.is_integer or target.stored_weights):
        return None
    images = calibration_set(request.calib, request.most_images, job.rule, job.task, job.device)
    images = replace(images, weigh=weigh_for_task(job.task, job.model, graph))
    trial = ModeTrial(graph, target, recipe, job.model.digest, use_cache=job.use_cache)
    return apply_mode(request.calibration, images, trial, report.notes, job.progress)


@exact_arithmetic()
def _allocated(job: Job, graph: Graph, recipe: Recipe, calibration: CalibrationSet, report: Report) -> Recipe:
    """`recipe` with the formats that the budgets choose, if there are any."""
    if not job.request.budgets.is_wanted:
        return recipe
    recipe, notes, report.manifest["allocation"] = within_budgets(
        graph, job.target, recipe, calibration, job.request.budgets, job.model.digest, job.progress,
        use_cache=job.use_cache, is_good=_accuracy_gate(job, graph, calibration),
    )  # fmt: skip
    report.notes += notes
    return recipe


def _trained(job: Job, graph: Graph, plan: Plan, calibration: CalibrationSet, report: Report) -> Trained:
    """The graph and its plan after training on --train-data; a run of the same content goes on where it was."""
    request = job.request
    assert request.training is not None and request.train_data is not None
    lowered = lower(graph, plan)
    _try_to_write(job, lowered)
    if job.data is not None and is_first():
        before = {UNTRAINED: _reference_run(job, lowered)}
        report.rows += measure(job.data, job.rule, job.model.metadata, before, job.progress)
    images = training_set(request.train_data, job.rule, job.task)
    state = None
    if job.use_cache:
        state = cache.state_file(
            model=job.model.digest,
            preprocess=job.rule.preprocess.to_dict(),
            images=[sample.path.name for sample in images.samples],  # folders of scenes and of archives change
            settings={**request.training.deciding(), "data": named(request.train_data), "plan": digest(lowered)},
        )
    decode = job.head.decode if job.head else None
    run = TrainingRun(request.training, job.rule.preprocess, state, job.target.half_scales, job.device, decode)
    weigh = calibration.weigh if decode is None else weigh_for_task(job.task, job.model, job.whole)
    trained = train(graph, plan, images, weigh, run, job.progress)
    report.notes += trained.notes
    return trained


def _try_to_write(job: Job, lowered: Graph) -> None:
    """Raise what writing would raise behind the training, since that does not change which operators there are."""
    with TemporaryDirectory() as folder:
        trial, _ = _as_written(lowered, job.target)
        emitter_of(job.target)(trial, job.target, Path(folder) / "trial", job.model.name, {}, {}, {})


def _reference_run(job: Job, lowered: Graph) -> Run:
    """The integer graph in the reference, decoded where the head is raw."""
    run = interpreter_run(lowered, job.device)
    if job.head is None:
        return run
    return decoded_run(run, job.head.decode, [lowered.types[value] for value in lowered.outputs])


def _accuracy_gate(job: Job, graph: Graph, calibration: CalibrationSet) -> IsGood | None:
    """Whether `graph` under a recipe keeps --max-drop in the reference; None where that is not asked."""
    request, data = job.request, job.data
    if data is None or not request.max_drop:
        return None

    def is_good(recipe: Recipe) -> bool:
        split = with_narrow_copies(graph, recipe)
        item = Candidate(split, recipe, job.model.digest)
        lowered = lower(split, quantized(job, item, item.ways[0], calibration).plan)
        float_run = runtime_run(float_runtime(job.whole, request.threads))
        runs: dict[str, Run] = {FP32: float_run, REFERENCE: _reference_run(job, lowered)}
        trial = Report("trial", rows=measure(data, job.rule, job.model.metadata, runs, job.progress))
        apply_accuracy_budget(trial, request.max_drop)
        return trial.exit == 0

    return is_good


@exact_arithmetic()
def _check(job: Job, report: Report, lowered: Graph, artifact: Artifact, calibration: CalibrationSet | None) -> None:
    """Compare the artifact with the reference, measure accuracy where there are labels, and apply the budgets."""
    request, target, progress = job.request, job.target, job.progress
    samples = calibration if calibration is not None else job.rule
    rest = samples, request.seed, request.threads, progress
    if target.emitter != "graph":  # which is the reference itself
        report.agreement = agreement(
            lowered, artifact, *rest, exact=target.is_integer, only_layers=target.kernels == "tflite",
            real_layers=target.agreement.real_layer_db is not None, share=target.agreement.equal_share,
            device=job.device,
        )  # fmt: skip
    if target.kernels == "tflite":  # the promise is of the reference kernels; users get the quicker ones
        found = agreement(as_xnnpack(lowered), artifact, *rest, exact=False, device=job.device)
        report.rows.append(equal_codes_row(found, "LiteRT's default kernels beside their own rounding"))
        outputs = [replace(item, where=DEFAULT_KERNELS) for item in found if item.kind == "output"]
        report.agreement = [*outputs, *(replace(item, where=REFERENCE_KERNELS) for item in report.agreement)]
    if calibration is not None and report.layers:
        inputs = inputs_of(job.whole, calibration.sample(NOISE_IMAGES))
        noise = signal_to_noise(job.whole, lowered, inputs, job.device)
        report.layers = [layer | {"sqnr_db": noise.get(layer["key"])} for layer in report.layers]
    if target.runs_here:
        report.rows += latency(job.whole, artifact, request.threads)
    if job.data is not None:
        report.rows += accuracy(
            job.whole, lowered, artifact, target, job.model, job.rule, job.data, job.head, request.threads, progress,
            report.pictures, device=job.device,
        )  # fmt: skip
    apply_accuracy_budget(report, request.max_drop)
    apply_export_budget(report, request.memory, artifact.folder)
    apply_agreement_promise(report, target)
    report.next_commands = next_commands(request, artifact, target)


def _more_files(head: SplitHead | None, lowered: Graph) -> dict[str, bytes]:
    """The emitted graph, which is verified; and the decode that a raw head leaves out, as data: a description and its graph."""
    files = {GRAPH_FILE: to_bytes(lowered)}
    if head is None:
        return files
    types = dict(zip((item.value for item in head.outputs), (lowered.types[v] for v in lowered.outputs), strict=True))
    return files | {
        "head.json": to_json(head.document(types, to_text(head.decode))),
        "decode.edgeq": to_bytes(head.decode),
    }


def _written(report: Report, artifact: Artifact) -> Report:
    write_report(artifact.folder, report)
    return report


def _finished(report: Report, started: float) -> Report:
    report.seconds = time.monotonic() - started
    return report
