"""Weights of every format whose levels fit in bytes: files of C, TFLite and ONNX compute what the reference means."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

from edgeq.catalogue import NAMED, power_law
from edgeq.emit.c import emit
from edgeq.formats import INT8_NARROW, REAL, Codebook, Float, Format, Int, fits_in_bytes
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.ir.verify import verify
from edgeq.passes.held import as_held
from edgeq.passes.lower import lower
from edgeq.quantize.assign import assign
from edgeq.quantize.structure import analyse
from edgeq.recipe import Formats, Recipe, Rule
from edgeq.runtimes.native import NativeRuntime
from edgeq.targets import find_target
from tests.c_nets import every_value, extreme_inputs
from tests.format_nets import residual
from tests.lowering import ranges_on
from tests.onnx_agreement import compare_locally as compare_onnx
from tests.quantized import inputs_of
from tests.tflite_agreement import compare_locally as compare_tflite

FORMATS: list[Format] = [
    *(Int(bits, narrow=True) for bits in range(2, 9)),
    *(Float(2, mantissa) for mantissa in range(1, 5)),
    *(format_ for format_ in NAMED.values() if fits_in_bytes(format_)),
    power_law(4, 0.5),
    Codebook("kmeans", (-100, -61, -30, -12, 0, 9, 33, 127)),
]


def quantized(format_: Format, target: str) -> Graph:
    """The residual network for `target` with all weights in `format_`."""
    row = find_target(target)
    structure = analyse(residual(), row, Recipe("minmax", (Rule("*", Formats(format_, None)),)))
    graph = lower(structure.graph, assign(structure, ranges_on(structure, row, inputs_of(structure.graph)), row))
    verify(graph)
    found = [graph.types[op.weight].format for op in graph.ops if isinstance(op, o.Conv)]
    assert {f for f in found if f != REAL} == {format_} and found.count(format_) >= 3  # ONNX Runtime's stem stays real
    return graph


@pytest.mark.parametrize("format_", FORMATS, ids=lambda f: str(f)[:12])
def test_c_equals_the_reference_on_every_byte(format_: Format) -> None:
    meant = quantized(format_, "c-int8")
    held = as_held(meant, find_target("c-int8"))
    with tempfile.TemporaryDirectory() as temporary:
        artifact = emit(held, find_target("c-int8"), Path(temporary) / "out", "net", {}, {})
        runtime = NativeRuntime(artifact.primary, artifact.tensors.values(), ("-std=c99", "-O1", "-fPIC", "-shared"))
        distinct = set[int]()
        for inputs in extreme_inputs(meant, 1):
            wanted, found = every_value(meant, inputs), runtime.run(inputs)
            assert found.keys() >= set(meant.outputs)
            for value, codes in found.items():
                np.testing.assert_array_equal(codes, wanted[value], err_msg=value)
                distinct.update(codes.reshape(-1).tolist())
    assert len(distinct) > 150


@pytest.mark.parametrize("format_", FORMATS, ids=lambda f: str(f)[:12])
def test_tflite_equals_the_reference(format_: Format) -> None:
    held = as_held(quantized(format_, "tflite-int8"), find_target("tflite-int8"))
    distinct = 0
    for value, reference, found in compare_tflite(held, inputs_of(held)):
        assert np.array_equal(reference, found), value
        distinct = max(distinct, len(np.unique(reference)))
    assert distinct > 60


@pytest.mark.parametrize("format_", FORMATS, ids=lambda f: str(f)[:12])
def test_onnx_agrees_with_the_reference(format_: Format) -> None:
    held = as_held(quantized(format_, "onnx-int8"), find_target("onnx-int8"))
    distinct = 0
    for value, reference, found in compare_onnx(held, "onnxruntime", inputs_of(held)):
        assert np.abs(reference - found).max() <= (1 if not held.types[value].is_real else 1e-3), value
        distinct = max(distinct, len(np.unique(reference)))
    assert distinct > 60


def test_other_levels_and_other_graphs_are_left_alone() -> None:
    graph = quantized(Float(3, 2), "c-int8")
    assert as_held(graph, find_target("c-int8")).types == graph.types
    assert as_held(graph, find_target("reference")) is graph
    own = quantized(Int(4, narrow=True), "c-int8")
    assert as_held(own, find_target("c-int8")).types == own.types
    held = as_held(quantized(Int(5, narrow=True), "c-int8"), find_target("c-int8"))
    assert {held.types[op.weight].format for op in held.ops if isinstance(op, o.Conv)} == {INT8_NARROW}
