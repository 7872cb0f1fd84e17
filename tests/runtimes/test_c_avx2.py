"""Kernels with AVX2 and what stands for them: the same codes on this machine with and without the instructions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeq.runtimes.native import NativeRuntime
from tests.c_nets import every_value, extreme_inputs, folder_of, small_network, target


@pytest.mark.parametrize("flags", [{}, {"avx2": "-mavx2"}], ids=["plain", "avx2"])
def test_codes_equal_the_reference(flags: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if flags and "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("needs a processor with AVX2")
    monkeypatch.setattr("edgeq.runtimes.native.HOST_FLAGS", flags)
    graph = small_network()
    integer, artifact = folder_of(graph, target("x86-64-int8"), tmp_path / "out")
    assert "CFLAGS ?= -O2 -mavx2\n" in (tmp_path / "out" / "Makefile").read_text()
    runtime, distinct = NativeRuntime(artifact.primary, artifact.tensors.values()), set[int]()
    for inputs in extreme_inputs(graph, 5):
        wanted, found = every_value(integer, inputs), runtime.run(inputs)
        for value, codes in found.items():
            np.testing.assert_array_equal(codes, wanted[value], err_msg=value)
            distinct.update(np.unique(codes.astype(np.int64)).tolist())
    assert len(distinct) > 150
