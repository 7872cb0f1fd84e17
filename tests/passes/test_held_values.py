"""Values of fewer than eight bits: files keep them in bytes and compute what the reference means by the bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.emit import c, hls
from edgeq.flow.artifacts import open_runtime
from edgeq.formats import Int
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph
from edgeq.ir.verify import verify
from edgeq.passes.held import as_held
from edgeq.passes.separate import separate
from edgeq.quantize.asked import Asked
from edgeq.runtimes.native import NativeRuntime
from edgeq.target import Target
from edgeq.targets import TARGETS, find_target
from tests.c_nets import every_value, extreme_inputs, small_network, small_transformer
from tests.format_nets import quantized, residual
from tests.onnx_agreement import Compared
from tests.onnx_agreement import compare_locally as compare_onnx
from tests.tflite_agreement import compare_locally as compare_tflite

W4A4 = Asked(rules=("*=w4a4",))
BYTES = [row for row in TARGETS if row.is_integer and row.emitter != "graph" and row.narrow.bits == 8]
NETS = (residual, small_network, small_transformer)
ONE_OF_EACH = tuple({(row.emitter, row.kernels, row.runtime, row.rounding): row for row in BYTES}.values())


def meant_for(row: Target, net: Callable[[], Graph], asked: Asked = W4A4) -> Graph:
    graph = quantized(asked, row, separate(net()) if row.separate_layers else net())
    assert len(few_bits(graph)) >= 3
    return graph


def few_bits(graph: Graph) -> set[o.Value]:
    weights = {op.weight for op in graph.ops if isinstance(op, o.Conv | o.ConvTranspose | o.Linear)}
    formats = {name: type_.format for name, type_ in graph.types.items() if name not in weights and type_.scale}
    return {name for name, format_ in formats.items() if isinstance(format_, Int) and format_.bits < 8}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("row", ONE_OF_EACH, ids=lambda row: row.name)
def test_bytes_mean_the_same(row: Target, net: Callable[[], Graph]) -> None:
    meant = meant_for(row, net)
    held = as_held(meant, row)
    verify(held)
    assert bool(few_bits(held)) == (row.emitter in ("hls", "onnx"))
    codes = set[int]()
    for inputs in extreme_inputs(meant, 1):
        wanted, found = every_value(meant, inputs), every_value(held, inputs)
        for value, array in wanted.items():
            np.testing.assert_array_equal(found[value], array, err_msg=value)
        codes.update(*(np.unique(wanted[value]).tolist() for value in few_bits(meant) if value in wanted))
    assert len(codes) >= 12 and min(codes) >= -8 and max(codes) <= 15


@pytest.mark.parametrize("net", NETS)
def test_c_equals_the_reference_on_every_byte(net: Callable[[], Graph], tmp_path: Path) -> None:
    row = find_target("c-int8")
    meant = meant_for(row, net)
    artifact = c.emit(as_held(meant, row), row, tmp_path / "out", "net", {}, {})
    runtime, few = NativeRuntime(artifact.primary, artifact.tensors.values()), set[o.Value]()
    for inputs in extreme_inputs(meant, 1):
        wanted, found = every_value(meant, inputs), runtime.run(inputs)
        for value, array in found.items():
            if value in wanted:
                np.testing.assert_array_equal(array, wanted[value], err_msg=value)
                few |= {value} & few_bits(meant)
    assert len(few) >= 3


def on_onnx_runtime(graph: Graph, inputs: Mapping[o.Value, Array]) -> Iterator[Compared]:
    return compare_onnx(graph, "onnxruntime", inputs)


@pytest.mark.parametrize("net", [residual, small_network])
@pytest.mark.parametrize(("name", "compare"), [("tflite-int8", compare_tflite), ("onnx-int8", on_onnx_runtime)])
def test_files_agree_with_the_reference(name: str, compare: Callable[..., Any], net: Callable[[], Graph]) -> None:
    row = find_target(name)
    meant = meant_for(row, net)
    held, few, ends = as_held(meant, row), few_bits(meant), set[int]()
    for inputs in extreme_inputs(meant, 1):
        for value, reference, found in compare(held, inputs):
            if value in few:
                far = np.abs(reference.astype(np.int64) - found)
                assert far.max() <= (name == "onnx-int8") and far.mean() <= 0.02, value
                ends.update(np.unique(reference).tolist())
    assert len(ends) >= 12  # also where values are clipped


@pytest.mark.slow
def test_designs_have_streams_of_as_many_bits(tmp_path: Path) -> None:
    row = find_target("fpga-int4")
    graph = as_held(meant_for(row, residual), row)
    artifact = hls.emit(graph, row, tmp_path / "out", "net", {}, {})
    runtime, few = open_runtime(artifact.primary).watching(artifact.tensors.values()), set[o.Value]()
    for inputs in extreme_inputs(graph, 1):
        wanted = every_value(graph, inputs)
        for value, codes in runtime.run(inputs).items():
            if value in wanted:
                np.testing.assert_array_equal(codes, wanted[value], err_msg=value)
                few |= {value} & few_bits(graph)
    assert len(few) >= 3
