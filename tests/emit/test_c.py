"""Generated C against the reference, value by value; what it may not contain; and its self-test."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeq.emit.c import emit
from edgeq.emit.c_names import identifier
from edgeq.emit.c_pack import in_order, packed, stored_bits
from edgeq.errors import UnsupportedError
from edgeq.formats import INDEX, INT16
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph, Type
from edgeq.reference.arithmetic import SHIFT_MIN
from edgeq.runtimes.native import NativeRuntime
from edgeq.target import Instructions
from tests.c_nets import (
    C_TARGETS,
    PACKED_TARGETS,
    QUICK,
    WIDE_TARGET,
    biases_beyond_32_bits,
    equal_codes,
    every_value,
    extreme_inputs,
    folder_of,
    heavily_biased,
    small_network,
    small_transformer,
    target,
    with_finer_weights,
)
from tests.code_nets import code_nets
from tests.lowering import lowered
from tests.quantized import Net, inputs_of

SANITIZED = ("-std=c99", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
UNDEFINED = (*QUICK, "-fsanitize=undefined", "-fno-sanitize-recover=all")
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror")
COMPILERS = [name for name in ("gcc", "clang", "clang-16") if shutil.which(name)]


def assert_equal_everywhere(graph: Graph, name: str, seed: int, bits: int | None = None) -> int:
    """Every stored value of the C equals the reference; the number of distinct codes seen."""
    with tempfile.TemporaryDirectory() as temporary:
        integer, artifact = folder_of(graph, target(name, bits), Path(temporary) / "out")
        return len(equal_codes(graph, integer, artifact, seed))


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(code_nets(8, transformers=True))
def test_random_networks_equal_the_reference(graph: Graph) -> None:
    assert assert_equal_everywhere(graph, "c-int8", 1) > 3


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(code_nets(12, transformers=True))
def test_many_random_networks_equal_the_reference(graph: Graph) -> None:
    for name in C_TARGETS:
        assert assert_equal_everywhere(graph, name, 2) > 3


@pytest.mark.parametrize("name", [*C_TARGETS, *PACKED_TARGETS])
def test_every_kernel_equals_the_reference(name: str) -> None:
    assert assert_equal_everywhere(small_network(), name, 0) > 200


def test_a_convolution_does_not_write_a_stream() -> None:
    """The difference that layer norm reads is kept in 16 bits, so that it is no residual of the convolution."""
    n = Net(1, 6, 4, 6)
    difference = n.add(o.Sub("x", n.conv("x", 6, "c"), "s"))
    rows = n.add(o.Transpose(n.add(o.Reshape(difference, "r", (1, 6, 24))), "t", (0, 2, 1)))
    joined = n.add(o.Add(rows, n.linear(n.add(o.LayerNorm(rows, None, None, "n", 2, 1e-5)), 6, "l"), "z"))
    graph = n.graph(n.linear(n.add(o.LayerNorm(joined, None, None, "w", 2, 1e-5)), 5, "y"))
    assert lowered(graph, target("c-int8"), inputs_of(graph)).types["s"].format == INT16
    assert assert_equal_everywhere(graph, "c-int8", 0) > 100


def test_a_stream_is_padded() -> None:
    n = Net(1, 6, 4, 6)
    stream = n.add(o.Add("x", n.conv("x", 6, "c"), "s"))
    rows = n.add(
        o.Transpose(
            n.add(o.Reshape(n.add(o.Pad(stream, "p", (0, 0, 1, 0), (0, 0, 0, 2))), "r", (1, 6, 40))), "t", (0, 2, 1)
        )
    )
    joined = n.add(o.Add(rows, n.linear(n.add(o.LayerNorm(rows, None, None, "n", 2, 1e-5)), 6, "l"), "z"))
    graph = n.graph(n.linear(n.add(o.LayerNorm(joined, None, None, "w", 2, 1e-5)), 5, "y"))
    assert lowered(graph, target("c-int8"), inputs_of(graph)).types["p"].format == INT16
    assert assert_equal_everywhere(graph, "c-int8", 0) > 100


@pytest.mark.parametrize("way", ["MaxPool", "Resize", "Gather"])
def test_what_has_no_kernel_of_16_bits_ends_a_stream(way: str) -> None:
    """A sum that reaches its layer norm through a pool has the codes of other values, so that C can pool them."""
    n = Net(1, 6, 4, 6)
    total = n.add(o.Add("x", n.conv("x", 6, "c"), "s"))
    if way == "MaxPool":
        between = n.add(o.MaxPool(total, "between", (3, 3), (1, 1), (1, 1, 1, 1)))
    elif way == "Resize":
        between = n.add(o.Resize(total, "between", (8, 12), (2.0, 2.0)))
    else:
        order = n.editor.constant("order", np.arange(6)[::-1].copy(), Type((6,), INDEX))
        between = n.add(o.Gather(total, order, "between", 3))
    count = 96 if way == "Resize" else 24
    rows = n.add(o.Transpose(n.add(o.Reshape(between, "r", (1, 6, count))), "t", (0, 2, 1)))
    joined = n.add(o.Add(rows, n.linear(n.add(o.LayerNorm(rows, None, None, "n", 2, 1e-5)), 6, "l"), "z"))
    graph = n.graph(n.linear(n.add(o.LayerNorm(joined, None, None, "w", 2, 1e-5)), 5, "y"))
    types = lowered(graph, target("c-int8"), inputs_of(graph)).types
    assert types["s"].format != INT16 and types["z"].format == INT16
    assert assert_equal_everywhere(graph, "c-int8", 0) > 100


def test_codes_of_16_bits() -> None:
    assert assert_equal_everywhere(small_network(), WIDE_TARGET, 0) > 10_000


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(code_nets(8))
def test_random_networks_on_codes_of_16_bits(graph: Graph) -> None:
    assert assert_equal_everywhere(graph, WIDE_TARGET, 5) > 30


def test_sums_beyond_32_bits(tmp_path: Path) -> None:
    """Weights of one sign and inputs at the ends of their range: what the proof must reckon with does happen."""
    n = Net(1, 96, 6, 5)
    wide = n.constant(np.full((6, 96, 3, 3), 0.9))
    y = n.add(o.Conv("x", wide, n.reals(6), "large", (1, 1), (1, 1, 1, 1)))
    flat = n.add(o.Reshape("x", "flat", (1, 96 * 30)))
    rows = n.constant(np.full((5, 96 * 30), -0.9))
    graph = n.graph(y, n.add(o.Linear(flat, rows, None, "scores")))
    assert assert_equal_everywhere(graph, WIDE_TARGET, 6) > 100
    folder_of(graph, target(WIDE_TARGET), tmp_path / "out")
    assert (tmp_path / "out" / "net_model.c").read_text().count(".is_long = 1") == 2


def test_biases_beyond_32_bits_beside_codes_of_16_bits(tmp_path: Path) -> None:
    """No plan makes them, but a graph may have them: here two layers in units 2^16 as fine, which ratios follow."""
    graph = heavily_biased(1e-4)
    integer = with_finer_weights(lowered(graph, target(WIDE_TARGET), inputs_of(graph)), 1 << 16)
    assert len(biases_beyond_32_bits(integer)) == 2
    assert min(min(op.shift) for op in integer.ops if isinstance(op, o.Requantize)) < SHIFT_MIN
    artifact = emit(integer, target(WIDE_TARGET), tmp_path / "out", "net", {}, {})
    runtime, distinct = NativeRuntime(artifact.primary, artifact.tensors.values(), UNDEFINED), set[int]()
    for inputs in extreme_inputs(graph, 7):
        wanted, found = every_value(integer, inputs), runtime.run(inputs)
        for value, codes in found.items():
            np.testing.assert_array_equal(codes, wanted[value], err_msg=value)
            distinct.update(codes.reshape(-1).tolist())
    assert len(distinct) > 500


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
@pytest.mark.parametrize("name", C_TARGETS)
def test_weights_of_any_bits(name: str, bits: int) -> None:
    assert assert_equal_everywhere(small_network(), name, 3, bits) > 100


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(code_nets(8, transformers=True), st.sampled_from(PACKED_TARGETS), st.sampled_from([2, 4]))
def test_random_networks_with_packed_weights(graph: Graph, name: str, bits: int) -> None:
    assert assert_equal_everywhere(graph, name, 4, bits) > 3


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("instructions", ["portable", "dsp", "mve"])
def test_packed_weights_take_their_bits(instructions: Instructions, bits: int) -> None:
    rows = np.random.default_rng(0).integers(-(1 << (bits - 1)), 1 << (bits - 1), (2, 8, 48))
    stored = stored_bits(bits, 48, instructions)
    found = packed(rows, 4, instructions, stored)
    assert found.size == rows.size * stored // 8 and found.min() >= -128 and found.max() <= 127
    assert len(np.unique(found)) >= 16
    assert in_order(rows, bits).size == rows.size * bits // 8


@pytest.mark.parametrize("name", [*C_TARGETS, "c-w4a8"])
def test_a_transformer_equals_the_reference(name: str) -> None:
    assert assert_equal_everywhere(small_transformer(), name, 0) > 200


@pytest.mark.parametrize("optimize", ["-O0", "-O2", "-Os"])
@pytest.mark.parametrize("compiler", COMPILERS)
def test_compilers_have_nothing_to_say_about_a_transformer(compiler: str, optimize: str, tmp_path: Path) -> None:
    made = tmp_path / "out"
    folder_of(small_transformer(), target("c-int8"), made)
    sources = [made / "selftest.c", made / "net_weights.c"]
    program = tmp_path / "selftest"
    subprocess.run([compiler, *STRICT, optimize, "-o", program, *sources], check=True, capture_output=True)
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("passed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("c") / "out"
    folder_of(small_network(), target("c-int8"), made)
    return made


@pytest.mark.parametrize("optimize", ["-O0", "-O2", "-Os"])
@pytest.mark.parametrize("compiler", COMPILERS)
def test_compilers_have_nothing_to_say_and_the_self_test_passes(
    compiler: str, optimize: str, folder: Path, tmp_path: Path
) -> None:
    program = tmp_path / "selftest"
    sources = [folder / "selftest.c", folder / "net_weights.c"]
    subprocess.run([compiler, *STRICT, optimize, "-o", program, *sources], check=True, capture_output=True)
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("passed")


def test_the_readme_s_one_command_works(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    done = subprocess.run(["make", "-s", "test"], cwd=copy, capture_output=True, text=True, check=True)
    assert "passed" in done.stdout
    assert "make test" in (copy / "README.md").read_text()


def test_the_self_test_names_the_first_layer_that_differs(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    source = (copy / "net_model.c").read_text()
    broken = source.replace(".stride_h = 2, .stride_w = 2", ".stride_h = 2, .stride_w = 1", 1)
    assert broken != source
    (copy / "net_model.c").write_text(broken)
    done = subprocess.run(["make", "-s", "test"], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode and "FAILED" in done.stdout
    assert done.stdout.splitlines()[0].startswith("layer 1:")


def test_the_self_test_sees_a_single_changed_bit_of_the_weights(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    text = (copy / "net_weights.c").read_text()
    start = text.index("= {\n") + 4
    digit = next(k for k in range(start, len(text)) if text[k].isdigit())
    changed = text[:digit] + str(int(text[digit]) ^ 1) + text[digit + 1 :]
    (copy / "net_weights.c").write_text(changed)
    done = subprocess.run(["make", "-s", "test"], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode and "weights" in done.stdout


@pytest.mark.parametrize("name", [*C_TARGETS, *PACKED_TARGETS, WIDE_TARGET])
@pytest.mark.parametrize("network", [small_network, small_transformer])
def test_no_float_no_heap_no_library(network: Callable[[], Graph], name: str, tmp_path: Path) -> None:
    if name == WIDE_TARGET and network is small_transformer:
        pytest.skip("attention on 16-bit codes stays real")
    folder_of(network(), target(name), tmp_path / "out")
    for stem in ("net_model", "net_weights"):
        made = tmp_path / f"{stem}.o"
        command = ["gcc", *STRICT, "-O2", "-fno-builtin", "-mgeneral-regs-only", "-c", "-o", made]
        subprocess.run([*command, tmp_path / "out" / f"{stem}.c"], check=True, capture_output=True)
        listed = subprocess.run(["nm", "-u", made], capture_output=True, text=True, check=True).stdout.split()
        assert set(listed) - {"U"} <= {"memcpy", "memset"} | {s for s in listed if s.startswith("net_")}
        given = subprocess.run(["nm", "-g", "--defined-only", made], capture_output=True, text=True, check=True).stdout
        assert given and all(line.split()[-1].startswith("net_") for line in given.splitlines())  # two models link


def test_no_recursion_and_no_variable_arrays(folder: Path, tmp_path: Path) -> None:
    flags = [*STRICT, "-Wvla", "-Wstack-usage=1024", "-O2", "-c", "-o", tmp_path / "model.o"]
    subprocess.run(["gcc", *flags, folder / "net_model.c"], check=True, capture_output=True)


@pytest.mark.parametrize("network", [small_network, small_transformer])
def test_sanitizers_find_nothing(network: Callable[[], Graph], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder_of(network(), target("c-int8"), folder)
    # The arena lies in a heap block of exactly its size, so that one byte too far is seen.
    (tmp_path / "main.c").write_text(
        """#include "net_model.h"
#include <stdint.h>
#include <stdlib.h>
int main(void)
{
    uint32_t x = 7;
    for (int round = 0; round < 40; round++) {
        net_arena *arena = malloc(NET_ARENA_BYTES);
        for (int i = 0; i < NET_INPUT_BYTES; i++) {
            x = x * 1664525u + 1013904223u;
            net_input(arena)[i] = round < 2 ? (int8_t)(round ? 127 : -128) : (int8_t)(int)((x >> 24) - 128u);
        }
        net_run(arena);
        free(arena);
    }
    return 0;
}
"""
    )
    program = tmp_path / "program"
    sources = [tmp_path / "main.c", folder / "net_model.c", folder / "net_weights.c"]
    subprocess.run(["gcc", *SANITIZED, f"-I{folder}", "-o", program, *sources], check=True, capture_output=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        folder_of(small_network(), target("c-int8"), tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert "net_model.c" in names
    assert all((tmp_path / "one" / n).read_bytes() == (tmp_path / "two" / n).read_bytes() for n in names)


def test_everything_that_cannot_be_computed_is_named_at_once(tmp_path: Path) -> None:
    n = Net(1, 3, 8, 8)
    y = n.conv("x", 4, "conv")
    soft = n.add(o.GroupNorm(y, None, None, "shares", 2, 1e-5))
    graph = n.graph(n.conv(soft, 4, "after", kernel=1), n.add(o.GroupNorm(y, None, None, "normed", 4, 1e-5)))
    integer = lowered(graph, target("c-int8"), inputs_of(graph))
    with pytest.raises(UnsupportedError) as caught:
        emit(integer, target("c-int8"), tmp_path / "out", "net", {}, {})
    assert "'shares'" in str(caught.value) and "'normed'" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "wanted"), [("Größe", "gr_e"), ("int", "m_int"), ("", "model"), ("a-b.c", "a_b_c"), ("8", "m_8")]
)
def test_any_name_becomes_an_identifier(name: str, wanted: str) -> None:
    assert identifier(name) == wanted


def test_value_names_may_hold_anything(tmp_path: Path) -> None:
    n = Net(1, 3, 8, 8)
    y = n.conv("x", 4, '*/ #error \\ ??/ " % ü')
    integer = lowered(n.graph(y), target("c-int8"), inputs_of(n.graph(y)))
    emit(integer, target("c-int8"), tmp_path / "out", "a */ b", {}, {})
    done = subprocess.run(["make", "-s", "test"], cwd=tmp_path / "out", capture_output=True, text=True, check=True)
    assert "passed" in done.stdout
