"""The list of deviations from MISRA C:2012 is complete: the checker finds no other rule broken."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgeq.emit.c import KERNELS
from tests.c_nets import WIDE_TARGET, folder_of, small_network, target


@pytest.mark.slow
@pytest.mark.parametrize("name", ["c-int8", WIDE_TARGET, "cortex-m55-int8"])
def test_every_broken_rule_is_listed(name: str, tmp_path: Path) -> None:
    if not shutil.which("cppcheck"):
        pytest.skip("needs cppcheck")
    folder = tmp_path / "out"
    folder_of(small_network(), target(name), folder)
    options = ["--std=c99", "--addon=misra", "--enable=style", "--max-configs=2", f"-I{folder}"]
    sources = [folder / "net_model.c", folder / "net_weights.c"]
    done = subprocess.run(["cppcheck", *options, *sources], capture_output=True, text=True, check=True)
    broken = set(re.findall(r"misra-c2012-(\d+\.\d+)", done.stderr))
    listed = set(re.findall(r"\d+\.\d+", (KERNELS / "MISRA.md").read_text()))
    assert len(broken) > 5 and broken - listed == set()
    assert (folder / "MISRA.md").read_text().startswith("# MISRA")
