"""The proof sees every kind of broken emission, and Apple's own reader decompresses what the proof does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgeq.emit import coreml_weights
from edgeq.emit.coreml import build_model, emit
from edgeq.emit.coreml_program import Tensor
from edgeq.emit.coreml_proof import prove
from edgeq.emit.coreml_schema import Model
from edgeq.emit.coreml_writer import Writer
from edgeq.errors import AgreementError, EdgeqError, UnsupportedError
from edgeq.formats import decode
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.quantize.weights import quantize_weights
from edgeq.recipe import Recipe
from edgeq.target import Target
from edgeq.targets import find_target
from tests.coreml_tools import constants
from tests.lowering import lowered
from tests.quantized import Net, inputs_of

STORED = ("coreml-w8", "coreml-w4", "coreml-post4", "coreml-pot4", "coreml-kmeans4", "coreml-kmeans6", "coreml-kmeans8")


def net() -> Graph:
    n = Net(1, 4, 8, 8)
    c = n.conv(n.conv("x", 24, "a"), 80, "b")
    flat = n.add(o.Reshape(n.add(o.Mean(c, "m", (2, 3))), "r", (1, 80)))
    return n.graph(n.linear(flat, 24, "out"))


def written(name: str) -> tuple[Graph, Target, bytes, bytes, Writer]:
    target = find_target(name)
    graph = net()
    if target.is_integer:
        graph = lowered(graph, target, inputs_of(graph))
    elif target.stored_weights:
        graph = quantize_weights(graph, target, Recipe())
    return graph, target, *build_model(graph, target, {}, {})


@pytest.mark.parametrize("name", [*STORED, "coreml-w8a8", "coreml-fp16", "coreml-fp32"])
def test_an_honest_file_passes(name: str) -> None:
    graph, _, model, weights, writer = written(name)
    compared = prove(model, weights, writer)
    assert compared >= 6
    if name in STORED:
        assert sum(isinstance(op, o.Dequantize) for op in graph.ops) == 3


@pytest.mark.parametrize("name", STORED)
def test_apple_decompresses_the_same(name: str, tmp_path: Any) -> None:
    target = find_target(name)
    graph = quantize_weights(net(), target, Recipe())
    artifact = emit(graph, target, tmp_path / "net", "net", {}, {})
    found = {tuple(array.shape): array for array in constants(artifact.primary).values() if array.dtype == np.float16}
    for op in graph.ops:
        if isinstance(op, o.Dequantize):
            type_ = graph.types[op.x]
            wanted = decode(type_.format, graph.constants[op.x], type_.zero_point) * type_.scales
            assert np.array_equal(found[type_.shape], wanted.astype(np.float16))
            assert len(np.unique(wanted)) > 10


# --- broken on purpose ----------------------------------------------------------------------------------------


def operations(model: Any) -> list[Any]:
    function = model.mlProgram.functions["main"]
    return list(function.block_specializations[function.opset].operations)


def changed_byte(key: str, add: int = 1) -> Callable[[bytes, bytes], tuple[bytes, bytes]]:
    """One more in a byte of the first large part called `key`."""

    def change(model: bytes, weights: bytes) -> tuple[bytes, bytes]:
        message = Model.FromString(model)
        for operation in operations(message):
            if not operation.type.startswith("constexpr_"):
                continue
            attributes, inputs = operation.attributes, operation.inputs
            value = attributes[key] if key in attributes else inputs[key].arguments[0].value if key in inputs else None
            if value is not None and value.WhichOneof("choice") == "blobFileValue":
                place = value.blobFileValue.offset + 64 + 6
                return model, weights[:place] + bytes([(weights[place] + add) % 256]) + weights[place + 1 :]
        raise AssertionError(f"no part {key}")

    return change


def changed_level(model: bytes, weights: bytes) -> tuple[bytes, bytes]:
    """The last place of the level of the first weight, of tables that may have levels which no weight has."""
    operation = next(op for op in operations(Model.FromString(model)) if op.type == "constexpr_lut_to_dense")
    table, codes = (operation.attributes[key].blobFileValue.offset + 64 for key in ("lut", "indices"))
    place = table + 2 * weights[codes]
    return model, weights[:place] + bytes([(weights[place] + 1) % 256]) + weights[place + 1 :]


def left_as_numbers(model: bytes, weights: bytes) -> tuple[bytes, bytes]:
    """A weight silently left in half precision, with the very numbers that were meant."""
    message = Model.FromString(model)
    operation = next(op for op in operations(message) if op.type.startswith("constexpr_"))
    name, shape = operation.outputs[0].name, [d.constant.size for d in operation.outputs[0].type.tensorType.dimensions]
    plain = Writer(net(), find_target("coreml-fp16"))
    tensor = plain.constant(np.zeros(shape), "weight")
    operation.CopyFrom(plain.operations[-1])
    operation.outputs[0].name = name
    offset = len(weights) + -len(weights) % 64
    stored = plain.weights.content()[64:]
    record = bytearray(stored)
    record[16:24] = (offset + 64).to_bytes(8, "little")
    operation.attributes["val"].blobFileValue.offset = offset
    assert tensor.dtype == "fp16"
    return message.SerializeToString(), weights.ljust(offset, b"\0") + bytes(record)


def other_zero_point(model: bytes, weights: bytes) -> tuple[bytes, bytes]:
    message = Model.FromString(model)
    operation = next(op for op in operations(message) if op.type == "constexpr_affine_dequantize")
    operation.attributes["zero_point"].immediateValue.tensor.bytes.values = b"\1"
    return message.SerializeToString(), weights


def other_activation_scale(model: bytes, weights: bytes) -> tuple[bytes, bytes]:
    message = Model.FromString(model)
    scale = next(op for op in operations(message) if op.type == "quantize").inputs["scale"].arguments[0].name
    constant = next(op for op in operations(message) if op.outputs[0].name == scale)
    content = constant.attributes["val"].immediateValue.tensor.bytes
    content.values = np.nextafter(np.frombuffer(content.values, np.float16), np.float16(9)).tobytes()
    return message.SerializeToString(), weights


BROKEN: list[tuple[str, Callable[[bytes, bytes], tuple[bytes, bytes]]]] = [
    ("coreml-w8", changed_byte("scale")),
    ("coreml-w8", changed_byte("quantized_data")),
    ("coreml-w8", left_as_numbers),
    ("coreml-w8", other_zero_point),
    ("coreml-w4", changed_byte("scale")),
    ("coreml-w4", changed_byte("data", 16)),
    ("coreml-w4", left_as_numbers),
    ("coreml-post4", changed_byte("lut")),
    ("coreml-post4", changed_byte("indices")),
    ("coreml-post4", changed_byte("scale")),
    ("coreml-kmeans6", changed_byte("lut")),
    ("coreml-kmeans6", changed_byte("indices")),
    ("coreml-kmeans8", changed_level),
    ("coreml-w8a8", other_activation_scale),
    ("coreml-w8a8", changed_byte("quantized_data")),
]


@pytest.mark.parametrize(("name", "change"), BROKEN)
def test_a_broken_file_is_caught(name: str, change: Callable[[bytes, bytes], tuple[bytes, bytes]]) -> None:
    _, _, model, weights, writer = written(name)
    broken = change(model, weights)
    assert broken != (model, weights)
    with pytest.raises(AgreementError) as caught:
        prove(*broken, writer)
    assert caught.value.where is not None and caught.value.exit_code == 5


def test_a_weight_in_more_bits_is_caught(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """The right numbers in a wider type would double the file; emit stops and leaves nothing behind."""

    def wide(codes: Any, type_: Any, where: str, w: Any) -> Tensor:
        return original(codes, replace(type_, format=replace(type_.format, bits=8)), where, w)

    original = coreml_weights.write_codes
    monkeypatch.setattr("edgeq.emit.coreml_writer.write_codes", wide)
    target = find_target("coreml-w4")
    with pytest.raises(AgreementError, match="more bits than its format"):
        emit(quantize_weights(net(), target, Recipe()), target, tmp_path / "net", "net", {}, {})
    assert list(tmp_path.iterdir()) == []


def test_damage_gives_typed_errors_only() -> None:
    """Every byte of a file may be anything."""
    _, _, model, weights, writer = written("coreml-post4")
    rng = np.random.default_rng(0)
    outcomes: set[type[Exception]] = set()
    for _ in range(800):
        content = bytearray(model)
        for place in rng.integers(0, len(content), rng.integers(1, 3)):
            content[place] ^= 1 << int(rng.integers(0, 7))
        try:
            prove(bytes(content), weights, writer)
        except EdgeqError as error:
            outcomes.add(type(error))
    assert {UnsupportedError, AgreementError} <= outcomes
