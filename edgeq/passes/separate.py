"""Joint layers split into layers of their own, each with a scale of its own.

Attention usually computes queries, keys and values in one layer and then cuts them apart. As codes the three would
share one scale, so the widest of them decides how coarse the others are, and the factor of the scores would have no
layer to go into. A cut moves back through transposes and reshapes to the layer, and a layer that is read in cuts alone
becomes several: the same products, no copies.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from edgeq.ir import ops as o
from edgeq.ir.graph import Graph
from edgeq.passes.affine import Affine, absorb_after, has_constant_weights
from edgeq.passes.attention import moved, scaled, way_back
from edgeq.passes.layout import LAYOUT
from edgeq.passes.rewrite import Rule, Sweep, rewrite


def _cut(s: Sweep, op: o.Slice) -> int | None:
    """The one axis that a slice with unit steps cuts."""
    shape, out = s.shape(op.x), s.shape(op.out)
    axes = [axis for axis, (a, b) in enumerate(zip(shape, out, strict=True)) if a != b]
    return axes[0] if set(op.steps) == {1} and len(axes) == 1 else None


def _sliced(s: Sweep, x: o.Value, axis: int, start: int, stop: int, like: o.Value) -> o.Value:
    shape = s.shape(x)
    starts = tuple(start if k == axis else 0 for k in range(len(shape)))
    stops = tuple(stop if k == axis else size for k, size in enumerate(shape))
    return s.emit(o.Slice(x, like, starts, stops, (1,) * len(shape)), like)


def slice_before_transpose(s: Sweep, op: o.Op) -> o.Op | None:
    """slice(transpose(x)) = transpose(slice(x))."""
    inner = s.made_by(op.x) if isinstance(op, o.Slice) else None
    if not isinstance(op, o.Slice) or not isinstance(inner, o.Transpose) or (axis := _cut(s, op)) is None:
        return None
    cut = _sliced(s, inner.x, inner.permutation[axis], op.starts[axis], op.starts[axis] + s.shape(op.out)[axis], op.out)
    return replace(inner, x=cut, out=op.out)


def slice_before_reshape(s: Sweep, op: o.Op) -> o.Op | None:
    """slice(reshape(x)) = reshape(slice(x)) where the reshape splits x's last axis and the outer part is cut."""
    inner = s.made_by(op.x) if isinstance(op, o.Slice) else None
    if not isinstance(op, o.Slice) or not isinstance(inner, o.Reshape) or (axis := _cut(s, op)) is None:
        return None
    shape, last = s.shape(inner.x), len(s.shape(inner.x)) - 1
    rest = prod(inner.shape[axis + 1 :])
    if last < 0 or inner.shape[axis] * rest != shape[last]:
        return None
    count = s.shape(op.out)[axis]
    cut = _sliced(s, inner.x, last, op.starts[axis] * rest, (op.starts[axis] + count) * rest, op.out)
    return o.Reshape(cut, op.out, s.shape(op.out))


def slice_of_layer(s: Sweep, op: o.Op) -> o.Op | None:
    """A cut through the output channels of a linear layer that is read in such cuts alone is a layer itself."""
    layer = s.made_by(op.x) if isinstance(op, o.Slice) else None
    if not isinstance(op, o.Slice) or not isinstance(layer, o.Linear) or not has_constant_weights(s, layer):
        return None
    last = len(s.shape(op.x)) - 1
    readers = s.graph.consumers.get(op.x, ())
    alone = readers and all(isinstance(reader, o.Slice) and _cut(s, reader) == last for reader in readers)
    if op.x in s.graph.outputs or not alone:
        return None
    rows = slice(op.starts[last], op.starts[last] + s.shape(op.out)[last])
    constants = [None if v is None else s.constant(s.editor.constants[v][rows], v) for v in (layer.weight, layer.bias)]
    weight, bias = constants
    assert weight is not None
    return o.Linear(layer.x, weight, bias, op.out)


def scale_of_product_into_layer(s: Sweep, op: o.Op) -> o.Op | None:
    """number * (move(layer(x)) @ b) = move(number * layer(x)) @ b."""
    found = scaled(s, op)
    product = s.made_by(found[0]) if found and s.is_sole(found[0]) else None
    if found is None or not isinstance(product, o.MatMul) or not (way := way_back(s, product.a)):
        return None
    layer = s.made_by(way[-1].x)
    if not s.is_sole(way[-1].x) or not isinstance(layer, o.Linear) or not has_constant_weights(s, layer):
        return None
    (out,) = o.results(op)
    absorbed = absorb_after(s, layer, Affine(layer.out, np.full((), found[1]), np.zeros(())), out)
    return None if absorbed is None else replace(product, a=moved(s, s.emit(absorbed, out), way, out), out=out)


RULES: tuple[Rule, ...] = (
    slice_of_layer, slice_before_transpose, slice_before_reshape, scale_of_product_into_layer, *LAYOUT
)  # fmt: skip


def separate(graph: Graph) -> Graph:
    """`graph` (simplified) with joint linear layers split; the real-valued function stays."""
    return rewrite(graph, RULES)
