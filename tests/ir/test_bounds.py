"""Proved bounds: sound on random networks, reached exactly by inputs that are made for it, and minimal for verify."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeq.errors import UnsupportedError
from edgeq.formats import INT8, INT32, UINT8, Codebook, Float, Format, Int, IntArray, code_range, decode, level_range
from edgeq.ir import ops as o
from edgeq.ir.bounds import channel_bounds, level_bounds, partial_sums, signed_bits
from edgeq.ir.graph import Editor, Graph, Type
from edgeq.ir.verify import verify
from edgeq.reference.arithmetic import quantize_multiplier
from edgeq.reference.interpret import run
from edgeq.reference.meaning import evaluate
from tests.draws import POWERS_OF_TWO, random_inputs
from tests.nets import integer_graphs

X_FORMATS = [(INT8, 0), (INT8, -128), (UINT8, 0), (UINT8, 131), (Int(4), 2), (Float(2, 3), 0), (POWERS_OF_TWO, 0)]
ACCUMULATOR = Int(40)


def weighted(kind: str, x: Type, weight_format: Format, seed: int) -> Graph:
    """One operator with random weights and a bias: conv, depthwise, padded, transpose, grouped or linear."""
    rng = np.random.default_rng(seed)
    shape = {"transpose": (5, 3, 3, 2), "grouped": (4, 2, 2, 3), "linear": (6, 7), "depthwise": (3, 1, 3, 2)}
    weight_shape = shape.get(kind, (4, 3, 3, 2))
    channels = {"transpose": 3, "grouped": 4}.get(kind, weight_shape[0])
    editor = Editor(kind, ["x"], {"x": x})
    weight_type = Type(weight_shape, weight_format, (0.5,))
    weight = editor.constant("w", rng.integers(*code_range(weight_format), weight_shape, endpoint=True), weight_type)
    bias_type = Type((channels,), INT32, (x.scale[0] * 0.5,))
    bias = editor.constant("b", rng.integers(-5000, 5000, channels), bias_type)
    op: dict[str, o.Op] = {
        "conv": o.Conv("x", weight, bias, "acc", stride=(1, 2), dilation=(2, 1)),
        "padded": o.Conv("x", weight, bias, "acc", padding=(1, 0, 2, 1)),
        "depthwise": o.Conv("x", weight, bias, "acc", groups=3),
        "transpose": o.ConvTranspose("x", weight, bias, "acc", stride=(2, 2)),
        "grouped": o.ConvTranspose("x", weight, bias, "acc", stride=(1, 3), dilation=(2, 1), groups=2),
        "linear": o.Linear("x", weight, bias, "acc"),
    }
    out = editor.append(op[kind], Type((), ACCUMULATOR, (x.scale[0] * 0.5,)))
    inferred = Editor.like(editor.graph([out]))._inferred(op[kind])[0]
    editor.types[out] = replace(editor.types[out], shape=inferred.shape)
    return editor.graph([out])


def input_shape(kind: str) -> tuple[int, ...]:
    return {"linear": (1, 7), "transpose": (1, 5, 3, 3), "grouped": (1, 4, 3, 3)}.get(kind, (1, 3, 6, 5))


def responses(graph: Graph) -> tuple[IntArray, IntArray]:
    """Weight of every input level in every accumulator [outputs, inputs], and its constant part, by differentiation."""
    (op,) = graph.ops
    assert isinstance(op, o.Conv | o.ConvTranspose | o.Linear)

    def levels(name: o.Value) -> torch.Tensor:
        type_ = graph.types[name]
        return torch.from_numpy(decode(type_.format, graph.constants[name], type_.zero_point)).double()

    values = {op.weight: levels(op.weight)} | ({op.bias: levels(op.bias)} if op.bias else {})

    def accumulators(x: torch.Tensor) -> torch.Tensor:
        return evaluate(op, {**values, "x": x}.__getitem__)[0].flatten()

    zero = torch.zeros(graph.types["x"].shape, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(accumulators, zero)  # type: ignore[no-untyped-call]
    return jacobian.flatten(1).numpy().astype(np.int64), accumulators(zero).numpy().astype(np.int64)


def extreme_codes(type_: Type, weight: IntArray, *, largest: bool) -> IntArray:
    """Codes that make sum(weight * level) largest or smallest."""
    low, high = code_range(type_.format)
    codes = np.arange(low, high + 1)
    levels = decode(type_.format, codes, type_.zero_point)
    found: IntArray = np.where((weight > 0) == largest, codes[levels.argmax()], codes[levels.argmin()])
    return found


@pytest.mark.parametrize("kind", ["conv", "padded", "depthwise", "transpose", "grouped", "linear"])
@pytest.mark.parametrize(("format_", "zero_point"), X_FORMATS, ids=lambda p: str(p)[:6])
def test_an_input_reaches_each_end_of_the_bound(kind: str, format_: Format, zero_point: int) -> None:
    one = Type(input_shape(kind), format_, (0.25,), zero_point)
    weights, constants = responses(weighted(kind, one, Int(5), seed=7))
    ends = [extreme_codes(one, row, largest=largest) for row in weights for largest in (False, True)]
    every = replace(one, shape=(len(ends), *one.shape[1:]))
    graph = weighted(kind, every, Int(5), seed=7)
    bounds = level_bounds(graph)
    channels = channel_bounds(graph, graph.ops[0], bounds.__getitem__)  # type: ignore[arg-type]
    found = run(graph, {"x": np.stack(ends).reshape(every.shape)})["acc"].flatten(1).numpy()
    reached: dict[int, list[int]] = {}
    for flat, index in enumerate(np.ndindex(*graph.types["acc"].shape[1:])):
        for row in (2 * flat, 2 * flat + 1):
            level = decode(format_, ends[row], zero_point)
            assert found[row, flat] == weights[flat] @ level + constants[flat]
            reached.setdefault(index[-1] if kind == "linear" else index[0], []).append(int(found[row, flat]))
    assert [(min(values), max(values)) for _, values in sorted(reached.items())] == channels
    assert bounds["acc"] == (min(low for low, _ in channels), max(high for _, high in channels))
    assert len(set(channels)) > 1


@pytest.mark.parametrize(
    ("a", "b"), [((INT8, -128), (INT8, 0)), ((UINT8, 7), (Float(3, 2), 0)), ((Int(6), 5), (Int(3), 1))]
)
def test_a_product_of_matrices_reaches_its_bound(a: tuple[Format, int], b: tuple[Format, int]) -> None:
    types = {"a": Type((1, 2, 5), a[0], (1.0,), a[1]), "b": Type((1, 5, 3), b[0], (1.0,), b[1])}
    editor = Editor("matmul", ["a", "b"], types)
    graph = editor.graph([editor.append(o.MatMul("a", "b", "acc"), Type((1, 2, 3), ACCUMULATOR, (1.0,)))])
    corners = []
    for x in map(int, level_range(*a)):
        for y in map(int, level_range(*b)):
            codes = {
                name: np.full(types[name].shape, code_of(types[name], level)) for name, level in (("a", x), ("b", y))
            }
            corners.append(int(run(graph, codes)["acc"].max()))
    assert level_bounds(graph)["acc"] == (min(corners), max(corners))


def code_of(type_: Type, level: int) -> int:
    low, high = code_range(type_.format)
    codes = np.arange(low, high + 1)
    return int(codes[decode(type_.format, codes, type_.zero_point) == level][0])


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(integer_graphs(), st.integers(0, 1000))
def test_no_level_leaves_its_bound(graph: Graph, seed: int) -> None:
    bounds = level_bounds(graph)

    def watch(name: o.Value, tensor: torch.Tensor) -> None:
        type_ = graph.types[name]
        if not type_.scale:
            return
        low, high = bounds[name]
        levels = decode(type_.format, tensor.numpy().astype(np.int64), type_.zero_point)
        assert low <= levels.min()
        assert levels.max() <= high

    run(graph, random_inputs(graph, seed), watch)


@pytest.mark.parametrize("kind", ["conv", "padded", "transpose", "linear"])
def test_one_bit_less_than_proved_is_refused(kind: str) -> None:
    graph = weighted(kind, Type(input_shape(kind), INT8, (0.25,), 3), Int(5), seed=1)
    bits = signed_bits(partial_sums(graph, graph.ops[0], level_bounds(graph).__getitem__))
    assert bits > 12

    def with_bits(count: int) -> Graph:
        return replace(graph, types={**graph.types, "acc": replace(graph.types["acc"], format=Int(count))})

    verify(with_bits(bits))
    with pytest.raises(UnsupportedError, match=f"needs {bits} bits"):
        verify(with_bits(bits - 1))


def test_partial_sums_may_exceed_the_result() -> None:
    """Levels 5 .. 7 with weights 100, -100: the result is within +-200, a partial sum reaches 700."""
    editor = Editor("partial", ["x"], {"x": Type((1, 2), Codebook("high", (5, 6, 7)), (1.0,))})
    weight = editor.constant("w", np.array([[100, -100]]), Type((1, 2), INT8, (1.0,)))
    graph = editor.graph([editor.append(o.Linear("x", weight, None, "acc"), Type((1, 1), Int(11), (1.0,)))])
    assert level_bounds(graph)["acc"] == (-200, 200)
    assert partial_sums(graph, graph.ops[0], level_bounds(graph).__getitem__) == (-700, 700)
    verify(graph)
    with pytest.raises(UnsupportedError, match="needs 11 bits"):
        verify(replace(graph, types={**graph.types, "acc": Type((1, 1), Int(9), (1.0,))}))


def test_a_bias_first_may_be_larger_than_the_result() -> None:
    editor = Editor("bias", ["x"], {"x": Type((1, 1), Codebook("high", (5, 6, 7)), (1.0,))})
    weight = editor.constant("w", np.array([[-100]]), Type((1, 1), INT8, (1.0,)))
    bias = editor.constant("b", np.array([1000]), Type((1,), INT32, (1.0,)))
    graph = editor.graph([editor.append(o.Linear("x", weight, bias, "acc"), Type((1, 1), Int(12), (1.0,)))])
    assert level_bounds(graph)["acc"] == (300, 500)
    assert partial_sums(graph, graph.ops[0], level_bounds(graph).__getitem__) == (-700, 1000)


@pytest.mark.parametrize(("low", "high", "x_format"), [(-128, 127, INT8), (0, 127, INT8), (-7, 99, Int(16))])
def test_a_clamp_and_its_image_bound_a_requantization(low: int, high: int, x_format: Int) -> None:
    editor = Editor("clamp", ["x"], {"x": Type((1, 1 << x_format.bits), x_format, (0.25,))})
    multiplier, shift = quantize_multiplier(0.25)
    op = o.Requantize("x", "y", (multiplier,), (shift,), "single", low, high)
    graph = editor.graph([editor.append(op, Type((1, 1 << x_format.bits), INT8, (1.0,), 2))])
    levels = run(graph, {"x": np.arange(x_format.low, x_format.high + 1)[None]})["y"] - 2
    bound = level_bounds(graph)["y"]
    assert bound[0] <= levels.min() <= bound[0] + 3
    assert bound[1] - 3 <= levels.max() <= bound[1]
    assert low - 2 <= bound[0] < bound[1] <= high - 2


def test_only_table_entries_that_codes_reach_count() -> None:
    editor = Editor("table", ["x"], {"x": Type((1, 4), INT8, (1.0,))})
    multiplier, shift = quantize_multiplier(1.0)
    clamp = o.Requantize("x", "few", (multiplier,), (shift,), "single", -2, 1)
    editor.append(clamp, Type((1, 4), INT8, (1.0,)))
    table = editor.constant("t", np.arange(-128, 128) ** 3 // 20000, Type((256,), INT8, (1.0,)))
    graph = editor.graph([editor.append(o.Lookup("few", table, "y", o.Function("tanh")), Type((1, 4), INT8, (1.0,)))])
    assert level_bounds(graph)["few"] == (-2, 1)
    assert level_bounds(graph)["y"] == (-1, 0)


def test_weights_of_computed_codes_are_bounded_too() -> None:
    types = {"x": Type((1, 2, 4, 4), INT8, (1.0,)), "w": Type((3, 2, 2, 2), Int(4), (1.0,))}
    editor = Editor("dynamic", ["x", "w"], types)
    graph = editor.graph([editor.append(o.Conv("x", "w", None, "acc"), Type((1, 3, 3, 3), INT32, (1.0,)))])
    assert level_bounds(graph)["acc"] == (8 * 127 * -8, 8 * -128 * -8)


def test_levels_beyond_64_bits_do_not_overflow_the_proof() -> None:
    editor = Editor("wide", ["x"], {"x": Type((1, 2), Float(5, 2), (1.0,))})
    weight = editor.constant("w", np.array([[127, 127]]), Type((1, 2), Float(5, 2), (1.0,)))
    graph = editor.graph([editor.append(o.Linear("x", weight, None, "acc"), Type((1, 1), Int(64), (1.0,)))])
    largest = level_range(Float(5, 2))[1]
    assert level_bounds(graph)["acc"] == (-2 * largest**2, 2 * largest**2)
    assert 2 * largest**2 > 1 << 64
    with pytest.raises(UnsupportedError, match="needs 68 bits"):
        verify(graph)


@pytest.mark.parametrize(
    ("interval", "bits"), [((0, 0), 1), ((-1, 0), 1), ((0, 1), 2), ((-128, 127), 8), ((-129, 0), 9), ((3, 128), 9)]
)
def test_signed_bits(interval: tuple[int, int], bits: int) -> None:
    assert signed_bits(interval) == bits
