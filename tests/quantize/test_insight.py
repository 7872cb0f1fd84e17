"""Noise of layers: alone it is that of one layer's rounding, accumulated it grows, and a spoilt layer is found."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.passes.copies import with_narrow_copies
from edgeq.passes.lower import lower
from edgeq.quantize.asked import Asked, with_formats
from edgeq.quantize.assign import assign
from edgeq.quantize.insight import Layer, Ratio, first_bad, layers_of, output_db
from edgeq.quantize.scale import dequantize_weight, quantize_weight
from edgeq.quantize.sensitivity import Noise, measure_noise, relative_power, rounding_error
from edgeq.quantize.structure import analyse
from edgeq.recipe import Recipe
from edgeq.reference.interpret import run
from tests.format_nets import LAYERS, REFERENCE, residual
from tests.lowering import ranges_on
from tests.quantized import inputs_of, outputs_of, signal_to_noise_db


def studied(asked: Asked) -> tuple[Graph, Graph, list[Layer]]:
    graph = residual()
    recipe, _ = with_formats(Recipe(), asked, graph, REFERENCE)
    graph = with_narrow_copies(graph, recipe)
    structure = analyse(graph, REFERENCE, recipe)
    samples = [inputs_of(graph, seed) for seed in range(3)]
    plan = assign(structure, ranges_on(structure, REFERENCE, samples[0]), REFERENCE)
    lowered = lower(graph, plan)
    return graph, lowered, layers_of(graph, plan, lowered, measure_noise(graph, plan, samples), samples)


def test_alone_is_one_layer_and_accumulated_is_all() -> None:
    graph = residual()
    structure = analyse(graph, REFERENCE, Recipe())
    sample = inputs_of(graph)
    plan = assign(structure, ranges_on(structure, REFERENCE, sample), REFERENCE)
    lowered = lower(graph, plan)
    layers = {layer.operator: layer for layer in layers_of(graph, plan, lowered, Noise(), [sample])}
    values: dict[o.Value, torch.Tensor] = {}
    run(graph, sample, values.__setitem__)
    op = graph.producer["right"]
    assert isinstance(op, o.Conv) and op.bias is not None
    weight = dequantize_weight(
        quantize_weight(graph.constants[op.weight], plan.weights["right"]), plan.weights["right"]
    )
    x = values[op.x] + rounding_error(values[op.x], plan.types[op.x])
    bias = torch.from_numpy(graph.constants[op.bias])
    once = torch.nn.functional.conv2d(x, torch.from_numpy(weight), bias, padding=1)
    expected = signal_to_noise_db(values["right"].double().numpy(), once.double().numpy())
    assert layers["right"].alone.db == pytest.approx(expected, abs=0.05)
    assert layers["right"].accumulated.db < layers["right"].alone.db
    assert layers["stem"].accumulated.db == pytest.approx(layers["stem"].alone.db, abs=0.05)
    (wanted,), (found,) = outputs_of(graph, sample), outputs_of(lowered, sample)
    assert layers["last"].accumulated.db == pytest.approx(signal_to_noise_db(wanted, found), abs=1e-6)


def test_a_spoilt_layer_is_found() -> None:
    graph, lowered, layers = studied(Asked(rules=("right=w2a8", "*=w8a8")))
    assert [layer.operator for layer in layers] == list(LAYERS)
    bad = first_bad(layers, 20.0)
    assert bad is not None and bad.operator == "right" and bad.alone.db < 15 < layers[1].alone.db
    assert max(layers, key=lambda layer: layer.weight_share) is bad and bad.weight_share > 0.9
    assert first_bad(layers, -20.0) is None
    assert bad.weight == "int2n" and bad.activation == "int8"
    assert output_db(graph, lowered, [inputs_of(graph)], None) < 20


def test_layers_in_float_have_no_noise_of_their_own() -> None:
    _, _, layers = studied(Asked(rules=("left=real", "*=w4a8")))
    left = next(layer for layer in layers if layer.operator == "left")
    assert (left.weight, left.activation, left.weight_share) == ("real", "real", 0.0)
    assert left.accumulated.db < math.inf


def test_outputs_are_weighed() -> None:
    graph, lowered, _ = studied(Asked(rules=("*=w4a8",)))
    samples = [inputs_of(graph)]
    (wanted,), (found,) = outputs_of(graph, samples[0]), outputs_of(lowered, samples[0])
    plain = output_db(graph, lowered, samples, relative_power)
    assert plain == pytest.approx(signal_to_noise_db(wanted, found), abs=0.01)
    halved = output_db(graph, lowered, samples, lambda outputs: [weight / 2 for weight in relative_power(outputs)])
    assert halved == pytest.approx(plain + 20 * np.log10(2), abs=0.01)
    assert Ratio().db == math.inf
