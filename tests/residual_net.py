"""One fixed network with what detectors are made of: SiLU and ReLU convolutions, a residual, pooling, resize, concat."""

from __future__ import annotations

import numpy as np

from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Editor, Graph, Type

CHANNELS, SIDE = 16, 16


def residual_net(seed: int = 0) -> Graph:
    """images [1,3,16,16] -> boxes [1,8,16,16] and scores [1,4,16,16] in 0 … 1."""
    rng = np.random.default_rng(seed)
    editor = Editor("residual", ["images"], {"images": Type((1, 3, SIDE, SIDE))})

    def reals(name: str, *shape: int) -> o.Value:
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 4
        return editor.constant(name, (rng.normal(0, fan_in**-0.5, shape)).astype(np.float32))

    def conv(x: o.Value, name: str, outputs: int, kernel: int = 3, stride: int = 1) -> o.Value:
        weight = reals(f"{name}.weight", outputs, editor.types[x].shape[1], kernel, kernel)
        pad = kernel // 2
        bias = reals(f"{name}.bias", outputs)
        return editor.append(o.Conv(x, weight, bias, name, (stride, stride), (pad, pad, pad, pad)))

    def silu(x: o.Value) -> o.Value:
        return editor.append(o.Apply(x, f"{x}.silu", o.Function("silu")))

    stem = silu(conv("images", "stem", CHANNELS))
    down = silu(conv(stem, "down", CHANNELS, stride=2))
    inner = silu(conv(down, "inner", CHANNELS))
    total = editor.append(o.Add(down, inner, "total"))
    pooled = editor.append(o.MaxPool(total, "pooled", (5, 5), (1, 1), (2, 2, 2, 2)))
    joined = editor.append(o.Concat((total, pooled), "joined", 1))
    mixed = editor.append(o.Apply(conv(joined, "mixed", CHANNELS, 1), "mixed.relu", o.Function("relu")))
    wide = editor.append(o.Resize(mixed, "wide", (SIDE, SIDE), (2.0, 2.0), "nearest", "asymmetric", "floor"))
    both = editor.append(o.Concat((wide, stem), "both", 1))
    boxes = conv(both, "boxes", 8, 1)
    scores = editor.append(o.Apply(conv(both, "logits", 4, 1), "scores", o.Function("sigmoid")))
    return editor.graph([boxes, scores])


def images(seed: int = 0) -> dict[o.Value, Array]:
    """A random input of `residual_net`."""
    return {"images": np.random.default_rng(seed).random((1, 3, SIDE, SIDE), dtype=np.float32)}
