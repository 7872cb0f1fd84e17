"""Channels in eight bytes of flash, and what generated code leaves out: the same codes as the reference either way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgeq.emit.c import emit
from edgeq.emit.c_bank import Bank
from edgeq.emit.c_needs import left_out
from edgeq.emit.c_numbers import channels_by_bias, record, scaling
from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.reference.arithmetic import quantize_multiplier
from tests.c_nets import (
    C_TARGETS,
    PACKED_TARGETS,
    equal_codes,
    plain_network,
    pruned,
    small_network,
    target,
    with_large_biases,
)
from tests.lowering import lowered
from tests.quantized import Net, inputs_of

ROUNDINGS: tuple[o.Rounding, ...] = ("single", "gemmlowp2")


def code_of(total: int, packed: tuple[int, int], middle: int, factor: int, rounding: str) -> int:
    """edgeq_requantize_by of runtimes/c/edgeq.h for a sum without its bias."""
    bias, shift, multiplier = packed[0] >> 8, packed[0] & 31, packed[1]
    high = ((total + bias) * factor * multiplier) >> 32
    if rounding == "gemmlowp2":
        r = (high + 1) >> 1
        high = r - int(r < 0 and shift > 0)
    return min(max((high + ((middle << shift) >> 1)) >> shift, -128), 127)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("zero", [-128, -1, 0, 77, 127])
def test_a_constant_channel_has_its_code_by_its_bias(zero: int, rounding: o.Rounding) -> None:
    """Also where its own ratio does not fit, between channels that move; for every code."""
    pairs = [quantize_multiplier(ratio) for ratio in (0.01, 1e6, 0.7)]
    op = o.Requantize("x", "y", *zip(*pairs, strict=True), rounding, -128, 127)
    seen = set()
    for level in range(-300, 301):
        sums = [(-5000, 5000), (level, level), (-5000, 5000)]
        numbers = scaling(op, zero, [7, level - 40, -9], sums)
        wanted = numbers.channels[1][2]
        channels = channels_by_bias(op, numbers, sums)
        packed = record(channels[1], numbers.middle)
        assert packed is not None and channels[0] == numbers.channels[0] and channels[2] == numbers.channels[2]
        assert code_of(40, packed, numbers.middle, numbers.factor, rounding) == wanted
        seen.add(wanted)
    assert len(seen) > 1


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_every_code_of_a_constant_channel(rounding: o.Rounding) -> None:
    pairs = [quantize_multiplier(ratio) for ratio in (1.0, 1.0)]
    op = o.Requantize("x", "y", *zip(*pairs, strict=True), rounding, -128, 127)
    for code in range(-128, 128):
        sums = [(code - 5, code - 5), (-100, 100)]
        numbers = scaling(op, 5, [0, 0], sums)
        packed = record(channels_by_bias(op, numbers, sums)[0], numbers.middle)
        assert packed is not None and numbers.channels[0][2] == code
        assert code_of(code - 5, packed, numbers.middle, numbers.factor, rounding) == code


@pytest.mark.parametrize(
    ("channel", "fits"),
    [
        (((1 << 23) - 1, 5, 11, 1), True),
        ((-(1 << 23), 5, 11, 1), True),
        ((1 << 23, 5, 11, 1), False),
        ((-(1 << 23) - 1, 5, 11, 1), False),
        ((0, (1 << 31) - 1, 11 << 25, 26), True),
        ((0, 5, 11 << 27, 28), False),
        ((0, 5, 5, 0), True),
        ((0, 5, 12, 1), False),
        ((0, 5, 11, 32), False),
    ],
)
def test_what_a_record_holds(channel: tuple[int, int, int, int], fits: bool) -> None:
    """Of a zero point of 5: 24 bits of bias, and the offset that the shift says."""
    found = record(channel, 11)
    assert (found is not None) == fits
    if found:
        assert (found[0] >> 8, found[1], found[0] & 255) == (channel[0], channel[1], channel[3])


def test_one_channel_that_does_not_fit_leaves_all_as_they_are() -> None:
    for large in (False, True):
        bank = Bank("m")
        bank.channels("channels_1", [(7, 9, 3, 1), ((1 << 23) if large else 2, 9, 3, 1)], 3, "some")
        bank.channels("channels_2", [(7, 9, 3, 1)], 3, "others")
        assert bank.pack_channels() != large
        assert {e.kind for e in bank.entries} == {"edgeq_channel" if large else "edgeq_record"}
        assert bank.size == (48 if large else 24)


def assert_equal(graph: Graph, name: str, rounding: o.Rounding, change: Callable[[Graph], Graph], folder: Path) -> str:
    """Every value equals the reference on usual and extreme inputs; the text of the model."""
    chosen = replace(target(name), rounding=rounding)
    integer = change(lowered(graph, chosen, inputs_of(graph)))
    artifact = emit(integer, chosen, folder, "net", {}, {})
    assert len(equal_codes(graph, integer, artifact, 1)) > 200
    return artifact.primary.read_text()


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", [*C_TARGETS, *PACKED_TARGETS])
def test_large_biases(name: str, rounding: o.Rounding, tmp_path: Path) -> None:
    assert "EDGEQ_WIDE_RECORDS" in assert_equal(small_network(), name, rounding, with_large_biases, tmp_path / "out")


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", C_TARGETS)
def test_constant_channels(name: str, rounding: o.Rounding, tmp_path: Path) -> None:
    text = assert_equal(small_network(), name, rounding, lambda graph: pruned(graph, 5), tmp_path / "out")
    assert "EDGEQ_WIDE_RECORDS" not in text


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", C_TARGETS)
def test_a_network_that_needs_little(name: str, rounding: o.Rounding, tmp_path: Path) -> None:
    text = assert_equal(plain_network(), name, rounding, lambda graph: graph, tmp_path / "out")
    assert all(f"#define {name} " in text for name in ("EDGEQ_ONLY_USUAL", "EDGEQ_ONE_GROUP", "EDGEQ_WHOLE_BLOCKS"))
    assert "EDGEQ_PAIRS" not in text and "edgeq_mean(" in text


@pytest.mark.parametrize("name", C_TARGETS)
def test_a_network_that_needs_everything(name: str, tmp_path: Path) -> None:
    """Four pixels: one is left of three; groups of five channels; codes that are clamped."""
    n = Net(1, 30, 2, 2)
    y = n.apply(n.conv("x", 90, "first"), "clip", "a", -0.5, 0.5)
    y = n.add(o.Conv(y, n.reals(90, 5, 3, 3, spread=0.2), None, "grouped", (1, 1), (1, 1, 1, 1), groups=18))
    graph = n.graph(n.conv(y, 7, "map", kernel=1))
    text = assert_equal(graph, name, "single", lambda graph: graph, tmp_path / "out")
    assert ("EDGEQ_PAIRS" in text) == (name in ("c-int8", "cortex-m55-int8")) and "EDGEQ_LARGE_SIZES" not in text
    assert not any(f"#define {name} " in text for name in ("EDGEQ_ONE_GROUP", "EDGEQ_WHOLE_BLOCKS"))


@pytest.mark.parametrize("name", ["c-int8", "cortex-m4-int8", "cortex-m55-int8"])
def test_sizes_above_16_bits(name: str, tmp_path: Path) -> None:
    n = Net(1, 2, 1, 65_540)
    y = n.apply(n.conv("x", 4, "wide"), "relu", "a")
    z = n.add(o.Conv(y, n.reals(4, 1, 3, 3, spread=0.4), n.reals(4), "plane", (1, 2), (1, 1, 1, 1), groups=4))
    text = assert_equal(n.graph(n.conv(z, 3, "out", kernel=1)), name, "single", lambda graph: graph, tmp_path / "out")
    assert "EDGEQ_LARGE_SIZES" in text


def test_pairs_where_threes_would_cost_more() -> None:
    assert "EDGEQ_PAIRS" in left_out(frozenset(), 3, 100, "mve") and "EDGEQ_PAIRS" in left_out({"pairs"}, 0, 100, "mve")
    assert "EDGEQ_PAIRS" not in left_out(frozenset(), 2, 100, "mve")
    assert "EDGEQ_PAIRS" not in left_out(frozenset(), 50, 100, "dsp"), "it has pairs alone"


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("code", [-128, -1, 0, 3, 127])
def test_a_constant_beside_a_factor_that_32_bits_do_not_hold_with_it(code: int, rounding: o.Rounding) -> None:
    pairs = [quantize_multiplier(ratio) for ratio in (2.0**21, 1.0)]
    op = o.Requantize("x", "y", *zip(*pairs, strict=True), rounding, -128, 127)
    sums = [(-100, 100), (code, code)]
    numbers = scaling(op, 0, [7, 7], sums)
    (bias, multiplier, offset, shift) = channels_by_bias(op, numbers, sums)[1]
    assert numbers.factor > 1 << 20 and offset == numbers.middle and shift == 1
    high = (code - 7 + bias) * numbers.factor * multiplier >> 32  # the layer's products sum to code - 7
    if rounding == "gemmlowp2":
        high = (high + 1 >> 1) - (high + 1 >> 1 < 0)
    assert high + offset >> shift == code and abs(multiplier) < 1 << 31


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", C_TARGETS)
def test_constants_by_their_multipliers(
    name: str, rounding: o.Rounding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeq.emit.c_numbers.SMALL_SUMS", 0)
    text = assert_equal(small_network(), name, rounding, lambda graph: pruned(graph, 5), tmp_path / "out")
    assert "EDGEQ_WIDE_RECORDS" in text
