"""What generated code leaves out where no layer of the model needs it: each saves flash, and instructions here and there."""

from __future__ import annotations

from collections.abc import Set
from typing import Literal

from edgeq.emit.c_pack import PIXELS
from edgeq.target import Instructions

Need = Literal["unusual", "groups", "parts", "pairs", "large", "tables"]
"""An output that clamps codes or has another factor; groups of a convolution; blocks of fewer channels; two pixels alone; sizes of
more than 16 bits; a table of a function."""

LEFT_OUT: dict[Need, tuple[str, str]] = {
    "unusual": ("EDGEQ_ONLY_USUAL", "no layer clamps its codes: see edgeq.h"),
    "groups": ("EDGEQ_ONE_GROUP", "no convolution has groups: see edgeq_conv.h"),
    "tables": ("EDGEQ_NO_TABLES", "no function follows what it computes: see edgeq.h"),
    "parts": ("EDGEQ_WHOLE_BLOCKS", "channels of convolutions fill their blocks: see edgeq_block.h"),
}

MOST_SPARE = 0.02
"""Where groups of three pixels alone cost more than this share of all multiplications, pairs have code of their own."""


def left_out(needs: Set[Need], spare: int, macs: int, instructions: Instructions) -> str:
    """The definitions of a model whose layers have these needs and, in groups of three pixels, `spare` multiplications."""
    lines = [f"#define {name} /* {why} */\n" for need, (name, why) in LEFT_OUT.items() if need not in needs]
    if PIXELS[instructions] == 3 and ("pairs" in needs or spare > MOST_SPARE * macs):
        lines.append("#define EDGEQ_PAIRS /* two pixels have code of their own: see edgeq_conv.h */\n")
    if "large" in needs:
        lines.append("#define EDGEQ_LARGE_SIZES /* of descriptors: see edgeq.h */\n")
    return "".join(lines)
