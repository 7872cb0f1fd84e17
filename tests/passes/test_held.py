"""Weights of every format whose levels fit in bytes: files of C, TFLite and ONNX compute what the reference means."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeq.catalogue import NAMED, find_choice, power_law
from edgeq.emit import hls
from edgeq.emit.c import emit
from edgeq.errors import UnsupportedError
from edgeq.flow.artifacts import open_runtime
from edgeq.formats import INT8_NARROW, REAL, Codebook, Float, Format, Int, decode, fits_in_bytes
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph, with_constants
from edgeq.ir.verify import verify
from edgeq.passes.held import as_held, kept_table
from edgeq.passes.lower import lower
from edgeq.passes.separate import separate
from edgeq.quantize.asked import Asked
from edgeq.quantize.assign import assign
from edgeq.quantize.structure import analyse
from edgeq.recipe import Formats, Recipe, Rule
from edgeq.runtimes.native import NativeRuntime
from edgeq.targets import find_target
from tests.c_nets import (
    biases_beyond_32_bits,
    every_value,
    extreme_inputs,
    heavily_biased,
    heavily_biased_stream,
    small_network,
    small_transformer,
)
from tests.format_nets import quantized as formats_quantized
from tests.format_nets import residual
from tests.lowering import ranges_on
from tests.onnx_agreement import compare_locally as compare_onnx
from tests.quantized import Net, inputs_of
from tests.tflite_agreement import compare_locally as compare_tflite

SANITIZED = (
    "-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-O1", "-fPIC", "-shared", "-fsanitize=undefined",
    "-fno-sanitize-recover=all",
)  # fmt: skip
FORMATS: list[Format] = [
    *(Int(bits, narrow=True) for bits in range(2, 9)),
    *(Float(2, mantissa) for mantissa in range(1, 5)),
    *(format_ for format_ in NAMED.values() if fits_in_bytes(format_)),
    power_law(4, 0.5),
    Codebook("kmeans", (-100, -61, -30, -12, 0, 9, 33, 127)),
]


WIDE: list[Format] = [
    Float(3, 2), Float(3, 4), Float(2, 5), NAMED["fp8_e4m3"], NAMED["pot5"], NAMED["dense4"],
    Codebook("kmeans", (-2047, -1500, -400, -3, 0, 250, 999, 2000)),
]  # fmt: skip
"""Levels of more than a byte, which generated C and ONNX look up."""

C = find_target("c-int8")
WEIGHTED = (o.Conv, o.ConvTranspose, o.Linear)


def quantized(format_: Format, target: str, net: Graph | None = None) -> Graph:
    """The residual network (or `net`) for `target` with all weights in `format_`."""
    row = find_target(target)
    net = residual() if net is None else net
    net = separate(net) if row.separate_layers else net
    structure = analyse(net, row, Recipe("minmax", (Rule("*", Formats(format_, None)),)))
    graph = lower(structure.graph, assign(structure, ranges_on(structure, row, inputs_of(structure.graph)), row))
    verify(graph)
    found = [graph.types[op.weight].format for op in graph.ops if isinstance(op, WEIGHTED)]
    assert {f for f in found if f != REAL} == {format_} and found.count(format_) >= 3  # ONNX Runtime's stem stays real
    return graph


@pytest.mark.parametrize("format_", FORMATS, ids=lambda f: str(f)[:12])
def test_c_equals_the_reference_on_every_byte(format_: Format) -> None:
    check_c(quantized(format_, "c-int8"))


@pytest.mark.parametrize("format_", WIDE, ids=lambda f: str(f)[:12])
def test_c_looks_wide_levels_up(format_: Format) -> None:
    check_c(quantized(format_, "c-int8"))


@pytest.mark.parametrize("make", [small_network, small_transformer])
def test_wide_levels_in_every_kernel(make: Callable[[], Graph], tmp_path: Path) -> None:
    """Depthwise, grouped, transposed, attention, layers that join a stream; 4-bit codes of columns share bytes."""
    sizes = list[int]()
    for name in ("fp8_e4m3", "dense4"):
        meant = quantized(NAMED[name], "c-int8", make())
        check_c(meant)
        artifact = emit(meant, C, tmp_path / name, "net", {}, {})
        sizes.append(constants_of(artifact.folder))
    weights = [meant.constants[op.weight] for op in meant.ops if isinstance(op, o.Conv | o.Linear)]
    columns = sum(weight.size for weight in weights if weight.shape[1] > 1)
    tables = 4 * (256 - 16)
    assert sizes[0] - sizes[1] - tables > 0.45 * columns > 500


def constants_of(folder: Path) -> int:
    """Bytes of constants that generated C says it has."""
    found = re.search(r"constants, ([\d,]+) bytes", (folder / "net_weights.h").read_text())
    assert found is not None
    return int(found[1].replace(",", ""))


def deep(share: float) -> Graph:
    """Long sums of weights that all have one magnitude, of which this share is positive."""
    n = Net(1, 96, 6, 5, seed=1)

    def signs(*shape: int) -> o.Value:
        return n.constant(np.where(n.rng.random(shape) < share, 0.9, -0.9))

    y = n.add(o.Conv("x", signs(24, 96, 3, 3), n.reals(24), "large", (1, 1), (1, 1, 1, 1)))
    y = n.add(o.Conv(n.apply(y, "relu", "a"), signs(40, 24, 3, 3), None, "second", (1, 1), (1, 1, 1, 1)))
    flat = n.add(o.Reshape(y, "flat", (1, 40 * 30)))
    return n.graph(y, n.add(o.Linear(flat, signs(5, 40 * 30), None, "scores")))


def test_largest_weights_make_sums_beyond_32_bits() -> None:
    """All weights at the ends of FP8, codes at theirs: what the proof must reckon with does happen."""
    meant = quantized(NAMED["fp8_e4m3"], "c-int8", deep(0.5))
    seen = [every_value(meant, inputs) for inputs in extreme_inputs(meant, 1)]
    sums = [int(np.abs(values[op.out]).max()) for values in seen for op in meant.ops if isinstance(op, WEIGHTED)]
    assert max(sums) >= 1 << 31
    check_c(meant)


def test_biases_beyond_32_bits() -> None:
    """In every kind of layer."""
    meant = quantized(NAMED["fp8_e4m3"], "c-int8", heavily_biased())
    wide = biases_beyond_32_bits(meant)
    kinds = {type(meant.producer[value]) for value in wide}
    assert len(wide) == 5 and kinds == set(WEIGHTED)
    check_c(meant)
    stream = quantized(NAMED["fp8_e4m3"], "c-int8", heavily_biased_stream())
    assert len(biases_beyond_32_bits(stream)) == 1
    check_c(stream)


def test_biases_that_a_zero_point_drives_beyond_32_bits() -> None:
    meant = quantized(NAMED["fp8_e4m3"], "c-int8", deep(0.95))
    (layer,) = (op for op in meant.ops if isinstance(op, o.Conv) and op.x == "a")
    sums = decode(meant.types[layer.weight].format, meant.constants[layer.weight]).reshape(40, -1).sum(1)
    assert np.abs(sums * meant.types["a"].zero_point).max() >= 1 << 31 and not biases_beyond_32_bits(meant)
    check_c(meant)


def test_a_bias_beyond_48_bits_is_refused() -> None:
    graph = quantized(NAMED["fp8_e4m3"], "c-int8", heavily_biased())
    (layer,) = (op for op in graph.ops if isinstance(op, o.Linear))
    assert layer.bias is not None
    graph = with_constants(graph, {layer.bias: graph.constants[layer.bias].astype(np.int64) + (1 << 47)})
    with pytest.raises(UnsupportedError, match=r"a bias.*exceeds 48 bits"), tempfile.TemporaryDirectory() as temporary:
        emit(graph, C, Path(temporary) / "out", "net", {}, {})


def test_only_portable_kernels_look_wide_levels_up() -> None:
    graph = quantized(Float(3, 2), "c-int8")
    with pytest.raises(UnsupportedError, match="no kernels"), tempfile.TemporaryDirectory() as temporary:
        emit(graph, find_target("cortex-m4-int8"), Path(temporary) / "out", "net", {}, {})


@pytest.mark.parametrize("name", ["post4", "e2m1", "dense3", "pot2"])
@pytest.mark.parametrize("make", [small_network, small_transformer])
def test_tables_in_every_kernel(make: Callable[[], Graph], name: str) -> None:
    """Depthwise, grouped, transposed, attention: all decode their packed codes; the flash is halved."""
    meant = quantized(find_choice(name), "c-int8", make())  # type: ignore[arg-type]
    check_c(meant)
    with tempfile.TemporaryDirectory() as temporary:
        text, sizes = dict[str, str](), dict[str, int]()
        for kind, graph in (("table", as_held(meant, C)), ("bytes", as_held(meant, replace(C, looks_up=False)))):
            artifact = emit(graph, C, Path(temporary) / kind, "net", {}, {})
            text[kind] = (artifact.folder / "net_model.c").read_text()
            sizes[kind] = constants_of(artifact.folder)
        assert "EDGEQ_LEVELS" in text["table"] and "EDGEQ_LEVELS" not in text["bytes"]
        count = sum(meant.constants[op.weight].size for op in meant.ops if isinstance(op, WEIGHTED))
        assert sizes["bytes"] - sizes["table"] > 0.4 * count


def check_c(meant: Graph) -> None:
    """Every byte of the C beside the reference of the graph as it was meant, at ordinary and extreme inputs."""
    held = as_held(meant, C)
    with tempfile.TemporaryDirectory() as temporary:
        artifact = emit(held, C, Path(temporary) / "out", "net", {}, {})
        runtime = NativeRuntime(artifact.primary, artifact.tensors.values(), SANITIZED)
        distinct = set[int]()
        for inputs in extreme_inputs(meant, 1):
            wanted, found = every_value(meant, inputs), runtime.run(inputs)
            assert found.keys() >= set(meant.outputs)
            for value, codes in found.items():
                own, kept = meant.types[value], held.types[value]
                levels = [
                    decode(type_.format, array, type_.zero_point)
                    for type_, array in ((own, wanted[value]), (kept, codes))
                ]
                np.testing.assert_array_equal(*levels, err_msg=value)
                distinct.update(codes.reshape(-1).tolist())
    assert len(distinct) > 150


@pytest.mark.parametrize("name", ["e2m1", "e2m4", "post4", "pot4"])
def test_activations_in_tables(name: str) -> None:
    """What layers read as minifloats (unsigned behind a ReLU) or powers: C holds their levels, byte by byte the same."""
    meant = formats_quantized(Asked("post4", name, ("right=e2m3/int8", f"left=post4/{name}")), C)
    found = {str(type_.format).split(":")[0] for value, type_ in meant.types.items() if value.endswith(".narrow")}
    table = {"e2m1": {"e2m1", "ue2m2"}, "e2m4": {"e2m4", "ue2m5"}}.get(name, {name})
    assert found & table
    check_c(meant)


@pytest.mark.parametrize("make", [small_network, small_transformer])
def test_activations_in_tables_in_every_kernel(make: Callable[[], Graph]) -> None:
    """Beside weights of wide levels; products of two activations stay integers."""
    meant = formats_quantized(Asked(rules=("*=e3m2/e2m3",)), C, separate(make()))
    assert sum(value.endswith(".narrow") for value in meant.types) >= 9
    check_c(meant)


@pytest.mark.slow
@pytest.mark.parametrize(
    "format_", [Float(2, 2), Float(2, 4), NAMED["dense3"], Int(5, narrow=True)], ids=lambda f: str(f)[:12]
)
def test_designs_equal_the_reference_in_their_own_codes(format_: Format, tmp_path: Path) -> None:
    row = find_target("fpga-int4")
    graph = as_held(quantized(format_, row.name), row)
    artifact = hls.emit(graph, row, tmp_path / "out", "net", {}, {})
    runtime, distinct = open_runtime(artifact.primary).watching(artifact.tensors.values()), set[int]()
    for inputs in extreme_inputs(graph, 1):
        wanted = every_value(graph, inputs)
        found = {name: codes for name, codes in runtime.run(inputs).items() if name in wanted}
        assert len(found) > 8
        for value, codes in found.items():
            np.testing.assert_array_equal(codes, wanted[value], err_msg=value)
            distinct.update(np.unique(codes).tolist())
    assert len(distinct) > 150


@pytest.mark.parametrize("format_", FORMATS, ids=lambda f: str(f)[:12])
def test_tflite_equals_the_reference(format_: Format) -> None:
    held = as_held(quantized(format_, "tflite-int8"), find_target("tflite-int8"))
    distinct = 0
    for value, reference, found in compare_tflite(held, inputs_of(held)):
        assert np.array_equal(reference, found), value
        distinct = max(distinct, len(np.unique(reference)))
    assert distinct > 60


@pytest.mark.parametrize("format_", [*FORMATS, *WIDE], ids=lambda f: str(f)[:12])
def test_onnx_agrees_with_the_reference(format_: Format) -> None:
    held = as_held(quantized(format_, "onnx-int8"), find_target("onnx-int8"))
    distinct = 0
    for value, reference, found in compare_onnx(held, "onnxruntime", inputs_of(held)):
        assert np.abs(reference - found).max() <= (1 if not held.types[value].is_real else 1e-3), value
        distinct = max(distinct, len(np.unique(reference)))
    assert distinct > 60


def test_onnx_holds_biases_beyond_32_bits() -> None:
    meant = quantized(NAMED["fp8_e4m3"], "onnx-int8", heavily_biased())
    assert biases_beyond_32_bits(meant)
    distinct = 0
    for value, reference, found in compare_onnx(meant, "onnxruntime", inputs_of(meant)):
        assert np.abs(reference - found).max() <= (1 if not meant.types[value].is_real else 1e-3), value
        distinct = max(distinct, len(np.unique(reference)))
    assert distinct > 30


@pytest.mark.parametrize("format_", [Float(3, 2), NAMED["fp8_e4m3"], NAMED["fp8_e5m2"]], ids=str)
def test_onnx_runtime_does_not_round_weights_again(format_: Format) -> None:
    """Without a bias of 32-bit codes it would, to one INT8 scale for all channels."""
    n = Net(1, 16, 9, 8)
    y = n.conv(n.apply(n.conv("x", 16, "stem"), "relu", "a"), 16, "next")
    uneven = n.constant(n.rng.normal(0, 1, (16, 16, 3, 3)) * np.geomspace(1e-3, 1, 16)[:, None, None, None])
    y = n.add(o.Conv(n.apply(y, "relu", "b"), uneven, None, "uneven", (1, 1), (1, 1, 1, 1)))
    meant = quantized(format_, "onnx-int8", n.graph(n.conv(n.apply(y, "relu", "c"), 5, "last", kernel=1)))
    for value, reference, found in compare_onnx(meant, "onnxruntime", inputs_of(meant)):
        assert np.abs(reference - found).max() <= (1 if not meant.types[value].is_real else 1e-3), value
        assert len(np.unique(reference)) > 30


def test_c_has_one_table() -> None:
    """Two tables, or a table and packed integers, become bytes; a file that would need both is refused."""
    post, e2m1, int4 = NAMED["post4"], Float(2, 1), Int(4, narrow=True)
    assert kept_table(C, [post, INT8_NARROW]) == post
    assert kept_table(C, [post, e2m1]) is None and kept_table(C, [post, int4]) is None and kept_table(C, [int4]) is None
    assert kept_table(find_target("cortex-m4-int8"), [post]) is None
    graph = quantized(post, "c-int8")
    weight = next(op.weight for op in graph.ops if isinstance(op, o.Conv))
    mixed = replace(graph, types={**graph.types, weight: replace(graph.types[weight], format=e2m1)})
    with pytest.raises(UnsupportedError, match="several formats"), tempfile.TemporaryDirectory() as temporary:
        emit(mixed, C, Path(temporary) / "out", "net", {}, {})


def test_other_levels_and_other_graphs_are_left_alone() -> None:
    graph = quantized(Float(3, 2), "c-int8")
    assert as_held(graph, find_target("c-int8")).types == graph.types
    assert as_held(graph, find_target("reference")) is graph
    own = quantized(Int(4, narrow=True), "c-int8")
    assert as_held(own, find_target("c-int8")).types == own.types
    for format_ in (Float(2, 2), NAMED["dense3"], Int(5, narrow=True)):  # a design has units for all of them
        design = quantized(format_, "fpga-int4")
        assert as_held(design, find_target("fpga-int4")).types == design.types
    held = as_held(quantized(Int(5, narrow=True), "c-int8"), find_target("c-int8"))
    assert {held.types[op.weight].format for op in held.ops if isinstance(op, o.Conv)} == {INT8_NARROW}
