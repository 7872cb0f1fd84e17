"""Operators that an exporter spelled out become one again: activations, normalizations, softmax, norms, pools."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgeq.ir import ops as o
from edgeq.passes.rewrite import Rule, Sweep, factors
from edgeq.passes.scalar import as_scalar_function


def _divided(s: Sweep, op: o.Op) -> Iterator[tuple[o.Value, o.Value]]:
    """(a, b) for every way in which `op` is a / b."""
    match op:
        case o.Binary(function="div"):
            yield op.a, op.b
        case o.Mul():
            for a, b in factors(op):
                inverse = s.made_by(b)
                if isinstance(inverse, o.Apply) and inverse.function.name == "reciprocal":
                    yield a, inverse.x
        case _:
            pass


@dataclass(frozen=True)
class _Centered:
    """x - mean(x) over `axes`, and the epsilon under the root of its variance."""

    x: o.Value
    axes: o.Ints
    epsilon: float


def layer_norm(s: Sweep, op: o.Op) -> o.Op | None:
    """(x - mean) / sqrt(mean((x - mean)^2) + epsilon)."""
    for centered, deviation in _divided(s, op):
        root = s.made_by(deviation)
        if isinstance(root, o.Apply) and root.function.name == "sqrt":
            found = _centered(s, centered, root.x)
            if found is not None:
                return _as_layer_norm(s, found, o.results(op)[0])
    return None


def _centered(s: Sweep, centered: o.Value, variance: o.Value) -> _Centered | None:
    difference, total = s.made_by(centered), s.made_by(variance)
    if not isinstance(difference, o.Sub) or not isinstance(total, o.Add):
        return None
    mean = s.made_by(difference.b)
    if not isinstance(mean, o.Mean) or mean.x != difference.a:
        return None
    for squares_mean, epsilon_value in factors(total):
        epsilon, squares = s.number(epsilon_value), s.made_by(squares_mean)
        if epsilon is None or not isinstance(squares, o.Mean) or squares.axes != mean.axes:
            continue
        if s.made_by(squares.x) == o.Mul(centered, centered, squares.x):
            return _Centered(mean.x, mean.axes, epsilon)
    return None


def _as_layer_norm(s: Sweep, found: _Centered, out: o.Value) -> o.Op:
    rank = len(s.shape(found.x))
    kept = [axis for axis in range(rank) if axis not in found.axes]
    order = (*kept, *sorted(found.axes))
    if order == tuple(range(rank)):
        return o.LayerNorm(found.x, None, None, out, len(kept), found.epsilon)
    # The axes go to the end and come back.
    moved = s.emit(o.Transpose(found.x, "", order), out)
    normalized = s.emit(o.LayerNorm(moved, None, None, "", len(kept), found.epsilon), out)
    return o.Transpose(normalized, out, tuple(order.index(axis) for axis in range(rank)))


def group_norm(s: Sweep, op: o.Op) -> o.Op | None:
    """A normalization of x [N,C,…] viewed as [N,groups,…], viewed as x again."""
    norm = s.made_by(op.x) if isinstance(op, o.Reshape) else None
    view = s.made_by(norm.x) if isinstance(norm, o.GroupNorm | o.LayerNorm) else None
    if not isinstance(op, o.Reshape) or not isinstance(norm, o.GroupNorm | o.LayerNorm):
        return None
    if not isinstance(view, o.Reshape) or s.shape(view.x) != op.shape or not _is_plain(s, norm):
        return None
    shape, viewed = op.shape, view.shape
    per_channel = norm.groups == viewed[1] if isinstance(norm, o.GroupNorm) else norm.axis == 2
    if len(shape) < 3 or len(viewed) < 3 or viewed[0] != shape[0] or shape[1] % viewed[1] or not per_channel:
        return None
    return o.GroupNorm(view.x, None, None, op.out, viewed[1], norm.epsilon)


def _is_plain(s: Sweep, norm: o.GroupNorm | o.LayerNorm) -> bool:
    """Whether gamma is 1 and beta is 0."""
    gamma, beta = s.array(norm.gamma), s.array(norm.beta)
    ones = norm.gamma is None or (gamma is not None and bool((gamma == 1).all()))
    return ones and (norm.beta is None or (beta is not None and not beta.any()))


def softmax(s: Sweep, op: o.Op) -> o.Op | None:
    """e / sum(e) with e = exp(x - max(x)) or exp(x)."""
    for top, bottom in _divided(s, op):
        total, power = s.made_by(bottom), s.made_by(top)
        if not isinstance(total, o.Reduce) or total.function != "sum" or total.x != top or len(total.axes) != 1:
            continue
        if isinstance(power, o.Apply) and power.function.name == "exp":
            return o.Softmax(_unshifted(s, power.x, total.axes), o.results(op)[0], total.axes[0])
    return None


def _unshifted(s: Sweep, x: o.Value, axes: o.Ints) -> o.Value:
    difference = s.made_by(x)
    largest = s.made_by(difference.b) if isinstance(difference, o.Sub) else None
    is_shift = isinstance(largest, o.Reduce) and largest.function == "max" and largest.axes == axes
    if isinstance(difference, o.Sub) and isinstance(largest, o.Reduce) and is_shift and largest.x == difference.a:
        return difference.a
    return x


def l2_norm(s: Sweep, op: o.Op) -> o.Op | None:
    """sqrt(sum(x^2))."""
    total = s.made_by(op.x) if isinstance(op, o.Apply) and op.function.name == "sqrt" else None
    squares = s.made_by(total.x) if isinstance(total, o.Reduce) and total.function == "sum" else None
    if (
        isinstance(op, o.Apply)
        and isinstance(total, o.Reduce)
        and isinstance(squares, o.Mul)
        and squares.a == squares.b
    ):
        return o.Reduce(squares.a, op.out, "l2", total.axes)
    return None


def largest_of_images(s: Sweep, op: o.Op) -> o.Op | None:
    """The largest element of each channel of images [N,C,H,W] is a pool of the whole image, which every target has."""
    if not isinstance(op, o.Reduce) or op.function != "max" or op.axes != (2, 3) or len(s.shape(op.x)) != 4:
        return None
    height, width = s.shape(op.x)[2:]
    return o.MaxPool(op.x, op.out, (height, width), (height, width))


FUSE: tuple[Rule, ...] = (as_scalar_function, layer_norm, group_norm, softmax, l2_norm, largest_of_images)
