"""Emitted TFLite files, run by LiteRT's reference kernels, beside the reference: random networks, code by code."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from edgeq.emit.tflite import build_model
from edgeq.errors import UnsupportedError
from edgeq.formats import INT32, INT64
from edgeq.ir import ops as o
from edgeq.ir.bounds import is_codes
from edgeq.ir.graph import Array, Graph, with_constants
from edgeq.ir.verify import verify
from edgeq.reference.interpret import run
from edgeq.reference.xnnpack import as_xnnpack
from edgeq.runtimes.litert import LiteRtRuntime
from edgeq.targets import find_target
from tests.code_nets import code_nets
from tests.draws import random_inputs
from tests.lowering import lowered
from tests.nets import integer_graphs
from tests.real_nets import real_graphs
from tests.tflite_agreement import Numbers, compare_locally, operators

EXAMPLES = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
EPSILON = 3e-4


def close(reference: Numbers, found: Numbers) -> bool:
    """Whether two results agree as float32 results do: relative to the largest of them."""
    scale = max(1.0, float(np.abs(reference).max(initial=0.0)))
    return reference.shape == found.shape and bool(np.allclose(reference, found, rtol=EPSILON, atol=EPSILON * scale))


def is_tame(graph: Graph, inputs: dict[o.Value, Array]) -> bool:
    """Whether no value is infinite or NaN, whose order and products runtimes define differently."""
    seen: dict[o.Value, Numbers] = {}
    run(graph, inputs, lambda name, tensor: seen.__setitem__(name, tensor.numpy()))
    return all(np.isfinite(array).all() for array in seen.values())


def test_real_networks() -> None:
    kinds: Counter[str] = Counter()
    distinct: list[int] = []
    refused: Counter[str] = Counter()

    @EXAMPLES
    @given(real_graphs(steps=6), st.integers(0, 99))
    def check(graph: Graph, seed: int) -> None:
        inputs = random_inputs(graph, seed)
        assume(is_tame(graph, inputs))
        try:
            results = list(compare_locally(graph, inputs))
        except UnsupportedError as error:
            assert error.where is not None, error
            refused[error.what] += 1
            return
        for value, reference, found in results:
            assert close(reference, found), value
            distinct.append(len(np.unique(reference)))
        kinds.update(type(op).__name__ for op in graph.ops)

    check()
    assert len(kinds) > 15
    assert max(distinct) > 50
    assert refused.total() < 10, refused


@pytest.mark.parametrize("name", ["tflite-int8", "rpi-w8a16", "rpi-w4a8", "mcu-tflite-int8"])
def test_networks_on_codes(name: str) -> None:
    """Every code of every operator is the reference's, random inputs and all-extreme ones."""
    target = find_target(name)
    kinds: Counter[str] = Counter()
    operators_seen: Counter[str] = Counter()
    distinct: list[int] = []

    @EXAMPLES
    @given(code_nets(), st.integers(0, 99))
    def check(graph: Graph, seed: int) -> None:
        inputs = random_inputs(graph, seed)
        integers = lowered(graph, target, inputs)
        operators_seen.update(operators(build_model(integers, target.ports)[0]))
        for fed in (inputs, {key: np.sign(array) * 1e3 for key, array in inputs.items()}):
            for value, reference, found in compare_locally(integers, fed, ports=target.ports):
                if is_codes(integers.types[value]):
                    assert np.array_equal(reference, found), (value, integers.producer[value])
                    distinct.append(len(np.unique(reference)))
                else:
                    assert close(reference, found), value
        kinds.update(type(op).__name__ for op in integers.ops)

    check()
    assert {
        "Conv",
        "Requantize",
        "Lookup",
        "Concat",
        "MaxPool",
        "Resize",
        "Pad",
        "Linear",
        "DivideCodes",
    } <= kinds.keys()
    assert {
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "ADD",
        "MUL",
        "AVERAGE_POOL_2D",
        "MEAN",
        "LOGISTIC",
        "TANH",
    } <= operators_seen.keys()
    assert sum(n > 20 for n in distinct) > len(distinct) // 3


@pytest.mark.parametrize("name", ["tflite-int8", "rpi-w8a16", "rpi-w4a8", "mcu-tflite-int8"])
def test_default_kernels_give_every_code_of_their_profile(name: str) -> None:
    """Networks on codes in LiteRT's default kernels (XNNPACK): random inputs and all-extreme ones, all codes equal.

    What a function of reals gives is rounded the same but for near-ties.
    """
    target = find_target(name)
    seen: Counter[str] = Counter()
    distinct: list[int] = []

    @EXAMPLES
    @given(code_nets(), st.integers(0, 99))
    def check(graph: Graph, seed: int) -> None:
        inputs = random_inputs(graph, seed)
        integers = lowered(graph, target, inputs)
        quick = as_xnnpack(integers)
        for fed in (inputs, {key: np.sign(array) * 1e3 for key, array in inputs.items()}):
            for value, reference, found in compare_locally(
                integers, fed, kernels="default", meant=quick, ports=target.ports
            ):
                if not is_codes(integers.types[value]):
                    continue
                op = integers.producer[value]
                if isinstance(op, o.Quantize) and op.x in integers.producer:  # floats decide near-ties
                    assert np.abs(reference - found).max(initial=0) <= 1, (value, op)
                    continue
                assert np.array_equal(reference, found), (value, op)
                distinct.append(len(np.unique(reference)))
                seen[_kind(op, integers)] += reference.size

    check()
    assert {"Quantize", "Conv", "Add", "Mul", "Mean", "Linear", "Resize", "sigmoid", "Requantize"} <= seen.keys(), seen
    assert sum(n > 20 for n in distinct) > len(distinct) // 3


def _kind(op: o.Op, graph: Graph) -> str:
    """What `op` ends: the operator that accumulated, the function that was looked up, or itself."""
    if isinstance(op, o.Lookup):
        return op.function.name
    maker = graph.producer.get(op.x) if isinstance(op, o.Requantize | o.DivideCodes) else None
    accumulated = maker is not None and graph.types[o.results(maker)[0]].format in (INT32, INT64)
    return type(maker if accumulated else op).__name__


def altered(graph: Graph, op: o.Op, choice: int) -> Graph:
    """`graph` with one number of `op` changed: a rounding rule, a ratio, an end of a clamp, an entry of a table."""
    new: o.Op
    match op:
        case o.Requantize():
            rules = [rule for rule in get_args(o.Rounding) if rule != op.rounding]
            new = (
                replace(op, rounding=rules[choice % len(rules)]),
                replace(op, multiplier=(op.multiplier[0] - 1, *op.multiplier[1:])),
                replace(op, low=op.low + 1),
                replace(op, high=op.high - 2),
            )[choice % 4]
        case o.DivideCodes():
            new = replace(op, low=op.low + 1)
        case o.Quantize():
            new = replace(op, ties="even")
        case o.Lookup():
            entries = graph.constants[op.table].copy()
            entries[choice % len(entries)] ^= 1
            return with_constants(graph, {op.table: entries})
        case _:
            return graph
    return replace(graph, ops=tuple(new if known is op else known for known in graph.ops))


def test_an_altered_graph_is_written_with_its_own_meaning_or_refused_by_name() -> None:
    """Graphs of TFLite's arithmetic but for one number: what no kernel computes is refused, never approximated."""
    target = find_target("tflite-int8")
    outcomes: dict[str, Counter[str]] = {"written": Counter(), "refused": Counter()}
    distinct: list[int] = []

    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
    @given(code_nets(), st.integers(0, 99), st.data())
    def check(graph: Graph, seed: int, data: st.DataObject) -> None:
        inputs = random_inputs(graph, seed)
        integers = lowered(graph, target, inputs)
        op = integers.ops[data.draw(st.integers(0, len(integers.ops) - 1))]
        changed = altered(integers, op, data.draw(st.integers(0, 300)))
        kind = type(op).__name__ if changed is not integers else "nothing"
        verify(changed)
        try:
            results = list(compare_locally(changed, inputs, ports=target.ports))
        except UnsupportedError as error:
            assert error.where is not None, error
            outcomes["refused"][kind] += 1
            return
        for value, reference, found in results:
            if is_codes(changed.types[value]):
                assert np.array_equal(reference, found), (value, op)
                distinct.append(len(np.unique(reference)))
        outcomes["written"][kind] += 1

    check()
    assert outcomes["written"]["nothing"] > 5 and not outcomes["refused"]["nothing"], outcomes
    # Any table is written, read by GATHER; another clamp may be an operator of its own.
    assert {"Requantize", "Lookup"} <= outcomes["written"].keys(), outcomes
    assert {"Requantize", "Quantize"} <= outcomes["refused"].keys(), outcomes
    assert sum(n > 20 for n in distinct) > len(distinct) // 3


def test_graphs_of_any_arithmetic_are_refused_by_name() -> None:
    """Graphs of every format and rounding rule: nearly all hold something that no TFLite kernel computes."""
    reasons: Counter[str] = Counter()

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(integer_graphs(steps=3))
    def check(graph: Graph) -> None:
        try:
            content, _ = build_model(graph)
        except UnsupportedError as error:
            assert error.where is not None
            reasons[error.what] += 1
            return
        LiteRtRuntime(content, threads=1, kernels="reference")
        reasons["written"] += 1

    check()
    assert reasons.total() >= 60 and len(reasons) >= 2
