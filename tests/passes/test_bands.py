"""Stretches in bands compute the same function, and only what keeps channels apart is a stretch."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.errors import UsageError
from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Graph, Type
from edgeq.ir.verify import verify
from edgeq.passes.bands import in_bands, stretches
from edgeq.reference.interpret import run

CHANNELS = 12
THIRDS = ((0, 5, 7, 11), (1, 2, 3), (4, 6, 8, 9, 10))


def separable(seed: int = 0, *, leak: bool = False) -> Graph:
    """Two separable blocks whose pointwise layer makes the next stretch, with a second reader of the first block.

    With `leak` a sum over the stretch and an input of its own keeps it from being one.
    """
    rng = np.random.default_rng(seed)
    editor = Editor("net", ("x",), {"x": Type((1, 3, 12, 12))})

    def conv(x: o.Value, out: o.Value, shape: tuple[int, ...], groups: int = 1, padding: int = 0) -> None:
        spread = np.exp2(rng.uniform(-4, 4, (shape[0], 1, 1, 1)))
        weight = editor.constant(f"{out}.w", (rng.normal(0, 0.5, shape) * spread).astype(np.float32))
        bias = editor.constant(f"{out}.b", rng.normal(0, 0.5, shape[0]).astype(np.float32))
        editor.append(o.Conv(x, weight, bias, out, padding=(padding,) * 4, groups=groups))

    conv("x", "stem", (CHANNELS, 3, 3, 3))
    editor.append(o.Apply("stem", "gate", o.Function("sigmoid")))
    editor.append(o.Mul("stem", "gate", "active"))
    conv("active", "deep", (CHANNELS, 1, 3, 3), groups=CHANNELS, padding=1)
    editor.append(o.Apply("deep", "clipped", o.Function("clip", 0.0, 6.0)))
    editor.append(o.MaxPool("clipped", "pooled", (2, 2), (2, 2)))
    conv("pooled", "mixed", (8, CHANNELS, 1, 1))
    conv("pooled", "other", (4, CHANNELS, 1, 1))
    editor.append(o.Apply("mixed", "relu", o.Function("relu")))
    conv("relu", "wide", (8, 1, 3, 3), groups=8)
    conv("wide", "last", (4, 8, 1, 1))
    outputs = ["last", "other"]
    if leak:
        editor.append(o.Mean("clipped", "pool", (2, 3)))
        outputs.append("pool")
    return editor.graph(outputs)


def test_a_stretch_reaches_from_a_layer_to_the_layers_that_mix_its_channels() -> None:
    known = stretches(separable())
    assert set(known) == {"stem", "mixed"}
    assert known["stem"].inside == ("stem", "gate", "active", "deep", "clipped", "pooled")
    assert known["stem"].ends == ("pooled",)
    assert [op.out for op in known["stem"].readers] == ["mixed", "other"]
    assert set(stretches(separable(leak=True))) == {"mixed"}


@pytest.mark.parametrize("bands", [{"stem": THIRDS}, {"stem": THIRDS, "mixed": ((7, 0, 3), (1, 2, 4, 5, 6))}])
def test_bands_compute_the_same(bands: dict[o.Value, tuple[tuple[int, ...], ...]]) -> None:
    graph = separable(3)
    found = in_bands(graph, bands)
    verify(found)
    apart = [op for op in found.ops if isinstance(op, o.Conv) and ".band" in op.out]
    assert len(apart) == 2 * sum(map(len, bands.values()))
    assert not {"stem", "active", "pooled"} & set(found.types)
    rng = np.random.default_rng(1)
    for _ in range(3):
        inputs = {"x": rng.normal(0, 2, (1, 3, 12, 12)).astype(np.float32)}
        before, after = run(graph, inputs), run(found, inputs)
        for name, wanted in before.items():
            assert len(wanted.unique()) > 20
            assert float((after[name] - wanted).abs().max() / wanted.abs().max()) < 1e-5


def test_what_is_no_stretch_or_no_partition_is_refused() -> None:
    with pytest.raises(UsageError, match="bands"):
        in_bands(separable(leak=True), {"stem": THIRDS})
    with pytest.raises(UsageError, match="once"):
        in_bands(separable(), {"stem": (*THIRDS[:2], (4, 6, 8, 9))})
