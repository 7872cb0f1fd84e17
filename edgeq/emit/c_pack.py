"""Weights in the order in which each set of kernels reads them (edgeq_dot.h or edgeq_block.h of the set states it).

Weights of 4 or 2 bits share bytes. Where sums of products run over them, a byte holds one element of two or four output
channels, so that nested masks decode it (edgeq_dot_w4.h); elsewhere elements follow one another (edgeq_unpack.h).
"""

from __future__ import annotations

import numpy as np

from edgeq.formats import Format, IntArray, bits_of, encode, looks_up, looks_up_wide
from edgeq.target import Instructions

ROW_BLOCK: dict[Instructions, int] = {"portable": 4, "dsp": 4, "mve": 4, "rvv": 32, "neon": 8, "avx2": 8}
"""Outputs of a matrix product that are computed together."""

PIXEL_BLOCK: dict[Instructions, int] = {"portable": 4, "dsp": 2, "mve": 4, "rvv": 32, "neon": 8, "avx2": 8}
"""Output channels of a convolution that are computed together."""

PIXELS: dict[Instructions, int] = {"portable": 3, "dsp": 2, "mve": 3, "rvv": 2, "neon": 2, "avx2": 2}
"""Pixels of a convolution with 8-bit weights that are computed together; with packed weights two."""

CHANNEL_VECTORS: frozenset[Instructions] = frozenset({"rvv", "neon", "avx2"})
"""Sets whose depthwise convolutions work on neighbouring channels at once."""

WIDE_COLUMNS: frozenset[Instructions] = frozenset({"dsp"})
"""Sets whose convolutions read columns of 16-bit halves, never their input in place."""

LANES = 32
"""The most channels that such a convolution computes together."""

_RAGGED: frozenset[Instructions] = frozenset({"rvv"})
"""Sets whose last block is as long as it is, without padding."""

_DEPTH: dict[Instructions, int] = {"portable": 1, "dsp": 4, "mve": 16, "rvv": 1, "neon": 4, "avx2": 2}
"""Elements of one output channel that lie side by side."""

_LEAST_BITS: dict[Instructions, int] = {"portable": 2, "dsp": 4, "mve": 4, "rvv": 8, "neon": 8, "avx2": 8}

LONGEST_PACKED = 1 << 17
"""Sums over packed bytes stay below 2^31 up to this many products (each at most 2^14)."""


def stored_bits(bits: int, longest: int, instructions: Instructions) -> int:
    """Bits that a weight of `bits` takes, in sums of `longest` products: 2, 4 or 8."""
    if longest >= LONGEST_PACKED:
        return 8
    return next(width for width in (2, 4, 8) if width >= max(bits, _LEAST_BITS[instructions]))


def weight_bits(format_: Format, longest: int, instructions: Instructions) -> int:
    """Bits that a weight of this format takes, in sums of `longest` products (0: its kernel takes no columns).

    Codes whose levels exceed a byte share one only in columns (edgeq_levels.h).
    """
    if looks_up_wide(format_):
        return 4 if longest and bits_of(format_) <= 4 else 8
    return stored_bits(4 if looks_up(format_) else bits_of(format_), longest, instructions)


def wide_codes(levels: IntArray, table: Format) -> IntArray:
    """The codes of `levels` in `table`, as signed bytes."""
    found: IntArray = (encode(table, levels) + 128) % 256 - 128
    return found


def column_size(k: int, instructions: Instructions) -> int:
    """What a column of k codes takes, in codes (edgeq_column_size of the set)."""
    return -(-k // 4) * 8 if instructions in WIDE_COLUMNS else k


def pixel_groups(pixels: int, most: int) -> list[int]:
    """How many pixels are computed together, one group after another.

    >>> pixel_groups(10, 3), pixel_groups(4, 3), pixel_groups(5, 2)
    ([3, 3, 3, 1], [3, 1], [2, 2, 1])
    """
    return [min(most, pixels - done) for done in range(0, pixels, most)]


def packed(
    rows: IntArray, block: int, instructions: Instructions, bits: int = 8, table: Format | None = None
) -> IntArray:
    """Rows [groups, outputs, k] as [groups][outputs / block][k / depth][block][depth], padded with zeros.

    With fewer `bits`, bytes hold one element of 8 / bits neighbouring outputs; codes of `table`, if levels have one.
    Levels that exceed a byte are codes of 8 bits, too.
    """
    if bits == 8 and table is not None and looks_up_wide(table):
        rows = wide_codes(rows, table)
    groups, outputs, k = rows.shape
    depth = _DEPTH[instructions]
    if instructions in _RAGGED:
        parts = [rows[:, start : start + block].swapaxes(1, 2) for start in range(0, outputs, block)]
        return np.concatenate([part.reshape(groups, -1) for part in parts], axis=1)
    whole = np.pad(rows, ((0, 0), (0, -outputs % block), (0, -k % depth)))
    blocks = whole.reshape(groups, -1, block, whole.shape[2] // depth, depth).swapaxes(2, 3)
    if bits == 8 or table is None:
        return blocks if bits == 8 else _nested(blocks, bits)
    return _pairs(encode(table, blocks).swapaxes(-1, -2)).swapaxes(-1, -2)


def padded_to(block: int, instructions: Instructions) -> int:
    """The entries of channels come in multiples of this."""
    return 1 if instructions in _RAGGED else block


def _nested(blocks: IntArray, bits: int) -> IntArray:
    """Neighbours along the last axis but one in a byte: the last signed, those below it raised to be positive."""
    count = 8 // bits
    fields = blocks.reshape(*blocks.shape[:-2], -1, count, blocks.shape[-1])
    raised = fields + (1 << (bits - 1)) * (np.arange(count) < count - 1)[:, None]
    found: IntArray = (raised << (bits * np.arange(count))[:, None]).sum(axis=-2)
    return found


def _pairs(codes: IntArray) -> IntArray:
    """Neighbours along the last axis in a byte (as a signed number), the first in the low bits."""
    found: IntArray = (codes[..., ::2] | codes[..., 1::2] << 4) + 128
    return found % 256 - 128


def in_order(weights: IntArray, bits: int, table: Format | None = None) -> IntArray:
    """All elements one after another in bytes (as signed numbers), the first in the lowest bits.

    With fewer than 8 bits, they are codes of `table`, if levels have one.
    """
    if bits == 8:
        return weights
    if table is not None:
        codes = encode(table, weights.reshape(-1))
        return _pairs(np.pad(codes, (0, codes.size % 2)))
    count = 8 // bits
    flat = np.pad(weights.reshape(-1), (0, -weights.size % count)).reshape(-1, count) & ((1 << bits) - 1)
    found: IntArray = ((flat << (bits * np.arange(count))).sum(axis=1) + 128) % 256 - 128
    return found
