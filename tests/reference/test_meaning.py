"""What operators mean where the meaning has a quick way of its own."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from edgeq.ir import ops as o
from edgeq.reference.meaning import evaluate, nearest_sources

SIZES = [(1, 1), (1, 3), (2, 6), (3, 9), (5, 10), (4, 6), (6, 3), (7, 7)]
PAIRS = [(c, r) for c in get_args(o.Coordinates) for r in get_args(o.NearestRounding)]


def resized(x: Tensor, size: o.Pair, coordinates: o.Coordinates, rounding: o.NearestRounding) -> tuple[Tensor, Tensor]:
    """The result, and what copying the sources gives that every emitter writes."""
    scale = (size[0] / x.shape[2], size[1] / x.shape[3])
    op = o.Resize("x", "y", size, scale, "nearest", coordinates, rounding)
    (found,) = evaluate(op, lambda _: x)
    rows, columns = (torch.from_numpy(nearest_sources(x.shape[2 + k], size[k], scale[k], op)) for k in (0, 1))
    return found, x[:, :, rows][:, :, :, columns]


@pytest.mark.parametrize(("coordinates", "rounding"), PAIRS)
def test_nearest_resize_copies_its_sources(coordinates: o.Coordinates, rounding: o.NearestRounding) -> None:
    for size, out in SIZES:
        x = torch.arange(2.0 * size * size).reshape(1, 2, size, size)
        found, wanted = resized(x, (out, 2 * out), coordinates, rounding)
        assert torch.equal(found, wanted)


def test_some_sources_are_no_repetition() -> None:
    """So that the comparison above sees both ways."""
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    repeated = x.repeat_interleave(3, 2).repeat_interleave(3, 3)
    alike = {pair: torch.equal(resized(x, (9, 9), *pair)[1], repeated) for pair in PAIRS}
    assert alike["asymmetric", "floor"] and alike["half_pixel", "round_prefer_ceil"]
    assert not alike["asymmetric", "ceil"] and not alike["align_corners", "floor"]
