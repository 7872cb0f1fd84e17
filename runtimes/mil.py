"""The operators of an ML program that edgeq writes, computed in torch as Apple's reference describes them.

Every operator takes its operands as they are stored, computes in float32, and rounds once to the declared type of its
result. So a program in half precision shows half precision's rounding and nothing else. Values of half precision are
held in float32 tensors, which hold them exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeq.emit.coreml_read import Spot
from edgeq.errors import UnsupportedError

Content = Tensor | str
LARGEST_PAD = 4096
_CARRIERS = {
    "fp16": torch.float32, "fp32": torch.float32, "int8": torch.int8, "uint8": torch.uint8, "int32": torch.int64,
    "uint32": torch.int64, "bool": torch.bool,
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One operator with its operands at hand."""

    kind: str
    inputs: dict[str, list[Content]]
    output: Spot

    def has(self, key: str) -> bool:
        """Whether the operand is given."""
        return key in self.inputs

    def tensor(self, key: str) -> Tensor:
        """An operand. Raises UnsupportedError if it is missing."""
        content = self.inputs[key][0] if self.inputs.get(key) else None
        if not isinstance(content, Tensor):
            raise UnsupportedError("an operand is missing", where=self.output.name, value=key)
        return content

    def optional(self, key: str) -> Tensor | None:
        """An operand, or None."""
        return self.tensor(key) if self.has(key) else None

    def ints(self, key: str, default: list[int] | None = None) -> list[int]:
        """A vector of integers."""
        if default is not None and not self.has(key):
            return default
        return [int(number) for number in self.tensor(key).reshape(-1).tolist()]

    def number(self, key: str, default: float = 0.0) -> float:
        """A scalar."""
        return float(self.tensor(key)) if self.has(key) else default

    def flag(self, key: str) -> bool:
        """A truth value, false where it is not given."""
        return self.has(key) and bool(self.tensor(key))

    def check_size(self, shape: list[int]) -> None:
        """Raises ValueError unless the result, of `shape`, has the declared shape: before anything large is made."""
        if tuple(shape) != self.output.shape:
            raise ValueError(f"result of shape {shape}, declared {list(self.output.shape)}")

    def text(self, key: str, default: str) -> str:
        """A word."""
        content = self.inputs[key][0] if self.has(key) else default
        if not isinstance(content, str):
            raise UnsupportedError("a word is missing", where=self.output.name, value=key)
        return content


def as_declared(tensor: Tensor, dtype: str) -> Tensor:
    """`tensor` rounded to the element type `dtype`, in the dtype that holds it here."""
    if dtype not in _CARRIERS:
        raise UnsupportedError("an element type that edgeq does not compute with", value=dtype)
    if dtype == "fp16":
        return tensor.to(torch.float16).to(torch.float32)
    return tensor.to(_CARRIERS[dtype])


def compute(call: Call) -> Tensor | tuple[Tensor, ...]:
    """The result of one operator, before it is rounded.

    Raises UnsupportedError for one that edgeq does not write, and for operands that do not fit it.
    """
    try:
        return _compute(call)
    except (RuntimeError, IndexError, ValueError, TypeError, KeyError, OverflowError) as error:  # torch's own
        reason = str(error).partition("\n")[0]
        raise UnsupportedError("an operator's operands do not fit", where=call.output.name, value=reason) from error


def _compute(call: Call) -> Tensor | tuple[Tensor, ...]:
    if call.kind in _UNARY:
        return _UNARY[call.kind](call.tensor("x"))
    if call.kind in _BINARY:
        return _BINARY[call.kind](call.tensor("x"), call.tensor("y"))
    if call.kind in _OTHERS:
        return _OTHERS[call.kind](call)
    raise UnsupportedError("an operator that edgeq does not write", where=call.output.name, value=call.kind)


_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "silu": lambda x: x * torch.sigmoid(x),
    "tanh": torch.tanh,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros(())),
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "abs": torch.abs,
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": torch.cos,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "sign": torch.sign,
    "logical_not": torch.logical_not,
}

_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "real_div": torch.true_divide,
    "floor_div": torch.floor_divide,
    "mod": torch.remainder,
    "pow": torch.pow,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "equal": torch.eq,
    "less": torch.lt,
    "less_equal": torch.le,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
}


def _pads(call: Call) -> list[int]:
    """Amounts for torch's pad, last axis first, from pairs (before, after) of the leading spatial axis first."""
    pads = call.ints("pad", [0, 0, 0, 0]) if call.text("pad_type", "valid") == "custom" else [0, 0, 0, 0]
    if not all(0 <= pad <= LARGEST_PAD for pad in pads):
        raise ValueError(f"padding {pads}")
    return [pads[2], pads[3], pads[0], pads[1]]


def _conv(call: Call) -> Tensor:
    x = F.pad(call.tensor("x"), _pads(call))
    return F.conv2d(
        x, call.tensor("weight"), call.optional("bias"), call.ints("strides", [1, 1]), 0,
        call.ints("dilations", [1, 1]), int(call.number("groups", 1)),
    )  # fmt: skip


def _conv_transpose(call: Call) -> Tensor:
    whole = F.conv_transpose2d(
        call.tensor("x"), call.tensor("weight"), call.optional("bias"), call.ints("strides", [1, 1]), 0, 0,
        int(call.number("groups", 1)), call.ints("dilations", [1, 1]),
    )  # fmt: skip
    left, right, top, bottom = _pads(call)
    return whole[:, :, top : whole.shape[2] - bottom, left : whole.shape[3] - right]


def _linear(call: Call) -> Tensor:
    return F.linear(call.tensor("x"), call.tensor("weight"), call.optional("bias"))


def _matmul(call: Call) -> Tensor:
    x, y = call.tensor("x"), call.tensor("y")
    x = x.transpose(-1, -2) if call.flag("transpose_x") else x
    return x @ (y.transpose(-1, -2) if call.flag("transpose_y") else y)


def _layer_norm(call: Call) -> Tensor:
    x, axes = call.tensor("x"), call.ints("axes")
    centred = x - x.mean(axes, keepdim=True)
    normal = centred / torch.sqrt(centred.square().mean(axes, keepdim=True) + call.number("epsilon", 1e-5))
    gamma, beta = call.optional("gamma"), call.optional("beta")
    normal = normal if gamma is None else normal * gamma
    return normal if beta is None else normal + beta


def _max_pool(call: Call) -> Tensor:
    x = F.pad(call.tensor("x"), _pads(call), value=float("-inf"))
    return F.max_pool2d(x, call.ints("kernel_sizes"), call.ints("strides", [1, 1]))


def _avg_pool(call: Call) -> Tensor:
    x, kernel, strides = call.tensor("x"), call.ints("kernel_sizes"), call.ints("strides", [1, 1])
    mean = F.avg_pool2d(F.pad(x, _pads(call)), kernel, strides)
    if not call.flag("exclude_padding_from_average"):
        return mean
    return mean / F.avg_pool2d(F.pad(torch.ones_like(x), _pads(call)), kernel, strides)


def _clip(call: Call) -> Tensor:
    return torch.clamp(call.tensor("x"), call.number("alpha"), call.number("beta"))


def _gelu(call: Call) -> Tensor:
    exact = call.text("mode", "EXACT") == "EXACT"
    return F.gelu(call.tensor("x"), approximate="none" if exact else "tanh")


def _sigmoid_hard(call: Call) -> Tensor:
    return torch.clamp(call.number("alpha", 0.2) * call.tensor("x") + call.number("beta", 0.5), 0.0, 1.0)


def _axes(call: Call) -> list[int]:
    return call.ints("axes", list(range(call.tensor("x").dim())))


def _top_k(call: Call) -> tuple[Tensor, Tensor]:
    axis = int(call.number("axis", -1))
    values, indices = torch.sort(call.tensor("x"), dim=axis, descending=not call.flag("ascending"), stable=True)
    k = int(call.number("k", 1))
    return values.narrow(axis, 0, k), indices.narrow(axis, 0, k)


def _concat(call: Call) -> Tensor:
    tensors = [content for content in call.inputs["values"] if isinstance(content, Tensor)]
    return torch.cat(tensors, int(call.number("axis")))


def _slice(call: Call) -> Tensor:
    x, begin, end = call.tensor("x"), call.ints("begin"), call.ints("end")
    stride = call.ints("stride", [1] * x.dim())
    past = [bool(flag) for flag in call.ints("end_mask", [0] * x.dim())]
    for axis in range(x.dim()):
        last = (-1 if stride[axis] < 0 else x.shape[axis]) if past[axis] else end[axis]
        x = x.index_select(axis, torch.arange(begin[axis], last, stride[axis]))
    return x


def _pad(call: Call) -> Tensor:
    x, amounts, mode = call.tensor("x"), call.ints("pad"), call.text("mode", "constant")
    pairs = [(amounts[k], amounts[k + 1]) for k in range(0, len(amounts), 2)]
    flat = [amount for pair in reversed(pairs) for amount in pair]
    first = x.dim() - len(pairs)
    call.check_size([*x.shape[:first], *(size + sum(pair) for size, pair in zip(x.shape[first:], pairs, strict=True))])
    if mode == "constant":
        return F.pad(x, flat, value=call.number("constant_val"))
    padded = F.pad(x.reshape(1, -1, *x.shape[first:]), flat, mode=mode)  # torch pads batches of the last axes
    return padded.reshape(*x.shape[:first], *padded.shape[2:])


def _upsample_bilinear(call: Call) -> Tensor:
    x = call.tensor("x")
    size = [int(x.shape[2 + k] * call.number(f"scale_factor_{side}", 1)) for k, side in enumerate(("height", "width"))]
    call.check_size([*x.shape[:2], *size])
    corners = call.flag("align_corners")
    if not corners and not call.flag("half_pixel_centers"):
        raise UnsupportedError("a resize that edgeq does not write", where=call.output.name)
    return F.interpolate(x, size, mode="bilinear", align_corners=corners)


def _upsample_nearest(call: Call) -> Tensor:
    height, width = (int(call.number(f"scale_factor_{side}", 1)) for side in ("height", "width"))
    x = call.tensor("x")
    call.check_size([*x.shape[:2], x.shape[2] * height, x.shape[3] * width])
    return x.repeat_interleave(height, 2).repeat_interleave(width, 3)


def _tile(call: Call) -> Tensor:
    x, repeats = call.tensor("x"), call.ints("reps")
    call.check_size([size * count for size, count in zip(x.shape, repeats, strict=True)])
    return x.repeat(repeats)


def _gather(call: Call) -> Tensor:
    x, indices, axis = call.tensor("x"), call.tensor("indices"), int(call.number("axis"))
    _check_indices(indices, x.shape[axis], call)
    taken = x.index_select(axis, indices.reshape(-1))
    return taken.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _gather_along(call: Call) -> Tensor:
    x, indices, axis = call.tensor("x"), call.tensor("indices"), int(call.number("axis"))
    _check_indices(indices, x.shape[axis], call)
    return torch.gather(x, axis, indices)


def _check_indices(indices: Tensor, size: int, call: Call) -> None:
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < size:
        raise UnsupportedError("an index is out of range", where=call.output.name, allowed=f"0 … {size - 1}")


def _quantize(call: Call) -> Tensor:
    low, high = (-128, 127) if call.text("output_dtype", "int8") == "int8" else (0, 255)
    codes = torch.round(call.tensor("input") / call.tensor("scale")) + call.number("zero_point")
    return torch.clamp(codes, low, high)


def _dequantize(call: Call) -> Tensor:
    return (call.tensor("input").to(torch.float32) - call.number("zero_point")) * call.tensor("scale")


def _cast(call: Call) -> Tensor:
    x, dtype = call.tensor("x"), call.text("dtype", "fp32")
    return x.trunc() if x.is_floating_point() and dtype == "int32" else x


_OTHERS: dict[str, Callable[[Call], Tensor | tuple[Tensor, ...]]] = {
    "cast": _cast,
    "clip": _clip,
    "gelu": _gelu,
    "sigmoid_hard": _sigmoid_hard,
    "leaky_relu": lambda c: F.leaky_relu(c.tensor("x"), c.number("alpha", 0.01)),
    "elu": lambda c: F.elu(c.tensor("x"), c.number("alpha", 1.0)),
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "linear": _linear,
    "matmul": _matmul,
    "softmax": lambda c: torch.softmax(c.tensor("x"), int(c.number("axis", -1))),
    "layer_norm": _layer_norm,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "reduce_mean": lambda c: c.tensor("x").mean(_axes(c), keepdim=c.flag("keep_dims")),
    "reduce_sum": lambda c: c.tensor("x").sum(_axes(c), keepdim=c.flag("keep_dims")),
    "reduce_max": lambda c: c.tensor("x").amax(_axes(c), keepdim=c.flag("keep_dims")),
    "reduce_min": lambda c: c.tensor("x").amin(_axes(c), keepdim=c.flag("keep_dims")),
    "reduce_l2_norm": lambda c: c.tensor("x").square().sum(_axes(c), keepdim=c.flag("keep_dims")).sqrt(),
    "reduce_argmax": lambda c: c.tensor("x").argmax(int(c.number("axis", -1)), keepdim=c.flag("keep_dims")),
    "topk": _top_k,
    "select": lambda c: torch.where(c.tensor("cond"), c.tensor("a"), c.tensor("b")),
    "concat": _concat,
    "slice_by_index": _slice,
    "pad": _pad,
    "reshape": lambda c: c.tensor("x").reshape(c.ints("shape")),
    "transpose": lambda c: c.tensor("x").permute(c.ints("perm")),
    "tile": _tile,
    "upsample_nearest_neighbor": _upsample_nearest,
    "upsample_bilinear": _upsample_bilinear,
    "gather": _gather,
    "gather_along_axis": _gather_along,
    "quantize": _quantize,
    "dequantize": _dequantize,
}
