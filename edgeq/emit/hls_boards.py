"""FPGA boards: what their programmable logic holds."""

from __future__ import annotations

from dataclasses import dataclass

from edgeq.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class FpgaBoard:
    """LUTs, flip-flops, DSP slices (of `dsp_bits` operands) and block RAMs of 18 Kibit of one part; the clock in MHz.

    Sizes are those of the vendor's product tables (7 series: DS190; UltraScale+: DS891).
    """

    name: str
    part: str
    lut: int
    ff: int
    dsp: int
    bram18: int
    clock_mhz: int = 100
    dsp_bits: tuple[int, int] = (25, 18)


BOARDS = (
    FpgaBoard("pynq-z2", "xc7z020clg400-1", 53_200, 106_400, 220, 280),
    FpgaBoard("arty-a7-100", "xc7a100tcsg324-1", 63_400, 126_800, 240, 270),
    FpgaBoard("ultra96-v2", "xczu3eg-sbva484-1-i", 70_560, 141_120, 360, 432, 200, (27, 18)),
    FpgaBoard("kv260", "xck26-sfvc784-2lv-c", 117_120, 234_240, 1_248, 288, 250, (27, 18)),
    FpgaBoard("zcu104", "xczu7ev-ffvc1156-2-e", 230_400, 460_800, 1_728, 624, 250, (27, 18)),
)
DEFAULT_BOARD = BOARDS[0]


def find_board(name: str) -> FpgaBoard:
    """The board called `name`; raises UsageError with the closest name otherwise."""
    names = [board.name for board in BOARDS]
    for board in BOARDS:
        if board.name == name:
            return board
    raise UsageError("unknown FPGA board", value=name, allowed=", ".join(names), next_step=did_you_mean(name, names))
