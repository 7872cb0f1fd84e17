"""A TFLite network in the arithmetic of TFLite Micro, and the real models through C."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeq.emit.c import emit
from edgeq.formats import INT8
from edgeq.frontend.tflite import import_tflite
from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Type
from edgeq.passes.idle_channels import without_idle_channels
from edgeq.passes.micro import for_microcontrollers
from edgeq.reference.interpret import run
from edgeq.runtimes.native import NativeRuntime
from edgeq.targets import find_target

MODELS = {
    "ic": "mlperf_tiny/ic/pretrainedResnet_quant.tflite",
    "vww": "mlperf_tiny/vww/vww_96_int8.tflite",
    "kws": "mlperf_tiny/kws/kws_ref_model.tflite",
    "ad": "mlperf_tiny/ad/ad01_int8.tflite",
}


def test_the_last_softmax_is_cut_and_dense_layers_round_as_convolutions() -> None:
    codes, acc = Type((1, 4), INT8, (0.1,), 3), Type((1, 4), INT8, (0.2,), 0)
    editor = Editor("net", ["x"], {"x": codes})
    y = editor.append(o.Requantize("x", "y", (1 << 30,), (0,), "fc-float", -128, 127), acc)
    real = editor.append(o.Dequantize(y, "real"), Type((1, 4)))
    soft = editor.append(o.Softmax(real, "soft", 1), Type((1, 4)))
    out = editor.append(o.Quantize(soft, "out", "away"), Type((1, 4), INT8, (1 / 256,), -128))
    micro = for_microcontrollers(editor.graph([out, "x"]))
    assert micro.cut == ("out",) and micro.graph.outputs == ("y", "x")
    (op,) = micro.graph.ops
    assert isinstance(op, o.Requantize) and op.rounding == "gemmlowp2"


@pytest.mark.real
@pytest.mark.parametrize("name", MODELS)
def test_real_models_equal_the_reference_in_every_layer(name: str, real: Path, tmp_path: Path) -> None:
    graph = for_microcontrollers(import_tflite(real / MODELS[name], name=name)).graph
    artifact = emit(graph, find_target("cortex-m4-int8"), tmp_path / "out", name, {}, {})
    runtime = NativeRuntime(artifact.primary, artifact.tensors.values())
    distinct = set[int]()
    for seed, low, high in ((0, -128, 127), (1, -20, 20), (2, 127, 127)):
        rng = np.random.default_rng(seed)
        inputs = {v: rng.integers(low, high, graph.types[v].shape, endpoint=True) for v in graph.inputs}
        seen: dict[str, np.ndarray] = {}
        run(graph, inputs, lambda value, tensor, seen=seen: seen.__setitem__(value, tensor.numpy()))
        found = runtime.run(inputs)
        for value, codes in found.items():
            np.testing.assert_array_equal(codes, seen[value], err_msg=value)
            distinct.update(codes.reshape(-1).tolist())
    assert len(distinct) > 200


@pytest.mark.real
def test_what_is_left_of_a_real_model_gives_the_same_outputs(real: Path) -> None:
    """Visual wake words: most channels of its last layers are always zero."""
    whole = for_microcontrollers(import_tflite(real / MODELS["vww"], name="vww")).graph
    reduced = without_idle_channels(whole)
    assert reduced.left_out > reduced.channels / 2
    seen = set[int]()
    for seed, low, high in ((0, -128, 127), (1, -20, 20), (2, 100, 127), (3, 127, 127)):
        rng = np.random.default_rng(seed)
        inputs = {v: rng.integers(low, high, whole.types[v].shape, endpoint=True) for v in whole.inputs}
        wanted, found = run(whole, inputs), run(reduced.graph, inputs)
        for value, codes in wanted.items():
            np.testing.assert_array_equal(found[value].numpy(), codes.numpy())
            seen.update(codes.reshape(-1).tolist())
    assert len(seen) > 4
