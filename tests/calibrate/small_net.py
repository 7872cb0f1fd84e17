"""One small real network with every kind of reader that calibration meets, and images for it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeq.ir import ops as o
from edgeq.ir.graph import Editor, Graph, Type

SIDE = 20
INPUT = "image"
Images = list[dict[str, npt.NDArray[np.float32]]]


def small_net(seed: int = 0) -> Graph:
    """conv, silu, conv, relu, add, max pool, concat, global mean, linear; 8 channels throughout."""
    random = np.random.default_rng(seed)
    editor = Editor("small", (INPUT,), {INPUT: Type((1, 3, SIDE, SIDE))})

    def constant(name: str, *shape: int) -> o.Value:
        return editor.constant(name, random.normal(0, 0.4, shape).astype(np.float32))

    editor.append(o.Conv(INPUT, constant("w1", 8, 3, 3, 3), constant("b1", 8), "pre", padding=(1, 1, 1, 1)))
    editor.append(o.Apply("pre", "act", o.Function("silu")))
    editor.append(o.Conv("act", constant("w2", 8, 8, 3, 3), constant("b2", 8), "mid", padding=(1, 1, 1, 1)))
    editor.append(o.Apply("mid", "rect", o.Function("relu")))
    editor.append(o.Add("rect", "act", "sum"))
    editor.append(o.MaxPool("sum", "pool", (2, 2), (2, 2)))
    editor.append(o.Concat(("pool", "pool"), "joined", 1))
    editor.append(o.Conv("joined", constant("w3", 8, 16, 1, 1), None, "last"))
    editor.append(o.Mean("last", "mean", (2, 3)))
    editor.append(o.Reshape("mean", "flat", (1, 8)))
    editor.append(o.Linear("flat", constant("w4", 5, 8), constant("b4", 5), "scores"))
    return editor.graph(["scores"])


def images(count: int, seed: int = 1) -> Images:
    """Pixels k/255, brighter from image to image, with both ends of the range in each."""
    random = np.random.default_rng(seed)
    found = []
    for index in range(count):
        pixels = random.integers(0, 256 - 100 * index // max(count, 1), (1, 3, SIDE, SIDE))
        pixels[0, :, 0, 0], pixels[0, :, 0, 1] = 0, 255
        found.append({INPUT: (pixels / 255).astype(np.float32)})
    return found
