"""Is the artifact what was meant? Agreement with the reference, accuracy, latency, and the budgets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgeq.datasets.dataset import Dataset, Metric
from edgeq.datasets.evaluate import Evaluation, prepare
from edgeq.emit.artifact import Artifact
from edgeq.emit.onnx import build_model, to_bytes
from edgeq.flow.artifacts import open_runtime
from edgeq.flow.inputs import CalibrationSet, InputRule
from edgeq.flow.pictures import picture_rows
from edgeq.formats import Int, code_range
from edgeq.frontend.model import Model
from edgeq.ir.bounds import is_codes
from edgeq.ir.graph import Array, Graph, Type
from edgeq.ir.ops import Value
from edgeq.passes.heads import SplitHead
from edgeq.passes.together import Together, images_at_once
from edgeq.progress import Progress
from edgeq.reference.interpret import Device, Interpreter, real_of
from edgeq.reference.xnnpack import as_xnnpack
from edgeq.report import AgreementKind, OutputAgreement, Report, Row
from edgeq.runtimes.latency import WARM_UP_RUNS, elapsed_ms
from edgeq.runtimes.runtime import Runtime
from edgeq.target import Target

OUTPUT_IMAGES = 4
LEAST_CODES = 4096
"""A layer of as many has as many in one image as an output in many. In a smaller one a single tie can be a large share, in
all places that a pooling window spreads it to: where one misses `share` in the first image, the others are looked at."""
HALF_FLOOR = 2.0**-24
"""The step of half precision at zero: layers whose results are tiny have no more digits."""
LATENCY_RUNS = (7, 20)
LATENCY_MS = 500.0
"""Runs of a file that are timed, and how long they may take together beyond the fewest."""
EXIT_BUDGET = 4
EXIT_AGREEMENT = 5
LOWER_IS_BETTER = ("absrel", "rmse")
FP32, REFERENCE, ARTIFACT = "fp32", "reference", "artifact"
UNTRAINED = "before training"
"""Places where figures are measured."""

Float32Array = npt.NDArray[np.float32]
Run = Callable[[Float32Array], list[Float32Array]]


@dataclass
class _Difference:
    """Running comparison of two tensors, in codes of `step`; differences up to `floor` are no noise."""

    step: float
    floor: float = 0.0
    equal: int = 0
    count: int = 0
    largest_code: int = 0
    largest: float = 0.0
    signal: float = 0.0
    noise: float = 0.0

    def add(self, reference: Array, artifact: Array) -> None:
        wanted = reference.astype(np.float64)
        self.count += wanted.size
        self.signal += float(np.vdot(wanted, wanted))
        if np.array_equal(reference, artifact):
            self.equal += wanted.size
            return
        found = artifact.astype(np.float64)
        error = np.abs(found - wanted)
        codes = np.abs(np.rint(found / self.step) - np.rint(wanted / self.step))
        self.equal += int((codes == 0).sum())
        self.largest_code = max(self.largest_code, int(codes.max(initial=0)))
        self.largest = max(self.largest, float(error.max(initial=0.0)))
        self.noise += float((error[error > self.floor] ** 2).sum())

    @property
    def signal_to_noise_db(self) -> float:
        if self.noise == 0.0:
            return math.inf
        return 10 * math.log10(max(self.signal, 1e-300) / self.noise)


def agreement(
    lowered: Graph,
    artifact: Artifact,
    samples: CalibrationSet | InputRule | None,
    seed: int,
    threads: int | None,
    progress: Progress,
    *,
    exact: bool = True,
    real_layers: bool = False,
    only_layers: bool = False,
    share: float = 0.0,
    device: Device = "cpu",
) -> list[OutputAgreement]:
    """The artifact in its own runtime beside the reference; without `exact` with the kernels that users get.

    Outputs are compared as they come out, unless `only_layers` are; they have no codes of their own, so steps of 1/255
    of the reference's range stand for them. Layers are compared one at a time, on the first image, and on the others
    where a small layer has fewer than the promised `share` of equal codes there: each is given the codes that the
    artifact itself computed before it, so that a difference belongs to the layer that shows it; `real_layers` does the
    same with reals.
    Without `samples` the inputs, which are codes then, are random.
    """
    runtime = open_runtime(artifact.primary, threads, exact=exact)
    watched = {v: t for v, t in artifact.tensors.items() if _has_codes(lowered.types.get(v), artifact.code_bits)}
    if real_layers:
        watched |= {v: t for v, t in artifact.tensors.items() if v in lowered.producer and lowered.types[v].is_real}
    reference = Interpreter(lowered, device)
    outputs: dict[Value, _Difference] = {}
    layers: dict[Value, _Difference] = {}
    inside = runtime.watching(watched.values()) if watched else None
    is_open = inside is not None
    for done, inputs in enumerate(islice(_sample_inputs(lowered, samples, seed), OUTPUT_IMAGES), start=1):
        wanted = None
        if inside is not None and is_open:
            wanted = _compare_layers(lowered, reference, inputs, inside.run(inputs), watched, layers)
            if done == 1:
                is_open = any(d.equal < share * d.count and d.count < LEAST_CODES for d in layers.values())
        if only_layers:
            if not is_open:
                break
            continue
        if wanted is None:
            with torch.no_grad():
                wanted = reference(inputs)
        results = runtime.run(inputs)
        for name, tensor in wanted.items():
            step = _step(lowered.types[name], tensor)
            outputs.setdefault(name, _Difference(step)).add(tensor.cpu().numpy(), results[name])
        progress("comparing with the reference", done, OUTPUT_IMAGES)
    return [
        *(_agreement(name, "output", d) for name, d in outputs.items()),
        *(_agreement(name, "real" if lowered.types[name].is_real else "layer", d) for name, d in layers.items()),
    ]


def output_agreement(
    types: Mapping[Value, Type], wanted: Sequence[Mapping[Value, Array]], found: Sequence[Mapping[Value, Array]]
) -> list[OutputAgreement]:
    """Outputs of several runs beside those that were wanted; see `agreement`."""
    outputs: dict[Value, _Difference] = {}
    for expected, given in zip(wanted, found, strict=True):
        for name, array in expected.items():
            step = _step(types[name], torch.as_tensor(array))
            outputs.setdefault(name, _Difference(step)).add(np.asarray(array), given[name])
    return [_agreement(name, "output", d) for name, d in outputs.items()]


def _compare_layers(
    lowered: Graph,
    reference: Interpreter,
    inputs: Mapping[Value, Array],
    seen: Mapping[str, Array],
    watched: Mapping[Value, str],
    layers: dict[Value, _Difference],
) -> dict[Value, torch.Tensor] | None:
    """Each of the `watched` values, by its tensor in the file, from operands as the artifact has `seen` them.

    Where the artifact had the reference's own values everywhere, this was a run of the reference: then its outputs.
    """
    parted = False

    def compare(name: Value, tensor: torch.Tensor) -> torch.Tensor | None:
        nonlocal parted
        if name not in watched:
            return None
        found = seen[watched[name]]
        floor = HALF_FLOOR if lowered.types[name].is_real else 0.0
        difference = layers.setdefault(name, _Difference(_step(lowered.types[name], tensor), floor))
        difference.add(tensor.cpu().numpy(), found)
        parted = parted or difference.largest > 0 or difference.equal < difference.count  # so that NaN parts them
        return torch.from_numpy(found)

    with torch.no_grad():
        outputs = reference(inputs, compare)
    return None if parted else outputs


def equal_codes_row(found: Sequence[OutputAgreement], runtime: str) -> Row:
    """The share of equal codes over all layers, each given the same operands, as one figure."""
    layers = [item for item in found if item.kind == "layer"]
    count = sum(item.n for item in layers)
    share = sum(item.equal_share * item.n for item in layers) / max(count, 1)
    return Row("equal-codes", share, "", count, ARTIFACT, f"{runtime}, each layer given the same operands")


def _step(type_: Type, tensor: torch.Tensor) -> float:
    """One code; for reals, 1/255 of their range."""
    return 1.0 if is_codes(type_) else max(float(np.ptp(tensor.cpu().numpy())) / 255, 1e-12)


def _has_codes(type_: Type | None, bits: int) -> bool:
    return type_ is not None and is_codes(type_) and isinstance(type_.format, Int) and type_.format.bits <= bits


def _agreement(name: Value, kind: AgreementKind, d: _Difference) -> OutputAgreement:
    return OutputAgreement(
        name,
        kind,
        d.equal / max(d.count, 1),
        d.largest_code,
        d.largest,
        d.signal_to_noise_db,
        d.count,
    )


def _sample_inputs(graph: Graph, samples: CalibrationSet | InputRule | None, seed: int) -> Iterator[dict[Value, Array]]:
    """Calibration images; without any, noise."""
    rng = np.random.default_rng(seed)
    if isinstance(samples, CalibrationSet):
        for tensor in samples.tensors():
            yield {graph.inputs[0]: tensor}
    while not isinstance(samples, CalibrationSet):
        if samples is None:
            yield {name: _random_codes(graph.types[name], rng) for name in graph.inputs}
        else:
            noise = rng.integers(0, 256, (*samples.preprocess.size, 3), dtype=np.uint8)
            yield {graph.inputs[0]: samples.preprocess.apply(noise)}


def _random_codes(type_: Type, rng: np.random.Generator) -> Array:
    low, high = code_range(type_.format)
    return rng.integers(low, high, type_.shape, endpoint=True)


class ReferenceRun:
    """The reference as a function from inputs of one or more images to the list of outputs.

    `at_once`: how many images it takes soonest (see images_at_once); more than one lie along the first axis of outputs, too.
    """

    def __init__(self, graph: Graph, device: Device) -> None:
        self._together, (self._input,) = Together(graph, device), graph.inputs
        self.at_once = images_at_once(graph, device)

    def __call__(self, tensor: Float32Array) -> list[Float32Array]:
        """Outputs, in the graph's order."""
        with torch.no_grad():
            return [output.cpu().numpy() for output in self._together({self._input: tensor}).values()]

    def each(self, tensors: Sequence[Float32Array]) -> list[list[Float32Array]]:
        """Outputs for each of a few inputs of one image, computed together."""
        parts = [np.split(output, len(tensors)) for output in self(np.concatenate(tensors))]
        return [list(outputs) for outputs in zip(*parts, strict=True)]


def interpreter_run(graph: Graph, device: Device = "cpu") -> ReferenceRun:
    """The reference of `graph` on `device`."""
    return ReferenceRun(graph, device)


def runtime_run(runtime: Runtime) -> Run:
    """A loaded ONNX file as a function from one input to the list of outputs."""
    return lambda tensor: [np.asarray(array) for array in runtime.run({runtime.inputs[0]: tensor}).values()]


def float_runtime(graph: Graph, threads: int | None) -> Runtime:
    """The real graph in ONNX Runtime: the fp32 baseline."""
    from edgeq.runtimes.onnxruntime import OnnxRuntime

    model, _ = build_model(graph, "onnxruntime")
    return OnnxRuntime(to_bytes(model), threads=threads)


def measure(
    data: Dataset,
    rule: InputRule,
    metadata: Mapping[str, str],
    runs: Mapping[str, Run],
    progress: Progress,
    pictures: list[dict[str, Any]] | None = None,
) -> list[Row]:
    """One pass over the images: every metric at every place. What was seen in one of them is added to `pictures`."""
    evaluation = Evaluation(data, rule.preprocess, list(runs), metadata)
    total, done = len(data.samples), 0
    left = prepare(data, rule.preprocess)
    at_once = max(run.at_once if isinstance(run, ReferenceRun) else 1 for run in runs.values())
    while some := list(islice(left, at_once)):
        outputs = {name: _outputs_of(run, [prepared.tensor for prepared in some]) for name, run in runs.items()}
        for k, prepared in enumerate(some):
            evaluation.add(prepared, {name: found[k] for name, found in outputs.items()})
        progress("measuring accuracy", done := done + len(some), total)
    if pictures is not None and (outcomes := evaluation.outcomes()):
        seen = {(where, "clean"): outcome for where, outcome in outcomes.items()}
        pictures += picture_rows(data, {"clean": [None] * total}, list(outcomes), seen, 0)
    return [
        metric_row(metric, where, data.name) for where, metrics in evaluation.metrics().items() for metric in metrics
    ]


def _outputs_of(run: Run, tensors: Sequence[Float32Array]) -> list[list[Float32Array]]:
    if isinstance(run, ReferenceRun) and len(tensors) > 1:
        return run.each(tensors)
    return [run(tensor) for tensor in tensors]


def metric_row(metric: Metric, where: str, data: str) -> Row:
    """A metric of `data` at a place."""
    return Row(metric.name, metric.value, metric.unit, metric.n, where, f"on {data}")


def accuracy(
    graph: Graph,
    lowered: Graph,
    artifact: Artifact,
    target: Target,
    model: Model,
    rule: InputRule,
    data: Dataset,
    head: SplitHead | None,
    threads: int | None,
    progress: Progress,
    pictures: list[dict[str, Any]] | None = None,
    *,
    device: Device = "cpu",
) -> list[Row]:
    """Accuracy of fp32, reference and artifact on the same images with the same code; raw heads are decoded first."""
    runs: dict[str, Run] = {FP32: runtime_run(float_runtime(graph, threads))}
    if target.is_integer or target.stored_weights:  # under the rounding of the kernels that run the artifact here
        runs[REFERENCE] = interpreter_run(as_xnnpack(lowered) if target.kernels == "tflite" else lowered, device)
    if target.emitter != "graph":
        runs[ARTIFACT] = runtime_run(open_runtime(artifact.primary, threads))
    if head is not None:
        types = [lowered.types[value] for value in lowered.outputs]
        runs |= {where: decoded_run(run, head.decode, types) for where, run in runs.items() if where != FP32}
    return measure(data, rule, model.metadata, runs, progress, pictures)


def decoded_run(run: Run, decode: Graph, types: Sequence[Type]) -> Run:
    """`run`, whose outputs are codes of `types`, followed by the real graph `decode`."""
    interpreter = Interpreter(decode)

    def decoded(tensor: Float32Array) -> list[Float32Array]:
        reals = [real_of(torch.from_numpy(codes), type_) for codes, type_ in zip(run(tensor), types, strict=True)]
        with torch.no_grad():
            found = interpreter(dict(zip(decode.inputs, reals, strict=True)))
        return [output.numpy() for output in found.values()]

    return decoded


def latency_rows(runtime: Runtime, where: str) -> list[Row]:
    """Latency of a loaded file on this machine, on random input: over LATENCY_RUNS, fewer of what takes long."""
    rng = np.random.default_rng(0)
    inputs = {name: rng.random(shape, dtype=np.float32) for name, shape in runtime.input_shapes.items()}
    once = min(elapsed_ms(runtime.call(inputs)) for _ in range(2))  # the first is never typical
    least, most = LATENCY_RUNS
    measured = runtime.latency(inputs, runs=max(least, min(most, int(LATENCY_MS / once))), warm_up=WARM_UP_RUNS - 2)
    how = f"{runtime.name} on this machine, {measured.threads} threads, {measured.runs} runs"
    return [
        Row("latency_p50_ms", measured.p50_ms, "ms", measured.runs, where, how),
        Row("latency_p90_ms", measured.p90_ms, "ms", measured.runs, where, how),
    ]


def latency(graph: Graph, artifact: Artifact, threads: int | None) -> list[Row]:
    """Latency of the float graph and of the artifact on this machine."""
    return [
        *latency_rows(float_runtime(graph, threads), FP32),
        *latency_rows(open_runtime(artifact.primary, threads), ARTIFACT),
    ]


def loss_in_points(metric: str, base: float, value: float) -> float:
    """How much worse `value` is than `base`, in hundredths; errors count upward.

    >>> round(loss_in_points("map50-95", 0.36, 0.35), 6)
    1.0
    """
    return 100 * ((value - base) if metric in LOWER_IS_BETTER else (base - value))


def apply_accuracy_budget(report: Report, max_drop: Mapping[str, float], boards: Sequence[str] = ()) -> None:
    """Set the report's exit code to 4 when a metric of the artifact, here or on a board, lies too far below fp32.

    Where the graph itself is the artifact, the reference's figures count.
    """
    measured = {row.where for row in report.rows if row.metric in max_drop}
    own = REFERENCE if REFERENCE in measured and ARTIFACT not in measured else ARTIFACT
    for metric, place in product(max_drop, (own, *boards)):
        base, value, allowed = report.value(metric, FP32), report.value(metric, place), max_drop[metric]
        there = "" if place == own else f" on {place}"
        if base is None or value is None:
            known = ", ".join(dict.fromkeys(row.metric for row in report.rows if row.where == place))
            report.notes.append(f"budget missed: {metric} was not measured{there} (measured: {known})")
            report.exit = EXIT_BUDGET
        elif not (lost := loss_in_points(metric, base, value)) <= allowed:  # so that NaN misses it
            report.notes.append(f"budget missed: {metric} drops by {lost:.2f} points{there}, allowed {allowed:g}")
            report.exit = EXIT_BUDGET


def apply_agreement_promise(report: Report, target: Target) -> None:
    """Set the report's exit code to 5 when the artifact is further from the reference than the target promises."""
    promise = target.agreement
    for item in report.agreement:
        far = item.equal_share < promise.equal_share or item.largest_code_difference > promise.code_difference
        if item.kind == "layer" and far:
            report.notes.append(
                f"agreement broken at {item.value}: {item.equal_share:.2%} equal codes, up to"
                f" {item.largest_code_difference} apart; {target.name} promises {promise.equal_share:.0%} and"
                f" {promise.code_difference}"
            )
            report.exit = EXIT_AGREEMENT
            return
        least = {"output": promise.signal_to_noise_db, "real": promise.real_layer_db}.get(item.kind)
        if least is not None and item.signal_to_noise_db < least:
            report.notes.append(
                f"agreement broken at {item.value}: {item.signal_to_noise_db:.1f} dB, promised {least:g} dB"
            )
            report.exit = EXIT_AGREEMENT
            return
