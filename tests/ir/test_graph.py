"""Graphs and the editor that builds them."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.errors import UnsupportedError
from edgeq.formats import BOOL, INDEX, INT8
from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Graph, Type, observed, trimmed, with_constants


def diamond() -> Graph:
    """x -> a -> (b, c) -> d, with one op and one constant that nobody needs."""
    editor = Editor("diamond", ["x"], {"x": Type((2, 2))})
    one = editor.constant("one", np.ones((2, 2), np.float32))
    editor.constant("unused", np.ones(3, np.float32))
    a = editor.append(o.Add("x", one, "a"))
    b = editor.append(o.Apply(a, "b", o.Function("relu")))
    c = editor.append(o.Mul(a, a, "c"))
    editor.append(o.Apply(c, "dead", o.Function("exp")))
    return editor.graph([editor.append(o.Sub(b, c, "d"))])


def test_what_no_output_needs_is_gone() -> None:
    graph = diamond()
    assert [o.results(op)[0] for op in graph.ops] == ["a", "b", "c", "d"]
    assert set(graph.types) == {"x", "one", "a", "b", "c", "d"}
    assert set(graph.constants) == {"one"}


def test_a_part_of_a_graph() -> None:
    graph = diamond()
    part = trimmed(graph, ["b", "a"])
    assert [o.results(op)[0] for op in part.ops] == ["a", "b"] and part.outputs == ("b", "a")
    watched = observed(graph, ["a", "b"])
    assert watched.ops == part.ops and watched.outputs == ("b",)
    assert observed(graph, ["x"]).outputs == ("x",) and observed(graph, ["x"]).ops == ()


def test_producers_and_consumers() -> None:
    graph = diamond()
    assert graph.producer["d"] == o.Sub("b", "c", "d")
    assert "x" not in graph.producer
    assert [o.results(op)[0] for op in graph.consumers["a"]] == ["b", "c"]
    assert "d" not in graph.consumers
    assert graph.sole_consumer("b") == graph.producer["d"]
    assert graph.sole_consumer("a") is None
    assert graph.sole_consumer("d") is None


def test_an_output_has_no_sole_consumer() -> None:
    editor = Editor("n", ["x"], {"x": Type((1,))})
    y = editor.append(o.Apply("x", "y", o.Function("relu")))
    z = editor.append(o.Apply(y, "z", o.Function("relu")))
    assert editor.graph([y, z]).sole_consumer(y) is None


def test_results_are_inferred() -> None:
    editor = Editor("n", ["x"], {"x": Type((2, 5))})
    editor.append(o.TopK("x", "best", "where", 2, 1))
    editor.append(o.Binary("best", "best", "same", "equal"))
    assert [editor.types[name] for name in ("best", "where", "same")] == [
        Type((2, 2)), Type((2, 2), INDEX), Type((2, 2), BOOL),
    ]  # fmt: skip
    with pytest.raises(UnsupportedError, match="do not broadcast; at bad; got"):
        editor.append(o.Add("x", "best", "bad"))


def test_names_stay_unique() -> None:
    editor = Editor("n", ["x"], {"x": Type((1,))})
    names = [editor.constant("x", np.zeros(1, np.float32)) for _ in range(3)]
    assert names == ["x.1", "x.2", "x.3"]


def test_aliases_redirect_later_readers_and_outputs() -> None:
    graph = diamond()
    editor = Editor.like(graph)
    for op in graph.ops:
        if o.results(op)[0] == "b":
            editor.alias("b", "a")
        else:
            editor.append(op)
    edited = editor.graph(graph.outputs)
    assert [o.results(op)[0] for op in edited.ops] == ["a", "c", "d"]
    assert edited.producer["d"] == o.Sub("a", "c", "d")
    editor.alias("d", "b")
    assert editor.graph(graph.outputs).outputs == ("a",)


def test_constants_are_replaced() -> None:
    graph = diamond()
    twos = np.full((2, 2), 2, np.float32)
    assert with_constants(graph, {"one": twos}).constants["one"] is twos
    assert graph.constants["one"].max() == 1


def test_types() -> None:
    assert Type((2, 3)).size == 6
    assert Type(()).size == 1
    assert Type((2,)).is_real
    assert not Type((2,), INT8, (0.1,)).is_real
