"""Formats by operator: exact at every width, ends spared, copies for sums, refusals that say what is allowed."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest

from edgeq.errors import UnsupportedError, UsageError
from edgeq.formats import INT4, INT8_NARROW, POST4, Codebook, Format, Int, bits_of, is_table
from edgeq.ir import ops as o
from edgeq.quantize.asked import Asked, ends, with_formats
from edgeq.quantize.operators import never_negative
from edgeq.recipe import Recipe, parse_rule, weight_format
from edgeq.reference.interpret import run
from edgeq.target import Target
from edgeq.targets import TARGETS, find_target
from tests.format_nets import LAYERS, quantized, residual, structured
from tests.plain_graph import evaluate
from tests.quantized import inputs_of, outputs_of, signal_to_noise_db


def weights_of(asked: Asked, target: str = "reference") -> dict[str, Format]:
    return structured(asked, find_target(target))[0].weights


@pytest.mark.parametrize(
    "formats",
    ["w2a2", "w3a3", "w4a4", "w5a5", "w6a6", "w7a7", "w8a8", "w2a8", "w8a16", "w4a16", "w16a16", "post4/int4", "e2m1/int8", "e3m2/int5", "int8/e2m1",
     "e2m3/e2m3", "int4/post4", "int8/fp8_e4m3"],
)  # fmt: skip
def test_every_value_equals_plain_integers(formats: str) -> None:
    """The worst case, everything at the ends of its range, and an ordinary input."""
    graph = quantized(Asked(rules=(f"*={formats}",)))
    ordinary = inputs_of(graph, seed=1)
    for inputs in (ordinary, {name: np.sign(array) * 100 for name, array in ordinary.items()}):
        exact = evaluate(
            graph, {name: list(map(Fraction, array.reshape(-1).tolist())) for name, array in inputs.items()}
        )
        seen = {}
        run(graph, inputs, seen.__setitem__)
        codes = [op for op in graph.ops if not isinstance(op, o.Dequantize)]
        assert all(list(map(int, seen[o.results(op)[0]].reshape(-1))) == exact[o.results(op)[0]] for op in codes)
    assert max(len(set(exact[o.results(op)[0]])) for op in codes if isinstance(op, o.Conv)) > 20


def test_more_bits_are_more_exact() -> None:
    graph = residual()
    inputs = inputs_of(graph)
    (wanted,) = outputs_of(graph, inputs)
    for kind in ("w{}a16", "w16a{}", "w{0}a{0}"):
        found = [quantized(Asked(rules=(f"*={kind.format(bits)}",))) for bits in (2, 4, 6, 8)]
        db = [signal_to_noise_db(wanted, outputs_of(lowered, inputs)[0]) for lowered in found]
        assert db == sorted(db) and db[-1] > db[0] + 20


def test_first_and_last_layers_are_spared_unless_named() -> None:
    structure, notes = structured(Asked("int4", "int4"))
    assert ends(residual()) == (["stem"], ["last"])
    assert [bits_of(structure.weights[name]) for name in LAYERS] == [8, 4, 4, 8]
    assert len(notes) == 2 and "stem, last" in notes[0] and notes[1].endswith(": left")
    named, notes = structured(Asked("int4", "int4", ("last=w4a4", "right=w6a8")))
    assert [bits_of(named.weights[name]) for name in LAYERS] == [8, 4, 6, 4]
    assert "stem" in notes[0] and "last" not in notes[0].split(":")[1]
    assert structured(Asked("int8", "int8"))[1] == []


def test_what_first_layers_give_is_read_in_eight_bits_unless_named() -> None:
    """As reconstruction's papers have it; the readers' weights are as asked for, also of a family."""

    def read(*rules: str, weights: str = "int4") -> int:
        structure, _ = structured(Asked(weights, "int4", rules))
        assert bits_of(structure.weights["left"]) == 4 and bits_of(structure.formats[structure.key["left.relu"]]) == 4
        return bits_of(structure.formats[structure.key.get("stem.relu.narrow", "stem.relu")])

    assert read() == read(weights="kmeans4") == 8
    assert read("left=w4a4") == read("stem=w8a8") == 4


def test_pixels_are_read_as_integers_where_minifloats_are_asked() -> None:
    structure, notes = structured(Asked("int8", "e3m4"))
    by_value = {value: structure.formats[key] for value, key in structure.key.items()}
    assert by_value["x"] == Int(8) and "stem, last" in notes[0]
    assert is_table(by_value["stem.relu.narrow"])
    named, _ = structured(Asked("int8", "e3m4", ("stem=int8/e3m4",)))
    assert "x.narrow" in named.key


def test_the_first_rule_that_matches_decides() -> None:
    asked = Asked("int3", rules=("l*=w6a8", "left=w2a2", "r*=post4/int8"))
    assert [weights_of(asked)[name] for name in LAYERS] == [
        INT8_NARROW,
        Int(6),
        POST4,
        Int(6),
    ]


def test_sums_keep_what_convolutions_read_in_few_bits() -> None:
    structure, _ = structured(Asked("int4", "int4", ("left=w4a4",)))
    by_value = {value: structure.formats[key] for value, key in structure.key.items()}
    assert by_value["stem.relu.narrow"] == Int(4) and by_value["left.relu"] == Int(4)
    assert by_value["stem.relu"] == Int(16) and by_value["x"] == Int(8)
    assert "stem.relu.narrow" not in structured(Asked("int4", "int8"))[0].key


def test_readers_that_disagree_share_the_widest() -> None:
    asked = Asked(rules=("left=w4a8", "*=w4a4"))
    structure, _ = structured(asked)
    assert bits_of(structure.formats[structure.key["stem.relu"]]) == 8
    assert bits_of(structure.formats[structure.key["left.relu"]]) == 4


@pytest.mark.parametrize(
    ("target", "asked", "allowed"),
    [
        ("jetson-int8", Asked("int9"), "int2, int3.*nearest that it holds is int8"),
        ("cortex-m4-int8", Asked("e3m2"), "int2, int3.*nearest that it holds is e2m3"),
        ("c-int8", Asked("fp8_e5m2"), "int2, int3.*nearest that it holds is fp8_e4m3"),
        ("tflite-int8", Asked("fp8_e4m3"), "int2, int3.*nearest that it holds is int8"),
        ("tflite-int8", Asked("dense4"), "int2, int3.*nearest that it holds is post4"),
        ("onnx-int8", Asked("int12"), "int2, int3.*nearest that it holds is int8"),
        ("tflite-int8", Asked(activations="int16"), "up to int8"),
        ("coreml-w8", Asked("post4"), "int8"),
        ("coreml-w4", Asked("fp8_e5m2"), "int2, int3.*nearest that it holds is fp8_e4m3"),
        ("rpi-w8a16", Asked(activations="int8"), "int16"),
        ("onnx-int8", Asked("int4", "int16"), "up to uint8"),
        ("coreml-w4", Asked(activations="int8"), "real"),
        ("jetson-fp32", Asked("int8"), "none"),
    ],
)
def test_what_a_target_does_not_hold_is_refused(target: str, asked: Asked, allowed: str) -> None:
    with pytest.raises(UnsupportedError, match=f"allowed: {allowed}.*edgeq quantize"):
        structured(asked, find_target(target))


@pytest.mark.parametrize("name", ["post4", "e2m3", "int5", "dense3", "pot4"])
@pytest.mark.parametrize("target", ["onnx-int8", "tflite-int8", "c-int8", "jetson-int8", "coreml-w8a8", "coreml-w4"])
def test_levels_that_fit_in_bytes_are_held_everywhere(target: str, name: str) -> None:
    structure, notes = structured(Asked(name), find_target(target))
    assert target == "coreml-w4" or structure.weights["left"] == weight_format(name)
    own = target == "coreml-w4" or (target in ("onnx-int8", "c-int8") and name in ("post4", "dense3", "pot4"))
    assert any(f"{name} are stored as INT8" in note for note in notes) == (not own)


NAMES = (
    "int2", "int5", "int8", "int9", "e2m1", "e2m4", "e2m5", "e3m2", "e3m4", "e4m1", "e5m2", "fp8_e4m3", "fp8_e5m2",
    "post4", "pot4", "pot5", "dense4", "kmeans2", "kmeans6", "nupes4",
)  # fmt: skip


@pytest.mark.parametrize("target", [t for t in TARGETS if t.emitter != "graph"], ids=lambda t: t.name)
def test_every_format_is_held_or_refused_in_one_line(target: Target) -> None:
    """Whatever weights are asked for: each layer's format is held as it is, or the refusal names the nearest that is."""
    refused = 0
    for name in NAMES:
        try:
            with_formats(Recipe("minmax"), Asked(name), residual(), target)
        except UnsupportedError as error:
            refused += 1
            text = str(error)
            near = re.search(r"The nearest that it holds is (\w+)\.", text)
            assert "\n" not in text and f"got {name};" in text and "edgeq quantize" in text
            assert near is not None or "allowed: none" in text
            if near is not None:
                with_formats(Recipe("minmax"), Asked(near[1]), residual(), target)
    assert refused > 0 or target.emitter == "hls"  # a design has a unit for everything


def test_activations_of_layers_in_tables() -> None:
    """A copy of what layers read, unsigned where nothing negative comes; sums keep the wide value; others say which."""
    structure, _ = structured(Asked("int8", "e2m3", ("last=w8a8", "left=int8/e2m3")))
    found = {key: str(format_) for key, format_ in structure.formats.items() if key.endswith(".narrow")}
    assert found == {"stem.relu.narrow": "ue2m4", "left.relu.narrow": "ue2m4"}
    assert structure.formats[structure.key["stem.relu"]] == Int(16)
    assert never_negative(structure.graph, "stem.relu") and not never_negative(structure.graph, "x")
    for target, near in (("c-int8", "e2m3"), ("tflite-int8", "int6"), ("fpga-int4", "int6")):
        with pytest.raises(UnsupportedError, match=f"activations.*got e3m2.*nearest that it holds is {near}"):
            structured(Asked("int8", "e3m2"), find_target(target))


def test_minifloat_activations_are_nearly_as_exact_as_their_bits() -> None:
    """More mantissa bits are more exact, and eight bits of a minifloat are not far from eight of an integer."""
    graph = residual()
    inputs = inputs_of(graph)
    (wanted,) = outputs_of(graph, inputs)
    db = [
        signal_to_noise_db(wanted, outputs_of(quantized(Asked("int8", name)), inputs)[0])
        for name in ("e2m1", "e2m3", "e2m4", "int8")
    ]
    assert db == sorted(db) and db[1] > db[0] + 6


def test_fitted_tables_belong_to_their_layers() -> None:
    """Every layer that takes a family has a table of its own; ends keep eight bits; others are as named."""
    found = weights_of(Asked("kmeans3", rules=("left=nupes4/int8",)), "reference")
    assert found["stem"] == found["last"] == INT8_NARROW
    left, right = found["left"], found["right"]
    assert isinstance(left, Codebook) and isinstance(right, Codebook)
    assert (left.name, right.name, len(left.table), len(right.table)) == ("nupes", "kmeans", 15, 8)
    both = weights_of(Asked(rules=("left=kmeans3/int8", "right=kmeans3/int8")), "reference")
    assert both["right"] == right and both["left"] != right


def test_what_a_target_holds() -> None:
    assert weights_of(Asked("int2"), "c-int8")["left"] == Int(2, narrow=True)
    for target in ("onnx-int8", "tflite-int8", "rpi-w8a16", "c-int8"):
        found = weights_of(Asked(rules=("left=w4", "right=w8")), target)
        assert (found["left"], found["right"]) == (INT4, INT8_NARROW)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "=w4a4",
        "a",
        "a=",
        "a=w1a8",
        "a=w4a17",
        "a=int8",
        "a=real/int8",
        "a=int8/dense3",
        "a=int8/kmeans4",
        "a=w99a4",
    ],
)
def test_rules_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError):
        parse_rule(text)
