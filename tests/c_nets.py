"""Graphs lowered for C targets, their folders, and inputs that reach every code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeq.emit.artifact import Artifact
from edgeq.emit.c import emit
from edgeq.formats import Int
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph, with_constants
from edgeq.ir.verify import verify
from edgeq.reference.interpret import run
from edgeq.runtimes.native import NativeRuntime
from edgeq.target import Target
from edgeq.targets import find_target
from tests.lowering import lowered
from tests.quantized import Net, inputs_of

C_TARGETS = ("c-int8", "cortex-m4-int8", "cortex-m55-int8", "rv64gcv-int8", "aarch64-int8", "x86-64-int8")
PACKED_TARGETS = ("c-w4a8", "cortex-m4-w4a8", "cortex-m55-w4a8")


WIDE_TARGET = "c-w8a16"
QUICK = ("-std=c99", "-O1", "-fPIC", "-shared")


def folder_of(graph: Graph, target: Target, folder: Path) -> tuple[Graph, Artifact]:
    """`graph` (real) lowered for `target` and written as C."""
    integer = lowered(graph, target, inputs_of(graph))
    return integer, emit(integer, target, folder, "net", {}, {})


def pruned(graph: Graph, seed: int, share: float = 0.4) -> Graph:
    """A lowered graph whose layers have rows and columns of zeros, and sums far below every clamp."""
    rng = np.random.default_rng(seed)
    changed = {}
    for op in graph.ops:
        if isinstance(op, o.Conv | o.Linear) and op.weight in graph.constants:
            weight = graph.constants[op.weight].copy()
            weight[rng.random(len(weight)) < share] = 0
            weight[:, rng.random(weight.shape[1]) < share / 2] = 0
            changed[op.weight] = weight
            if op.bias is not None and op.bias in graph.constants and isinstance(op, o.Conv):
                bias = graph.constants[op.bias].astype(np.int32)
                changed[op.bias] = np.where(rng.random(len(bias)) < share / 2, -(1 << 20), bias)
    return with_constants(graph, changed)


def extreme_inputs(graph: Graph, seed: int) -> list[dict[o.Value, Array]]:
    """Usual inputs, and inputs that saturate to both ends of the codes."""
    rng = np.random.default_rng(seed)
    usual = inputs_of(graph, seed)
    far = {name: np.where(rng.random(x.shape) < 0.5, -1e6, 1e6).astype(np.float32) for name, x in usual.items()}
    low = {name: np.full(x.shape, -1e6, np.float32) for name, x in usual.items()}
    return [usual, far, low]


def every_value(graph: Graph, inputs: Mapping[o.Value, Array]) -> dict[o.Value, NDArray[np.generic]]:
    """Every value of `graph` by the reference, outputs included."""
    seen: dict[o.Value, NDArray[np.generic]] = {}
    outputs = run(graph, inputs, lambda name, tensor: seen.__setitem__(name, tensor.numpy()))
    return {**seen, **{name: tensor.numpy() for name, tensor in outputs.items()}}


def equal_codes(graph: Graph, integer: Graph, artifact: Artifact, seed: int) -> set[int]:
    """The codes of every stored value of C on extreme inputs, asserted to be the reference's."""
    runtime, seen = NativeRuntime(artifact.primary, artifact.tensors.values(), QUICK), set[int]()
    for inputs in extreme_inputs(graph, seed):
        wanted, found = every_value(integer, inputs), runtime.run(inputs)
        assert found.keys() >= set(integer.outputs)
        for value, codes in found.items():
            np.testing.assert_array_equal(codes, wanted[value], err_msg=value)
            if codes.dtype.kind == "i":
                seen.update(np.unique(codes).tolist())
    return seen


def small_network() -> Graph:
    """Most kernels once: convolutions of each kind, a residual, pools, resizes, a concatenation, a gate, two outputs."""
    n = Net(1, 3, 17, 14)
    x = n.apply(n.conv("x", 10, "first", stride=2), "relu", "a")
    depthwise = n.reals(10, 1, 3, 3, spread=0.4)
    y = n.add(o.Conv(x, depthwise, n.reals(10), "depthwise", (1, 1), (1, 1, 1, 1), groups=10))
    y = n.add(o.Sub(x, y, "difference"))
    y = n.apply(n.conv(n.apply(y, "silu", "b"), 10, "pointwise", kernel=1), "clip", "c", 0.0, 6.0)
    y = n.add(o.Add(x, n.conv(y, 10, "second"), "residual"))
    gate = n.apply(n.conv(n.add(o.Mean(y, "mean", (2, 3))), 10, "squeeze", kernel=1), "sigmoid", "gate")
    y = n.add(o.Mul(y, gate, "gated"))
    small = n.add(o.MaxPool(y, "smaller", (3, 3), (2, 2), (1, 1, 1, 1)))
    large = n.add(o.Resize(small, "larger", (9, 7), (9 / 5, 7 / 4), "linear"))
    grouped = n.add(o.Conv(y, n.reals(6, 5, 3, 3, spread=0.2), None, "grouped", (1, 1), (2, 2, 2, 2), (2, 2), 2))
    joined = n.add(o.Concat((large, grouped, y), "joined", 1))
    up = n.add(o.ConvTranspose(joined, n.reals(26, 4, 2, 2, spread=0.1), None, "up", (2, 2)))
    pooled = n.add(o.AveragePool(up, "pooled", (2, 2), (2, 2)))
    flat = n.add(o.Reshape(n.add(o.Mean(pooled, "means", (2, 3))), "flat", (1, 4)))
    return n.graph(n.conv(pooled, 5, "map", kernel=1), n.linear(flat, 7, "scores"))


def plain_network() -> Graph:
    """What leaves out the most code: whole blocks, no groups, no clamps, few pixels over; a residual, a mean over an image."""
    n = Net(1, 4, 13, 13)
    x = n.apply(n.conv("x", 32, "first"), "relu", "a")
    y = n.conv(n.apply(n.conv(x, 32, "second", kernel=1), "relu", "b"), 32, "third")
    y = n.apply(n.add(o.Add(x, y, "residual")), "relu", "c")
    pooled = n.add(o.AveragePool(y, "pooled", (13, 13), (13, 13)))
    return n.graph(n.linear(n.add(o.Reshape(pooled, "flat", (1, 32))), 10, "scores"))


def with_large_biases(graph: Graph) -> Graph:
    """A lowered graph of which a channel of each layer has a bias of more than 24 bits."""
    changed = {}
    for op in graph.ops:
        if isinstance(op, o.Conv | o.ConvTranspose | o.Linear) and op.bias in graph.constants:
            bias = graph.constants[op.bias].astype(np.int32)
            changed[op.bias] = np.where(np.arange(len(bias)) == len(bias) // 2, np.int32(1 << 23), bias)
    return with_constants(graph, changed)


def heavily_biased(spread: float = 1e-3) -> Graph:
    """Every kind of layer with weights of at most `spread`, in long sums, and biases hundreds of products large."""
    n = Net(1, 24, 9, 8, seed=5)

    def biased(shape: tuple[int, ...], outputs: int) -> tuple[o.Value, o.Value]:
        bias = n.rng.choice([-1.0, 1.0], outputs) * n.rng.uniform(0.3, 1.2, outputs)
        return n.constant(n.rng.uniform(-1, 1, shape) * spread), n.constant(bias)

    x = n.apply(n.add(o.Conv("x", *biased((24, 24, 3, 3), 24), "first", (1, 1), (1, 1, 1, 1))), "relu", "a")
    y = n.add(o.Conv(x, *biased((24, 1, 9, 9), 24), "depthwise", (1, 1), (4, 4, 4, 4), groups=24))
    y = n.add(o.Add(n.add(o.Conv(y, *biased((24, 12, 3, 3), 24), "grouped", (1, 1), (1, 1, 1, 1), groups=2)), x, "sum"))
    up = n.add(o.ConvTranspose(y, *biased((24, 4, 8, 8), 4), "up", (2, 2)))
    flat = n.add(o.Reshape(y, "flat", (1, 24 * 72)))
    return n.graph(up, n.add(o.Linear(flat, *biased((9, 24 * 72), 9), "scores")))


def heavily_biased_stream() -> Graph:
    """A layer with biases hundreds of products large that joins the residual stream of a transformer."""
    n = Net(1, 96, 4, 6, seed=6)
    difference = n.add(o.Sub("x", n.conv("x", 96, "c", kernel=1), "s"))
    rows = n.add(o.Transpose(n.add(o.Reshape(difference, "r", (1, 96, 24))), "t", (0, 2, 1)))
    weight, bias = n.constant(n.rng.uniform(-1, 1, (96, 96)) * 3e-3), n.reals(96)
    linear = n.add(o.Linear(n.add(o.LayerNorm(rows, None, None, "n", 2, 1e-5)), weight, bias, "l"))
    joined = n.add(o.Add(rows, linear, "z"))
    return n.graph(n.linear(n.add(o.LayerNorm(joined, None, None, "w", 2, 1e-5)), 5, "y"))


def with_finer_weights(graph: Graph, times: int) -> Graph:
    """A lowered graph in which the layers that sum 1,000 products and more have units that are `times` as fine."""
    types, constants, ops = dict(graph.types), dict(graph.constants), list(graph.ops)
    for op in (op for op in graph.ops if isinstance(op, o.ConvTranspose | o.Linear)):
        for value in (op.weight, str(op.bias), op.out):
            types[value] = replace(types[value], scale=tuple(scale / times for scale in types[value].scale))
            if value != op.weight:
                types[value] = replace(types[value], format=Int(64))
        constants[str(op.bias)] = constants[str(op.bias)].astype(np.int64) * times
        for k, reader in enumerate(ops):
            if isinstance(reader, o.Requantize) and reader.x == op.out:
                ops[k] = replace(reader, shift=tuple(shift - times.bit_length() + 1 for shift in reader.shift))
    found = replace(graph, ops=tuple(ops), types=types, constants=constants)
    verify(found)
    return found


def biases_beyond_32_bits(graph: Graph) -> set[o.Value]:
    """Layers of a lowered graph with a bias that 32 bits do not hold."""
    found = [op for op in graph.ops if isinstance(op, o.Conv | o.ConvTranspose | o.Linear) and op.bias is not None]
    return {op.out for op in found if np.abs(graph.constants[str(op.bias)].astype(np.float64)).max() >= 1 << 31}


def small_transformer() -> Graph:
    """Attention of two heads over an image and a class token, with a joint layer, and a second block with biased scores."""
    n = Net(1, 3, 12, 8)
    x = n.conv("x", 10, "patches", kernel=1, stride=2)
    x = n.add(o.Transpose(n.add(o.Reshape(x, "flat", (1, 10, 24))), "tokens", (0, 2, 1)))
    x = n.add(o.Add(n.add(o.Concat((n.reals(1, 1, 10), x), "all", 1)), n.reals(1, 25, 10), "placed"))
    for k, biased in enumerate((False, True)):
        joint = n.linear(_norm(n, x, f"norm {k}"), 30, f"joint {k}")
        parts = []
        for part in range(3):
            cut = n.add(o.Slice(joint, f"cut {k} {part}", (0, 0, 10 * part), (1, 25, 10 * part + 10), (1, 1, 1)))
            heads = n.add(o.Reshape(cut, f"heads {k} {part}", (1, 25, 2, 5)))
            parts.append(n.add(o.Transpose(heads, f"part {k} {part}", (0, 2, 1, 3))))
        turned = n.add(o.Transpose(parts[1], f"turned {k}", (0, 1, 3, 2)))
        scores = n.add(o.Mul(n.add(o.MatMul(parts[0], turned, f"scores {k}")), n.constant(0.6), f"scaled {k}"))
        scores = n.add(o.Add(scores, n.reals(1, 2, 25, 25), f"biased {k}")) if biased else scores
        mixed = n.add(o.MatMul(n.add(o.Softmax(scores, f"shares {k}", 3)), parts[2], f"mixed {k}"))
        mixed = n.add(o.Reshape(n.add(o.Transpose(mixed, f"back {k}", (0, 2, 1, 3))), f"joined {k}", (1, 25, 10)))
        x = n.add(o.Add(x, n.linear(mixed, 10, f"projected {k}"), f"stream {k}"))
        hidden = n.apply(n.linear(_norm(n, x, f"inner {k}"), 14, f"up {k}"), "gelu", f"active {k}")
        x = n.add(o.Add(x, n.linear(hidden, 10, f"down {k}"), f"out {k}"))
    first = n.add(o.Slice(_norm(n, x, "last"), "class", (0, 0, 0), (1, 1, 10), (1, 1, 1)))
    return n.graph(n.linear(n.add(o.Reshape(first, "row", (1, 10))), 7, "logits"))


def _norm(n: Net, x: o.Value, out: o.Value) -> o.Value:
    return n.add(o.LayerNorm(x, n.reals(10), n.reals(10, spread=0.2), out, 2, 1e-5))


def target(name: str, bits: int | None = None) -> Target:
    """The target called `name`, or the same with weights of `bits`."""
    found = find_target(name)
    return found if bits is None else replace(found, weight=Int(bits))
