"""Softmax of codes in integers: a table of exponentials, one sum and one rounded division.

The operand is a code of few bits, so the difference to the row's largest code takes few values and e^-x needs no
approximation: table[d] = round(2^15 e^(-d s)). The largest element itself contributes 2^15, so that no sum is zero
and no row is lost. Every number fits in 32 bits without sign for rows of up to 2^16 elements. (Shifts in place of the
table, as in I-ViT's Shiftmax, are off by up to 6 % of an exponential and cost more instructions than a load.)

Shares are codes of 16 bits with the scale 1 / (2^15 - 1). Eight bits would be too few: of 145 tokens that share alike
each gets 1.76 / 255, and the row would add up to 1.14. A product of shares and values needs no more room for it, since
a row's shares add up to 1.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from edgeq.formats import IntArray
from edgeq.ir.bounds import EXPONENTIAL_ONE, SHARE_UNIT


def exponentials(scale: float, count: int) -> IntArray:
    """round(2^15 e^(-d scale)) for d = 0 … count - 1 (int64, 0 <= entry <= 2^15), ties to even.

    >>> exponentials(0.5, 4).tolist()
    [32768, 19875, 12055, 7312]
    """
    powers = [EXPONENTIAL_ONE * math.exp(-d * scale) for d in range(count)]
    entries: IntArray = np.rint(np.array(powers)).astype(np.int64)
    return entries


def softmax(level: Tensor, table: Tensor, axis: int) -> Tensor:
    """round((2^15 - 1) e / sum e) along `axis` for e = table[max level - level], ties upward; int64 in and out.

    Domain: differences below len(table), rows of at most 2^16 elements, table[0] = 2^15. Then
    (2^15 - 1) e + sum / 2 < 2^32, and the shares lie in [0, 2^15 - 1].

    >>> softmax(torch.tensor([[3, 2, 3, -9]]), torch.tensor([32768, 12055, 0, 0] + 9 * [0]), 1).tolist()
    [[13838, 5091, 13838, 0]]
    """
    powers = table[level.amax(axis, keepdim=True) - level]
    total = powers.sum(axis, keepdim=True)
    return torch.div(SHARE_UNIT * powers + (total >> 1), total, rounding_mode="floor")
