"""Lowering keeps the meaning: verified integer graphs whose outputs differ from the real ones by the rounding alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeq.catalogue import NAMED
from edgeq.formats import INT8, INT16, INT32, INT64, UINT8, Int, decode, level_range
from edgeq.ir import ops as o
from edgeq.ir.file import load, save
from edgeq.ir.graph import Graph, Type
from edgeq.ir.verify import verify
from edgeq.passes.lower import clamp_codes, lower, tabulate
from edgeq.passes.simplify import simplify
from edgeq.reference.arithmetic import SHIFT_MIN
from edgeq.target import Target
from tests.c_nets import biases_beyond_32_bits, heavily_biased
from tests.code_nets import code_nets
from tests.quantized import JETSON, ORT, TARGETS, Net, inputs_of, outputs_of, planned, signal_to_noise_db
from tests.real_nets import real_graphs

WIDE = replace(JETSON, weight=Int(16, narrow=True), narrow=INT16)
"""The Jetson's row with 16 bits everywhere, where only mistakes are left."""

both = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


def has_scale(type_: Type) -> bool:
    """Whether a value is codes."""
    return bool(type_.scale)


def kinds(graph: Graph) -> list[str]:
    return [type(op).__name__ for op in graph.ops]


def lowered(graph: Graph, target: Target, *kept: str, seed: int = 0) -> Graph:
    """`graph` lowered with ranges of one input, and verified."""
    whole, _, plan = planned(graph, target, inputs_of(graph, seed), *kept)
    result = lower(whole, plan)
    verify(result)
    assert (result.inputs, len(result.outputs)) == (graph.inputs, len(graph.outputs))
    return result


def close(graph: Graph, target: Target, least_db: float, *kept: str) -> Graph:
    """The lowered graph, whose outputs must be nontrivial and have `least_db` of signal over noise."""
    result = lowered(graph, target, *kept)
    inputs = inputs_of(graph)
    for wanted, found in zip(outputs_of(graph, inputs), outputs_of(result, inputs), strict=True):
        assert np.isfinite(wanted).all() and len(np.unique(wanted)) > min(8, wanted.size - 1)
        assert signal_to_noise_db(wanted, found) > least_db
    return result


# --- random networks ------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(graph=code_nets(), target=st.sampled_from((JETSON, replace(ORT, least_channels=1))))
def test_random_networks_of_integer_operators(graph: Graph, target: Target) -> None:
    result = lowered(graph, target)
    assert {"Quantize", "Dequantize"} <= set(kinds(result))
    inputs = inputs_of(graph)
    for wanted, found in zip(outputs_of(graph, inputs), outputs_of(result, inputs), strict=True):
        assert signal_to_noise_db(wanted, found) > 10 or float(np.ptp(wanted)) < 1e-3


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(graph=code_nets())
def test_random_networks_in_sixteen_bits(graph: Graph) -> None:
    result = lowered(graph, WIDE)
    inputs = inputs_of(graph)
    for wanted, found in zip(outputs_of(graph, inputs), outputs_of(result, inputs), strict=True):
        assert signal_to_noise_db(wanted, found) > 60 or float(np.ptp(wanted)) < 1e-3


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(graph=real_graphs(), target=st.sampled_from(TARGETS))
def test_random_networks_of_all_operators(graph: Graph, target: Target) -> None:
    """Whatever the graph, lowering gives a valid graph with the same real inputs and outputs."""
    simple = simplify(graph)
    result = lowered(simple, target)
    for ours, theirs in zip(result.outputs, simple.outputs, strict=True):
        assert not has_scale(result.types[ours]) and result.types[ours].shape == simple.types[theirs].shape


# --- operators ------------------------------------------------------------------------------------------------


def conv_function_conv(name: o.FunctionName, a: float = 0.0, b: float = 0.0) -> Graph:
    net = Net(1, 6, 9, 8)
    hidden = net.apply(net.conv("x", 8, "hidden"), name, "active", a, b)
    return net.graph(net.conv(hidden, 7, "y"))


@both
def test_relu_becomes_a_clamp(target: Target) -> None:
    result = close(conv_function_conv("relu"), target, 28)
    assert not {"Lookup", "Apply"} & set(kinds(result))
    (op,) = [op for op in result.ops if isinstance(op, o.Requantize)]
    assert (op.low, op.high) == (result.types[op.out].zero_point, 127 if target is JETSON else 255)
    assert kinds(result) == ["Quantize", "Conv", "Requantize", "Conv", "Dequantize"]
    close(conv_function_conv("relu"), WIDE, 75)


@both
def test_relu6_becomes_a_clamp_from_both_sides(target: Target) -> None:
    result = close(conv_function_conv("clip", 0.0, 0.5), target, 26)
    (op,) = [op for op in result.ops if isinstance(op, o.Requantize)]
    scale, zero = result.types[op.out].scale[0], result.types[op.out].zero_point
    assert (op.low, op.high) == (zero, zero + round(0.5 / scale))
    assert kinds(result) == ["Quantize", "Conv", "Requantize", "Conv", "Dequantize"]


@both
@pytest.mark.parametrize("name", ["silu", "gelu", "sigmoid", "hardswish", "tanh"])
def test_other_functions_become_tables(target: Target, name: o.FunctionName) -> None:
    result = close(conv_function_conv(name), target, 24)
    (op,) = [op for op in result.ops if isinstance(op, o.Lookup)]
    split = target is ORT and name in ("silu", "hardswish")
    assert op.function.name == ({"silu": "sigmoid", "hardswish": "hardsigmoid"}[name] if split else name)
    assert ("Mul" in kinds(result)) == split
    assert result.types[op.table].shape == ((65536,) if target is JETSON else (256,))
    assert result.types[op.x].format == (INT16 if target is JETSON else UINT8)
    close(conv_function_conv(name), WIDE, 60)


@both
@pytest.mark.parametrize("kind", [o.Add, o.Sub])
def test_residual(target: Target, kind: type[o.Add] | type[o.Sub]) -> None:
    net = Net(1, 6, 9, 8)
    stem = net.apply(net.conv("x", 8, "stem"), "relu", "started")
    branch = net.conv(net.apply(net.conv(stem, 8, "one"), "relu", "between"), 8, "two")
    joined = net.apply(net.add(kind(stem, branch, "joined")), "relu", "ended")
    graph = net.graph(net.conv(joined, 5, "y"))
    result = close(graph, target, 22)
    (op,) = [op for op in result.ops if isinstance(op, kind)]
    assert result.types[op.a].format == result.types[op.b].format == INT32
    assert result.types[op.a].scale == result.types[op.b].scale == result.types[op.out].scale
    settled = next(r for r in result.ops if isinstance(r, o.Requantize) and r.x == op.out)
    assert result.types[op.out].scale[0] == pytest.approx(result.types[settled.out].scale[0] * 2.0**-12)
    assert settled.low == result.types[settled.out].zero_point and "Apply" not in kinds(result)
    close(graph, WIDE, 70)


@both
def test_value_added_to_itself_and_to_a_constant(target: Target) -> None:
    net = Net(1, 6, 5, 5)
    hidden = net.conv("x", 6, "hidden")
    doubled = net.add(o.Add(hidden, hidden, "doubled"))
    shifted = net.add(o.Add(doubled, net.reals(6, 1, 1), "shifted"))
    close(net.graph(net.conv(shifted, 4, "y")), target, 24)


@both
def test_concat_of_one_and_of_several_types(target: Target) -> None:
    net = Net(1, 6, 8, 8)
    a = net.apply(net.conv("x", 6, "a"), "relu", "a1")
    b = net.conv(net.add(o.Mul(a, net.constant(7.0), "louder")), 5, "b")
    both_halves = net.add(o.Concat((a, b, a), "joined", 1))
    graph = net.graph(net.conv(both_halves, 6, "y"))
    for shared in (True, False):
        result = close(graph, replace(target, same_scale_concat=shared), 22)
        (op,) = [op for op in result.ops if isinstance(op, o.Concat)]
        assert len({(result.types[x].scale, result.types[x].zero_point) for x in (*op.xs, op.out)}) == 1
        assert ("a1" in op.xs) == shared


@both
def test_squeeze_and_excitation(target: Target) -> None:
    net = Net(1, 6, 8, 8)
    feature = net.apply(net.conv("x", 8, "feature"), "relu", "active")
    pooled = net.add(o.Mean(feature, "pooled", (2, 3)))
    inner = net.apply(net.conv(pooled, 6, "squeezed", 1), "relu", "inner")
    gate = net.apply(net.conv(inner, 8, "excited", 1), "sigmoid", "gate")
    scaled = net.add(o.Mul(feature, gate, "scaled"))
    graph = net.graph(net.conv(scaled, 5, "y", 1))
    result = close(graph, target, 24)
    assert {"Mean", "Mul", "Lookup"} <= set(kinds(result)) and "Apply" not in kinds(result)
    close(graph, WIDE, 65)


@both
@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolution(target: Target, groups: int) -> None:
    net = Net(1, 6, 5, 5)
    hidden = net.apply(net.conv("x", 8, "hidden"), "relu", "active")
    weight, bias = net.reals(8, 6 // groups, 2, 2, spread=0.3), net.reals(6)
    wider = net.add(o.ConvTranspose(hidden, weight, bias, "wider", (2, 2), groups=groups))
    result = close(net.graph(net.conv(wider, 4, "y")), target, 24)
    (op,) = [op for op in result.ops if isinstance(op, o.ConvTranspose)]
    assert len(result.types[op.weight].scale) == (6 if groups == 1 else 1)


def attention_block() -> Graph:
    net = Net(1, 10, 16)
    normal = net.add(o.LayerNorm("x", net.constant(np.ones(16)), net.reals(16), "normal", 2, 1e-5))
    q, k, v = (net.linear(normal, 16, name) for name in ("q", "k", "v"))
    scores = net.add(o.MatMul(q, net.add(o.Transpose(k, "turned", (0, 2, 1))), "scores"))
    weights = net.add(o.Softmax(net.add(o.Mul(scores, net.constant(0.25), "tempered")), "weights", 2))
    mixed = net.add(o.MatMul(weights, v, "mixed"))
    stream = net.add(o.Add("x", net.linear(mixed, 16, "projected"), "stream"))
    second = net.add(o.LayerNorm(stream, None, None, "second", 2, 1e-5))
    inner = net.apply(net.linear(second, 24, "up"), "gelu", "inner")
    return net.graph(net.add(o.Add(stream, net.linear(inner, 16, "down"), "y")))


@both
def test_transformer_block(target: Target) -> None:
    result = close(attention_block(), target, 24)
    assert kinds(result).count("Linear") == 6 and kinds(result).count("MatMul") == 2
    real = {type(op).__name__ for op in result.ops if not any(has_scale(result.types[v]) for v in o.operands(op))}
    assert {"LayerNorm", "Softmax"} <= real
    stream = next(op for op in result.ops if o.results(op)[0] == "stream")
    assert result.types["stream"].is_real and result.types[stream.a].is_real  # type: ignore[union-attr]
    close(attention_block(), WIDE, 60)


# --- what stays real ------------------------------------------------------------------------------------------


@both
def test_outputs_that_are_inputs_or_constants(target: Target) -> None:
    net = Net(1, 6, 5, 5)
    constant = net.reals(3, 4)
    y = net.conv("x", 5, "y")
    result = lowered(net.graph(y, "x", constant, y), target)
    inputs = inputs_of(net.graph(y))
    found = dict(zip(result.outputs, outputs_of(result, inputs), strict=False))
    np.testing.assert_array_equal(found["x"], inputs["x"])
    np.testing.assert_array_equal(found[constant], net.editor.constants[constant])


@both
def test_output_in_the_middle(target: Target) -> None:
    net = Net(1, 6, 5, 5)
    hidden = net.apply(net.conv("x", 6, "hidden"), "relu", "active")
    result = close(net.graph(net.conv(hidden, 4, "y"), hidden, "hidden"), target, 24)
    assert all(result.types[value].is_real for value in result.outputs)


@both
def test_decode_stays_real(target: Target) -> None:
    net = Net(1, 6, 6, 6)
    raw = net.conv(net.apply(net.conv("x", 8, "hidden"), "relu", "active"), 9, "raw")
    flat = net.add(o.Reshape(raw, "flat", (1, 9, 36)))
    scores = net.apply(net.add(o.Slice(flat, "logits", (0, 4, 0), (1, 9, 36), (1, 1, 1))), "sigmoid", "scores")
    boxes = net.add(o.Mul(net.add(o.Slice(flat, "sides", (0, 0, 0), (1, 4, 36), (1, 1, 1))), net.constant(8), "boxes"))
    graph = net.graph(net.add(o.Concat((boxes, scores), "y", 1)))
    result = close(graph, target, 24)
    start = kinds(result).index("Dequantize")
    assert all(result.types[o.results(op)[0]].is_real for op in result.ops[start:])
    assert kinds(result)[start - 1 :] == [
        "Conv", "Dequantize", "Reshape", "Slice", "Apply", "Slice", "Mul", "Concat",
    ]  # fmt: skip


@both
def test_biases_of_64_bits_where_sums_have_them(target: Target, tmp_path: Path) -> None:
    """A unit too small for a bias of 32 bits leaves the weights as they are where the sums have 64 bits anyway."""
    graph = heavily_biased(5e-3)
    wide, narrow = (lowered(graph, replace(target, weight=format_)) for format_ in (NAMED["fp8_e4m3"], INT8))
    assert len(biases_beyond_32_bits(wide)) >= 3 and not biases_beyond_32_bits(narrow)
    beyond = biases_beyond_32_bits(wide)
    for op in (op for op in wide.ops if isinstance(op, o.Conv | o.ConvTranspose | o.Linear)):
        if has_scale(wide.types[op.out]):
            assert wide.types[str(op.bias)].format == (INT64 if op.out in beyond else INT32)
            assert wide.types[op.out].format == INT64
            assert decode(NAMED["fp8_e4m3"], wide.constants[op.weight]).max() == level_range(NAMED["fp8_e4m3"])[1]
    assert {t.format for t in narrow.types.values()}.isdisjoint({INT64})
    save(wide, tmp_path / "wide.edgeq")
    copy = load(tmp_path / "wide.edgeq")
    assert copy.types == wide.types and all(
        np.array_equal(copy.constants[v], wide.constants[v]) for v in wide.constants
    )


@pytest.mark.parametrize("name", ["fp8_e5m2", "fp8_e4m3"])
def test_ratios_of_wide_levels_are_not_lost(name: str) -> None:
    """A sum of 64 bits may need a ratio below 2^-32; without a bias nothing else keeps units large."""
    net = Net(1, 24, 9, 8)
    y = net.apply(net.add(o.Conv("x", net.reals(24, 24, 3, 3), None, "first")), "relu", "a")
    graph = net.graph(net.add(o.Conv(y, net.reals(8, 24, 3, 3), None, "y")))
    result = close(graph, replace(JETSON, weight=NAMED[name]), 14)
    shifts = [min(op.shift) for op in result.ops if isinstance(op, o.Requantize)]
    assert min(shifts) < SHIFT_MIN or name == "fp8_e4m3"


@both
def test_kept_real(target: Target) -> None:
    graph = conv_function_conv("relu")
    result = close(graph, target, 28, "hid*")
    first, second = [op for op in result.ops if isinstance(op, o.Conv)]
    assert result.types[first.x].is_real and not result.types[second.x].is_real
    assert signal_to_noise_db(outputs_of(graph, inputs_of(graph))[0], outputs_of(result, inputs_of(graph))[0]) > (
        signal_to_noise_db(
            outputs_of(graph, inputs_of(graph))[0], outputs_of(lowered(graph, target), inputs_of(graph))[0]
        )
    )
    untouched = lowered(graph, target, "*")
    np.testing.assert_array_equal(outputs_of(untouched, inputs_of(graph))[0], outputs_of(graph, inputs_of(graph))[0])
    assert kinds(untouched) == kinds(graph)


def test_narrow_inputs_stay_real_where_integers_are_slower() -> None:
    net = Net(1, 4, 6, 6)
    graph = net.graph(net.conv(net.apply(net.conv("x", 8, "hidden"), "relu", "active"), 4, "y"))
    assert [lowered(graph, target).types["x"].is_real for target in TARGETS] == [True, True]
    for target, real in ((JETSON, False), (ORT, True), (replace(ORT, least_channels=4), False)):
        result = lowered(graph, target)
        first = next(op for op in result.ops if isinstance(op, o.Conv))
        assert result.types[first.x].is_real == real, target.name


# --- clamps and tables ----------------------------------------------------------------------------------------


def test_clamp_codes() -> None:
    relu, clip = o.Function("relu"), o.Function("clip", -0.25, 6.0)
    assert clamp_codes(relu, Type((), INT8, (0.5,))) == (0, 127)
    assert clamp_codes(relu, Type((), UINT8, (0.5,), 30)) == (30, 255)
    assert clamp_codes(clip, Type((), INT8, (0.125,))) == (-2, 48)
    assert clamp_codes(clip, Type((), UINT8, (0.01,), 10)) == (0, 255)


@pytest.mark.parametrize("format", [INT8, UINT8, INT16])
def test_table_is_the_function_of_every_code(format: Int) -> None:
    from_type = Type((), format, (0.05 if format.bits == 8 else 0.0002,), 128 if format == UINT8 else 0)
    to = Type((), UINT8, (1 / 255,), 0)
    table = tabulate(o.Function("sigmoid"), from_type, to)
    reals = (np.arange(format.low, format.high + 1) - from_type.zero_point) * from_type.scale[0]
    exact = 255 / (1 + np.exp(-reals))
    assert table.shape == (1 << format.bits,) and len(np.unique(table)) > 100
    assert np.abs(table - exact).max() <= 0.5 + 1e-9


@both
def test_worst_case_input_saturates(target: Target) -> None:
    """An input far outside the calibrated range is clipped, not wrapped."""
    graph = conv_function_conv("relu")
    result = lowered(graph, target)
    huge = {"x": np.full(graph.types["x"].shape, 1e9, np.float32)}
    inputs = inputs_of(graph)
    edge = {"x": np.full(graph.types["x"].shape, np.abs(inputs["x"]).max() * 1.01, np.float32)}
    np.testing.assert_array_equal(outputs_of(result, huge)[0], outputs_of(result, edge)[0])
    assert np.isfinite(outputs_of(result, {"x": -huge["x"]})[0]).all()
