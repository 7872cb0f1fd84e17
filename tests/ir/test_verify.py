"""Verification accepts every random network and names everything that is wrong with a broken one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from edgeq.errors import EdgeqError, UnsupportedError
from edgeq.formats import BOOL, INDEX, INT8, INT8_NARROW, INT32, REAL, Codebook, Fixed, Float, Int
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Editor, Graph, Type
from edgeq.ir.verify import verify
from edgeq.reference.arithmetic import quantize_multiplier
from tests.nets import integer_graphs
from tests.real_nets import real_graphs

SCALES = (0.5, 0.25, 0.125)


def small_net() -> Graph:
    """Conv, requantize, lookup, add, pool, concat: one of each kind of rule."""
    rng = np.random.default_rng(0)
    editor = Editor("small", ["x"], {"x": Type((1, 2, 4, 4))})
    codes = Type((1, 2, 4, 4), INT8, (0.5,), -3)
    x = editor.append(o.Quantize("x", "x.q"), codes)
    weight_type = Type((3, 2, 1, 1), INT8_NARROW, SCALES, axis=0)
    weight = editor.constant("w", rng.integers(-127, 128, (3, 2, 1, 1)), weight_type)
    acc_scales = tuple(0.5 * scale for scale in SCALES)
    bias = editor.constant("b", np.array([5, -6, 700]), Type((3,), INT32, acc_scales, axis=0))
    acc = editor.append(o.Conv(x, weight, bias, "acc"), Type((1, 3, 4, 4), INT32, acc_scales, axis=1))
    y_type = Type((1, 3, 4, 4), INT8, (16.0,), 1)
    y = editor.append(requantize(acc, "y", acc_scales, 16.0, "gemmlowp2"), y_type)
    table = editor.constant("table", np.arange(-128, 128), Type((256,), INT8, (16.0,), 1))
    z = editor.append(o.Lookup(y, table, "z", o.Function("relu")), y_type)
    total = editor.append(o.Add(y, z, "total"), Type((1, 3, 4, 4), INT32, (16.0,)))
    u = editor.append(requantize(total, "u", (16.0,), 16.0, "single"), y_type)
    pooled = editor.append(o.MaxPool(u, "pooled", (2, 2), (1, 1), (0, 0, 1, 1)), y_type)
    both = editor.append(o.Concat((pooled, y), "both", 1), replace(y_type, shape=(1, 6, 4, 4)))
    mean = editor.append(o.Mean(both, "mean", (2, 3)), Type((1, 6, 1, 1), INT32, (1.0,)))
    real = editor.append(o.Dequantize(mean, "real"), Type((1, 6, 1, 1)))
    added = editor.append(o.Reduce(both, "added", "sum", (1,)), Type((1, 1, 4, 4), INT32, (16.0,)))
    return editor.graph([real, editor.append(o.Dequantize(added, "real.added"), Type((1, 1, 4, 4)))])


def requantize(x: str, out: str, scales: tuple[float, ...], to: float, rounding: o.Rounding) -> o.Requantize:
    multiplier, shift = zip(*(quantize_multiplier(scale / to) for scale in scales), strict=True)
    return o.Requantize(x, out, multiplier, shift, rounding, -128, 127)


def with_type(graph: Graph, name: o.Value, **changes: object) -> Graph:
    return replace(graph, types={**graph.types, name: replace(graph.types[name], **changes)})  # type: ignore[arg-type]


def with_op(graph: Graph, name: o.Value, **changes: object) -> Graph:
    ops = [replace(op, **changes) if o.results(op)[0] == name else op for op in graph.ops]  # type: ignore[arg-type]
    return replace(graph, ops=tuple(ops))


def with_constant(graph: Graph, name: o.Value, array: Array) -> Graph:
    return replace(graph, constants={**graph.constants, name: array})


Change = Callable[[Graph], Graph]

MALFORMED: dict[str, tuple[Change, str]] = {
    "an operand that is defined later": (lambda g: replace(g, ops=g.ops[::-1]), r"Dequantize 'real': operand 'mean' is not defined"),
    "a name twice": (lambda g: replace(g, ops=(*g.ops, g.ops[0])), r"'x.q' is defined 2 times"),
    "an unknown output": (lambda g: replace(g, outputs=("nowhere",)), r"output 'nowhere' is not defined"),
    "a value without type": (lambda g: replace(g, types={k: t for k, t in g.types.items() if k != "y"}), r"'y' has no type"),
    "a type without value": (lambda g: replace(g, types={**g.types, "q": Type(())}), r"type of 'q', which does not exist"),
    "a wrong shape": (lambda g: with_type(g, "y", shape=(1, 3, 4, 5)), r"Requantize 'y': 'y' has shape \(1, 3, 4, 5\) but must have \(1, 3, 4, 4\)"),
    "a constant of another shape": (lambda g: with_constant(g, "b", np.zeros(4, np.int32)), r"constant 'b' has shape \(4,\)"),
    "codes as floats": (lambda g: with_constant(g, "b", np.zeros(3, np.float32)), r"constant 'b' must hold integers, not float32"),
    "a code outside its format": (lambda g: with_constant(g, "w", np.full((3, 2, 1, 1), -128)), r"constant 'w' has codes outside \[-127, 127\]"),
    "no scale for codes": (lambda g: with_type(g, "y", scale=()), r"type of 'y': a value without a scale"),
    "a real with a scale": (lambda g: with_type(g, "x", scale=(1.0,)), r"type of 'x': a real value has no scale"),
    "a negative scale": (lambda g: with_type(g, "y", scale=(-1.0,)), r"must be positive and finite"),
    "an infinite scale": (lambda g: with_type(g, "y", scale=(float("inf"),)), r"must be positive and finite"),
    "too few scales": (lambda g: with_type(g, "acc", scale=(0.5, 0.5)), r"2 scales on axis 1"),
    "an axis too far": (lambda g: with_type(g, "acc", axis=4), r"axis 4 does not belong"),
    "a zero point that is no code": (lambda g: with_type(g, "y", zero_point=200), r"zero point 200 is not a code of int8"),
    "a zero point of a minifloat": (lambda g: with_type(g, "y", format=Float(4, 3)), r"e4m3 has no zero point"),
    "a fixed point of another scale": (lambda g: with_type(g, "y", format=Fixed(8, 1), zero_point=0), r"fx8.1 has scale 2\^-1"),
    "a huge integer": (lambda g: with_type(g, "y", format=Int(10**9)), r"not supported; allowed: integer of 1 to 64 bits"),
    "a huge minifloat": (lambda g: with_type(g, "y", format=Float(30, 2)), r"minifloat with 1 to 5 exponent"),
    "a huge codebook": (lambda g: with_type(g, "y", format=Codebook("c", (0, 1 << 63))), r"levels below 2\^62"),
    "an unexpected kind": (lambda g: with_type(with_op(g, "real", x="x"), "real", format=INDEX), r"'real' is int64 but must be real"),
    "groups that do not divide": (lambda g: with_op(g, "acc", groups=2), r"Conv 'acc': x \(1, 2, 4, 4\), weight \(3, 2, 1, 1\) and 2 groups"),
    "a stride of zero": (lambda g: with_op(g, "acc", stride=(0, 1)), r"Conv 'acc': stride \(0, 1\)"),
}  # fmt: skip

ILLEGAL: dict[str, tuple[Change, str]] = {
    "an accumulator of another scale": (lambda g: with_type(g, "acc", scale=(0.25, 0.125, 0.0626)), r"Conv 'acc': 'acc' has scale .* but its operands give"),
    "an accumulator on another axis": (lambda g: with_type(with_type(g, "acc", axis=2, scale=(1.0,) * 4), "y"), r"Conv 'acc': 'acc' has scale .* on axis 2"),
    "an accumulator with a zero point": (lambda g: with_type(g, "acc", zero_point=1), r"must be an integer accumulator with zero point 0"),
    "a sum in other units": (lambda g: with_type(g, "added", scale=(8.0,)), r"Reduce 'added': 'added' has scale 8"),
    "an accumulator of a minifloat": (lambda g: with_type(g, "mean", format=Float(4, 3)), r"Mean 'mean': 'mean' must be an integer accumulator"),
    "an accumulator too narrow": (lambda g: with_type(g, "acc", format=Int(12)), r"Conv 'acc': accumulator 'acc' needs 1[4-8] bits .* but is int12; use fewer bits or widen it"),
    "a bias of another scale": (lambda g: with_type(g, "b", scale=(0.25, 0.125, 0.5)), r"Conv 'acc': bias 'b' has scale"),
    "a bias of one scale for all": (lambda g: with_type(g, "b", scale=(0.25,), axis=None), r"Conv 'acc': bias 'b' has scale 0.25"),
    "a bias with a zero point": (lambda g: with_type(g, "b", zero_point=2), r"bias 'b' must be an integer with zero point 0"),
    "weight scales on the input channels": (lambda g: with_type(g, "w", axis=1, scale=(0.5, 0.25)), r"'w' has scales on axis 1, not on that of output channels, 0"),
    "an activation per channel": (lambda g: with_type(g, "x.q", axis=1, scale=(0.5, 0.25)), r"Conv 'acc': 'x.q' must have one scale"),
    "a real weight": (lambda g: with_constant(with_type(g, "w", format=REAL, scale=(), axis=None), "w", np.zeros((3, 2, 1, 1), np.float32)), r"Conv 'acc': 'w' must be codes"),
    "a wrong multiplier": (lambda g: with_op(g, "u", multiplier=((1 << 30) + 5000,)), r"Requantize 'u': multiplier 1073746824 and shift 1 are not the scale ratio 1.0"),
    "a multiplier out of range": (lambda g: with_op(g, "u", multiplier=(7,)), r"multiplier 7 or shift 1 is out of range"),
    "no multiplier": (lambda g: with_op(g, "u", multiplier=(0,), shift=(0,)), r"multiplier 0 for the scale ratio 1.0"),
    "one multiplier for three scales": (lambda g: with_op(g, "y", multiplier=(1 << 30,), shift=(1,)), r"1 multipliers and 1 shifts for 3 scales"),
    "a clamp outside the format": (lambda g: with_op(g, "u", high=128), r"clamp \[-128, 128\] is not within int8"),
    "a clamp upside down": (lambda g: with_op(g, "u", low=5, high=4), r"clamp \[5, 4\]"),
    "a requantization to a minifloat": (lambda g: with_type(g, "u", format=Float(4, 3), zero_point=0), r"Requantize 'u': 'u' must be integer codes, .* Lookup for e4m3"),
    "addends of different scales": (lambda g: with_type(g, "z", scale=(8.0,)), r"Add 'total': 'y' and 'z' must share a scale: 16.0 is not 8.0"),
    "a table of another type": (lambda g: with_type(g, "table", scale=(2.0,)), r"Lookup 'z': table 'table' must have the type of 'z'"),
    "a table too short": (lambda g: with_constant(with_type(g, "table", shape=(255,)), "table", np.zeros(255, np.int8)), r"Lookup 'z': table 'table' has \(255,\) entries for 256 codes"),
    "a pool that changes the scale": (lambda g: with_type(g, "pooled", scale=(8.0,)), r"MaxPool 'pooled': 'u' must have the type of 'pooled'"),
    "a concatenation of different zero points": (lambda g: with_type(g, "both", zero_point=2), r"Concat 'both': 'pooled' must have the type of 'both'"),
    "an index quantized": (lambda g: with_type(g, "x", format=INDEX), r"Quantize 'x.q': 'x' must be real, not int64"),
    "a dequantized integer": (lambda g: with_type(g, "real", format=INT32, scale=(1.0,)), r"Dequantize 'real': 'real' must be real, not int32"),
}  # fmt: skip


def test_the_small_net_is_right() -> None:
    verify(small_net())


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name: str) -> None:
    change, message = MALFORMED[name]
    with pytest.raises(EdgeqError, match=message) as raised:
        verify(change(small_net()))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ILLEGAL)
def test_illegal(name: str) -> None:
    change, message = ILLEGAL[name]
    with pytest.raises(UnsupportedError, match=message):
        verify(change(small_net()))


def test_all_violations_are_named_at_once() -> None:
    graph = with_op(with_op(with_type(small_net(), "b", zero_point=2), "u", high=300), "y", low=-300)
    with pytest.raises(UnsupportedError, match=r"'acc'.*bias 'b'.*Requantize 'y'.*Requantize 'u'"):
        verify(graph)


def test_codes_in_the_wrong_order_cannot_be_compared() -> None:
    """A minifloat's negative codes are its largest: comparing codes would compare the wrong way round."""
    for format_, legal in ((Float(4, 3), False), (Float(4, 3, signed=False), True), (Codebook("c", (-2, 0, 5)), True)):
        editor = Editor("order", ["x"], {"x": Type((1, 1, 2, 2), format_, (1.0,))})
        pool = editor.append(o.MaxPool("x", "y", (2, 2)), Type((1, 1, 1, 1), format_, (1.0,)))
        graph = editor.graph([pool])
        if legal:
            verify(graph)
        else:
            with pytest.raises(UnsupportedError, match="MaxPool 'y': codes of e4m3 are not in the order"):
                verify(graph)


@pytest.mark.parametrize(
    ("rounding", "bits", "legal"), [("gemmlowp2", 30, True), ("gemmlowp2", 31, False), ("single", 48, True)]
)
def test_a_level_that_the_rule_would_overflow(rounding: o.Rounding, bits: int, legal: bool) -> None:
    """A ratio of 2 is shift 2, so gemmlowp2 needs two bits more than its operand has."""
    editor = Editor("shift", ["x"], {"x": Type((1, 1), Int(bits), (1.0,))})
    op = replace(requantize("x", "y", (1.0,), 0.5, rounding))
    graph = editor.graph([editor.append(op, Type((1, 1), INT8, (0.5,)))])
    if legal:
        verify(graph)
    else:
        with pytest.raises(UnsupportedError, match=f"shifted left by 2 need {bits + 2} bits; gemmlowp2 has 32"):
            verify(graph)


@pytest.mark.parametrize(
    "op",
    [
        o.Apply("x", "y", o.Function("relu")),
        o.GroupNorm("x", None, None, "y", 1, 1e-5),
        o.Binary("x", "x", "y", "maximum"),
        o.Reduce("x", "y", "l2", (2,)),
        o.Resize("x", "y", (4, 4), (2.0, 2.0), "cubic"),
    ],
    ids=lambda op: type(op).__name__,
)
def test_operators_without_a_meaning_on_codes(op: o.Op) -> None:
    editor = Editor("codes", ["x"], {"x": Type((1, 1, 2, 2), INT8, (1.0,))})
    shape = (1, 1, 4, 4) if isinstance(op, o.Resize) else (1, 1, 1, 2) if isinstance(op, o.Reduce) else (1, 1, 2, 2)
    graph = editor.graph([editor.append(op, Type(shape, INT8, (1.0,)))])
    with pytest.raises(UnsupportedError, match=f"{type(op).__name__} 'y': .*no meaning on codes"):
        verify(graph)


@pytest.mark.parametrize("codes", [False, True])
@pytest.mark.parametrize("op", [o.Gather("x", "x", "y", 0), o.Where("x", "x", "x", "y")])
def test_selectors_are_indices_and_truth_values(op: o.Op, codes: bool) -> None:
    type_ = Type((2,), INT8, (0.5,)) if codes else Type((2,))
    editor = Editor("select", ["x"], {"x": type_})
    graph = editor.graph([editor.append(op, type_)])
    with pytest.raises(EdgeqError, match=r"indices|condition"):
        verify(graph)


@pytest.mark.parametrize(
    ("op", "kind"), [(o.Softmax("x", "y", 0), INDEX), (o.Apply("x", "y", o.Function("exp")), BOOL)]
)
def test_operators_on_kinds_without_a_meaning(op: o.Op, kind: Int) -> None:
    editor = Editor("kinds", ["x"], {"x": Type((2,), kind)})
    with pytest.raises(EdgeqError, match="no meaning on"):
        verify(editor.graph([editor.append(op)]))


def test_real_and_index_islands_are_legal() -> None:
    editor = Editor("island", ["x"], {"x": Type((1, 2, 3, 3), INT8, (0.5,))})
    real = editor.append(o.Dequantize("x", "real"), Type((1, 2, 3, 3)))
    soft = editor.append(o.Softmax(real, "soft", 1))
    best = editor.append(o.ArgMax(soft, "best", 1))
    index = editor.constant("chosen", np.array([1, 0]), Type((2,), INDEX))
    kept = editor.append(o.Gather("x", index, "kept", 1), Type((1, 2, 3, 3), INT8, (0.5,)))
    verify(editor.graph([best, kept]))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(integer_graphs())
def test_random_integer_graphs_are_legal(graph: Graph) -> None:
    verify(graph)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(real_graphs())
def test_random_real_graphs_are_sound(graph: Graph) -> None:
    verify(graph)
