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
                    return Affine(x, array, _ZERO) if isinstance(op, o.Mul) else Affine(x, _ONE, array)
        case o.Sub():
            if (array := _reals(s, op.b)) is not None:
                return Affine(op.a, _ONE, -array)
            if (array := _reals(s, op.a)) is not None:
                return Affine(op.b, -_ONE, array)
        case o.Binary(function="div"):
            if (array := _reals(s, op.b)) is not None and array.all():
                return Affine(op.a, 1 / array, _ZERO)
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
    return Affine(op.x, scale.reshape(along), shift.reshape(along))


def channel_axis(s: Sweep, op: Weighted) -> int:
    """The axis of the output channels in the result."""
    return len(s.shape(op.x)) - 1 if isinstance(op, o.Linear) else 1


def has_constant_weights(s: Sweep, op: Weighted) -> bool:
    """Whether weight and bias are known."""
    return s.array(op.weight) is not None and (op.bias is None or s.array(op.bias) is not None)


def absorb_after(s: Sweep, op: Weighted, scale: Vector, shift: Vector, out: o.Value) -> Weighted:
    """The operator for scale[c] op(x) + shift[c], c being the output channel."""
    weight = s.editor.constants[op.weight].astype(np.float64)
    bias = np.zeros_like(shift) if op.bias is None else s.editor.constants[op.bias].astype(np.float64)
    if isinstance(op, o.ConvTranspose):
        grouped = weight.reshape(op.groups, -1, *weight.shape[1:])
        weight = (grouped * scale.reshape(op.groups, 1, -1, 1, 1)).reshape(weight.shape)
    else:
        weight = weight * scale.reshape(-1, *(1,) * (weight.ndim - 1))
    return _with_weights(s, replace(op, out=out), weight, bias * scale + shift)


def absorb_before(s: Sweep, op: Weighted, x: o.Value, scale: Vector, shift: Vector) -> Weighted | None:
    """The operator for op(scale[c] x + shift[c]), c being the input channel; None where padding forbids it."""
    uniform = not shift.any() or isinstance(op, o.Linear) or (isinstance(op, o.Conv) and not any(op.padding))
    if not uniform:
        return None
    weight = s.editor.constants[op.weight].astype(np.float64)
    bias = None if op.bias is None else s.editor.constants[op.bias].astype(np.float64)
    match op:
        case o.Linear():
            factor, term = scale[None, :], weight @ shift
        case o.Conv():
            per_output = np.repeat(np.arange(op.groups), weight.shape[0] // op.groups)
            factor = scale.reshape(op.groups, -1)[per_output][:, :, None, None]
            added = shift.reshape(op.groups, -1)[per_output][:, :, None, None]
            term = (weight * added).sum((1, 2, 3))
        case o.ConvTranspose():
            factor, term = scale[:, None, None, None], np.zeros(weight.shape[1] * op.groups)
    if shift.any():
        bias = term if bias is None else bias + term
    return _with_weights(s, replace(op, x=x), weight * factor, bias)


def _with_weights(s: Sweep, op: Weighted, weight: Numbers, bias: Numbers | None) -> Weighted:
    named = f"{op.weight}.bias" if op.bias is None else op.bias
    keep = bias is not None and (op.bias is not None or bool(bias.any()))
    new_bias = s.constant(bias, named) if bias is not None and keep else None
    return replace(op, weight=s.constant(weight, op.weight), bias=new_bias)
