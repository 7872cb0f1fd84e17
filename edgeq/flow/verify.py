"""`edgeq verify`: proof that a written file holds the numbers of its graph and computes what the graph means.

The integers are read back and compared exactly; then images run through the real runtime and through the reference,
layer by layer. A run folder holds the graph; a full-integer .tflite of any origin is its own graph, under the rounding
of LiteRT's reference kernels.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from edgeq.emit.artifact import GRAPH_FILE, MANIFEST, Artifact
from edgeq.emit.hls import TOKEN_BITS
from edgeq.errors import UnsupportedError, UsageError
from edgeq.flow.artifacts import emitter_of, open_runtime
from edgeq.flow.check import EXIT_AGREEMENT
from edgeq.flow.parting import Inputs, Layer, first_parting, layers
from edgeq.flow.subject import Kernels, Subject, execution, images, kernels_of, noise
from edgeq.formats import Int
from edgeq.frontend.model import in_pixels, open_model
from edgeq.ir import ops as o
from edgeq.ir.bounds import is_codes
from edgeq.ir.file import digest, load
from edgeq.ir.graph import Graph
from edgeq.passes.simplify import simplify
from edgeq.progress import Progress, silent
from edgeq.readback import read_stored
from edgeq.readback.compare import Comparison, compare
from edgeq.readback.design import compare_design
from edgeq.readback.hls import read_design
from edgeq.reference.interpret import Interpreter
from edgeq.report import AgreementKind, OutputAgreement, Report, Row
from edgeq.target import Agreement, Target
from edgeq.targets import find_target

MOST_DIFFERENCES = 20
EXACT = Agreement(equal_share=1.0, code_difference=0)
ROUNDED_FLOATS = Agreement()
"""Of codes that float operators decide: a result close to a tie may fall to either side of it."""


@dataclass(frozen=True)
class VerifyRequest:
    """The options of `edgeq verify`."""

    artifact: str
    against: str | None = None
    calib: str | None = None
    images: int = 4
    preprocess: str | None = None
    seed: int = 0
    imgsz: str | None = None
    arch: str | None = None
    trust_pickle: bool = False
    threads: int | None = None


def verify_artifact(request: VerifyRequest, progress: Progress = silent) -> Report:
    """Compare the file with its graph and the runtime with the reference; the report's `exit` is 5 where they differ.

    Raises UsageError for files that are not there, UnsupportedError for what cannot be read or run.
    """
    started = time.monotonic()
    path = Path(request.artifact)
    if not path.exists():
        raise UsageError("no such artifact", where=path, next_step="edgeq export prints the path of what it wrote.")
    run = _run_folder(path, request.against)
    report = Report("verify")
    if run is not None:
        target = _target(run)
        report.target = target.name
        _prove(report, request, _exported(path, run, target), progress)
    elif path.suffix == ".tflite":
        _prove(report, request, _foreign(path), progress)
    if request.against and run is None:
        _beside_model(report, request, progress)
    elif run is None and path.suffix != ".tflite":
        raise UsageError(
            "there is nothing to verify this file against",
            where=path,
            allowed=f"a file beside its {GRAPH_FILE}, or --against RUN_FOLDER or MODEL",
        )
    report.seconds = time.monotonic() - started
    return report


# --- what is proved -----------------------------------------------------------------------------------------------


def _run_folder(path: Path, against: str | None) -> Path | None:
    """The folder of the run that wrote the file: the one named, or the file's own."""
    if against is not None and Path(against).is_dir():
        if not (Path(against) / GRAPH_FILE).is_file():
            raise UsageError("this is no run folder", where=against, allowed=f"one with {GRAPH_FILE}")
        return Path(against)
    return path.parent if against is None and (path.parent / GRAPH_FILE).is_file() else None


def _manifest(run: Path) -> dict[str, object]:
    try:
        found = json.loads((run / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError("the manifest cannot be read", where=run / MANIFEST, value=error) from error
    if not isinstance(found, dict):
        raise UsageError("the manifest must hold one JSON object", where=run / MANIFEST)
    return found


def _target(run: Path) -> Target:
    described = _manifest(run).get("target")
    return find_target(str(described.get("name")) if isinstance(described, dict) else "")


def _exported(path: Path, run: Path, target: Target) -> Subject:
    graph = load(run / GRAPH_FILE)
    if digest(graph) != _manifest(run).get("graph_sha256"):
        raise UsageError("the graph is not the one that the manifest names", where=run)
    if target.emitter == "hls":  # whose manifest says what there is
        tensors = {value: value for value in read_design(path).layers}
        return Subject(path, graph, tensors, TOKEN_BITS, target.agreement)
    emitted = _emitted(graph, target)
    return Subject(path, graph, emitted.tensors, emitted.code_bits, target.agreement)


def _emitted(graph: Graph, target: Target) -> Artifact:
    """Where a file of this target holds the values of `graph`: known by writing it once more, aside."""
    with tempfile.TemporaryDirectory(prefix="edgeq-verify-") as folder:
        return emitter_of(target)(graph, target, Path(folder) / "run", "model", {}, {})


def _foreign(path: Path) -> Subject:
    from edgeq.frontend.tflite import import_with_tensors
    from edgeq.frontend.tflite_file import OWN_RECORD, read_tflite

    file = read_tflite(path)
    if OWN_RECORD in file.notes:  # its tensors have orders of axes of their own, which its graph explains
        raise UsageError(
            "edgeq wrote this file", where=path, next_step="Give --against RUN_FOLDER, which has its graph."
        )
    found = import_with_tensors(file, name=path.stem)
    has_codes = any(map(is_codes, found.graph.types.values()))
    promise = EXACT if has_codes else Agreement(signal_to_noise_db=60.0)
    graph = in_pixels(found.graph, file)  # as the runtime gives it
    return Subject(path, graph, found.tensors, 16, promise, found.axes, found.as_stored)


# --- the proof ----------------------------------------------------------------------------------------------------


def _prove(report: Report, request: VerifyRequest, subject: Subject, progress: Progress) -> None:
    found = _compared(subject)
    _report_numbers(report, found)
    try:
        given = list(islice(_inputs(request, subject), request.images))
        for kernels in kernels_of(subject, request.threads):
            shown = execution(subject, kernels.runtime)
            compared = layers(kernels.graph, shown, given, progress, len(given))
            _report_layers(report, subject, kernels, compared)
    except UnsupportedError as error:
        if not found.differences:
            raise
        report.notes.append(f"the runtime refuses the file: {error}")


def _compared(subject: Subject) -> Comparison:
    if subject.path.suffix == ".cpp":
        return compare_design(subject.graph, read_design(subject.path))
    return compare(subject.stored or subject.graph, read_stored(subject.path), subject.tensors, subject.code_bits)


def _report_numbers(report: Report, found: Comparison) -> None:
    how = "read back from the file"
    report.rows += [
        Row("tensors_compared", found.tensors, "", 1, "artifact", how),
        Row("numbers_compared", found.numbers, "", 1, "artifact", how),
        Row("differences", len(found.differences), "", 1, "artifact", how),
    ]
    report.notes += [f"differs at {difference}" for difference in found.differences[:MOST_DIFFERENCES]]
    if len(found.differences) > MOST_DIFFERENCES:
        report.notes.append(f"and {len(found.differences) - MOST_DIFFERENCES} more differences")
    if found.differences:
        report.exit = EXIT_AGREEMENT


def _report_layers(report: Report, subject: Subject, kernels: Kernels, compared: list[Layer]) -> None:
    report.agreement += [
        OutputAgreement(layer.value, _kind(layer), layer.equal_share, layer.largest,
                        layer.largest_real, layer.signal_to_noise_db, layer.count,
                        kernels.label)
        for layer in compared
    ]  # fmt: skip
    equal, count = sum(layer.equal for layer in compared), sum(layer.count for layer in compared)
    report.rows.append(Row("equal_codes", equal / max(count, 1), "", count, kernels.label, "each layer given the same"))
    parted = first_parting(compared)
    if parted is None:
        report.notes.append(f"{kernels.label} and the reference agree on all {count:,} codes of {len(compared)} values")
        return
    report.notes.append(f"{kernels.label} and the reference first part at {_described(subject, parted)}")
    for layer in compared if kernels.promise else ():
        promise = _promise(subject.graph, layer, kernels.promise or EXACT)
        if _breaks(layer, promise):
            report.exit = EXIT_AGREEMENT
            report.notes.append(
                f"promise broken at {_described(subject, layer)}; promised are {promise.equal_share:.0%} and"
                f" {promise.code_difference}"
            )
            return


def _kind(layer: Layer) -> AgreementKind:
    return "output" if layer.is_output else "real" if layer.is_real else "layer"


def _promise(graph: Graph, layer: Layer, promise: Agreement) -> Agreement:
    """`promise`, or what can be promised of a value that float operators decide."""
    op, type_ = graph.producer.get(layer.value), graph.types[layer.value]
    after_floats = isinstance(op, o.Quantize) and op.x in graph.producer
    if layer.is_output and not is_codes(type_):
        return replace(promise, equal_share=min(promise.equal_share, ROUNDED_FLOATS.equal_share))
    if not after_floats:
        return promise
    is_wide = isinstance(type_.format, Int) and type_.format.bits > 8
    share = 0.0 if is_wide else ROUNDED_FLOATS.equal_share
    return replace(
        promise, equal_share=min(promise.equal_share, share), code_difference=max(1, promise.code_difference)
    )


def _breaks(layer: Layer, promise: Agreement) -> bool:
    """Outputs follow from the layers before them, through float operators that may reorder ties."""
    if layer.is_real and promise.real_layer_db is not None:
        return layer.signal_to_noise_db < promise.real_layer_db
    if layer.is_output and promise.signal_to_noise_db is not None:
        return layer.signal_to_noise_db < promise.signal_to_noise_db
    far = layer.largest > promise.code_difference and not layer.is_output
    return far or layer.equal_share < promise.equal_share


def _described(subject: Subject, layer: Layer) -> str:
    op = subject.graph.producer.get(layer.value)
    kind = f" ({type(op).__name__})" if op is not None else ""
    unit = "steps of 1/255" if layer.is_real else "codes"
    return f"{layer.value}{kind}: {layer.equal_share:.4%} equal, up to {layer.largest} {unit} apart"


def _inputs(request: VerifyRequest, subject: Subject) -> Iterator[Inputs]:
    if request.calib is None:
        return noise(subject.graph, request.seed)
    return images(subject, request.calib, request.images, request.preprocess)


# --- beside a model -----------------------------------------------------------------------------------------------


def _beside_model(report: Report, request: VerifyRequest, progress: Progress) -> None:
    """The outputs of the file beside those of a float model on the same inputs: what all of the quantization costs."""
    model = open_model(
        str(request.against), imgsz=request.imgsz, arch=request.arch, trust_pickle=request.trust_pickle
    )  # fmt: skip
    graph = simplify(model.graph)
    runtime = open_runtime(Path(request.artifact), request.threads)
    if len(runtime.inputs) != len(graph.inputs) or len(runtime.outputs) != len(graph.outputs):
        raise UsageError("the model has other ports than the file", where=request.against, value=graph.outputs)
    reference = Interpreter(graph)
    signal, noise = np.zeros(len(graph.outputs)), np.zeros(len(graph.outputs))
    subject = Subject(Path(request.artifact), graph, {}, 8, Agreement())
    for done, given in enumerate(islice(_inputs(request, subject), request.images), start=1):
        wanted = list(reference(given).values())
        found = list(runtime.run(dict(zip(runtime.inputs, given.values(), strict=True))).values())
        for k, (a, b) in enumerate(zip(wanted, found, strict=True)):
            exact = a.numpy().astype(np.float64)
            signal[k] += float((exact**2).sum())
            noise[k] += float(((exact - b.astype(np.float64)) ** 2).sum())
        progress("comparing with the model", done, request.images)
    for name, s, n in zip(graph.outputs, signal, noise, strict=True):
        db = 10 * np.log10(max(s, 1e-300) / max(n, 1e-300))
        report.rows.append(
            Row(f"snr_db {name}", float(db), "dB", request.images, "artifact", f"beside {request.against}")
        )
