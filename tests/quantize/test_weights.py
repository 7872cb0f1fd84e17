"""Stored weights: which are stored, in which format, and how far from the weights they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeq.catalogue import FAMILIES, Blocks, KMeans, Nupes
from edgeq.errors import UnsupportedError
from edgeq.formats import INT4, INT8_NARROW, POST4, POT4, Codebook, Format, Int, decode, encode, level_range
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph, Type
from edgeq.ir.verify import verify
from edgeq.quantize.bias import correct_stored_biases
from edgeq.quantize.scale import dequantize_weight, half_scales, quantize_weight, weight_type
from edgeq.quantize.weights import block_size, quantize_weights, stored_type, typed_weight
from edgeq.recipe import Recipe, keep_real
from edgeq.reference.interpret import run
from edgeq.target import StoredWeights, Target
from edgeq.targets import find_target
from tests.quantized import Net, inputs_of, outputs_of, signal_to_noise_db

RULE = StoredWeights(INT4, block=32)
CONV = o.Conv("x", "w", None, "out")


def target(rule: StoredWeights) -> Target:
    return replace(find_target("coreml-w4"), stored_weights=rule)


def weight(*shape: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    array: Array = (rng.normal(0, 1, shape) * rng.choice([0.1, 1.0], (shape[0], *[1] * (len(shape) - 1)))).astype("f4")
    return array


def noise_db(array: Array, type_: Type) -> float:
    found = dequantize_weight(quantize_weight(array, type_), type_)
    return signal_to_noise_db(array.astype(np.float64), found.astype(np.float64))


def net() -> Graph:
    n = Net(1, 40, 6, 6)
    deep = n.add(o.Conv("x", n.reals(40, 1, 3, 3), n.reals(40), "deep", padding=(1, 1, 1, 1), groups=40))
    wide = n.conv(n.apply(deep, "relu", "act"), 24, "wide")
    return n.graph(n.conv(wide, 2, "small", kernel=1))


def test_what_is_stored() -> None:
    """Short rows keep eight bits, small weights and operators that are kept real stay as they are."""
    graph = net()
    rule = replace(RULE, smallest=300)
    stored = quantize_weights(graph, target(rule), Recipe())
    verify(stored)
    formats = {op.out: stored.types[op.x].format for op in stored.ops if isinstance(op, o.Dequantize)}
    weights = {op.out: op.weight for op in graph.ops if isinstance(op, o.Conv)}
    assert formats == {weights["deep"]: INT8_NARROW, weights["wide"]: INT4}
    kept = quantize_weights(graph, target(rule), Recipe(rules=(keep_real("wide"),)))
    assert sum(isinstance(op, o.Dequantize) for op in kept.ops) == 1
    assert not {weights["deep"], weights["wide"]} & stored.constants.keys() and weights["small"] in stored.constants


def test_the_meaning_is_the_real_graph_on_rounded_weights() -> None:
    graph = net()
    stored = quantize_weights(graph, target(replace(RULE, smallest=1)), Recipe())
    rounded = dict(graph.constants)
    for op in stored.ops:
        if isinstance(op, o.Dequantize):
            rounded[op.out] = dequantize_weight(stored.constants[op.x].astype(np.int64), stored.types[op.x])
    inputs = inputs_of(graph)
    found, wanted = run(stored, inputs), run(replace(graph, constants=rounded), inputs)
    assert all(np.array_equal(found[value].numpy(), wanted[value].numpy()) for value in graph.outputs)


def test_a_weight_that_two_operators_share_is_stored_once() -> None:
    n = Net(1, 24, 4, 4)
    shared = n.reals(24, 24, 1, 1)
    a = n.add(o.Conv("x", shared, None, "a"))
    stored = quantize_weights(n.graph(n.add(o.Conv(a, shared, None, "b"))), target(RULE), Recipe())
    assert sum(isinstance(op, o.Dequantize) for op in stored.ops) == 1
    verify(stored)


def test_block_scales_fit_their_blocks() -> None:
    """Every block meets its own largest magnitude, on either axis of output channels."""
    array = weight(16, 128, 3, 1) * np.exp(np.random.default_rng(1).normal(0, 1, (1, 128, 1, 1))).astype("f4")
    for axis, content in ((0, array), (1, np.swapaxes(array, 0, 1).copy())):
        op = CONV if axis == 0 else o.ConvTranspose("x", "w", None, "out")
        blocked = stored_type(op, content, RULE, half=False)
        assert (blocked.axis, blocked.block, len(blocked.scale)) == (axis, 32, 16 * 4)
        whole = stored_type(op, content, replace(RULE, block=0), half=False)
        assert noise_db(content, blocked) > noise_db(content, whole) + 1
        rows = np.moveaxis(content, axis, 0).reshape(64, -1)
        scales = np.array(blocked.scale)
        assert np.all(np.abs(rows).max(1) <= 12 * scales) and np.all(np.abs(rows).max(1) >= 5 * scales)


@pytest.mark.parametrize(("inputs", "block"), [(3, 0), (32, 0), (64, 32), (48, 24), (80, 20), (37, 0), (1280, 32)])
def test_blocks_that_do_not_divide(inputs: int, block: int) -> None:
    assert block_size(inputs, 32) == block
    assert stored_type(CONV, weight(8, inputs, 3, 5), replace(RULE, shortest_row=1), half=True).block == block


@pytest.mark.parametrize(
    ("format", "least_db"),
    [(INT8_NARROW, 38.0), (INT4, 17.0), (POST4, 16.5), (POT4, 12.0), (KMeans(4), 19.0), (KMeans(6), 30.0), (KMeans(2), 8.5)],
)  # fmt: skip
def test_noise_of_formats(format: Format | KMeans, least_db: float) -> None:
    """Normal weights; the k-means figures are within a decibel of the Lloyd-Max quantizer's 20.2, 31.9 and 9.3 dB."""
    array = weight(64, 64, 3, 3)
    type_ = stored_type(CONV, array, StoredWeights(format), half=True)
    assert noise_db(array, type_) > least_db
    if isinstance(format, KMeans):
        assert isinstance(type_.format, Codebook) and type_.format.bits <= format.bits


@pytest.mark.parametrize("format", [INT8_NARROW, INT4, POST4, POT4, KMeans(4)])
@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0, 1e3])
def test_half_scales_are_held_by_half_precision(format: Format | KMeans, size: float) -> None:
    type_ = stored_type(CONV, weight(9, 40, 3, 3) * np.float32(size), StoredWeights(format, shortest_row=1), half=True)
    scales = np.array(type_.scale)
    exponent = 0
    if isinstance(type_.format, Codebook):
        exponent = max(map(abs, type_.format.table)).bit_length() - 1
        table = np.ldexp(np.array(type_.format.table, float), -exponent)
        assert np.array_equal(table.astype(np.float16).astype(float), table)
    stored = np.ldexp(scales, exponent)
    assert np.array_equal(stored.astype(np.float16).astype(float), stored)
    assert np.array_equal(half_scales(scales, type_.format), scales)


def test_half_scales_round_up() -> None:
    wanted = np.exp(np.random.default_rng(0).uniform(-20, 8, 1000))
    found = half_scales(wanted, INT8_NARROW)
    assert np.all(found >= wanted) and np.all(found <= np.maximum(wanted * (1 + 2.0**-10), wanted + 2.0**-24))
    assert half_scales(0.0, INT8_NARROW) > 0 and np.isfinite(half_scales(1e9, INT8_NARROW))


def test_channels_of_zeros_and_weights_that_are_not_finite() -> None:
    array = weight(8, 40, 3, 3)
    array[3] = 0
    for format in (INT4, POST4, KMeans(4)):
        type_ = stored_type(CONV, array, StoredWeights(format), half=True)
        assert not dequantize_weight(quantize_weight(array, type_), type_)[3].any()
    array[0, 0, 0, 0] = np.nan
    with pytest.raises(UnsupportedError, match="NaN or infinity"):
        stored_type(CONV, array, StoredWeights(KMeans(4)), half=True)


def test_corrected_biases_take_the_shift_back() -> None:
    """One-sided activations make rounding a shift; correction brings every mean output back."""
    n = Net(1, 16, 8, 8)
    first = n.apply(n.conv("x", 40, "a"), "relu", "r")
    graph = n.graph(n.conv(first, 24, "out", kernel=1))
    rule = StoredWeights(POT4, smallest=1, shortest_row=1)
    stored = quantize_weights(graph, target(rule), Recipe())
    samples = [inputs_of(graph, seed) for seed in range(8)]
    corrected = correct_stored_biases(graph, stored, samples)
    verify(corrected)

    def shift(candidate: Graph) -> float:
        means = [
            np.mean([outputs_of(which, sample)[0].mean((0, 2, 3)) for sample in samples], 0)
            for which in (graph, candidate)
        ]
        return float(np.abs(means[0] - means[1]).mean())

    assert shift(corrected) < 0.35 * shift(stored)
    assert corrected.ops == stored.ops and corrected.types == stored.types


BLOCKED = ["mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4", "mxint8", "bfp4", "bfp8"]


@pytest.mark.parametrize("name", BLOCKED)
def test_shared_exponents_are_those_of_the_standard(name: str) -> None:
    """OCP MX 1.0, section 6.3: X = 2^(floor(log2 max |v|) - emax), elements v / X to the nearest, saturating."""
    family = FAMILIES[name]
    assert isinstance(family, Blocks)
    array = weight(8, 4 * family.size, seed=5)
    array[3, : family.size] = 0
    type_ = typed_weight(array, family, 0)
    blocks = array.reshape(8, -1, family.size).astype(np.float64)
    assert type_.block == family.size and len(type_.scale) == 8 * 4
    found = dequantize_weight(quantize_weight(array, type_), type_).reshape(blocks.shape).astype(np.float64)
    top = level_range(family.element)[1]
    unit = 2.0 ** -(int(top).bit_length() - 1)  # of levels, so that the largest binade starts at 2^0
    for block, values in zip(blocks.reshape(-1, family.size), found.reshape(-1, family.size), strict=True):
        if not block.any():
            assert not values.any()
            continue
        scale = 2.0 ** np.floor(np.log2(np.abs(block).max())) * unit
        levels = decode(family.element, encode(family.element, block / scale))
        assert np.array_equal(values, (levels * scale).astype(np.float32).astype(np.float64))
    assert len(np.unique(found)) > 20


def test_blocks_of_convolutions_hold_whole_channels() -> None:
    found = typed_weight(weight(4, 16, 3, 3), FAMILIES["mxfp4"], 0)
    assert found.block == 2  # 18 weights of at most 32
    assert typed_weight(weight(4, 1, 3, 3), FAMILIES["mxfp4"], 0).block == 0
    assert typed_weight(weight(16, 4, 3, 3), FAMILIES["int4g32"], 1).block == 2


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_power_laws_are_no_worse_than_integers(bits: int) -> None:
    array = np.random.default_rng(bits).laplace(0, 1, (16, 300)).astype(np.float32)
    power = noise_db(array, typed_weight(array, Nupes(bits), 0))
    integers = noise_db(array, weight_type(array, Int(bits, narrow=True), 0))
    assert power > integers + 0.5
