"""What an operator does when it is an affine map with constant coefficients, and how weights absorb such maps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgeq.ir import ops as o
from edgeq.passes.rewrite import Numbers, Sweep, channel_vector, factors

Vector = npt.NDArray[np.float64]
Weighted = o.Conv | o.ConvTranspose | o.Linear


@dataclass(frozen=True)
class Affine:
    """scale x + shift with constants that broadcast against x without enlarging it."""

    x: o.Value
    scale: Numbers
    shift: Numbers
    source: o.Value | None = None  # the constant that it came from

    def vectors(self, shape: tuple[int, ...], axis: int) -> tuple[Vector, Vector] | None:
        """scale and shift per index of `axis`; None if they vary along another axis."""
        scale, shift = (channel_vector(array, shape, axis) for array in (self.scale, self.shift))
        return None if scale is None or shift is None else (scale, shift)


_ONE: Vector = np.ones((), np.float64)
_ZERO: Vector = np.zeros((), np.float64)


def affine_of(s: Sweep, op: o.Op | None) -> Affine | None:
    """`op` as an affine map of its one operand that is not constant; None if it is none."""
    found = _parts(s, op)
    if op is None or found is None or not s.is_real(found.x) or s.array(found.x) is not None:
        return None
    shape = s.shape(found.x)
    fits = np.broadcast_shapes(shape, found.scale.shape, found.shift.shape) == shape
    finite = np.isfinite(found.scale).all() and np.isfinite(found.shift).all()
    return found if fits and finite else None


def _parts(s: Sweep, op: o.Op | None) -> Affine | None:
    match op:
        case o.ChannelAffine():
            return _channel_affine(s, op)
        case o.Mul() | o.Add():
            for x, other in factors(op):
                if (array := _reals(s, other)) is not None:
                    scale, shift = (array, _ZERO) if isinstance(op, o.Mul) else (_ONE, array)
                    return Affine(x, scale, shift, other)
        case o.Sub():
            if (array := _reals(s, op.b)) is not None:
                return Affine(op.a, _ONE, -array, op.b)
            if (array := _reals(s, op.a)) is not None:
                return Affine(op.b, -_ONE, array, op.a)
        case o.Binary(function="div"):
            if (array := _reals(s, op.b)) is not None and array.all():
                return Affine(op.a, 1 / array, _ZERO, op.b)
        case o.Apply(function=o.Function("neg")):
            return Affine(op.x, -_ONE, _ZERO)
        case _:
            pass
    return None


def _reals(s: Sweep, value: o.Value) -> Numbers | None:
    array = s.array(value)
    return array.astype(np.float64) if array is not None and array.dtype.kind == "f" else None


def _channel_affine(s: Sweep, op: o.ChannelAffine) -> Affine | None:
    scale, shift = _reals(s, op.scale), _reals(s, op.shift)
    if scale is None or shift is None:
        return None
    along = (-1,) + (1,) * (len(s.shape(op.x)) - 2)
    return Affine(op.x, scale.reshape(along), shift.reshape(along), op.shift)


def channel_axis(s: Sweep, op: Weighted) -> int:
    """The axis of the output channels in the result."""
    return len(s.shape(op.x)) - 1 if isinstance(op, o.Linear) else 1


def has_constant_weights(s: Sweep, op: Weighted) -> bool:
    """Whether weight and bias are known."""
    return s.array(op.weight) is not None and (op.bias is None or s.array(op.bias) is not None)


def absorb_after(s: Sweep, op: Weighted, affine: Affine, out: o.Value) -> Weighted | None:
    """The operator for affine(op(x)); None where the map is not one per output channel."""
    vectors = affine.vectors(s.shape(op.out), channel_axis(s, op))
    if vectors is None:
        return None
    scale, shift = vectors
    weight, bias = _weights(s, op)
    if isinstance(op, o.ConvTranspose):
        grouped = weight.reshape(op.groups, -1, *weight.shape[1:])
        weight = (grouped * scale.reshape(op.groups, 1, -1, 1, 1)).reshape(weight.shape)
    else:
        weight = weight * scale.reshape(-1, *(1,) * (weight.ndim - 1))
    return _with_weights(s, replace(op, out=out), weight, bias * scale + shift, affine.source)


def absorb_before(s: Sweep, op: Weighted, affine: Affine) -> Weighted | None:
    """The operator for op(affine(x)); None where the map is not one per input channel, or padding forbids it."""
    vectors = affine.vectors(s.shape(op.x), channel_axis(s, op))
    if vectors is None:
        return None
    scale, shift = vectors
    if shift.any() and (isinstance(op, o.ConvTranspose) or (isinstance(op, o.Conv) and any(op.padding))):
        return None
    weight, bias = _weights(s, op)
    match op:
        case o.Linear():
            factor, term = scale[None, :], weight @ shift
        case o.Conv():
            group = np.repeat(np.arange(op.groups), weight.shape[0] // op.groups)
            factor = scale.reshape(op.groups, -1)[group][:, :, None, None]
            term = (weight * shift.reshape(op.groups, -1)[group][:, :, None, None]).sum((1, 2, 3))
        case o.ConvTranspose():
            factor, term = scale[:, None, None, None], np.zeros_like(bias)
    return _with_weights(s, replace(op, x=affine.x), weight * factor, bias + term, affine.source)


def _weights(s: Sweep, op: Weighted) -> tuple[Vector, Vector]:
    """Weight, and bias or zeros."""
    weight: Vector = s.editor.constants[op.weight].astype(np.float64)
    if op.bias is not None:
        return weight, s.editor.constants[op.bias].astype(np.float64)
    count = weight.shape[1] * op.groups if isinstance(op, o.ConvTranspose) else weight.shape[0]
    return weight, np.zeros(count)


def _with_weights(s: Sweep, op: Weighted, weight: Vector, bias: Vector, source: o.Value | None) -> Weighted:
    like = op.bias or source or f"{op.weight}.bias"
    new_bias = s.constant(bias, like) if op.bias is not None or bias.any() else None
    return replace(op, weight=s.constant(weight, op.weight), bias=new_bias)
