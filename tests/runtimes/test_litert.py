"""Running TFLite files: results, kernels, inner tensors, ports of codes, and errors that say what is wrong."""

from __future__ import annotations

from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgeq.emit.tflite import build_model
from edgeq.emit.tflite_writer import TfliteFile
from edgeq.errors import UnsupportedError, UsageError
from edgeq.frontend.tflite_file import OWN_RECORD, read_tflite
from edgeq.frontend.tflite_record import read_record
from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Type
from edgeq.reference.interpret import run
from edgeq.runtimes.litert import LiteRtRuntime
from edgeq.targets import find_target
from tests.lowering import lowered
from tests.residual_net import images, residual_net
from tests.tflite_files import File


@pytest.fixture(scope="module")
def content() -> bytes:
    return build_model(residual_net())[0]


def test_results_are_those_of_the_reference(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "nét 1.tflite"
    path.write_bytes(content)
    wanted = {name: tensor.numpy() for name, tensor in run(residual_net(), images()).items()}
    for source in (content, path, str(path)):
        found = LiteRtRuntime(source, threads=1).run(images())
        assert list(found) == ["boxes", "scores"]
        for name, array in wanted.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-4)
            assert len(np.unique(array)) > 500


def test_ports(content: bytes) -> None:
    runtime = LiteRtRuntime(content, threads=1)
    assert (runtime.inputs, runtime.outputs) == (("images",), ("boxes", "scores"))
    assert runtime.input_shapes == {"images": (1, 3, 16, 16)}
    shapes = {name: tuple(tensor.shape) for name, tensor in run(residual_net(), images()).items()}
    assert runtime.output_shapes == shapes
    assert (runtime.name, runtime.threads) == ("LiteRT", 1)


def test_ports_of_a_foreign_file_with_channels_first() -> None:
    f = File()
    x, last, y, first = (f.tensor(shape) for shape in ((1, 3, 16, 18), (1, 16, 18, 3), (1, 16, 18, 3), (1, 3, 16, 18)))
    to_last, to_first = (f.constant(np.array(p, np.int32)) for p in ((0, 2, 3, 1), (0, 3, 1, 2)))
    f.op("TRANSPOSE", [x, to_last], [last])
    f.op("RELU", [last], [y])
    f.op("TRANSPOSE", [y, to_first], [first])
    array = np.random.default_rng(0).normal(0, 1, (1, 3, 16, 18)).astype(np.float32)
    for ports in ((x, first), (x, y)):  # what comes out with its channels last is turned
        content = f.content([ports[0]], [ports[1]])
        runtime = LiteRtRuntime(content, threads=1)
        assert set(runtime.input_shapes.values()) == set(runtime.output_shapes.values()) == {(1, 3, 16, 18)}
        (found,) = runtime.run(dict.fromkeys(runtime.inputs, array)).values()
        np.testing.assert_array_equal(found, np.maximum(array, 0))


def test_kernels_differ_in_rounding_alone() -> None:
    graph = lowered(residual_net(), find_target("tflite-int8"), images())
    content, _ = build_model(graph)
    exact, quick = (LiteRtRuntime(content, threads=1, kernels=k).run(images()) for k in ("reference", "default"))
    for name, wanted in run(graph, images()).items():
        np.testing.assert_allclose(exact[name], wanted.numpy(), rtol=1e-6)
        assert np.abs(quick[name] - exact[name]).max() < 0.1 * np.ptp(exact[name])


def test_inner_tensors_come_out_in_the_values_own_order() -> None:
    graph = lowered(residual_net(), find_target("tflite-int8"), images())
    content, tensors = build_model(graph)
    value = next(op.out for op in graph.ops if isinstance(op, o.Requantize) and op.out in tensors)
    found = LiteRtRuntime(content, threads=1, kernels="reference").watching([tensors[value]]).run(images())
    seen = {}
    run(graph, images(), seen.__setitem__)
    assert found[tensors[value]].dtype == np.int8
    np.testing.assert_array_equal(found[tensors[value]], seen[value].numpy())
    assert len(np.unique(found[tensors[value]])) > 30
    with pytest.raises(UsageError, match="does not hold this tensor"):
        LiteRtRuntime(content).watching(["no such tensor"])


def test_codes_at_the_ports_stand_for_reals() -> None:
    target = find_target("mcu-tflite-int8")
    graph = lowered(residual_net(), target, images())
    runtime = LiteRtRuntime(build_model(graph, target.ports)[0], threads=1, kernels="reference")
    found = runtime.run(images())
    for name, wanted in run(graph, images()).items():
        np.testing.assert_array_equal(found[name], wanted.numpy())
        assert len(np.unique(found[name])) > 20


def test_codes_that_the_graph_itself_puts_out_stay_codes() -> None:
    editor = Editor("codes", ["x"], {"x": Type((1, 1, 4, 64))})
    graph = editor.graph(
        [
            editor.append(
                o.Quantize("x", "y", "away"), Type((1, 1, 4, 64), find_target("tflite-int8").narrow, (0.01,), 3)
            )
        ]
    )
    x = np.random.default_rng(0).normal(0, 1, (1, 1, 4, 64)).astype(np.float32)
    found = LiteRtRuntime(build_model(graph)[0], threads=1).run({"x": x})["y"]
    assert found.dtype == np.int8 and len(np.unique(found)) > 50


def test_latency_and_calls(content: bytes) -> None:
    runtime = LiteRtRuntime(content, threads=1)
    measured = runtime.latency(images(), runs=3, warm_up=1)
    assert measured.runs == 3 and measured.p50_ms > 0
    runtime.call(images())()


@pytest.mark.parametrize("broken", [b"", b"nothing like a flatbuffer", bytes(64), b"\x08\x00\x00\x00TFL3"])
def test_broken_files(broken: bytes) -> None:
    with pytest.raises(UnsupportedError, match="cannot load"):
        LiteRtRuntime(broken)


@pytest.mark.parametrize(
    "record", [b"", b"[]", b'{"layouts": 3}', b'{"layouts": {}, "reals": [], "divided": {"y": 1}}']
)
def test_a_damaged_record_is_named(record: bytes) -> None:
    file = TfliteFile("net")
    x, y = (file.tensor(name, (1, 4), "FLOAT32") for name in ("x", "y"))
    file.operator("RELU", [x], [y])
    file.metadata("edgeq", record)
    with pytest.raises(UnsupportedError, match="record"):
        LiteRtRuntime(file.to_bytes({"x": x}, {"y": y}, "test"))


def test_wrong_use(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such TFLite file"):
        LiteRtRuntime(tmp_path / "none.tflite")
    runtime = LiteRtRuntime(content)
    with pytest.raises(UsageError, match="allowed: images"):
        runtime.run({"pictures": np.zeros((1, 3, 16, 16), np.float32)})
    with pytest.raises(UsageError, match="wrong input shape"):
        runtime.run({"images": np.zeros((1, 16, 16, 3), np.float32)})


def test_a_file_without_an_archive_says_nothing_of_itself(content: bytes) -> None:
    assert LiteRtRuntime(content).metadata == {}


def test_the_record_is_found_where_other_tools_put_it(content: bytes) -> None:
    """ai-edge-quantizer moves what buffers hold behind the flatbuffer."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    (entry,) = (entry for entry in model.metadata if entry.name == OWN_RECORD.encode())
    buffer = model.buffers[entry.buffer]
    record, buffer.data = bytes(buffer.data), None

    def packed(offset: int) -> bytes:
        buffer.offset, buffer.size = offset, len(record)
        builder = flatbuffers.Builder()
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    moved = packed(len(packed(1 << 20))) + record
    assert read_record(read_tflite(moved)) == read_record(read_tflite(content))
    assert read_record(read_tflite(content)).layouts
