"""Weights in the order in which each set of kernels reads them (runtimes/c/*/edgeq_dot.h states it)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeq.formats import IntArray
from edgeq.target import Kernels

BLOCK = 4
"""Output channels that are computed together."""


def _padded(rows: IntArray, depth: int) -> IntArray:
    """[groups, outputs, k] with outputs padded to whole blocks and k to a multiple of `depth`, by zeros."""
    _, outputs, k = rows.shape
    return np.pad(rows, ((0, 0), (0, -outputs % BLOCK), (0, -k % depth)))


def _portable(rows: IntArray) -> IntArray:
    """[groups][blocks][k][4]."""
    blocks = _padded(rows, 1)
    return blocks.reshape(len(rows), -1, BLOCK, blocks.shape[2]).swapaxes(2, 3)


def _dsp(rows: IntArray) -> IntArray:
    """[groups][pairs][k / 4][2][4]."""
    blocks = _padded(rows, 4)
    return blocks.reshape(len(rows), -1, 2, blocks.shape[2] // 4, 4).swapaxes(2, 3)


def _mve(rows: IntArray) -> IntArray:
    """[groups][outputs][k / 16][16]."""
    return _padded(rows, 16)


PACKINGS: dict[Kernels, Callable[[IntArray], IntArray]] = {"portable": _portable, "dsp": _dsp, "mve": _mve}
