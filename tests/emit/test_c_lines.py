"""Residuals as lines over both codes: right for every pair of codes, or not given at all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeq.emit.c_lines import CODES, line_of, sums_are_lines
from edgeq.formats import IntArray
from edgeq.ir import ops as o
from edgeq.passes.kernel import Residual, Term
from edgeq.passes.kernels import program
from edgeq.reference.arithmetic import quantize_multiplier, requantize
from tests.c_nets import small_network, target
from tests.lowering import lowered
from tests.quantized import inputs_of

LOWERED = lowered(small_network(), target("c-int8"), inputs_of(small_network()))
PROGRAM = program(LOWERED)
ROUNDINGS: list[o.Rounding] = ["gemmlowp2", "single"]


def _residual(
    scales: tuple[float, float], out: float, rounding: o.Rounding, unit: int, clamp: tuple[int, int]
) -> tuple[Residual, IntArray]:
    """A residual with terms in 2^-unit of the larger scale, as TFLite has it, and its codes."""

    def term(scale: float) -> IntArray:
        q, e = (torch.tensor(n) for n in quantize_multiplier(scale / (2 * max(scales))))
        found: IntArray = requantize(torch.from_numpy((CODES + 128) << unit), q, e, rounding).numpy()
        return found

    q, e = quantize_multiplier(2 * max(scales) / out / (1 << unit))
    value = next(kernel.out for kernel in PROGRAM.kernels if kernel.residual)
    op = o.Requantize("sum", value, (q,), (e,), rounding, *clamp)
    own, other = map(term, scales)
    totals = torch.from_numpy(own[:, None] + other)
    codes = requantize(totals, torch.tensor(q), torch.tensor(e), rounding).numpy() + PROGRAM.type(value).zero_point
    return Residual(own, Term("x", other), op, ((-(1 << 30), 1 << 30),)), codes.clip(*clamp)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("scales", [(0.02, 0.013), (0.004, 0.11), (0.5, 0.5), (0.031, 0.0299)])
@pytest.mark.parametrize("clamp", [(-128, 127), (-100, 90)])
def test_lines_give_the_code_of_every_pair(
    scales: tuple[float, float], rounding: o.Rounding, clamp: tuple[int, int]
) -> None:
    residual, wanted = _residual(scales, 1.31 * max(scales), rounding, 20, clamp)
    line = line_of(residual, PROGRAM)
    assert line is not None and len(np.unique(wanted)) > 100
    assert 128 * (abs(line.own) + abs(line.other)) + abs(line.start) < 1 << 31
    sums = line.own * CODES[:, None] + line.other * CODES + line.start
    np.testing.assert_array_equal((sums >> line.shift).clip(*clamp), wanted)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_coarsely_rounded_terms_have_no_line(rounding: o.Rounding) -> None:
    residual, _ = _residual((0.0201, 0.0137), 0.0219, rounding, 6, (-128, 127))
    assert line_of(residual, PROGRAM) is None


def test_a_network_has_lines_only_where_all_its_residuals_do() -> None:
    residuals = [kernel.residual for kernel in PROGRAM.kernels if kernel.residual]
    assert residuals
    assert sums_are_lines(PROGRAM) == all(line_of(residual, PROGRAM) for residual in residuals)
