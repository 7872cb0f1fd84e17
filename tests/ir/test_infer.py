"""Inferred shapes and kinds are those that the meaning really has, on random graphs of every operator."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeq.formats import BOOL, INDEX
from edgeq.ir.graph import Graph
from edgeq.ir.infer import window_count
from edgeq.reference.interpret import run
from tests.draws import random_inputs
from tests.real_nets import real_graphs


def test_shapes_and_kinds_are_those_of_the_results() -> None:
    found: set[str] = set()

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(real_graphs(), st.integers(0, 1000))
    def check(graph: Graph, seed: int) -> None:
        def watch(name: str, tensor: torch.Tensor) -> None:
            type_ = graph.types[name]
            assert tuple(tensor.shape) == type_.shape, name
            kinds = {torch.float32: type_.is_real, torch.int64: type_.format == INDEX, torch.bool: type_.format == BOOL}
            assert kinds[tensor.dtype], name

        run(graph, random_inputs(graph, seed), watch)
        found.update(type(op).__name__ for op in graph.ops)

    check()
    assert len(found) > 20


@given(st.integers(1, 20), st.integers(1, 5), st.integers(1, 4), st.integers(0, 6), st.integers(1, 3))
def test_a_window_count_counts_windows(size: int, kernel: int, stride: int, pad: int, dilation: int) -> None:
    reach = dilation * (kernel - 1)
    expected = len(range(0, size + pad - reach, stride))
    assert max(window_count(size, kernel, stride, pad, dilation), 0) == expected
