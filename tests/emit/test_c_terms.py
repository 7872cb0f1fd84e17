"""Terms of sums as a line and bytes: every term comes back, also those that leave their line by too much for a byte."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeq.emit.c import emit
from edgeq.emit.c_terms import CODES, line
from edgeq.ir import ops as o
from edgeq.ir.graph import Array
from edgeq.passes import kernels
from edgeq.reference.arithmetic import quantize_multiplier, requantize
from edgeq.runtimes.native import NativeRuntime
from tests.c_nets import every_value, extreme_inputs, small_network, target
from tests.lowering import lowered
from tests.quantized import inputs_of


@pytest.mark.parametrize("rounding", ["gemmlowp2", "single"])
@pytest.mark.parametrize("scale", [0.5, 0.1890331, 0.97, 1e-3, -0.31])
def test_a_rounded_scale_is_a_line_and_bytes(rounding: o.Rounding, scale: float) -> None:
    multiplier, shift = (torch.tensor(number) for number in quantize_multiplier(abs(scale)))
    levels = torch.from_numpy((CODES + 17) << 20)
    table = int(np.sign(scale)) * requantize(levels, multiplier, shift, rounding).numpy()
    found = line(table)
    np.testing.assert_array_equal(found.step * CODES + found.start + found.fine, table)
    assert found.fits and len(np.unique(table)) == 256


def test_steps_are_no_line() -> None:
    assert not line(1000 * (CODES // 40)).fits
    assert line(np.full(256, 7)).fits


def test_whole_terms_give_the_same_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network whose terms are spoilt, in the reference as in C: the model then holds them whole."""
    graph = small_network()
    integer = lowered(graph, target("c-int8"), inputs_of(graph))
    seen = dict[str, Array]()
    for wide in (False, True):
        if wide:
            monkeypatch.setattr("edgeq.emit.c_terms.Terms.fits", False)
        with tempfile.TemporaryDirectory() as folder:
            artifact = emit(integer, target("c-int8"), Path(folder) / "out", "net", {}, {})
            assert ("#define EDGEQ_WIDE_TERMS" in artifact.primary.read_text()) == wide
            found = NativeRuntime(artifact.primary, artifact.tensors.values()).run(extreme_inputs(graph, 3)[0])
        for value, codes in found.items():
            np.testing.assert_array_equal(codes, seen.setdefault(value, codes))
    wanted = every_value(integer, extreme_inputs(graph, 3)[0])
    assert all(np.array_equal(wanted[value], codes) for value, codes in seen.items())
    assert any(kernel.residual for kernel in kernels.program(integer).kernels)
