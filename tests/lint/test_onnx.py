"""Every lint rule with a file that breaks it and one that keeps it; files of others; damaged files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, helper, numpy_helper

from edgeq.errors import UsageError
from edgeq.lint import RULES, Runtime, lint, lint_file, print_findings
from edgeq.lint.finding import SEVERITIES

Scale = float | list[float]


@dataclass
class File:
    """An ONNX file under construction: `q`, `dq`, `weight` and `op` append nodes and return a tensor's name."""

    opset: int = 17
    nodes: list[NodeProto] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)  # type: ignore[type-arg]
    outputs: list[str] = field(default_factory=list)

    def fresh(self, name: str) -> str:
        return f"{name}{len(self.nodes) + len(self.arrays)}"

    def array(self, array: np.ndarray) -> str:  # type: ignore[type-arg]
        name = self.fresh("c")
        self.arrays[name] = array
        return name

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        out = self.fresh(kind)
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=f"node_{out}", domain=domain, **attributes))
        return out

    def numbers(self, scale: Scale, zero_point: int, codes: type[np.generic]) -> tuple[str, str]:
        array = np.array(scale, dtype=np.float32)
        return self.array(array), self.array(np.full(array.shape, zero_point, dtype=codes))

    def q(self, x: str, scale: Scale = 0.1, zero: int = 0, codes: type[np.generic] = np.int8, **axis: int) -> str:
        return self.op("QuantizeLinear", x, *self.numbers(scale, zero, codes), **axis)

    def dq(self, x: str, scale: Scale = 0.1, zero: int = 0, codes: type[np.generic] = np.int8, **axis: int) -> str:
        return self.op("DequantizeLinear", x, *self.numbers(scale, zero, codes), **axis)

    def qdq(self, x: str, scale: float = 0.1, zero: int = 0, codes: type[np.generic] = np.int8) -> str:
        return self.dq(self.q(x, scale, zero, codes), scale, zero, codes)

    def codes(self, *shape: int) -> str:
        return self.array(np.random.default_rng(0).integers(-127, 128, shape).astype(np.int8))

    def reals(self, *shape: int) -> str:
        return self.array(np.random.default_rng(0).normal(0, 1, shape).astype(np.float32))

    def weight(self, *shape: int, axis: int = 0) -> str:
        return self.dq(self.codes(*shape), [0.01] * shape[axis], axis=axis)

    def conv(self, x: str, outputs: int = 16, inputs: int = 16, bias: str = "") -> str:
        return self.op("Conv", x, self.weight(outputs, inputs, 1, 1), *([bias] if bias else []))

    def model(self, *outputs: str) -> ModelProto:
        made = {name for node in self.nodes for name in node.output}
        read = {name for node in self.nodes for name in node.input}
        graph = helper.make_graph(
            self.nodes, "g",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1, 16, 8, 8))],
            [helper.make_empty_tensor_value_info(name) for name in outputs or sorted(made - read)],
            [numpy_helper.from_array(array, name) for name, array in self.arrays.items()],
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])


Build = Callable[[File], object]


def chain(*steps: Callable[[File, str], str]) -> Build:
    def build(f: File) -> None:
        value = "x"
        for step in steps:
            value = step(f, value)

    return build


def quantized_conv(f: File, x: str) -> str:
    return f.conv(f.qdq(x))


def scaled(scale: Scale, **axis: int) -> Build:
    return lambda f: f.op("Conv", f.qdq("x"), f.dq(f.codes(16, 16, 1, 1), scale, **axis))


def computed_scale(f: File) -> None:
    scale = f.op("ReduceMax", "x", keepdims=0)
    f.op("DequantizeLinear", f.op("QuantizeLinear", "x", scale), scale)


def detector(step: float, *, apart: bool = False) -> Build:
    def build(f: File) -> None:
        boxes = f.op("Mul", f.conv(f.qdq("x"), 4), f.array(np.array(640.0, dtype=np.float32)))
        scores = f.op("Transpose", f.op("Sigmoid", f.conv(f.qdq("x"), 4)), perm=[0, 1, 3, 2])
        if apart:
            f.qdq(boxes, step), f.qdq(scores, 1 / 256)
        else:
            f.qdq(f.op("Reshape", f.op("Concat", boxes, scores, axis=1), f.array(np.array([1, -1]))), step)

    return build


def residual(*, main_quantized: bool) -> Build:
    def build(f: File) -> None:
        x = f.qdq("x")
        main = f.conv(x)
        f.op("Relu", f.op("Add", f.qdq(main) if main_quantized else main, x))

    return build


def three_convs(*, middle_float: bool) -> Build:
    def build(f: File) -> None:
        first = f.op("Relu", f.conv(f.qdq("x")))
        middle = f.op("Conv", first, f.reals(16, 16, 1, 1)) if middle_float else f.conv(f.qdq(first))
        f.conv(f.qdq(f.op("Relu", middle)))

    return build


def concat(*scales: float) -> Build:
    return lambda f: f.op("Concat", *(f.qdq("x", scale) for scale in scales), axis=1)


def with_bias(*, quantized: bool, factor: float = 1.0) -> Build:
    def build(f: File) -> None:
        scales = [0.1 * 0.01 * factor] * 16
        codes = f.array(np.arange(16, dtype=np.int32))
        bias = f.op("DequantizeLinear", codes, f.array(np.array(scales, np.float32)), axis=0) if quantized else ""
        f.qdq(f.conv(f.qdq("x"), bias=bias or f.reals(16)))

    return build


def cast_weight(f: File) -> None:
    weight = f.op("Mul", f.op("Cast", f.codes(16, 16, 1, 1), to=1), f.reals(16, 1, 1, 1))
    f.op("Conv", f.qdq("x"), weight)


def gate(*, quantized: bool) -> Build:
    def build(f: File) -> None:
        x = f.qdq("x", codes=np.uint8, zero=3)
        sigmoid = f.op("Sigmoid", x)
        f.qdq(f.op("Mul", x, f.qdq(sigmoid, 1 / 256, codes=np.uint8) if quantized else sigmoid), codes=np.uint8)

    return build


def new_opset(f: File) -> None:
    f.opset = 21
    f.conv(f.qdq("x"))


good = chain(quantized_conv)
uint8 = chain(lambda f, x: f.qdq(x, codes=np.uint8))

CASES: dict[str, tuple[Build, Build]] = {
    "nonfinite-scale": (scaled([0.1, float("nan")] + [0.1] * 14, axis=0), good),
    "scale-not-positive": (scaled([0.0] + [0.1] * 15, axis=0), good),
    "scale-denormal": (scaled([1e-40] + [0.1] * 15, axis=0), good),
    "scale-not-constant": (computed_scale, good),
    "axis-wrong": (lambda f: f.op("ConvTranspose", f.qdq("x"), f.weight(16, 16, 1, 1, axis=0)),
                   lambda f: f.op("ConvTranspose", f.qdq("x"), f.weight(16, 16, 1, 1, axis=1))),
    "axis-default": (scaled([0.1] * 16), scaled([0.1] * 16, axis=0)),
    "qdq-pair-differs": (lambda f: f.dq(f.q("x", 0.1), 0.2), lambda f: f.dq(f.q("x", 0.1), 0.1)),
    "boxes-and-scores-one-scale": (detector(2.5), detector(2.5, apart=True)),
    "unquantized-weight": (lambda f: f.op("Conv", f.qdq("x"), f.reals(16, 16, 1, 1)), good),
    "trt-zero-point": (lambda f: f.qdq("x", zero=3), good),
    "uint8-qdq": (uint8, good),
    "trt-activation-per-channel": (lambda f: f.dq(f.q("x", [0.1] * 16, axis=1), [0.1] * 16, axis=1), good),
    "qlinear-ops": (lambda f: f.op("DynamicQuantizeLinear", "x"), good),
    "bias-qdq": (with_bias(quantized=True), with_bias(quantized=False)),
    "weight-dq-missing": (cast_weight, good),
    "dynamic-weights": (lambda f: f.op("Conv", "x", f.op("Relu", "x")), good),
    "trt-per-tensor-weights": (scaled(0.1), good),
    "residual-placement": (residual(main_quantized=True), residual(main_quantized=False)),
    "qdq-after-weighted-op-before-activation": (
        chain(quantized_conv, lambda f, x: f.op("Relu", f.qdq(x))),
        chain(quantized_conv, lambda f, x: f.qdq(f.op("Relu", x))),
    ),
    "concat-scales-differ": (concat(0.1, 0.2), concat(0.1, 0.1)),
    "conv-small-channels": (lambda f: f.conv(f.qdq("x"), outputs=8), good),
    "float-islands": (three_convs(middle_float=True), three_convs(middle_float=False)),
    "opset-too-new": (new_opset, good),
    "ort-bias-scale": (with_bias(quantized=True, factor=2.0), with_bias(quantized=True)),
    "ort-int8-activations": (good, uint8),
    "ort-unfused-conv": (chain(quantized_conv, lambda f, x: f.op("Relu", x)), chain(quantized_conv, File.qdq)),
    "ort-unfused-gate": (gate(quantized=False), gate(quantized=True)),
}  # fmt: skip


def findings(build: Build, runtime: Runtime) -> list[str]:
    file = File()
    build(file)
    return [finding.rule for finding in lint(file.model(), runtime)]


def test_every_rule_has_a_case_and_says_why() -> None:
    assert CASES.keys() == {rule.id for rule in RULES}
    assert len(RULES) == len(CASES)
    for rule in RULES:
        assert min(len(rule.text), len(rule.why), len(rule.fix)) > 10 and rule.runtimes


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_finds_what_breaks_it_and_nothing_else(rule: object) -> None:
    found = next(r for r in RULES if r is rule)
    bad, kept = CASES[found.id]
    for runtime in found.runtimes:
        assert found.id in findings(bad, runtime)
        assert found.id not in findings(kept, runtime)
    for other in {"tensorrt", "onnxruntime"} - set(found.runtimes):
        assert found.id not in findings(bad, other)  # type: ignore[arg-type]


def test_findings_name_the_node_and_come_worst_first() -> None:
    file = File()
    file.op("Concat", file.qdq("x", 0.1, 5, np.uint8), file.qdq("x", 0.2, 0, np.uint8), axis=1)
    found = lint(file.model(), "tensorrt")
    assert [f.severity for f in found] == sorted((f.severity for f in found), key=SEVERITIES.index)
    zero = next(f for f in found if f.rule == "trt-zero-point")
    assert zero.node.startswith("node_QuantizeLinear") and "5" in zero.message and "symmetric" in zero.fix
    assert {f.rule for f in found} == {"uint8-qdq", "trt-zero-point", "concat-scales-differ"}


def test_quantize_without_zero_point_means_uint8() -> None:
    file = File()
    file.op("QuantizeLinear", "x", file.array(np.array(0.1, dtype=np.float32)))
    assert "uint8-qdq" in [f.rule for f in lint(file.model(), "tensorrt")]


def test_files_of_the_onnx_runtime_quantizer(tmp_path: Path) -> None:
    """Its defaults are not legal for TensorRT; the options for TensorRT are."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    from edgeq.emit.onnx import build_model, to_bytes
    from tests.residual_net import images, residual_net

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.inputs = iter([images(0), images(1)])

        def get_next(self) -> object:
            return next(self.inputs, None)

    source = tmp_path / "net.onnx"
    source.write_bytes(to_bytes(build_model(residual_net(), "tensorrt")[0]))
    rules: dict[str, set[str]] = {}
    legal = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    for name, options in (("default", {}), ("legal", {"per_channel": True, "extra_options": legal})):
        kind = QuantType.QInt8 if name == "legal" else QuantType.QUInt8
        quantize_static(source, tmp_path / name, Reader(), activation_type=kind, weight_type=QuantType.QInt8, **options)
        rules[name] = {f.rule for f in lint_file(tmp_path / name, "tensorrt") if f.severity == "error"}
    assert {"trt-zero-point", "uint8-qdq", "bias-qdq"} <= rules["default"]
    assert rules["legal"] == set()


def test_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = File()
    for _ in range(7):
        file.qdq("x", zero=3)
    path = tmp_path / "net.onnx"
    path.write_bytes(file.model().SerializeToString())
    print_findings(lint_file(path, "tensorrt"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "error: trt-zero-point (14)"
    assert "… and 9 more" in lines[6]
    assert lines[-1] == "14 errors, 0 warnings, 0 notes"


@pytest.mark.parametrize("content", [b"", b"\x08", b"not a model", bytes(64)])
def test_what_is_no_onnx_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with pytest.raises(UsageError, match="no such file"):
        lint_file(path, "tensorrt")
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not an ONNX file"):
        lint_file(path, "tensorrt")


def mutations() -> Iterable[bytes]:
    """Some sound file whose every rule has something to look at."""
    for build in (
        detector(2.5),
        residual(main_quantized=True),
        three_convs(middle_float=True),
        with_bias(quantized=True),
    ):
        file = File()
        build(file)
        yield file.model().SerializeToString()


SOUND = list(mutations())


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(SOUND), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8))
def test_damaged_files_are_linted_or_refused(content: bytes, edits: list[tuple[int, int]]) -> None:
    damaged = bytearray(content)
    for place, byte in edits:
        damaged[place % len(damaged)] = byte
    try:
        model = ModelProto.FromString(bytes(damaged))
    except Exception as error:
        assert "DecodeError" in type(error).__name__
        return
    for runtime in ("tensorrt", "onnxruntime"):
        lint(model, runtime)  # type: ignore[arg-type]


def test_cycles_and_long_chains_end() -> None:
    file = File()
    value = "x"
    for _ in range(3000):
        value = file.op("Concat", value, value, axis=1)
    file.nodes[0].input[0] = value
    file.qdq(file.op("Add", value, file.conv(file.qdq(value))))
    assert isinstance(lint(replace(file).model("x"), "tensorrt"), list)
