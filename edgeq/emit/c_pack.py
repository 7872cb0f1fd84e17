"""Weights in the order in which each set of kernels reads them (edgeq_dot.h of the set states it)."""

from __future__ import annotations

import numpy as np

from edgeq.formats import IntArray
from edgeq.target import Instructions

ROW_BLOCK = 4
"""Outputs of a matrix product that are computed together."""

PIXEL_BLOCK: dict[Instructions, int] = {"portable": 4, "dsp": 2, "mve": 4}
"""Output channels of a convolution that are computed together."""

_DEPTH: dict[Instructions, int] = {"portable": 1, "dsp": 4, "mve": 16}
"""Elements of one output channel that lie side by side."""


def packed(rows: IntArray, block: int, instructions: Instructions) -> IntArray:
    """Rows [groups, outputs, k] as [groups][outputs / block][k / depth][block][depth], padded with zeros."""
    groups, outputs, k = rows.shape
    depth = _DEPTH[instructions]
    whole = np.pad(rows, ((0, 0), (0, -outputs % block), (0, -k % depth)))
    blocks = whole.reshape(groups, -1, block, whole.shape[2] // depth, depth)
    return blocks.swapaxes(2, 3)
