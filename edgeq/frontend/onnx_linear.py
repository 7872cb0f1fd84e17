"""ONNX operators that multiply: convolutions, Gemm, MatMul, Einsum."""

from __future__ import annotations

from typing import cast as typed

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.frontend.onnx_build import Builder, Handler, Node
from edgeq.frontend.onnx_elementwise import scaled
from edgeq.ir import ops as o


def spatial(n: Node, name: str, rank: int, default: int) -> tuple[int, ...]:
    """A per-axis attribute of a window operator, `rank` entries."""
    found = n.integers(name) or (default,) * rank
    if len(found) != rank:
        raise UnsupportedError(f"{name} does not fit the operand", value=found, allowed=f"{rank} numbers")
    return found


def paired(numbers: tuple[int, ...], fill: int) -> o.Pair:
    """Per-axis numbers of one or two spatial axes as (vertical, horizontal)."""
    return typed(o.Pair, (fill, *numbers) if len(numbers) == 1 else numbers)


def as_image(b: Builder, x: o.Value) -> o.Value:
    """x [N,C,L] as [N,C,1,L]; x [N,C,H,W] unchanged. Raises UnsupportedError for volumes."""
    shape = b.shape(x)
    if len(shape) not in (3, 4):
        raise UnsupportedError(
            "windows over this many axes are not supported",
            value=f"{len(shape) - 2} spatial axes",
            allowed="1 or 2",
        )
    return x if len(shape) == 4 else b.reshape(x, (*shape[:2], 1, shape[2]))


def like_operand(b: Builder, y: o.Value, x: o.Value) -> o.Value:
    """y [N,C,1,L] as [N,C,L] if the operand x had one spatial axis."""
    shape = b.shape(y)
    return b.reshape(y, (*shape[:2], shape[3])) if len(b.shape(x)) == 3 else y


def padding(
    n: Node,
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Padding before and after each spatial axis, from `pads` or `auto_pad`."""
    rank, mode = len(size), n.text("auto_pad", "NOTSET")
    if mode == "NOTSET":
        pads = n.integers("pads") or (0,) * (2 * rank)
        if len(pads) != 2 * rank or min(pads) < 0:
            raise UnsupportedError("bad pads", value=pads, allowed=f"{2 * rank} numbers, none negative")
        return pads[:rank], pads[rank:]
    if mode == "VALID":
        return (0,) * rank, (0,) * rank
    needed = [
        max((-(-length // step) - 1) * step + spread * (taps - 1) + 1 - length, 0)
        for length, taps, step, spread in zip(size, kernel, stride, dilation, strict=True)
    ]
    return _halves(needed, more_before=mode == "SAME_LOWER")


def _halves(totals: list[int], *, more_before: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    small, large = tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)
    return (large, small) if more_before else (small, large)


def quad(before: tuple[int, ...], after: tuple[int, ...]) -> o.Quad:
    """(top, left, bottom, right) of one or two spatial axes."""
    return (*paired(before, 0), *paired(after, 0))


def _conv(b: Builder, n: Node) -> o.Value:
    x, weight = n.operand(0), n.operand(1)
    size, kernel = b.shape(x)[2:], b.shape(weight)[2:]
    stride, dilation = (spatial(n, name, len(size), 1) for name in ("strides", "dilations"))
    before, after = padding(n, size, kernel, stride, dilation)
    _check_channels(b.shape(x)[1], b.shape(weight), n.integer("group", 1))
    op = o.Conv(
        as_image(b, x), as_image(b, weight), n.optional(2), "",
        paired(stride, 1), quad(before, after), paired(dilation, 1), n.integer("group", 1),
    )  # fmt: skip
    return like_operand(b, b.emit(op), x)


def _check_channels(channels: int, weight: tuple[int, ...], groups: int) -> None:
    if groups < 1 or weight[1] * groups != channels or weight[0] % groups:
        raise UnsupportedError(
            "weight does not fit the operand", value=weight, allowed=f"{channels} channels in {groups} groups"
        )


def _conv_transpose(b: Builder, n: Node) -> o.Value:
    x, weight = n.operand(0), n.operand(1)
    size, kernel, rank = b.shape(x)[2:], b.shape(weight)[2:], len(b.shape(x)) - 2
    stride, dilation = (spatial(n, name, rank, 1) for name in ("strides", "dilations"))
    extra = spatial(n, "output_padding", rank, 0)
    full = [
        (length - 1) * step + spread * (taps - 1) + 1 + more
        for length, step, spread, taps, more in zip(size, stride, dilation, kernel, extra, strict=True)
    ]
    before, after, extra = _transposed_padding(n, size, stride, full, extra)
    op = o.ConvTranspose(
        as_image(b, x), as_image(b, weight), n.optional(2), "",
        paired(stride, 1), quad(before, after), paired(extra, 0), paired(dilation, 1), n.integer("group", 1),
    )  # fmt: skip
    return like_operand(b, b.emit(op), x)


def _transposed_padding(
    n: Node, size: tuple[int, ...], stride: tuple[int, ...], full: list[int], extra: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Cropping before and after, and output padding; `full` is the size without any cropping."""
    mode, wanted = n.text("auto_pad", "NOTSET"), n.integers("output_shape")
    if wanted is None and mode not in ("SAME_UPPER", "SAME_LOWER"):
        return (*padding(n, size, (1,) * len(size), stride, (1,) * len(size)), extra)
    target = wanted[-len(size) :] if wanted else [length * step for length, step in zip(size, stride, strict=True)]
    crop = [have - want for have, want in zip(full, target, strict=True)]
    if min(crop) < 0:
        # The wanted size is larger than what the kernel covers: the rest is output padding.
        extra = tuple(more - min(c, 0) for more, c in zip(extra, crop, strict=True))
        crop = [max(c, 0) for c in crop]
    # ONNX puts the odd pixel at the start unless told SAME_UPPER.
    return (*_halves(crop, more_before=mode != "SAME_UPPER"), extra)


def _gemm(b: Builder, n: Node) -> o.Value:
    left, right, addend = n.operand(0), n.operand(1), n.optional(2)
    left = b.transpose(left, (1, 0)) if n.integer("transA", 0) else left
    weight = right if n.integer("transB", 0) else b.transpose(right, (1, 0))
    alpha, beta = n.real("alpha", 1.0), n.real("beta", 1.0)
    bias = _row(b, scaled(b, addend, beta), b.shape(weight)[0]) if addend else None
    product = b.emit(o.Linear(left, scaled(b, weight, alpha), bias, ""))
    return b.emit(o.Add(product, scaled(b, addend, beta), "")) if addend and not bias else product


def _row(b: Builder, bias: o.Value, size: int) -> o.Value | None:
    """A constant bias that is the same for every row, as [size]; None for any other."""
    array = b.array(bias)
    if array is None or any(length != 1 for length in array.shape[:-1]) or array.size not in (1, size):
        return None
    return b.reshape(bias, (size,)) if array.size == size else b.constant(np.broadcast_to(array.reshape(-1), (size,)))


def _matmul(b: Builder, n: Node) -> o.Value:
    return matmul(b, n.operand(0), n.operand(1))


def matmul(b: Builder, left: o.Value, right: o.Value) -> o.Value:
    """numpy.matmul; a constant right matrix makes it a Linear."""
    a, c = b.shape(left), b.shape(right)
    if len(a) == 1 or len(c) == 1:
        wide_left = b.reshape(left, (1, *a)) if len(a) == 1 else left
        wide_right = b.reshape(right, (*c, 1)) if len(c) == 1 else right
        y = matmul(b, wide_left, wide_right)
        shape = b.shape(y)
        return b.reshape(y, (*shape[:-2], *(shape[-2:-1] if len(a) > 1 else ()), *(shape[-1:] if len(c) > 1 else ())))
    if a[-1] != c[-2]:
        raise UnsupportedError("matrices do not fit", value=f"{a} and {c}")
    if b.array(right) is not None and c == (1,) * (len(c) - 2) + c[-2:] and len(c) <= len(a):
        weight = b.transpose(b.reshape(right, c[-2:]), (1, 0))
        return b.emit(o.Linear(left, weight, None, ""))
    return b.emit(o.MatMul(left, right, ""))


def _einsum(b: Builder, n: Node) -> o.Value:
    terms, result = _equation(n.text("equation", ""), [len(b.shape(n.operand(k))) for k in range(len(n.inputs))])
    if len(terms) != len(n.inputs):
        raise UnsupportedError("the einsum equation does not fit its operands", value=n.text("equation", ""))
    x, labels = n.operand(0), terms[0]
    for k in range(1, len(terms)):
        needed = set(result).union(*terms[k + 1 :])
        x, labels = _contract(b, (x, labels), (n.operand(k), terms[k]), needed)
    x, labels = _summed(b, x, labels, set(result))
    return b.transpose(x, (labels.index(label) for label in result))


def _equation(equation: str, ranks: list[int]) -> tuple[list[list[str]], list[str]]:
    """Labels of every operand and of the result, with `...` replaced by labels "0", "1" …"""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    dots = max((rank - len(term) + 3 for term, rank in zip(terms, ranks, strict=False) if "..." in term), default=0)
    if not arrow:
        letters = left.replace(",", "").replace(".", "")
        right = ("..." if dots else "") + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    found = []
    for term, rank in zip((*terms, right), (*ranks, None), strict=False):
        count = dots if rank is None else rank - len(term) + 3
        head, has_dots, tail = term.partition("...")
        middle = [str(k) for k in range(dots - count, dots)] if has_dots else []
        labels = [*head, *middle, *tail]
        if len(set(labels)) != len(labels) or (rank is not None and len(labels) != rank):
            raise UnsupportedError("unsupported einsum equation", value=equation, next_step="Use matmul and transpose.")
        found.append(labels)
    return found[:-1], found[-1]


def _summed(b: Builder, x: o.Value, labels: list[str], kept: set[str]) -> tuple[o.Value, list[str]]:
    axes = tuple(k for k, label in enumerate(labels) if label not in kept)
    if not axes:
        return x, labels
    x = b.emit(o.Reduce(x, "", "sum", axes))
    rest = [k for k in range(len(labels)) if k not in axes]
    return b.reshape(x, (b.shape(x)[k] for k in rest)), [labels[k] for k in rest]


def _contract(
    b: Builder, first: tuple[o.Value, list[str]], second: tuple[o.Value, list[str]], needed: set[str]
) -> tuple[o.Value, list[str]]:
    """Two operands into one: [batch, rows, inner] @ [batch, inner, columns]."""
    left, p = _summed(b, *first, needed | set(second[1]))
    right, q = _summed(b, *second, needed | set(first[1]))
    batch = [label for label in p if label in q and label in needed]
    inner = [label for label in p if label in q and label not in needed]
    rows, columns = [label for label in p if label not in q], [label for label in q if label not in p]
    size = dict(zip(q, b.shape(right), strict=True)) | dict(zip(p, b.shape(left), strict=True))
    if any(b.shape(left)[p.index(label)] != b.shape(right)[q.index(label)] for label in [*batch, *inner]):
        raise UnsupportedError("einsum operands that broadcast", next_step="Use matmul.")

    def matrix(x: o.Value, labels: list[str], *groups: list[str]) -> o.Value:
        x = b.transpose(x, (labels.index(label) for label in [*batch, *(label for g in groups for label in g)]))
        merged = (int(np.prod([size[label] for label in group], dtype=np.int64)) for group in groups)
        return b.reshape(x, (*(size[label] for label in batch), *merged))

    # Without a batch, matmul takes any number of row axes.
    row_groups = [rows] if batch else [[label] for label in rows]
    y = matmul(b, matrix(left, p, *row_groups, inner), matrix(right, q, inner, columns))
    labels = [*batch, *rows, *columns]
    return b.reshape(y, (size[label] for label in labels)), labels


LINEAR: dict[str, Handler] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
