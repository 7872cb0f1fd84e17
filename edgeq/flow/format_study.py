"""`edgeq formats`: how far every weight, and every value that a layer reads, is from itself in each number format.

SQNR is 10 log10(sum x^2 / sum (x - x')^2) on the tensor alone: no errors of other layers, no images for weights. Noise
relative to the signal adds up along a network, so the formats of least summed relative noise within the mean bits
are what is recommended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import torch

from edgeq.catalogue import Blocks, Choice, KMeans, Nupes, bits_per_weight, find_choice
from edgeq.datasets.folder import spread
from edgeq.emit.artifact import output_folder, to_json, write_files
from edgeq.errors import UsageError, did_you_mean
from edgeq.flow.format_rows import FormatStudy, Measured
from edgeq.flow.inputs import calibration_set, choose_preprocess, task_of
from edgeq.flow.page_formats import formats_page
from edgeq.flow.statistics import inputs_of
from edgeq.formats import Float, FloatArray, Format, Int, Rounding, bits_of, round_level, unsigned
from edgeq.frontend.model import Model, open_model
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph, Type
from edgeq.passes.simplify import simplify
from edgeq.progress import Progress, silent
from edgeq.quantize import allocate
from edgeq.quantize.asked import holds_weight
from edgeq.quantize.assign import weight_axis
from edgeq.quantize.operators import is_weighted, weight_of
from edgeq.quantize.scale import weight_type
from edgeq.quantize.weights import typed_weight
from edgeq.recipe import Formats, weight_format
from edgeq.reference.interpret import Interpreter
from edgeq.targets import find_target

USUAL = (
    "int3", "dense3", "post3", "pot3", "nupes3", "kmeans3",
    "int4", "e2m1", "post4", "pot4", "nupes4", "kmeans4", "mxfp4", "bfp4", "int4g32",
    "int5", "e2m2", "e3m1", "int6", "e2m3", "e3m2", "mxfp6_e2m3", "int7", "e2m4", "e3m3",
    "int8", "e2m5", "e3m4", "fp8_e4m3", "fp8_e5m2", "mxint8", "mxfp8_e4m3",
)  # fmt: skip
SAMPLES = 50_000
"""Elements of a value that are looked at, spread over all images."""


@dataclass(frozen=True)
class FormatsRequest:
    """The options of `edgeq formats`."""

    model: str
    tensors: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    target: str = "reference"
    avg_bits: float = 4.0
    rounding: Rounding = "nearest-even"
    calib: str | None = None
    calib_images: int = 8
    preprocess: str | None = None
    out: Path | None = None
    exist_ok: bool = False
    imgsz: str | None = None
    arch: str | None = None
    trust_pickle: bool = False


def study_formats(request: FormatsRequest, progress: Progress = silent) -> FormatStudy:
    """SQNR of every layer's weights, and with --calib of what it reads, in each format, and a recommendation.

    With `out`, writes formats.json and formats.html there. Raises EdgeqError: unknown formats or layers, no layers with
    weights, and BudgetError where no choice has so few bits.
    """
    choices = [named_choice(name) for name in request.formats or USUAL]
    folder = None if request.out is None else output_folder(request.out, "", "formats", exist_ok=request.exist_ok)
    model = open_model(request.model, imgsz=request.imgsz, arch=request.arch, trust_pickle=request.trust_pickle)
    graph = simplify(model.graph)
    layers = _layers(graph, request.tensors)
    rows: list[Measured] = []
    for k, op in enumerate(layers):
        progress("measuring weights", k, len(layers))
        rows += _weight_rows(op, graph, choices, request.rounding)
    recommended, notes = _recommended(rows, request)
    if request.calib is not None:
        rows += _activation_rows(model, graph, layers, choices, request, progress)
    found = FormatStudy(model.name, tuple(rows), recommended, request.avg_bits, request.target, tuple(notes))
    if folder is not None:
        write_files(folder, {"formats.json": to_json(found.document()), "formats.html": formats_page(found)})
    return found


def named_choice(name: str) -> Choice:
    """The format or family called `name`, as weights take it; raises UsageError."""
    found = find_choice(name)
    return found if isinstance(found, KMeans | Nupes | Blocks) else weight_format(name)


def _layers(graph: Graph, patterns: Sequence[str]) -> list[o.Op]:
    weighted = [op for op in graph.ops if weight_of(op) in graph.constants]
    if not weighted:
        raise UsageError("the model has no layers with weights", where=graph.name)
    names = [o.results(op)[0] for op in weighted]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError("no layer has this name", value=pattern, next_step=did_you_mean(pattern, names))
    kept = [any(fnmatchcase(name, pattern) for pattern in patterns) or not patterns for name in names]
    return [op for op, keep in zip(weighted, kept, strict=True) if keep]


# --- tensors in formats --------------------------------------------------------------------------------------------


def sqnr_db(array: FloatArray, found: FloatArray) -> float:
    """10 log10 of the power of `array` over that of the error; infinite where there is none."""
    noise = float(np.sum(np.square(found - array)))
    return float("inf") if noise == 0 else 10 * float(np.log10(max(float(np.sum(np.square(array))), 1e-300) / noise))


def in_format(array: Array, type_: Type, rounding: Rounding = "nearest-even") -> FloatArray:
    """`array` rounded to the levels of `type_`, as reals; draws of stochastic rounding are the same every time."""
    scales = type_.scales
    wanted: FloatArray = np.asarray(array, dtype=np.float64) / scales
    draws = np.random.default_rng(0).random(array.shape) if rounding == "stochastic" else None
    return round_level(type_.format, wanted, rounding, type_.zero_point, draws) * scales


def _weight_rows(op: o.Op, graph: Graph, choices: Sequence[Choice], rounding: Rounding) -> Iterator[Measured]:
    name, layer = weight_of(op), o.results(op)[0]
    assert name is not None and isinstance(op, o.Conv | o.ConvTranspose | o.Linear)
    array = graph.constants[name]
    wide: FloatArray = np.asarray(array, dtype=np.float64)
    for choice in choices:
        type_ = typed_weight(array, choice, weight_axis(op), where=layer)
        db = sqnr_db(wide, in_format(array, type_, rounding))
        yield Measured(layer, "weight", array.size, choice, bits_per_weight(choice), db)


def _activation_rows(
    model: Model, graph: Graph, layers: Sequence[o.Op], choices: Sequence[Choice], request: FormatsRequest,
    progress: Progress,
) -> Iterator[Measured]:  # fmt: skip
    assert request.calib is not None
    calibration = calibration_set(
        request.calib, request.calib_images, choose_preprocess(request.preprocess, model), task_of(model)
    )
    read = {o.operands(op)[0]: o.results(op)[0] for op in reversed(layers) if is_weighted(op)}
    seen: dict[o.Value, list[FloatArray]] = {value: [] for value in read}
    each = max(SAMPLES // max(len(calibration.images), 1), 1)
    interpreter = Interpreter(graph)
    for k, inputs in enumerate(inputs_of(graph, calibration)):
        progress("measuring activations", k, len(calibration.images))

        def keep(name: o.Value, tensor: torch.Tensor) -> None:
            if name in seen:
                flat = tensor.reshape(-1).double().numpy()
                seen[name].append(flat[spread(flat.size, each)])

        for name, array in inputs.items():
            keep(name, torch.from_numpy(array))
        interpreter(inputs, keep)
    formats = [c for c in choices if isinstance(c, Int | Float) and bits_of(c) <= 8]
    for value, layer in reversed(read.items()):
        yield from value_rows(layer, np.concatenate(seen[value]), formats, request.rounding)


def value_rows(layer: str, sample: FloatArray, formats: Sequence[Format], rounding: Rounding) -> Iterator[Measured]:
    """One scale for all, of least squared error; what is never negative gives its sign bit to the mantissa."""
    for format_ in formats:
        own = unsigned(format_) if float(sample.min(initial=0.0)) >= 0 else format_
        type_ = weight_type(sample.astype(np.float32), own, None, clip="squared_error", where=layer)
        db = sqnr_db(sample, in_format(sample, type_, rounding))
        yield Measured(layer, "activation", sample.size, own, float(bits_of(own)), db)


# --- recommendation -------------------------------------------------------------------------------------------------


def _recommended(rows: Sequence[Measured], request: FormatsRequest) -> tuple[tuple[Measured, ...], list[str]]:
    """For every layer the weight format, of those that the target holds, of least summed noise over signal."""
    target = find_target(request.target)
    able = [
        row for row in rows if not isinstance(row.choice, KMeans | Nupes | Blocks) and holds_weight(target, row.choice)
    ]
    if not able:
        return (), [f"{target.name} holds none of these formats"]
    by_layer: dict[str, list[Measured]] = {}
    for row in able:
        by_layer.setdefault(row.layer, []).append(row)
    items = [
        allocate.Item(
            layer, layer, tuple(allocate.Choice(Formats(), _noise(row.db), {"bits": row.bits * row.elements}) for row in mine)
        )
        for layer, mine in by_layer.items()
    ]  # fmt: skip
    limit = request.avg_bits * sum(mine[0].elements for mine in by_layer.values())
    selection = allocate.solve(items, {"bits": limit})
    found = tuple(mine[k] for mine, k in zip(by_layer.values(), selection, strict=True))
    db = -10 * float(np.log10(max(sum(_noise(row.db) for row in found), 1e-30)))
    mean = sum(row.bits * row.elements for row in found) / sum(row.elements for row in found)
    return found, [f"recommended: {mean:.2f} bits a weight on average, noise of all layers together {db:.1f} dB below"]


def _noise(db: float) -> float:
    return 0.0 if np.isinf(db) else float(10 ** (-db / 10))
