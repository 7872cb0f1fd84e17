"""Every set of kernels under the compilers it is for: no warning at any level of optimization, no float, no heap."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.c_nets import PACKED_TARGETS, WIDE_TARGET, folder_of, small_network, target

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-ffreestanding", "-c")
RV32 = ("riscv64-unknown-elf-gcc", "-march=rv32imc_zicsr", "-mabi=ilp32")
RV64 = ("clang-16", "--target=riscv64-unknown-elf", "-march=rv64gcv", "-mabi=lp64d", "-mcmodel=medany")
M4 = ("arm-none-eabi-gcc", "-mthumb", "-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard")
M55 = ("arm-none-eabi-gcc", "-mthumb", "-mcpu=cortex-m55", "-mfloat-abi=hard")
ARM64 = ("aarch64-linux-gnu-gcc", "-march=armv8.2-a+dotprod")
CASES = [
    *((("gcc",), name) for name in ("c-int8", *PACKED_TARGETS, WIDE_TARGET)),
    *((("clang-16",), name) for name in ("c-int8", *PACKED_TARGETS, WIDE_TARGET)),
    *((RV32, name) for name in ("rv32imc-int8", "rv32imc-w4a8", WIDE_TARGET)),
    *((M4, name) for name in ("cortex-m4-int8", "cortex-m4-w4a8")),
    *((M55, name) for name in ("cortex-m55-int8", "cortex-m55-w4a8")),
    (RV64, "rv64gcv-int8"),
    *((compiler, "x86-64-int8") for compiler in (("gcc",), ("gcc", "-mavx2"), ("clang-16", "-mavx2"))),
    (ARM64, "aarch64-int8"),
    (("clang-16", "--target=aarch64-none-elf", "-mcpu=cortex-a76"), "aarch64-int8"),
]
HELPERS = re.compile(r"memcpy|memset|net_\w+|__(aeabi_)?(lasr|llsl|llsr|lmul|ldivmod|ashldi3|ashrdi3|lshrdi3|muldi3)")
"""Integer arithmetic on 64 bits may be a call on 32-bit cores; anything else is a library."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of C for every target."""
    made = {}
    for name in dict.fromkeys(name for _, name in CASES):
        made[name] = tmp_path_factory.mktemp("strict") / "out"
        folder_of(small_network(), target(name), made[name])
    return made


def assert_clean(compiler: tuple[str, ...], folder: Path, optimize: str, made: Path) -> None:
    if not shutil.which(compiler[0]):
        pytest.skip(f"needs {compiler[0]}")
    command = [*compiler, *STRICT, optimize, "-o", made, folder / "net_model.c"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listed = subprocess.run(["nm", "-u", made], capture_output=True, text=True, check=True).stdout.split()
    wanted = [symbol for symbol in listed if symbol != "U"]
    assert [symbol for symbol in wanted if not HELPERS.fullmatch(symbol)] == []
    assert any(symbol.startswith("net_") for symbol in wanted)


@pytest.mark.parametrize(("compiler", "name"), CASES, ids=lambda case: case if isinstance(case, str) else case[0])
def test_nothing_to_say_and_no_library(
    compiler: tuple[str, ...], name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    assert_clean(compiler, folders[name], "-O2", tmp_path / "model.o")


@pytest.mark.slow
@pytest.mark.parametrize("optimize", ["-O0", "-Os"])
@pytest.mark.parametrize(("compiler", "name"), CASES, ids=lambda case: case if isinstance(case, str) else case[0])
def test_nor_at_other_levels(
    compiler: tuple[str, ...], name: str, optimize: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    assert_clean(compiler, folders[name], optimize, tmp_path / "model.o")
