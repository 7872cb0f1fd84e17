"""`edgeq verify` on designs: the constants read back from the C++ are the graph's; each that is broken is found."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeq.emit.artifact import GRAPH_FILE, MANIFEST
from edgeq.emit.hls import emit
from edgeq.flow.verify import VerifyRequest, verify_artifact
from edgeq.ir import ops as o
from edgeq.ir.file import digest, load, to_bytes
from edgeq.ir.graph import Graph
from edgeq.readback.design import compare_design
from edgeq.readback.hls import read_design
from edgeq.targets import describe, find_target
from tests.c_nets import small_transformer
from tests.command_line import edgeq
from tests.hls_nets import TARGETS
from tests.lowering import lowered
from tests.quantized import Net, inputs_of


def network() -> Graph:
    """A convolution, a table, a depthwise and a transposed one, a pool, a constant factor, interpolation, a dense layer."""
    n = Net(1, 3, 6, 5)
    x = n.apply(n.conv("x", 4, "first"), "sigmoid", "curved")
    x = n.add(o.Conv(x, n.reals(4, 1, 3, 3, spread=0.4), n.reals(4), "depthwise", (1, 1), (1, 1, 1, 1), groups=4))
    x = n.add(o.Mul(x, n.reals(4, 1, 1), "factored"))
    x = n.add(o.Resize(n.conv(x, 4, "second", 1), "large", (9, 8), (1.5, 1.6), "linear"))
    x = n.add(o.ConvTranspose(n.conv(x, 4, "third", 1), n.reals(4, 2, 2, 2), n.reals(2), "up", (2, 2)))
    x = n.add(o.AveragePool(x, "pooled", (3, 2), (3, 2)))
    return n.graph(n.linear(n.add(o.Reshape(x, "flat", (1, 2 * 6 * 8))), 5, "scores"))


@pytest.fixture(
    scope="module",
    params=["fpga-fx8", *(pytest.param(name, marks=pytest.mark.slow) for name in TARGETS if name != "fpga-fx8")],
)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the network as a design."""
    return written(network(), request.param, tmp_path_factory.mktemp("run") / "out")


def written(graph: Graph, name: str, folder: Path) -> Path:
    target = find_target(name)
    integer = lowered(graph, target, inputs_of(graph))
    manifest = {"target": describe(target), "graph_sha256": digest(integer)}
    return emit(integer, target, folder, "net", {}, manifest, {GRAPH_FILE: to_bytes(integer)}).primary.parent


def test_every_constant_is_read_back(run: Path) -> None:
    found = compare_design(load(run / GRAPH_FILE), read_design(run / "net.cpp"))
    assert not found.differences and found.numbers > 500 and found.tensors >= 15


Break = Callable[[str], str]


def _in_table(value: str, what: str, place: int = -1) -> Break:
    """Another number at `place` in the table `what` of a value."""

    def change(text: str) -> str:
        start = text.index(f"{what}_", text.index(f"/* of {value} */"))
        end = text.index("\n};", start)
        numbers = list(re.finditer(r"-?\d+", text[text.index("{", start) : end]))
        last, first = numbers[place], text.index("{", start)
        number = int(last[0])
        return text[: first + last.start()] + str(number - 1 or 2) + text[first + last.end() :]

    return change


def _field(value: str, name: str) -> Break:
    """Another number in the configuration of a value's stage."""

    def change(text: str) -> str:
        start = text.index(f"int {name} = ", text.index(f": {value} */"))
        return text[:start] + re.sub(r"= (-?\d+)", lambda m: f"= {int(m[1]) - 1}", text[start:], count=1)

    return change


BREAKS: dict[str, tuple[str, Break, str]] = {
    "weight": ("net_tables.h", _in_table("first.acc", "weights"), "first.acc: weight level"),
    "depthwise weight": ("net_tables.h", _in_table("depthwise.acc", "weights"), "depthwise.acc: weight level"),
    "transposed weight": ("net_tables.h", _in_table("up.acc", "weights"), "up.acc: weight level"),
    "bias": ("net_tables.h", _in_table("scores.acc", "biases"), "scores.acc: bias level"),
    "shift": ("net_tables.h", _in_table("second", "shifts"), "second: the factor"),
    "function": ("net_tables.h", _in_table("curved", "table"), "curved: the table"),
    "operand": ("net_tables.h", _in_table("factored.acc", "operand"), "factored.acc: the operand"),
    "interpolation": ("net_tables.h", _in_table("large.acc", "rows", 5), "large.acc: rows"),
    "fraction": ("net.cpp", _field("second", "fraction"), "second: the factor"),
    "clamp": ("net.cpp", _field("second", "high"), "second: the largest code"),
    "padding": ("net.cpp", _field("first.acc", "pad_left"), "first.acc: pad_left"),
    "window": ("net.cpp", _field("pooled.acc", "stride_h"), "pooled.acc: stride_h"),
    "scale": ("net.h", lambda text: re.sub(r"(scale 0\.\d)(\d)", lambda m: m[1] + str(9 - int(m[2])), text, count=1), "port's scale"),
}  # fmt: skip


@pytest.mark.parametrize("what", BREAKS)
def test_what_is_broken_is_found(run: Path, what: str) -> None:
    name, change, told = BREAKS[what]
    whole = (run / name).read_text()
    broken = change(whole)
    assert broken != whole
    (run / name).write_text(broken)
    try:
        found = compare_design(load(run / GRAPH_FILE), read_design(run / "net.cpp"))
    finally:
        (run / name).write_text(whole)
    assert len(found.differences) == 1 and told in str(found.differences[0]), found.differences


def test_a_level_of_a_table_of_products(tmp_path: Path) -> None:
    folder = written(network(), "fpga-post4", tmp_path / "out")
    source = (folder / "net.cpp").read_text()
    (folder / "net.cpp").write_text(source.replace("return product(x11 << 1)", "return product(x11 << 2)", 1))
    assert source != (folder / "net.cpp").read_text()
    found = compare_design(load(folder / GRAPH_FILE), read_design(folder / "net.cpp"))
    assert found.differences and all("weight level" in str(item) for item in found.differences)


def test_the_command_compares_numbers_and_every_value(tmp_path: Path) -> None:
    folder = written(network(), "fpga-int4", tmp_path / "out")
    report = verify_artifact(VerifyRequest(str(folder / "net.cpp"), images=3))
    assert report.exit == 0 and report.value("differences", "artifact") == 0
    equal = report.value("equal_codes", "C simulation of the design")
    assert equal == 1.0 and len(report.agreement) >= 15
    text = (folder / "net_tables.h").read_text()
    (folder / "net_tables.h").write_text(_in_table("up.acc", "weights")(text))
    ran = edgeq("verify", folder / "net.cpp", "--json")
    assert ran.exit == 5 and "differs at up.acc: weight level" in ran.stdout and "first part at" in ran.stdout


def test_a_folder_that_is_no_design(tmp_path: Path) -> None:
    folder = written(network(), "fpga-fx8", tmp_path / "out")
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "hls": {"layers": [1]}}))
    ran = edgeq("verify", folder / "net.cpp")
    assert ran.exit in (2, 3) and "Traceback" not in ran.stderr, ran.stderr


@pytest.mark.slow
def test_a_transformer(tmp_path: Path) -> None:
    folder = written(small_transformer(), "fpga-fx8", tmp_path / "out")
    graph = load(folder / GRAPH_FILE)
    assert not compare_design(graph, read_design(folder / "net.cpp")).differences
    tables = folder / "net_tables.h"
    tables.write_text(_in_table("norm 0.acc", "gammas")(tables.read_text()))
    (found,) = compare_design(graph, read_design(folder / "net.cpp")).differences
    assert "gammas" in str(found)
