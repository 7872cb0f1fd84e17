"""Graphs as text: exactly what a small graph looks like, and that every random graph reads back equal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import HealthCheck, given, settings

from edgeq.formats import INDEX, INT8, INT8_NARROW, INT32, Codebook
from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Graph, Type
from edgeq.ir.parse import from_text
from edgeq.ir.text import op_name, sha256, to_text
from tests.nets import integer_graphs
from tests.real_nets import real_graphs


def assert_same(a: Graph, b: Graph) -> None:
    assert (a.name, a.inputs, a.outputs, a.ops, dict(a.types)) == (b.name, b.inputs, b.outputs, b.ops, dict(b.types))
    assert sorted(a.constants) == sorted(b.constants)
    for name, array in a.constants.items():
        assert np.array_equal(array, b.constants[name], equal_nan=array.dtype.kind == "f")


def tiny() -> Graph:
    editor = Editor('a "tiny" net', ["in: put"], {"in: put": Type((1, 2, 4, 4), INT8, (0.1,), -3)})
    w_type = Type((2, 2, 1, 1), INT8_NARROW, (0.5, 0.25), axis=0)
    w = editor.constant("/conv/w", np.arange(-2, 2).reshape(2, 2, 1, 1), w_type)
    acc_type = Type((1, 2, 2, 4), INT32, (0.05, 0.025), axis=1)
    acc = editor.append(o.Conv("in: put", w, None, "acc", stride=(2, 1)), acc_type)
    op = o.Requantize(acc, "y", (1 << 30, 1 << 30), (0, -1), "fc-float", -128, 127)
    y = editor.append(op, Type((1, 2, 2, 4), INT8, (0.1,)))
    cat = editor.append(o.Concat((y, y), "cat", 1), Type((1, 4, 2, 4), INT8, (0.1,)))
    real = editor.append(o.Dequantize(cat, "real"), Type((1, 4, 2, 4)))
    hard = editor.append(o.Apply(real, "hard", o.Function("clip", 0.0, float("inf"))))
    best = editor.append(
        o.TopK(hard, "best", "where", 2, 3, largest=False), Type((1, 4, 2, 2)), Type((1, 4, 2, 2), INDEX)
    )
    return editor.graph([best, "where"])


TINY = """\
edgeq graph 1
name "a \\"tiny\\" net"
input %"in: put": int8[1,2,4,4] scale 0.1 zp -3
constant %/conv/w: int8n[2,2,1,1] scale (0.5, 0.25) axis 0 sha256 5b00558d1695977f
%acc: int32[1,2,2,4] scale (0.05, 0.025) axis 1 = conv(%"in: put", %/conv/w, none, stride=(2, 1))
%y: int8[1,2,2,4] scale 0.1 = requantize(%acc, multiplier=(1073741824, 1073741824), shift=(0, -1), \
rounding=fc-float, low=-128, high=127)
%cat: int8[1,4,2,4] scale 0.1 = concat([%y, %y], axis=1)
%real: real[1,4,2,4] = dequantize(%cat)
%hard: real[1,4,2,4] = apply(%real, function=clip(0.0, inf))
%best: real[1,4,2,2], %where: int64[1,4,2,2] = top_k(%hard, k=2, axis=3, largest=false)
output %best
output %where
"""


def test_the_text_of_a_tiny_graph() -> None:
    assert to_text(tiny()) == TINY
    assert_same(from_text(TINY, tiny().constants), tiny())


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(integer_graphs() | real_graphs())
def test_every_random_graph_reads_back(graph: Graph) -> None:
    text = to_text(graph)
    copy = from_text(text, graph.constants)
    assert_same(copy, graph)
    assert to_text(copy) == text


def test_every_operator_has_a_name_of_its_own() -> None:
    assert len({op_name(kind) for kind in o.OPS}) == len(o.OPS)
    assert op_name(o.ConvTranspose) == "conv_transpose"


def wide() -> Graph:
    """Three hundred channels of a codebook with many levels."""
    channels = 300
    table = Codebook("many", tuple(range(-100, 100)))
    scales = tuple(1 / (3 + k) for k in range(channels))
    editor = Editor("wide", ["x"], {"x": Type((1, channels, 1, 1), table, scales, axis=1)})
    multiplier, shift = tuple((1 << 30) + k for k in range(channels)), (-3,) * channels
    for name in ("y", "z"):
        op = o.Requantize("x", name, multiplier, shift, "single", -8, 7)
        editor.append(op, Type((1, channels, 1, 1), INT8, (0.1,)))
    return editor.graph(["y", "z"])


def test_long_tuples_and_formats_stand_in_one_table() -> None:
    text = to_text(wide())
    lines = text.splitlines()
    table = [line for line in lines if line.startswith("@")]
    assert [line.split(" = ")[0] for line in table] == ["@1", "@2", "@3", "@4"]
    assert max(len(line) for line in lines if not line.startswith("@")) < 140
    assert lines[2] == "input %x: @1[1,300,1,1] scale @2 axis 1"
    assert_same(from_text(text, {}), wide())


def test_numbers_of_other_types_print_as_plain_numbers() -> None:
    graph = wide()
    scales = tuple(np.float64(scale) for scale in graph.types["x"].scale)
    ops = [replace(op, multiplier=tuple(np.int64(q) for q in op.multiplier)) for op in graph.ops]  # type: ignore[arg-type, union-attr]
    same = replace(graph, ops=tuple(ops), types={**graph.types, "x": replace(graph.types["x"], scale=scales)})
    assert to_text(same) == to_text(graph)


def test_fingerprints_see_content_and_shape_but_not_storage() -> None:
    codes = np.array([[1, -2], [3, 4]])
    assert sha256(codes.astype(np.int8)) == sha256(codes.astype(np.int64)) == sha256(np.asfortranarray(codes))
    others = [codes.reshape(4), codes.T, codes + 1, codes.astype(np.float32), codes.astype(bool)]
    assert len({sha256(array) for array in [codes, *others]}) == 6
    assert sha256(np.zeros((), np.float32)) != sha256(np.zeros(1, np.float32))
