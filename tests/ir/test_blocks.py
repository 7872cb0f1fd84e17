"""Weights with a scale per block of input channels: their meaning, their text, and what may read them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeq.errors import EdgeqError, UnsupportedError
from edgeq.formats import INT4, INT8, INT32
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph, Type
from edgeq.ir.parse import from_text
from edgeq.ir.text import to_text
from edgeq.ir.verify import verify
from edgeq.reference.interpret import run

BLOCKED = Type((2, 4, 1, 3), INT4, (0.5, 1.0, 2.0, 4.0), axis=0, block=2)
TURNED = Type((4, 2, 1, 3), INT4, (0.5, 1.0, 2.0, 4.0), axis=1, block=2)


def graph(type_: Type) -> Graph:
    codes: Array = np.arange(-7, 17, dtype=np.int8).reshape(type_.shape) % 8
    ops = (o.Dequantize("codes", "out"), o.Add("out", "x", "sum"))
    types = {"x": Type(type_.shape), "codes": type_, "out": Type(type_.shape), "sum": Type(type_.shape)}
    return Graph("blocks", ("x",), ("sum",), ops, types, {"codes": codes})


@pytest.mark.parametrize("type_", [BLOCKED, TURNED])
def test_meaning(type_: Type) -> None:
    net = graph(type_)
    verify(net)
    found = run(net, {"x": np.zeros(type_.shape, np.float32)})["sum"].numpy()
    channels = np.moveaxis(net.constants["codes"], type_.axis or 0, 0).astype(float)
    wanted = channels.copy()
    for output in range(2):
        for inputs in range(4):
            wanted[output, inputs] *= type_.scale[2 * output + inputs // 2]
    assert np.array_equal(np.moveaxis(found, type_.axis or 0, 0), wanted)
    assert len(np.unique(found)) > 8


@pytest.mark.parametrize("type_", [BLOCKED, TURNED])
def test_text(type_: Type) -> None:
    net = graph(type_)
    assert " block 2" in to_text(net)
    again = from_text(to_text(net), net.constants)
    assert again.types == net.types and to_text(again) == to_text(net)


def test_scales_of_one_and_of_channels() -> None:
    assert Type((2, 3), INT8, (0.5,)).scales.tolist() == [[0.5]]
    assert Type((2, 3), INT8, (1.0, 2.0, 3.0), axis=1).scales.tolist() == [[1.0, 2.0, 3.0]]


@pytest.mark.parametrize(
    ("type_", "reason"),
    [
        (replace(BLOCKED, block=3), "do not divide 4 input channels"),
        (replace(BLOCKED, scale=(1.0, 2.0)), "2 scales for 2 channels of 2 blocks"),
        (replace(BLOCKED, axis=2), "blocks need output channels on axis 0 or 1"),
        (replace(BLOCKED, axis=None), "blocks need output channels on axis 0 or 1"),
        (replace(BLOCKED, block=-2), "do not divide"),
    ],
)
def test_blocks_that_describe_nothing(type_: Type, reason: str) -> None:
    with pytest.raises(EdgeqError, match=reason):
        verify(graph(type_))


def test_only_dequantize_reads_blocks() -> None:
    net = graph(BLOCKED)
    moved = Graph(
        "moved", (), ("out",), (o.Reshape("codes", "out", (8, 3)),),
        {"codes": BLOCKED, "out": Type((8, 3), INT32, (1.0,))}, net.constants,
    )  # fmt: skip
    with pytest.raises(UnsupportedError, match="a scale per block, which only Dequantize reads"):
        verify(moved)
