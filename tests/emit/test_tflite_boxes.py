"""Boxes as fractions of the image: what Ultralytics' loader multiplies, the file divides, and our runtime undoes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeq.emit.tflite import build_model, emit
from edgeq.emit.tflite_boxes import box_scales, divided
from edgeq.emit.tflite_metadata import archive
from edgeq.frontend.model import open_model
from edgeq.frontend.tflite_boxes import literal
from edgeq.frontend.tflite_file import OWN_RECORD, read_tflite
from edgeq.frontend.tflite_record import read_record
from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Graph, Type
from edgeq.passes.factors import multiplied
from edgeq.reference.interpret import run
from edgeq.runtimes.litert import LiteRtRuntime
from edgeq.targets import find_target

DETECTOR = {"task": "detect", "names": "{0: 'a', 1: 'b'}", "stride": "32", "end2end": "False"}


def detector(channels: int, last: bool = False) -> Graph:
    """An image [1, 3, 8, 16] to [1, channels, 32], or [1, 32, channels]."""
    editor = Editor("boxes", ["images"], {"images": Type((1, 3, 8, 16))})
    weight = np.random.default_rng(0).normal(0, 9, (channels, 3, 2, 2)).astype(np.float32)
    x = editor.append(o.Conv("images", editor.constant("w", weight), None, "c", (2, 2)))
    x = editor.append(o.Reshape(x, "r", (1, channels, 32)))
    return editor.graph([editor.append(o.Transpose(x, "output0", (0, 2, 1) if last else (0, 1, 2)))])


@pytest.mark.parametrize(
    ("changes", "channels", "axis", "wide", "high"),
    [
        ({}, 6, 1, [0, 2], [1, 3]),
        ({"task": "segment"}, 9, 1, [0, 2], [1, 3]),
        ({"task": "pose", "names": "{0: 'a'}", "kpt_shape": "[2, 3]"}, 11, 1, [0, 2, 5, 8], [1, 3, 6, 9]),
        ({"end2end": "True"}, 6, 2, [0, 2], [1, 3]),
        ({"end2end": True, "task": "pose", "kpt_shape": [2, 2]}, 10, 2, [0, 2, 6, 8], [1, 3, 7, 9]),
    ],
)
def test_what_the_loader_multiplies_is_divided(
    changes: dict[str, object], channels: int, axis: int, wide: list[int], high: list[int], tmp_path: Path
) -> None:
    graph, metadata = detector(channels, last=axis == 2), {**DETECTOR, **changes}
    (scaled,) = box_scales(graph, metadata).values()
    factors = np.array(scaled.factors)
    assert scaled.axis == axis and len(factors) == channels
    assert (np.flatnonzero(factors == 16).tolist(), np.flatnonzero(factors == 8).tolist()) == (wide, high)
    assert set(factors.tolist()) == {1.0, 8.0, 16.0}

    artifact = emit(graph, find_target("tflite-fp32"), tmp_path / "out", "net", metadata, {})
    runtime = LiteRtRuntime(artifact.primary, threads=1)
    fed = {"images": np.random.default_rng(1).random((1, 3, 8, 16), dtype=np.float32)}
    wanted = run(graph, fed)["output0"].numpy()
    found = runtime.run(fed)["output0"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)
    raw = runtime._interpreter.get_tensor(runtime._outputs["output0"]["index"])
    moved = np.moveaxis(raw.copy(), axis, 0)
    moved[wide] *= 16
    moved[high] *= 8
    np.testing.assert_allclose(np.moveaxis(moved, 0, axis), wanted, rtol=1e-5, atol=1e-4)
    assert len(np.unique(wanted)) > 100 and np.abs(raw - wanted).max() > 1
    again = open_model(str(artifact.primary)).graph
    np.testing.assert_allclose(run(again, fed)["output0"].numpy(), wanted, rtol=1e-5, atol=1e-4)


def without_record(content: bytes) -> bytes:
    """The flatbuffer of ours as one that others could have written."""
    assert OWN_RECORD.encode() in content
    return content.replace(OWN_RECORD.encode(), b"other")


def test_files_of_ultralytics_itself_are_read_in_pixels(tmp_path: Path) -> None:
    """They divide boxes as ours do, and have their metadata, but no record of ours."""
    graph = detector(6)
    content, _ = build_model(divided(graph, box_scales(graph, DETECTOR)))
    path = tmp_path / "net.tflite"
    path.write_bytes(without_record(content) + archive(DETECTOR))
    fed = {"images": np.random.default_rng(1).random((1, 3, 8, 16), dtype=np.float32)}
    wanted = run(graph, fed)["output0"].numpy()
    assert len(np.unique(wanted)) > 100
    np.testing.assert_allclose(LiteRtRuntime(path, threads=1).run(fed)["output0"], wanted, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(run(open_model(str(path)).graph, fed)["output0"].numpy(), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [{"kpt_shape": "[17]"}, {"kpt_shape": "['a', 'b']"}, {"kpt_shape": "[17, 0]"}],
)
def test_damaged_metadata_divides_nothing(changes: dict[str, str], tmp_path: Path) -> None:
    graph = detector(6)
    content, _ = build_model(graph)
    path = tmp_path / "net.tflite"
    path.write_bytes(without_record(content) + archive({**DETECTOR, "task": "pose", **changes}))
    assert read_record(read_tflite(path)).divided == {}


@pytest.mark.parametrize("text", ["[" * 99_999, "-" * 99_999 + "1", "{[]: 1}", "f()"], ids=len)
def test_text_that_is_no_value_stays_text(text: str) -> None:
    """Nested as deeply as Python's parser does not go, too."""
    assert literal(text) == text
    assert literal("{0: 'a'}") == {0: "a"}


@pytest.mark.parametrize(
    "metadata", [{}, {"task": "detect"}, {**DETECTOR, "task": "classify"}, {**DETECTOR, "task": "depth"}]
)
def test_other_models_are_left_alone(metadata: dict[str, object]) -> None:
    assert box_scales(detector(6), metadata) == {}


def test_only_boxes_are_divided_and_before_they_meet_the_scores() -> None:
    editor = Editor("head", ["images"], {"images": Type((1, 3, 8, 16))})
    parts = []
    for name, channels in (("centres", 2), ("sizes", 2), ("scores", 5)):
        weight = np.random.default_rng(channels).normal(0, 9, (channels, 3, 2, 2)).astype(np.float32)
        x = editor.append(o.Conv("images", editor.constant("w", weight), None, f"{name}.map", (2, 2)))
        parts.append(editor.append(o.Reshape(x, name, (1, channels, 32))))
    boxes = editor.append(o.Concat((parts[0], parts[1]), "boxes", 1))
    graph = editor.graph([editor.append(o.Concat((boxes, parts[2]), "output0", 1))])
    metadata = {**DETECTOR, "names": "{0: 'a', 1: 'b', 2: 'c', 3: 'd', 4: 'e'}"}
    found = divided(graph, box_scales(graph, metadata))
    last = found.producer["output0"]
    assert isinstance(last, o.Concat) and last.xs[1] == "scores"
    products = [op for op in found.ops if isinstance(op, o.Mul)]
    assert [op.a for op in products] == ["centres", "sizes"] and found.outputs == ("output0",)
    fed = {"images": np.random.default_rng(1).random((1, 3, 8, 16), dtype=np.float32)}
    wanted, fractions = (run(net, fed)["output0"].numpy() for net in (graph, found))
    fractions[:, [0, 2]] *= 16
    fractions[:, [1, 3]] *= 8
    np.testing.assert_allclose(fractions, wanted, rtol=1e-6)
    factors = np.array([16, 8, 16, 8, 1, 1, 1, 1, 1], np.float32)
    back = multiplied(found, {"output0": (1, factors)}, "fractions")
    assert not [op for op in back.ops if isinstance(op, o.Mul)]
    np.testing.assert_array_equal(run(back, fed)["output0"].numpy(), wanted)
    wider = multiplied(found, {"output0": (1, 2 * factors)}, "fractions")
    np.testing.assert_allclose(run(wider, fed)["output0"].numpy(), 2 * wanted, rtol=1e-6)
