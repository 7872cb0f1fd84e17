"""A residual whose output lies over its addend: forward from below, in reverse from above."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from edgeq.emit.c import kernel_files
from edgeq.target import Instructions

SOURCE = """#include "edgeq_finish.h"
#include <string.h>

static int8_t memory[96], plain[40], codes[40];
static edgeq_fine own[256], other[256];

int main(void)
{
#if defined(EDGEQ_LINES)
    const edgeq_sum sum = {40, -23, -77, 5, {1, -128, 127, 1}};
#else
    const edgeq_sum sum = {{40, own}, {-23, other}, {-77, 1 << 30, 0, 2}, {1, -128, 127, 1}};
#endif
    int distinct = 0;
    for (int i = 0; i < 256; i++) {
        own[i] = (edgeq_fine)(i * 7 % 256), other[i] = (edgeq_fine)(255 - i);
    }
    for (int reverse = 0; reverse < 2; reverse++) {
        for (int distance = 0; distance <= 48; distance += 16) {
            int8_t *const addend = reverse ? memory : memory + distance, *const out = reverse ? memory + distance : memory;
            for (int i = 0; i < 40; i++) {
                codes[i] = (int8_t)(i * 37 % 251 - 125), addend[i] = (int8_t)(i * 91 % 241 - 120);
            }
            edgeq_finish(NULL, &sum, 37, 0, codes, addend, plain);
            edgeq_finish(NULL, &sum, 37, reverse, codes, addend, out);
            if (memcmp(plain, out, 37) != 0) {
                return 1;
            }
            for (int i = 1; i < 37; i++) {
                distinct += plain[i] != plain[i - 1];
            }
        }
    }
    return distinct > 100 ? 0 : 2;
}
"""


@pytest.mark.parametrize("macro", ["EDGEQ_BYTES", "EDGEQ_WIDE_TERMS", "EDGEQ_LINES"])
@pytest.mark.parametrize("kernels", ["portable", "mve", "rvv"])
def test_the_output_may_lie_over_the_addend(kernels: Instructions, macro: str, tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(SOURCE)
    for name, content in kernel_files(["edgeq_finish.h"], kernels).items():
        (tmp_path / name).write_bytes(content)
    flags = ["-std=c99", "-O1", "-Wall", "-Werror", f"-D{macro}"]
    command = ["gcc", *flags, "-o", str(tmp_path / "main"), str(tmp_path / "main.c")]
    subprocess.run(command, check=True, capture_output=True)
    assert subprocess.run([tmp_path / "main"], check=False).returncode == 0
