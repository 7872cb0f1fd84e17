"""Every rule for .tflite files with a file that breaks it and one that keeps it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.errors import UsageError
from edgeq.frontend.tflite import REALS
from edgeq.frontend.tflite_file import read_tflite
from edgeq.lint import TFLITE_RULES, lint_file, lint_tflite
from edgeq.lint.tflite_versions import NEWEST_IN_2_14, ON_MICROCONTROLLERS
from tests.tflite_files import File
from tests.tflite_nets import CONV, float_net, integer_net

Build = Callable[[], bytes]
RNG = np.random.default_rng(0)


def codes(*shape: int) -> Any:
    return RNG.integers(-127, 128, shape).astype(np.int8)


def conv(
    scale: float = 0.1, weights: Any = (0.01,) * 4, *, element: str = "int8", zero: int = 0, axis: int = 0,
    weight_zero: int = 0, bias_factor: float = 1.0, bias: type[np.generic] = np.int32, lowest: int = -127,
    version: int = 3, out_scale: Any = 0.1, kind: str = "CONV_2D", weight_element: str = "int8",
) -> Build:  # fmt: skip
    """[1,4,4,4] -> convolution -> [1,4,4,4], all on codes."""

    def build() -> bytes:
        f = File()
        x, y = (f.tensor((1, 4, 4, 4), element, scale=s, zero_point=zero, axis=3) for s in (scale, out_scale))
        array = np.maximum(codes(4, 1, 1, 4), -7 if weight_element == "int4" else -127)
        array = np.minimum(array, 7) if weight_element == "int4" else array
        array[0, 0, 0, 0] = lowest if weight_element == "int8" else array[0, 0, 0, 0]
        w = f.constant(array, weight_element, scale=weights, zero_point=weight_zero, axis=axis)
        scales = np.float32(bias_factor) * np.float32(scale) * np.asarray(weights, np.float32)
        b = f.constant(np.arange(4).astype(bias), scale=scales)
        f.op(kind, [x, w, b], [y], "Conv2DOptions", **CONV, version=version)
        return f.content([x], [y])

    return build


def one(kind: str, scale: float, zero: int, *, x_scale: float = 0.1, element: str = "int8") -> Build:
    """One operator from codes to codes."""

    def build() -> bytes:
        f = File()
        x, y = f.tensor((1, 8), element, scale=x_scale), f.tensor((1, 8), element, scale=scale, zero_point=zero)
        f.op(kind, [x], [y], version=2)
        return f.content([x], [y])

    return build


def detector(step: float, *, apart: bool = False) -> Build:
    def build() -> bytes:
        f = File()
        x, boxes = (f.tensor((1, 4, 8), "int8", scale=step) for _ in range(2))
        scores = f.tensor((1, 4, 8), "int8", scale=1 / 256, zero_point=-128)
        moved, whole = (f.tensor((1, n, 8), "int8", scale=step) for n in (4, 8))
        f.op("RELU", [x], [boxes], version=2)
        f.op("LOGISTIC", [x], [scores], version=2)
        if apart:
            return f.content([x], [boxes, scores])
        f.op("QUANTIZE", [scores], [moved], version=2)
        f.op("CONCATENATION", [boxes, moved], [whole], "ConcatenationOptions", axis=1, version=2)
        return f.content([x], [whole])

    return build


def island(*, in_float: bool) -> Build:
    def build() -> bytes:
        f = File()
        x, y = (f.tensor((1, 8), "int8", scale=0.1) for _ in range(2))
        if in_float:
            a, b = f.tensor((1, 8)), f.tensor((1, 8))
            f.op("DEQUANTIZE", [x], [a], version=2)
            f.op("EXP", [a], [b])
            f.op("QUANTIZE", [b], [y])
        else:
            f.op("RELU", [x], [y], version=2)
        return f.content([x], [y])

    return build


def float_ports() -> bytes:
    f = File()
    x, q, y = f.tensor((1, 8)), f.tensor((1, 8), "int8", scale=0.1), f.tensor((1, 8), "int8", scale=0.1)
    f.op("QUANTIZE", [x], [q])
    f.op("RELU", [q], [y], version=2)
    return f.content([x], [y])


def unfitting_scales() -> bytes:
    f = File()
    x, y = f.tensor((1, 8), "int8", scale=[0.1] * 3, axis=1), f.tensor((1, 8), "int8", scale=0.1)
    f.op("RELU", [x], [y], version=2)
    return f.content([x], [y])


def single(kind: str) -> Build:
    def build() -> bytes:
        f = File()
        x, y = f.tensor((1, 8)), f.tensor((1, 8))
        f.op(kind, [x], [y])
        return f.content([x], [y])

    return build


good = conv()
CASES: dict[str, tuple[Build, Build]] = {
    "tfl-scale-not-positive": (conv(weights=(0.01, 0.0, float("nan"), -1.0)), good),
    "tfl-scale-denormal": (conv(weights=(0.01, 1e-40, 0.01, 0.01)), good),
    "tfl-quantization-damaged": (unfitting_scales, good),
    "tfl-activation-per-channel": (conv(out_scale=(0.1,) * 4), good),
    "tfl-per-tensor-weights": (conv(weights=(0.01,)), good),
    "tfl-axis-wrong": (conv(axis=3), good),
    "tfl-weight-zero-point": (conv(weight_zero=3), good),
    "tfl-wide-weights": (conv(lowest=-128), good),
    "tfl-bias-scale": (conv(bias_factor=1.5), good),
    "tfl-bias-type": (conv(bias=np.int64), good),
    "tfl-shared-scale": (one("RESHAPE", 0.2, 0), one("RESHAPE", 0.1, 0)),
    "tfl-fixed-scale": (one("LOGISTIC", 0.1, 0), one("LOGISTIC", 1 / 256, -128)),
    "tfl-int16-zero-point": (one("RELU", 0.1, 3, element="int16"), one("RELU", 0.1, 0, element="int16")),
    "tfl-uint8-codes": (one("RELU", 0.1, 3, element="uint8"), one("RELU", 0.1, 3)),
    "boxes-and-scores-one-scale": (detector(2.5), detector(2.5, apart=True)),
    "float-islands": (island(in_float=True), island(in_float=False)),
    "tfl-hybrid": (lambda: float_net("int8"), float_net),
    "tflm-hybrid": (lambda: float_net("int8"), integer_net),
    "tflm-float": (float_net, integer_net),
    "tfl-custom": (single("Mine"), single("RELU")),
    "tfl-recent-runtime": (conv(version=8), conv(version=7)),
    "tflm-operator": (single("GELU"), single("RELU")),
    "tflm-custom": (single("Mine"), single("RELU")),
    "tflm-float-ports": (float_ports, good),
}


def test_every_rule_has_a_case() -> None:
    assert set(CASES) == {rule.id for rule in TFLITE_RULES}
    assert len(CASES) == len(TFLITE_RULES)


@pytest.mark.parametrize("rule", TFLITE_RULES, ids=lambda rule: rule.id)
def test_a_rule(rule: Any) -> None:
    broken, kept = CASES[rule.id]
    for runtime in rule.runtimes:
        found = [finding for finding in lint_tflite(read_tflite(broken()), runtime) if finding.rule == rule.id]
        assert found and all(finding.severity == rule.severity and finding.message for finding in found)
        assert rule.id not in {finding.rule for finding in lint_tflite(read_tflite(kept()), runtime)}


@pytest.mark.parametrize("content", [integer_net(), integer_net("int16")], ids=["int8", "int16"])
@pytest.mark.parametrize("runtime", ["litert", "tflm"])
def test_nothing_is_wrong_with_what_the_converter_writes(content: bytes, runtime: Any) -> None:
    assert [f for f in lint_tflite(read_tflite(content), runtime) if f.severity != "note"] == []


def test_four_bit_weights_need_a_recent_runtime() -> None:
    found = lint_tflite(read_tflite(conv(weight_element="int4")()), "litert")
    assert [finding.rule for finding in found] == ["tfl-recent-runtime"]


def test_the_tables_name_operators() -> None:
    assert set(NEWEST_IN_2_14) <= set(REALS) | ON_MICROCONTROLLERS
    assert NEWEST_IN_2_14["CONV_2D"] == 7


def test_files_of_other_kinds(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(good())
    assert lint_file(path) == []
    with pytest.raises(UsageError, match="tensorrt does not read this kind of file"):
        lint_file(path, "tensorrt")
    path.write_bytes(b"\x08\x00\x00\x00TFL3")
    with pytest.raises(UsageError, match="not a TFLite file"):
        lint_file(path)
