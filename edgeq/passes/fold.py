"""Constant arithmetic disappears into weights, and operators that only move elements cancel.

Batch normalizations, layer scales, input normalizations and other affine maps with constant coefficients are
absorbed by the convolution, linear layer or normalization beside them. Each rule preserves the real function.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeq.ir import ops as o
from edgeq.passes.affine import (
    Affine,
    absorb_after,
    absorb_before,
    affine_of,
    has_constant_weights,
)
from edgeq.passes.rewrite import Numbers, Rule, Sweep

_Weighted = (o.Conv, o.ConvTranspose, o.Linear)


def affine_into_producer(s: Sweep, op: o.Op) -> o.Op | None:
    """An affine map after a weighted operator or a normalization becomes part of it."""
    affine = affine_of(s, op)
    producer = s.made_by(affine.x) if affine else None
    if affine is None or producer is None or not s.is_sole(affine.x):
        return None
    return absorbed_by_producer(s, producer, affine, o.results(op)[0])


def absorbed_by_producer(s: Sweep, producer: o.Op, affine: Affine, out: o.Value) -> o.Op | None:
    """The operator for affine(producer's result), named `out`; None where it cannot be one of its kind."""
    match producer:
        case o.Conv() | o.ConvTranspose() | o.Linear() if has_constant_weights(s, producer):
            return absorb_after(s, producer, affine, out)
        case o.LayerNorm():
            return _into_layer_norm(s, producer, affine, out)
        case o.GroupNorm():
            return _into_group_norm(s, producer, affine, out)
        case _:
            return None


def _into_layer_norm(s: Sweep, norm: o.LayerNorm, affine: Affine, out: o.Value) -> o.Op | None:
    rank = len(s.shape(norm.x)) - norm.axis
    gamma, beta = s.array(norm.gamma), s.array(norm.beta)
    if (norm.gamma and gamma is None) or (norm.beta and beta is None):
        return None
    if any(size != 1 for array in (affine.scale, affine.shift) for size in array.shape[: max(array.ndim - rank, 0)]):
        return None
    shape = s.shape(norm.x)[norm.axis :]
    scale, shift = (np.broadcast_to(a.reshape(a.shape[-rank:]), shape) for a in (affine.scale, affine.shift))
    new_gamma = scale if gamma is None else gamma.astype(np.float64) * scale
    new_beta = shift if beta is None else beta.astype(np.float64) * scale + shift
    return _normalized(s, norm, (new_gamma, new_beta), affine.source, out)


def _into_group_norm(s: Sweep, norm: o.GroupNorm, affine: Affine, out: o.Value) -> o.Op | None:
    vectors = affine.vectors(s.shape(norm.x), 1)
    gamma, beta = s.array(norm.gamma), s.array(norm.beta)
    if vectors is None or (norm.gamma and gamma is None) or (norm.beta and beta is None):
        return None
    scale, shift = vectors
    new_gamma = scale if gamma is None else gamma.astype(np.float64) * scale
    new_beta = shift if beta is None else beta.astype(np.float64) * scale + shift
    return _normalized(s, norm, (new_gamma, new_beta), affine.source, out)


def _normalized(
    s: Sweep,
    norm: o.LayerNorm | o.GroupNorm,
    vectors: tuple[Numbers, Numbers],
    source: o.Value | None,
    out: o.Value,
) -> o.LayerNorm | o.GroupNorm:
    """`norm` with other gamma and beta, which keep their names or take that of the constant they came from."""
    gamma, beta = vectors
    new_gamma = s.constant(gamma, norm.gamma or source or f"{norm.out}.gamma")
    new_beta = s.constant(beta, norm.beta or source or f"{norm.out}.beta") if norm.beta or beta.any() else None
    return replace(norm, gamma=new_gamma, beta=new_beta, out=out)


def affine_before_transpose(s: Sweep, op: o.Op) -> o.Op | None:
    """affine(transpose(y)) = transpose(affine'(y)), which the producer of y can absorb."""
    affine = affine_of(s, op)
    moved = s.made_by(affine.x) if affine else None
    if affine is None or not isinstance(moved, o.Transpose) or not s.is_sole(affine.x) or not s.is_sole(moved.x):
        return None
    if not isinstance(s.made_by(moved.x), (*_Weighted, o.LayerNorm, o.GroupNorm)):
        return None
    (out,), back = o.results(op), np.argsort(moved.permutation)
    x = moved.x
    if not _is_one(affine.scale):
        x = s.emit(o.Mul(x, s.constant(_permuted(affine.scale, back), f"{out}.scale"), ""), out)
    if affine.shift.any():
        x = s.emit(o.Add(x, s.constant(_permuted(affine.shift, back), f"{out}.shift"), ""), out)
    return replace(moved, x=x, out=out)


def _permuted(array: Numbers, order: Numbers) -> Numbers:
    full = array.reshape((1,) * (len(order) - array.ndim) + array.shape)
    return full.transpose(order) if array.ndim else array


def _is_one(array: Numbers) -> bool:
    return bool(np.all(array == 1))


def affine_into_consumer(s: Sweep, op: o.Op) -> o.Op | None:
    """An affine map of the input channels becomes part of the weights that read it."""
    if not isinstance(op, _Weighted) or not s.is_sole(op.x) or not has_constant_weights(s, op):
        return None
    affine = affine_of(s, s.made_by(op.x))
    return absorb_before(s, op, affine) if affine else None


def merged_affines(s: Sweep, op: o.Op) -> o.Op | None:
    """Two affine maps in a row are one."""
    outer = affine_of(s, op)
    inner = affine_of(s, s.made_by(outer.x)) if outer else None
    if outer is None or inner is None or not s.is_sole(outer.x) or _is_rounded(s, o.results(op)[0]):
        return None
    scale, shift = outer.scale * inner.scale, outer.scale * inner.shift + outer.shift
    (out,), shape = o.results(op), s.shape(inner.x)
    if not shift.any():
        return o.Mul(inner.x, s.constant(_smallest(scale), f"{out}.scale"), out)
    if _is_one(scale):
        return o.Add(inner.x, s.constant(_smallest(shift), f"{out}.shift"), out)
    return _as_channel_affine(s, Affine(inner.x, scale, shift), shape, out)


def _smallest(array: Numbers) -> Numbers:
    """A number if all entries are equal."""
    return array.reshape(-1)[0].reshape(()) if np.all(array == array.reshape(-1)[0]) else array


def _as_channel_affine(s: Sweep, affine: Affine, shape: tuple[int, ...], out: o.Value) -> o.Op | None:
    vectors = affine.vectors(shape, 1) if len(shape) > 1 else None
    if vectors is None or (affine.scale.size == 1 and affine.shift.size == 1):
        return None
    scale, shift = (
        s.constant(vector, f"{out}.{name}") for vector, name in zip(vectors, ("scale", "shift"), strict=True)
    )
    return o.ChannelAffine(affine.x, scale, shift, out)


def plain_affine(s: Sweep, op: o.Op) -> o.Op | o.Value | None:
    """x - c and x / c become x + (-c) and x * (1 / c); maps that do nothing vanish."""
    affine = affine_of(s, op)
    if affine is None:
        return None
    (out,) = o.results(op)
    if _is_one(affine.scale) and not affine.shift.any():
        return affine.x
    match op:
        case o.Sub() if op.a == affine.x:
            return o.Add(op.a, s.constant(affine.shift, op.b), out)
        case o.Binary() if not _is_rounded(s, out):
            return o.Mul(op.a, s.constant(affine.scale, op.b), out)
        case _:
            return None


def _is_rounded(s: Sweep, value: o.Value) -> bool:
    """Whether a reader turns the last bit of `value` into a step."""
    steps = ("floor", "ceil", "round")
    for reader in s.graph.consumers.get(value, ()):
        match reader:
            case o.Apply() if reader.function.name in steps:
                return True
            case o.Cast() | o.Binary():
                return True
            case _:
                pass
    return False


def sum_as_mean(s: Sweep, op: o.Op) -> o.Op | None:
    """sum(x) * (1 / n) over n elements is the mean."""
    affine = affine_of(s, op) if isinstance(op, o.Mul | o.Binary) else None
    total = s.made_by(affine.x) if affine else None
    if affine is None or not isinstance(total, o.Reduce) or total.function != "sum" or affine.scale.size != 1:
        return None
    count = np.prod([s.shape(total.x)[axis] for axis in total.axes])
    if not np.isclose(float(affine.scale.reshape(-1)[0]) * count, 1.0, rtol=1e-6, atol=0.0):
        return None
    return o.Mean(total.x, o.results(op)[0], total.axes)


FOLD: tuple[Rule, ...] = (
    plain_affine,
    sum_as_mean,
    affine_into_producer,
    affine_before_transpose,
    affine_into_consumer,
    merged_affines,
)
