"""Running ONNX files: results, intermediate tensors, latency, and errors that say what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeq.emit.onnx import build_model, to_bytes
from edgeq.errors import UnsupportedError, UsageError
from edgeq.reference.interpret import run
from edgeq.runtimes.latency import latency_of, samples_in_turn
from edgeq.runtimes.onnxruntime import OnnxRuntime
from edgeq.targets import find_target
from tests.lowering import lowered
from tests.residual_net import images, residual_net


@pytest.fixture(scope="module")
def content() -> bytes:
    return to_bytes(build_model(residual_net(), "onnxruntime")[0])


def test_results_are_those_of_the_reference(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "nét 1.onnx"
    path.write_bytes(content)
    wanted = {name: tensor.numpy() for name, tensor in run(residual_net(), images()).items()}
    for source in (content, path, str(path)):
        found = OnnxRuntime(source, threads=1).run(images())
        assert list(found) == ["boxes", "scores"]
        for name, array in wanted.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-4)
            assert len(np.unique(array)) > 500


def test_ports(content: bytes) -> None:
    runtime = OnnxRuntime(content, threads=1)
    assert (runtime.inputs, runtime.outputs) == (("images",), ("boxes", "scores"))
    assert runtime.input_shapes == {"images": (1, 3, 16, 16)}
    assert runtime.output_shapes["scores"] == (1, 4, 16, 16)
    assert OnnxRuntime(content).threads >= 1


def test_integers_are_taken_as_the_input_type(content: bytes) -> None:
    zeros = np.zeros((1, 3, 16, 16), dtype=np.int64)
    found = OnnxRuntime(content, threads=1).run({"images": zeros})["boxes"]
    assert found.dtype == np.float32


@pytest.mark.parametrize("optimize", [True, False])
def test_watching_intermediate_tensors(optimize: bool) -> None:
    target = find_target("onnx-int8")
    graph = lowered(residual_net(), target, images())
    model, tensors = build_model(graph, target.runtime)
    runtime = OnnxRuntime(to_bytes(model), threads=1, optimize=optimize).watching([tensors["total"], "boxes"])
    found = runtime.run(images())
    assert list(found) == ["boxes", "scores", tensors["total"]]
    assert found[tensors["total"]].dtype == np.uint8
    assert len(np.unique(found[tensors["total"]])) > 50
    assert (runtime.threads, runtime.optimize) == (1, optimize)


def test_watching_what_is_not_there(content: bytes) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        OnnxRuntime(content, threads=1).watching(["nowhere"])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "got none"),
        ({"image": np.zeros((1, 3, 16, 16))}, "allowed: images"),
        ({**images(), "more": np.zeros(1)}, "wrong inputs"),
        ({"images": np.zeros((1, 3, 16, 17), dtype=np.float32)}, r"\(1, 3, 16, 17\)"),
        ({"images": np.zeros((3, 16, 16), dtype=np.float32)}, "wrong input shape"),
    ],
)
def test_wrong_inputs(content: bytes, inputs: dict[str, np.ndarray], message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(UsageError, match=message):
        OnnxRuntime(content, threads=1).run(inputs)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such ONNX file"):
        OnnxRuntime(tmp_path / "net.onnx")


@pytest.mark.parametrize("damaged", [b"", b"not a model", bytes(100)])
def test_damaged_content(damaged: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(damaged)
    for source in (damaged, tmp_path / "net.onnx"):
        with pytest.raises(UnsupportedError, match="cannot load"):
            OnnxRuntime(source)


def test_truncated_content(content: bytes) -> None:
    with pytest.raises(UnsupportedError, match="cannot load"):
        OnnxRuntime(content[: len(content) // 2])


def test_latency(content: bytes) -> None:
    measured = OnnxRuntime(content, threads=1).latency(images(), runs=20, warm_up=2)
    assert 0 < measured.min_ms <= measured.p50_ms <= measured.p90_ms <= measured.p99_ms
    assert measured.first_ms > 0
    assert (measured.runs, measured.warm_up, measured.threads) == (20, 2, 1)


def test_percentiles() -> None:
    measured = latency_of([float(n) for n in range(101)], 500.0, 3, 2)
    assert (measured.p50_ms, measured.p90_ms, measured.p99_ms, measured.min_ms) == (50.0, 90.0, 99.0, 0.0)
    assert (measured.first_ms, measured.runs, measured.threads) == (500.0, 101, 2)


def test_calls_in_turn() -> None:
    seen: list[str] = []
    wall, cpu = samples_in_turn([lambda: seen.append("a"), lambda: seen.append("b")], runs=3, warm_up=2)
    assert "".join(seen) == "ab" * 5
    assert wall.shape == cpu.shape == (3, 2)
    assert (wall > 0).all() and (cpu >= 0).all()


def test_sums_of_bytes_do_not_saturate() -> None:
    """Products of 255 and 127 in pairs exceed 16 bits; two layers share their weights."""
    weight = onnx.numpy_helper.from_array(np.full((8, 16, 1, 1), 127, np.int8), "w")
    numbers = {"one": np.float32(1), "zero": np.uint8(0), "large": np.float32(2048)}
    constants = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in numbers.items()]
    node, nodes = onnx.helper.make_node, []
    nodes += [
        node("QuantizeLinear", ["x", "one", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "one", "zero"], ["r"]),
    ]
    for name in "ab":
        nodes += [
            node("DequantizeLinear", ["w", "one"], [f"{name}.w"]), node("Conv", ["r", f"{name}.w"], [f"{name}.sum"]),
            node("QuantizeLinear", [f"{name}.sum", "large", "zero"], [f"{name}.q"]),
            node("DequantizeLinear", [f"{name}.q", "large", "zero"], [name]),
        ]  # fmt: skip
    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in
             [("x", (1, 16, 4, 4)), ("a", (1, 8, 4, 4)), ("b", (1, 8, 4, 4))]]  # fmt: skip
    graph = onnx.helper.make_graph(nodes, "sums", ports[:1], ports[1:], [weight, *constants])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    found = OnnxRuntime(model.SerializeToString(), threads=1).run({"x": np.full((1, 16, 4, 4), 255, np.float32)})
    wanted = 2048 * round(16 * 255 * 127 / 2048)
    assert wanted > 2 * 16 * 32767 / 4 and all((part == wanted).all() for part in found.values()) and len(found) == 2
