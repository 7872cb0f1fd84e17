"""Designs against the reference, value by value; depths of streams; the test bench; what has no design."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from edgeq.emit import hls, hls_files
from edgeq.emit.hls_boards import DEFAULT_BOARD, find_board
from edgeq.emit.hls_build import build
from edgeq.emit.hls_fold import choose_folds
from edgeq.emit.hls_host import BOUNDED, HostDesign
from edgeq.emit.hls_numbers import adders, odd_part, shifted_products
from edgeq.errors import BudgetError, UnsupportedError, UsageError
from edgeq.formats import POST4, POT4, Int, code_range
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.targets import find_target
from tests.c_nets import every_value, extreme_inputs, small_network, small_transformer
from tests.code_nets import code_nets
from tests.hls_nets import TARGETS, assert_equal_everywhere, folder_of, residual_network, simulation
from tests.lowering import lowered
from tests.quantized import Net, inputs_of


@pytest.mark.parametrize("name", ["fpga-fx8", "fpga-post4"])
def test_a_residual_network_equals_the_reference(name: str, tmp_path: Path) -> None:
    assert assert_equal_everywhere(residual_network(), name, 0, tmp_path / "out") > 200


@pytest.mark.parametrize(("size", "coordinates"), [((8, 10), "asymmetric"), ((3, 3), "half_pixel")])
def test_interpolation_keeps_both_rows(size: tuple[int, int], coordinates: o.Coordinates, tmp_path: Path) -> None:
    """Twice as large, where each second row is one of the operand's; and smaller, where no row is read twice."""
    net = Net(1, 2, 4, 5)
    scale = size[0] / 4, size[1] / 5
    larger = net.add(o.Resize(net.conv("x", 2, "first", 1), "resized", size, scale, "linear", coordinates, "floor"))
    assert assert_equal_everywhere(net.graph(net.conv(larger, 2, "y", 1)), "fpga-fx8", 0, tmp_path / "out") > 50


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_every_stage_equals_the_reference(name: str, tmp_path: Path) -> None:
    assert assert_equal_everywhere(small_network(), name, 1, tmp_path / "out") > 1000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fpga-fx8", "fpga-e2m3"])
def test_a_transformer_equals_the_reference(name: str, tmp_path: Path) -> None:
    assert assert_equal_everywhere(small_transformer(), name, 0, tmp_path / "out") > 1000


@pytest.mark.parametrize(("name", "bits"), [("fpga-int4", 8), pytest.param("fpga-fx8", 4, marks=pytest.mark.slow)])
def test_codes_without_a_sign_after_functions_without_negative_results(name: str, bits: int, tmp_path: Path) -> None:
    """The output port's, too."""
    net = Net(1, 3, 9, 8)
    x = net.apply(net.conv("x", 4, "first"), "relu", "a")
    x = net.add(o.MaxPool(net.add(o.Concat((x, net.apply(x, "sigmoid", "s")), "both", 1)), "pooled", (3, 3), (2, 2)))
    gate = net.apply(net.conv(net.add(o.Mean(x, "mean", (2, 3))), 8, "squeezed", 1), "hardsigmoid", "gate")
    graph = net.graph(net.apply(net.conv(net.add(o.Mul(x, gate, "gated")), 3, "second", 1), "relu", "y"))
    target = replace(find_target(name), narrow=Int(bits))
    integer = lowered(graph, target, inputs_of(graph))
    unsigned = {v for v, t in integer.types.items() if isinstance(t.format, Int) and not t.format.signed}
    assert {"a", "both", "pooled", "y.q"} <= unsigned, unsigned
    made = simulation(integer, hls.depths_of(build(integer, {}, "net", "net")), tmp_path / "out")
    seen = set[int]()
    for inputs in extreme_inputs(graph, 1):
        wanted, found = every_value(integer, inputs), made.of_reals(inputs)
        for value, codes in found.items():
            np.testing.assert_array_equal(codes, wanted[value], err_msg=value)
        seen.update(found["a"].reshape(-1).tolist())
    assert integer.types["y.q"].format == Int(bits, signed=False)
    assert (min(seen), max(seen)) == code_range(integer.types["a"].format) and len(seen) > 60


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(code_nets(8, transformers=True))
def test_random_networks_equal_the_reference(tmp_path_factory: pytest.TempPathFactory, graph: Graph) -> None:
    folder = tmp_path_factory.mktemp("random") / "out"
    try:
        assert assert_equal_everywhere(graph, "fpga-fx8", 2, folder) > 3
    except UnsupportedError as error:
        assert "broadcast" in str(error)


def test_powers_of_two_need_no_multiplier_but_those_of_weights() -> None:
    graph = residual_network()
    integer = lowered(graph, find_target("fpga-fx8"), inputs_of(graph))
    scales = {s for type_ in integer.types.values() for s in type_.scale}
    assert len(scales) > 5 and all(np.frexp(scale)[0] == 0.5 for scale in scales)
    design = build(integer, {}, "net", "net")
    functions = [stage.function for stage in design.stages if stage.kind == "requantize"]
    assert len(functions) >= 5 and set(functions) == {"requantize_by_shifts"}


def _stuck(graph: Graph, depths: dict[str, int], folder: Path) -> str:
    design = build(graph, {}, "net", "net")
    hls.write_files(folder, _texts(design, depths) | hls.header_files(design))
    sizes = [design.leaving[port.value].count for port in design.outputs]
    zeros = [np.zeros(design.entering[port.value].count, np.int16) for port in design.inputs]
    return HostDesign(folder, "net").run(zeros, sizes, BOUNDED).stuck


def _texts(design: object, depths: dict[str, int]) -> dict[str, bytes]:
    return {name: text.encode() for name, text in hls.sources(design, depths).items()}  # type: ignore[arg-type]


def test_one_token_less_and_the_design_is_stuck(tmp_path: Path) -> None:
    graph = residual_network()
    integer = lowered(graph, find_target("fpga-fx8"), inputs_of(graph))
    depths = hls.depths_of(build(integer, {}, "net", "net"))
    deep = {name: depth for name, depth in depths.items() if depth > 2}
    # The second convolution's first window ends in the second pixel of the second row: 10 pixels of 4 tokens. All but the
    # last are on the other branch by then, of which three lie behind the stream: one in its reader, two in the next stream.
    assert list(deep.values()) == [(8 + 2) * 4 - 1 - 3]
    (name,) = deep
    assert _stuck(integer, depths, tmp_path / "enough") == ""
    cycle = _stuck(integer, depths | {name: deep[name] - 1}, tmp_path / "less")
    assert f"finds no room in {name} (depth {deep[name] - 1})" in cycle


def test_the_test_bench_names_the_first_value_that_differs(tmp_path: Path) -> None:
    folder_of(residual_network(), "fpga-int4", tmp_path / "out")
    done = subprocess.run(["make", "-C", tmp_path / "out", "test"], capture_output=True, text=True, check=True)
    assert "passed: " in done.stdout and re.search(r"s_\d+: depth \d+, at most \d+ tokens, 0 left", done.stdout)
    hardened = ["make", "-B", "-C", tmp_path / "out", "test", "CXXFLAGS=-O2 -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2"]
    assert subprocess.run(hardened, capture_output=True, text=True, check=True).stdout.count("passed: ")
    tables = tmp_path / "out" / "net_tables.h"
    text = tables.read_text()
    second = text.index("/* of second.acc */")
    changed = re.sub(r"\{(-?\d),", lambda m: f"{{{-int(m[1]) or 1},", text[second:], count=1)
    tables.write_text(text[:second] + changed)
    done = subprocess.run(["make", "-C", tmp_path / "out", "test"], capture_output=True, text=True, check=False)
    assert done.returncode and "the first value that differs: second.acc (" in done.stdout and "FAILED" in done.stdout


def test_products_by_shifts_are_exact() -> None:
    for format_ in (POST4, POT4):
        text = shifted_products("p", format_.table, 16)
        assert "*" not in text.split("/*", 1)[1].split("*/", 1)[1]
        known = {1}
        for adder in adders(format_.table):
            assert (adder.left << adder.shift) + adder.sign * adder.right == adder.number
            assert {adder.left, adder.right} <= known
            known.add(adder.number)
        assert {odd_part(abs(level)) for level in format_.table if level} <= known


def test_folds_fill_a_board_and_keep_a_budget() -> None:
    graph = small_network()
    integer = lowered(graph, find_target("fpga-int4"), inputs_of(graph))
    folds = choose_folds(integer, DEFAULT_BOARD)
    for stage in build(integer, folds, "net", "net").stages:
        if stage.work.macs is not None:
            macs, fold = stage.work.macs, stage.work.fold
            assert macs.outputs % fold.pe == 0 and macs.inputs % fold.simd == 0
    assert max(fold.pe * fold.simd for fold in folds.values()) > 4
    too_fast = r"so fast; at pynq-z2; got 10,000,000.0 frames a second; allowed: up to ([0-9,.]+) \(.* fastest board here, kv260"
    with pytest.raises(BudgetError, match=too_fast) as refused:
        choose_folds(integer, DEFAULT_BOARD, 10)
    reachable = float(re.search(too_fast, str(refused.value))[1].replace(",", ""))  # type: ignore[index]
    assert choose_folds(integer, DEFAULT_BOARD, int(DEFAULT_BOARD.clock_mhz * 1e6 / reachable)) == folds
    with pytest.raises(BudgetError, match="ultra96-v2 runs it so fast"):
        choose_folds(integer, DEFAULT_BOARD, int(DEFAULT_BOARD.clock_mhz * 1e6 / (1.5 * reachable)))


def test_a_board_that_is_too_small_is_refused_with_one_that_is_not() -> None:
    graph = small_network()
    integer = lowered(graph, find_target("fpga-int4"), inputs_of(graph))
    with pytest.raises(BudgetError, match=r"cannot hold this design; at tiny; got .* lut of 500. pynq-z2 holds it"):
        choose_folds(integer, replace(DEFAULT_BOARD, name="tiny", lut=500))
    with pytest.raises(UsageError, match="Did you mean pynq-z2"):
        find_board("pynq-z1")


def test_what_no_stage_computes_is_refused(tmp_path: Path) -> None:
    n = Net(1, 3, 6, 5)
    graph = n.graph(n.conv("x", 4, "y", kernel=1))
    asymmetric = lowered(graph, find_target("c-int8"), inputs_of(graph))
    with pytest.raises(UnsupportedError, match="zero point"):
        hls.emit(asymmetric, find_target("fpga-fx8"), tmp_path / "out", "net", {}, {})
    n = Net(1, 3, 6, 5)
    real = n.graph(n.add(o.Reduce(n.conv("x", 4, "y", kernel=1), "m", "max", (2, 3))))
    with pytest.raises(UnsupportedError, match="Reduce"):
        hls.emit(
            lowered(real, find_target("fpga-fx8"), inputs_of(real)),
            find_target("fpga-fx8"),
            tmp_path / "out",
            "net",
            {},
            {},
        )
    assert not (tmp_path / "out").exists()


def test_tables_lie_where_they_are_small() -> None:
    graph = residual_network()
    integer = lowered(graph, find_target("fpga-fx8"), inputs_of(graph))
    design = build(integer, {}, "net", "net")
    tables = [table for stage in design.stages for table in stage.tables]
    assert tables and not any(hls_files.is_in_blocks(table) for table in tables)


@pytest.mark.slow
def test_what_a_branch_keeps_lies_where_it_takes_least(tmp_path: Path) -> None:
    """Behind the convolution that makes 2 channels of 8, not in front of it."""
    n = Net(1, 3, 9, 8)
    x = n.conv("x", 8, "wide", kernel=1)
    long = n.conv(n.conv(x, 2, "long", kernel=5), 2, "longer", kernel=5)
    graph = n.graph(n.add(o.Add(n.conv(x, 2, "short", kernel=1), long, "sum")))
    integer = lowered(graph, find_target("fpga-int4"), inputs_of(graph))
    design = build(integer, {}, "net", "net")
    deep = {name for name, depth in hls.depths_of(design).items() if depth > 2}
    readers = {stage.kind: stage.reads for stage in design.stages}
    behind = {
        stream.name for stage in design.stages if stage.value in ("short", "sum.short") for stream in stage.writes
    }
    assert deep and deep <= behind | {stream.name for stream in readers["join"]}, (deep, behind)
