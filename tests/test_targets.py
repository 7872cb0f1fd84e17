"""The table of targets: unique names, consistent rows, and the closest name for a typing error."""

from __future__ import annotations

import json

import pytest

from edgeq.errors import UsageError
from edgeq.formats import INT8, INT8_NARROW, INT16, UINT8
from edgeq.ir import ops as o
from edgeq.targets import INTEGER_OPS, TARGETS, TFLITE_OPS, TRANSFORMER_OPS, describe, find_target


def test_names_and_aliases_are_unique() -> None:
    names = [name for target in TARGETS for name in (target.name, *target.aliases)]
    assert len(names) == len(set(names)) >= 8
    for target in TARGETS:
        assert all(find_target(name) is target for name in (target.name, *target.aliases))


def test_rows_are_consistent() -> None:
    for target in TARGETS:
        assert target.is_integer == bool(target.integer_ops)
        promised = (target.agreement.signal_to_noise_db, target.agreement.real_layer_db)
        assert target.is_integer or promised != (None, None)
        assert target.integer_ops <= TRANSFORMER_OPS and 0 <= target.float_share <= 1
        assert target.wide.bits >= target.narrow.bits
        bits = (target.weight.bits, target.narrow.bits)
        kind = target.precision if not target.is_integer or bits == (8, 8) else f"w{bits[0]}a{bits[1]}"
        assert target.name.endswith(kind) or target.emitter in ("coreml", "hls", "graph")
        assert (target.kernels == "tflite") == (target.emitter == "tflite" and target.is_integer)
        assert (target.runtime == "tensorrt") == target.name.startswith("jetson")
    assert all(issubclass(kind, o.Op) for kind in TRANSFORMER_OPS) and INTEGER_OPS < TFLITE_OPS < TRANSFORMER_OPS


def test_formats_are_those_of_the_runtimes() -> None:
    """TensorRT takes symmetric INT8 alone; ONNX Runtime on x86 is quick with UINT8 by INT8."""
    jetson, ort = find_target("jetson-int8"), find_target("onnx-int8")
    assert (jetson.weight, jetson.narrow, jetson.wide, jetson.symmetric) == (INT8_NARROW, INT8, INT16, True)
    assert (ort.weight, ort.narrow, ort.wide, ort.symmetric) == (INT8_NARROW, UINT8, UINT8, False)
    assert jetson.keeps_wide_values and not ort.keeps_wide_values


@pytest.mark.parametrize(
    ("typed", "meant"), [("jetson-in8", "jetson-int8"), ("tensort", "tensorrt"), ("onxn-int8", "onnx-int8")]
)
def test_closest_name(typed: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"Did you mean {meant}"):
        find_target(typed)


def test_no_close_name() -> None:
    with pytest.raises(UsageError, match="allowed: jetson-int8") as caught:
        find_target("zzz")
    assert "Did you mean" not in str(caught.value)


def test_description_is_json() -> None:
    for target in TARGETS:
        row = json.loads(json.dumps(describe(target)))
        assert row["name"] == target.name and row["agreement"]["equal_share"] == target.agreement.equal_share
        assert (row["rounding"] is not None) == target.is_integer
