"""Which operators become one kernel, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.errors import UnsupportedError
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.passes.kernel import Program
from edgeq.passes.kernels import program
from tests.c_nets import small_network, target
from tests.lowering import lowered
from tests.quantized import Net, inputs_of


def program_of(graph: Graph) -> Program:
    return program(lowered(graph, target("c-int8"), inputs_of(graph)))


def test_a_convolution_takes_its_activation_and_its_residual_along() -> None:
    n = Net(1, 4, 6, 6)
    x = n.apply(n.conv("x", 4, "first"), "silu", "a")
    y = n.add(o.Add(x, n.conv(x, 4, "second"), "sum"))
    (first, second, third) = program_of(n.graph(n.conv(y, 3, "out", kernel=1))).kernels
    assert first.table is not None and first.out == "a" and first.residual is None
    assert second.residual is not None and second.out == "sum" and second.reads == ("a", "a")
    assert second.residual.other.value == "a" and third.reads == ("sum",)


def test_a_depthwise_convolution_takes_no_residual_along() -> None:
    n = Net(1, 4, 6, 6)
    x = n.conv("x", 4, "first")
    y = n.add(o.Conv(x, n.reals(4, 1, 3, 3), None, "depthwise", (1, 1), (1, 1, 1, 1), groups=4))
    kinds = [type(k.op) for k in program_of(n.graph(n.conv(n.add(o.Add(x, y, "sum")), 3, "out"))).kernels]
    assert kinds == [o.Conv, o.Conv, o.Add, o.Conv]


def test_terms_of_a_sum_are_the_reference_s_own_numbers() -> None:
    n = Net(1, 2, 4, 4)
    x, y = n.conv("x", 2, "a"), n.apply("x", "tanh", "b")
    y = n.conv(y, 2, "c")
    kept = n.add(o.MaxPool(y, "pool", (1, 1)))  # so that neither convolution takes the sum along
    z = n.add(o.Sub(n.add(o.MaxPool(x, "pool 2", (1, 1))), kept, "difference"))
    found = program_of(n.graph(n.conv(z, 3, "out")))
    (kernel,) = [k for k in found.kernels if isinstance(k.op, o.Sub)]
    a, b = (term.table for term in kernel.terms)
    assert len(a) == len(b) == 256 and np.all(np.diff(a) > 0) and np.all(np.diff(b) < 0)
    zero = [found.type(term.value).zero_point + 128 for term in kernel.terms]
    assert (a[zero[0]], b[zero[1]]) == (0, 0)


def test_every_value_between_kernels_has_eight_bits() -> None:
    found = program_of(small_network())
    stored = {v for k in found.kernels for v in (*k.reads, k.out)}
    assert len(stored) > 12
    assert all(found.type(value).format.bits == 8 for value in stored)  # type: ignore[union-attr]
    made = {value for _, value in found.inputs} | found.graph.constants.keys()
    for kernel in found.kernels:
        assert set(kernel.reads) <= made
        made.add(kernel.out)
    assert all(low <= high for kernel in found.kernels for low, high in kernel.sums)


def test_real_operators_are_named_once_each() -> None:
    n = Net(1, 3, 6, 6)
    y = n.add(o.GroupNorm(n.conv("x", 4, "a"), None, None, "soft", 2, 1e-5))
    with pytest.raises(UnsupportedError) as caught:
        program_of(n.graph(n.conv(y, 4, "out")))
    message = str(caught.value)
    assert message.count("'soft'") == 1 and "raw-head" in message


def test_a_batch_is_refused() -> None:
    n = Net(2, 3, 6, 6)
    with pytest.raises(UnsupportedError, match="batch of 2"):
        program_of(n.graph(n.conv("x", 4, "a")))
