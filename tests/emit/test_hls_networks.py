"""Every format of weights on whole networks: reference = generated C = C simulation of the design, every value.

One integer graph is printed twice. Of the design every value is compared, sums too; of the C all that it stores. A
target's own format stands in all layers; all others take turns from layer to layer. A convolutional and a residual
network see every format, the others one design each unless `-m whole` asks for all. C holds all but INT16 and FP8 E5M2,
which are compared without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from glob import escape
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

from edgeq.catalogue import NAMED
from edgeq.emit import c as c_emitter
from edgeq.emit.hls import depths_of
from edgeq.emit.hls_boards import BOARDS
from edgeq.emit.hls_build import build
from edgeq.emit.hls_fold import choose_folds
from edgeq.flow.export import as_computed
from edgeq.flow.inputs import calibration_set, choose_preprocess, task_of
from edgeq.formats import INT64, Int
from edgeq.frontend.model import Model, open_model
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph
from edgeq.passes.heads import split_head
from edgeq.passes.held import as_held
from edgeq.passes.simplify import simplify
from edgeq.quantize.asked import holds_weight
from edgeq.recipe import Formats, Recipe, Rule
from edgeq.runtimes.native import NativeRuntime
from edgeq.target import Target
from edgeq.targets import find_target
from tests.c_nets import biases_beyond_32_bits, every_value, extreme_inputs, heavily_biased
from tests.hls_formats import FORMATS
from tests.hls_nets import TARGETS, simulation, with_signs
from tests.lowering import PLAIN, lowered
from tests.quantized import inputs_of

LARGEST = BOARDS[-1]
CIFAR = "small/cifar10_test_jpg.zip"


@dataclass(frozen=True)
class Whole:
    """A real graph and an image for it; the depths of streams by the stages of a design, as formats do not matter."""

    graph: Graph
    image: Array
    depths: dict[tuple[str, ...], Mapping[str, int]]

    def depths_of(self, integer: Graph) -> Mapping[str, int]:
        """Depths of the design of `integer`, found by simulation unless one with the same stages was before."""
        design = build(integer, {}, "net", "net")
        stages = tuple(f"{stage.kind} {stage.value}" for stage in design.stages)
        if stages not in self.depths:
            self.depths[stages] = depths_of(design)
        return self.depths[stages]


RESIDUAL = ("resnet8", "resnet20")
NETWORKS = {
    "resnet8": "mlperf_tiny/ic/pretrainedResnet.tflite",
    "resnet20": "models/resnet20-12fca82f.th",
    **{name: f"zoo:{name}" for name in ("classifier", "depth", "detector")},
}


@lru_cache(maxsize=1)
def whole(name: str, real: Path | None = None) -> Whole:
    """A network of NETWORKS. The detector's head is cut where its decoding begins."""
    source = NETWORKS[name] if real is None else str(real / NETWORKS[name])
    model = open_model(source, arch="edgeq:resnet20" if source.endswith(".th") else None)
    graph = simplify(model.graph)
    head = split_head(graph) if name == "detector" else None
    image = _image(model, "scenes", None) if real is None else _image(model, str(real / CIFAR), "cifar-resnet")
    return Whole(head.trunk if head else graph, image, {})


def _image(model: Model, images: str, preset: str | None) -> Array:
    rule, task = choose_preprocess(preset, model), task_of(model)
    return next(iter(calibration_set(images, 1, rule, task).tensors()))


def _inputs(at: Whole) -> Iterator[Array]:
    """An image, its opposite, a checkerboard of both ends of the codes, and one end everywhere."""
    yield at.image
    yield -at.image
    yield np.where(np.indices(at.image.shape).sum(0) % 2, 1e6, -1e6).astype(np.float32)
    yield np.full(at.image.shape, 1e6, np.float32)


def assert_equal_three_times(at: Whole, target: Target, recipe: Recipe, folder: Path) -> None:
    """Design, C and reference agree on every value; the values are many."""
    (port,) = at.graph.inputs
    integer = lowered(at.graph, target, {port: at.image}, recipe)
    depths = at.depths_of(integer)
    folds = choose_folds(integer, replace(LARGEST, bram18=10_000), 0, depths)
    design = simulation(integer, depths, folder / "hls", folds)
    written = _written_c(integer, folder / "c")
    seen: dict[o.Value, set[int]] = {}
    for image in _inputs(at):
        wanted = every_value(integer, {port: image})
        _assert_values(design.of_reals({port: image}), wanted, seen)
        if written is not None:
            _assert_values(_with_zero_points(written.run({port: image}), integer), wanted, {})
    frame = design.bounded({port: at.image})
    assert not frame.stuck and not any(filling.left for filling in frame.streams.values())
    _assert_not_vacuous(integer, seen)


def _written_c(integer: Graph, folder: Path) -> NativeRuntime | None:
    held = with_signs(as_held(integer, C))
    weights = (held.types[op.weight].format for op in held.ops if isinstance(op, o.Conv | o.ConvTranspose | o.Linear))
    if not all(holds_weight(C, format_) for format_ in weights):
        return None
    artifact = c_emitter.emit(held, C, folder, "net", {}, {})
    assert len(artifact.tensors) > 5
    return NativeRuntime(artifact.primary, artifact.tensors.values())


def _with_zero_points(found: Mapping[str, Array], integer: Graph) -> dict[str, Array]:
    """Codes of C, which have signs, as those of `integer`."""
    formats = {value: integer.types[value].format for value in found}
    moved = {v: 1 << (f.bits - 1) for v, f in formats.items() if isinstance(f, Int) and not f.signed}
    return {v: codes.astype(np.int64) + moved[v] if v in moved else codes for v, codes in found.items()}


def _assert_values(found: Mapping[str, Array], wanted: Mapping[str, Array], seen: dict[o.Value, set[int]]) -> None:
    for value, codes in found.items():
        np.testing.assert_array_equal(codes, wanted[value], err_msg=value)
        if codes.dtype.kind == "i":
            seen.setdefault(value, set()).update(np.unique(codes).tolist())


def _assert_not_vacuous(integer: Graph, seen: Mapping[o.Value, set[int]]) -> None:
    """Most sums of layers take many values, and few codes lie at an end."""
    sums = [len(seen[o.results(op)[0]]) for op in integer.ops if isinstance(op, o.Conv | o.Linear)]
    assert len(sums) >= 9 and np.median(sums) > 300, sums
    codes = [len(seen[op.out]) for op in integer.ops if isinstance(op, o.Requantize) and op.out in seen]
    assert np.median(codes) > 60, codes


C = find_target("c-int8")
IN_C = [name for name, format_ in FORMATS.items() if holds_weight(C, format_)]
TURNS = {**{f"turn-{k}": IN_C[k::3] for k in range(3)}, "beyond-c": [name for name in FORMATS if name not in IN_C]}
"""Formats that take turns in one design; no network here has fewer layers."""


def taking_turns(graph: Graph, names: Sequence[str]) -> Recipe:
    """A rule for each layer: the formats one after another."""
    layers = [op.out for op in graph.ops if isinstance(op, o.Conv | o.ConvTranspose | o.Linear)]
    assert len(layers) >= len(names)
    each = zip(layers, cycle(names), strict=False)
    return Recipe("auto", tuple(Rule(escape(layer), Formats(FORMATS[name])) for layer, name in each))


def _case(at: Whole, what: str, folder: Path) -> None:
    if what in TURNS:
        target = find_target("fpga-int4")
        assert_equal_three_times(at, target, taking_turns(as_computed(at.graph, target), TURNS[what]), folder)
    else:
        assert_equal_three_times(at, find_target(what), PLAIN, folder)


ALL = (*TARGETS, *TURNS)
OFTEN = {
    "depth": ALL, "resnet8": tuple(TURNS),
    "classifier": ("fpga-fx8",), "detector": ("fpga-int4",), "resnet20": ("turn-2",),
}  # fmt: skip
"""What is compared whenever tests run; the rest where `-m whole` asks for the whole matrix."""


def test_biases_beyond_32_bits(tmp_path: Path) -> None:
    """Their accumulators have 64 bits; a design's constants and C's hold them, and every sum is the reference's."""
    graph = heavily_biased()
    integer = lowered(graph, replace(find_target("fpga-int4"), weight=NAMED["fp8_e4m3"]), inputs_of(graph))
    wide = biases_beyond_32_bits(integer)
    assert len(wide) == 5 and {integer.types[value].format for value in wide} == {INT64}
    design, written = simulation(integer, {}, tmp_path / "hls"), _written_c(integer, tmp_path / "c")
    assert written is not None
    seen: dict[o.Value, set[int]] = {}
    for inputs in extreme_inputs(integer, 3):
        wanted = every_value(integer, inputs)
        _assert_values(design.of_reals(inputs), wanted, seen)
        _assert_values(_with_zero_points(written.run(inputs), integer), wanted, {})
    for value in wide:
        assert len(seen[value]) > 20 and max(map(abs, seen[value])) >= 1 << 32
    codes = set[int]().union(*(seen[op.out] for op in integer.ops if isinstance(op, o.Requantize)))
    assert len(codes) > 150


def _cases(names: Iterable[str]) -> list[pytest.ParameterSet]:
    return [
        pytest.param(name, what, marks=() if what in OFTEN[name] else pytest.mark.whole)
        for name in names
        for what in ALL
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("network", "what"), _cases(name for name in NETWORKS if name not in RESIDUAL))
def test_zoo(network: str, what: str, tmp_path: Path) -> None:
    _case(whole(network), what, tmp_path)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize(("network", "what"), _cases(RESIDUAL))
def test_residual_networks(network: str, what: str, real: Path, tmp_path: Path) -> None:
    _case(whole(network, real), what, tmp_path)
