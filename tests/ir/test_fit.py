"""Operators whose operands and attributes do not fit together are told why; those that do have no problem."""

from __future__ import annotations

import pytest

from edgeq.ir import ops as o
from edgeq.ir.fit import problems

SHAPES = {
    "x": (2, 4, 6, 8), "m": (4, 6), "v": (4,), "five": (5,), "scalar": (), "w": (3, 4, 3, 3), "group": (4, 2, 1, 1),
    "up": (4, 3, 2, 2), "i": (1, 2), "table": (16,), "short": (2, 4, 6),
}  # fmt: skip

FITTING: list[o.Op] = [
    o.Conv("x", "w", None, "y", padding=(1, 1, 1, 1)),
    o.Conv("x", "group", "v", "y", groups=2),
    o.ConvTranspose("x", "up", None, "y", stride=(2, 2), output_padding=(1, 1)),
    o.Linear("short", "table2", None, "y"),
    o.MaxPool("x", "y", (3, 3), padding=(2, 2, 2, 2)),
    o.Slice("x", "y", (0, 3, 5, 7), (2, 99, -1, 0), (1, 1, -1, -2)),
    o.Pad("x", "y", (0, 0, 5, 7), (0, 0, 5, 7), mode="reflect"),
    o.Expand("v", "y", (3, 2, 4)),
    o.Reshape("x", "y", (8, 48)),
    o.TopK("x", "y", "z", 4, 1),
    o.LayerNorm("x", "scalar", None, "y", 3, 1e-5),
]

MISFITS: list[tuple[o.Op, str]] = [
    (o.Conv("m", "w", None, "y"), "x has shape (4, 6) but must have 4 axes"),
    (o.Conv("x", "m", None, "y"), "weight has shape (4, 6) but must have 4 axes"),
    (o.Conv("x", "w", "v", "y"), "bias has shape (4,) but must have (3,)"),
    (o.Conv("x", "w", None, "y", groups=2), "x (2, 4, 6, 8), weight (3, 4, 3, 3) and 2 groups do not fit together"),
    (o.Conv("x", "group", None, "y", groups=0), "and 0 groups do not fit together"),
    (o.Conv("x", "w", None, "y", stride=(0, 1)), "stride (0, 1)"),
    (o.Conv("x", "w", None, "y", padding=(0, 0, -1, 0)), "padding (0, 0, -1, 0) is too small"),
    (o.ConvTranspose("x", "w", None, "y"), "do not fit together"),
    (o.ConvTranspose("x", "up", "v", "y"), "bias has shape (4,) but must have (3,)"),
    (o.ConvTranspose("x", "up", None, "y", output_padding=(1, 0)), "output padding (1, 0) must be below"),
    (o.Linear("x", "m", None, "y"), "x (2, 4, 6, 8) and weight (4, 6) do not fit together"),
    (o.Linear("x", "v", None, "y"), "weight has shape (4,) but must have 2 axes"),
    (o.MatMul("x", "m", "y"), "matrices (2, 4, 6, 8) and (4, 6) do not fit together"),
    (o.MatMul("v", "m", "y"), "matrices (4,) and (4, 6) do not fit together"),
    (o.MaxPool("x", "y", (2, 2), padding=(2, 0, 0, 0)), "padding (2, 0, 0, 0) gives windows of padding alone"),
    (o.MaxPool("short", "y", (2, 2)), "must have 4 axes"),
    (o.AveragePool("x", "y", (0, 2)), "kernel (0, 2)"),
    (o.Mean("x", "y", (4,)), "axes (4,) do not belong to shape (2, 4, 6, 8)"),
    (o.Mean("x", "y", (1, 1)), "axes (1, 1) do not belong"),
    (o.Reduce("x", "y", "max", (-1,)), "axes (-1,) do not belong"),
    (o.Softmax("x", "y", 4), "axes (4,) do not belong"),
    (o.ArgMax("v", "y", 1), "axes (1,) do not belong"),
    (o.Gather("v", "i", "y", 1), "axes (1,) do not belong"),
    (o.GatherElements("x", "i", "y", 0), "indices has shape (1, 2) but must have 4 axes"),
    (o.TopK("x", "y", "z", 7, 2), "k = 7 of 6 elements"),
    (o.LayerNorm("x", "five", None, "y", 3, 1e-5), "gamma (5,) does not broadcast to (2, 4, 6, 8)"),
    (o.GroupNorm("x", None, None, "y", 3, 1e-5), "3 groups do not divide the channels"),
    (o.GroupNorm("x", "five", None, "y", 2, 1e-5), "gamma has shape (5,) but must have (4,)"),
    (o.ChannelAffine("x", "v", "five", "y"), "shift has shape (5,) but must have (4,)"),
    (o.ChannelAffine("v", "v", "v", "y"), "x (4,) has no channels"),
    (o.Resize("x", "y", (0, 4), (1.0, 1.0)), "size (0, 4)"),
    (o.Resize("x", "y", (4, 4), (0.0, 1.0)), "scale (0.0, 1.0) must be positive"),
    (o.Concat((), "y", 0), "there is nothing to concatenate"),
    (o.Concat(("x", "w"), "y", 1), "differ outside axis 1"),
    (o.Concat(("x", "short"), "y", 0), "differ outside axis 0"),
    (o.Slice("v", "y", (0, 0), (1,), (1,)), "one entry per axis of (4,)"),
    (o.Slice("v", "y", (0,), (1,), (0,)), "a step is 0"),
    (o.Slice("v", "y", (5,), (6,), (1,)), "starts (5,) lie outside (4,)"),
    (o.Slice("v", "y", (0,), (-1,), (1,)), "stops (-1,) are negative"),
    (o.Pad("v", "y", (0, 0), (1,)), "one entry per axis"),
    (o.Pad("v", "y", (-1,), (0,)), "padding (-1,), (0,) is negative"),
    (o.Pad("v", "y", (4,), (0,), mode="reflect"), "reflection needs padding (4,), (0,) below (4,)"),
    (o.Reshape("v", "y", (3,)), "(4,) cannot become (3,)"),
    (o.Reshape("v", "y", (-2, -2)), "(4,) cannot become (-2, -2)"),
    (o.Expand("v", "y", (2, 3)), "x (4,) does not broadcast to (2, 3)"),
    (o.Expand("x", "y", (4,)), "does not broadcast to (4,)"),
    (o.Transpose("m", "y", (0, 0)), "(0, 0) does not permute the axes of (4, 6)"),
    (o.Lookup("x", "m", "y", o.Function("relu")), "table has shape (4, 6) but must have 1 axes"),
]


def shape(name: str) -> tuple[int, ...]:
    return {**SHAPES, "table2": (5, 6)}[name]


@pytest.mark.parametrize("op", FITTING, ids=lambda op: type(op).__name__)
def test_what_fits_has_no_problem(op: o.Op) -> None:
    assert list(problems(op, shape)) == []


@pytest.mark.parametrize(("op", "message"), MISFITS, ids=[f"{type(op).__name__}-{m[:25]}" for op, m in MISFITS])
def test_what_does_not_fit_says_why(op: o.Op, message: str) -> None:
    (found,) = problems(op, shape)
    assert message in found
