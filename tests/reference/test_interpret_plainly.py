"""The reference interpreter against nested loops over Python integers, on random lowered graphs in every format."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgeq.formats import INT8, INT32, Float, Int
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Editor, Graph, Type
from edgeq.ir.verify import verify
from edgeq.reference.interpret import run
from tests.draws import random_inputs
from tests.nets import integer_graphs
from tests.plain_graph import Number, evaluate

FINE = Float(4, 7)


def plainly(graph: Graph, inputs: dict[o.Value, Array]) -> dict[o.Value, list[Number]]:
    return evaluate(graph, {name: list(map(Fraction, array.reshape(-1).tolist())) for name, array in inputs.items()})


def numbers(tensor: Tensor) -> list[Number]:
    return [Fraction(x) for x in tensor.reshape(-1).tolist()]


def test_every_value_of_random_graphs() -> None:
    distinct: list[int] = []

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(integer_graphs(), st.integers(0, 1000))
    def check(graph: Graph, seed: int) -> None:
        inputs = random_inputs(graph, seed)
        expected = plainly(graph, inputs)
        seen: dict[o.Value, Tensor] = {}
        run(graph, inputs, seen.__setitem__)
        for op in graph.ops:
            for name in o.results(op):
                assert numbers(seen[name]) == expected[name], f"{type(op).__name__} {name!r}"
                assert tuple(seen[name].shape) == graph.types[name].shape
                distinct.append(len(set(expected[name])))

    check()
    assert sum(count >= 4 for count in distinct) > len(distinct) // 3
    assert max(distinct) > 32


@pytest.mark.parametrize("reciprocal", [False, True])
@pytest.mark.parametrize("ties", ["even", "away"])
def test_reals_close_to_ties(ties: o.Ties, reciprocal: bool) -> None:
    """Within three steps of single precision of every tie, where the quotient and the product often differ."""
    rng = np.random.default_rng(0)
    scale = float(np.float32(0.0123))
    middle = ((np.arange(-140, 140) + 0.5) * scale).astype(np.float32)
    x = (middle.view(np.int32)[:, None] + np.arange(-3, 4, dtype=np.int32)).view(np.float32)
    editor = Editor("ties", ["x"], {"x": Type(x.shape)})
    out = editor.append(o.Quantize("x", "codes", ties, reciprocal), Type(x.shape, INT8, (scale,), 3))
    other = editor.append(o.Quantize("x", "other", ties, not reciprocal), Type(x.shape, INT8, (scale,), 3))
    graph = editor.graph([out, other])
    inputs: dict[o.Value, Array] = {"x": rng.permutation(x)}
    found = run(graph, inputs)
    assert numbers(found[out]) == plainly(graph, inputs)[out]
    assert int((found[out] != found[other]).sum()) > 20 and len(np.unique(found[out])) == 256


@pytest.mark.parametrize("kind", ["linear", "matmul", "mul"])
def test_levels_beyond_53_bits(kind: str) -> None:
    """Products of e5m2 and e4m7 levels do not fit a double; they are exact all the same."""
    rng = np.random.default_rng(0)
    types = {"a": Type((1, 6, 5), Float(5, 2), (1.0,)), "b": Type((1, 5, 6), FINE, (1.0,))}
    editor = Editor(kind, ["a", "b"], types)
    b_codes = rng.integers(0, 1 << 12, (6, 5))
    b_codes[0, 0] = (1 << 11) - 1
    if kind == "linear":
        weight = editor.constant("w", b_codes, Type((6, 5), FINE, (1.0,)))
        bias = editor.constant("bias", rng.integers(-(1 << 52), 1 << 52, 6), Type((6,), Int(64), (1.0,)))
        op: o.Op = o.Linear("a", weight, bias, "acc")
    elif kind == "matmul":
        op = o.MatMul("a", "b", "acc")
    else:
        op = o.Mul("a", editor.append(o.Transpose("b", "turned", (0, 2, 1)), Type((1, 6, 5), FINE, (1.0,))), "acc")
    shape = (1, 6, 5) if kind == "mul" else (1, 6, 6)
    acc = editor.append(op, Type(shape, Int(64), (1.0,)))
    requantize = o.Requantize(acc, "y", (1717986919,), (-30,), "single", -(1 << 31), (1 << 31) - 1)
    graph = editor.graph([acc, editor.append(requantize, Type(shape, INT32, (1.25 * 2.0**30,)))])
    verify(graph)
    inputs: dict[o.Value, Array] = {
        name: rng.integers(0, 1 << type_.format.bits, type_.shape)  # type: ignore[union-attr]
        for name, type_ in types.items()
        if name in graph.inputs
    }
    for name, codes in inputs.items():
        codes[0, 0, 0] = (1 << (graph.types[name].format.bits - 1)) - 1  # type: ignore[union-attr]
    expected = plainly(graph, inputs)
    assert max(abs(int(x)) for x in expected["acc"]) > 1 << 53
    for name, found in run(graph, inputs).items():
        assert numbers(found) == expected[name]
