"""Renaming: outputs get the names that are asked for, and who has such a name already makes room."""

from __future__ import annotations

from edgeq.formats import INT8
from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Graph, Type
from edgeq.ir.rename import renamed, with_output_names
from edgeq.ir.verify import verify


def dequantized() -> Graph:
    editor = Editor("net", ["x"], {"x": Type((1, 4))})
    editor.append(o.Quantize("x", "y"), Type((1, 4), INT8, (0.5,)))
    return editor.graph([editor.append(o.Dequantize("y", "y.r"), Type((1, 4)))])


def test_an_output_takes_its_name_from_the_codes_before_it() -> None:
    graph = with_output_names(dequantized(), ("y",))
    verify(graph)
    assert graph.outputs == ("y",) and graph.types["y"].is_real
    assert [o.results(op) for op in graph.ops] == [("y.q",), ("y",)]


def test_names_that_are_right_stay() -> None:
    graph = dequantized()
    assert with_output_names(graph, graph.outputs) is graph


def test_a_taken_name_is_passed_over() -> None:
    graph = with_output_names(renamed(dequantized(), {"x": "y.q"}), ("y",))
    verify(graph)
    assert graph.inputs == ("y.q",) and [o.results(op) for op in graph.ops] == [("y.q.1",), ("y",)]
