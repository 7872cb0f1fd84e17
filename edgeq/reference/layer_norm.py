"""Layer normalization of codes in integers: exact sums, one square root of 16 bits per row, one product per element.

With the sum S and the sum of squares Q of a row of n levels, D = n x - S is n times the deviation from the mean and
V = n Q - S^2 is n^2 times the variance, both exact. So (x - mean) / sqrt(variance + epsilon) = D / sqrt(V + E) with
E = epsilon_level(epsilon, s, n), about n^2 epsilon / s^2, and neither the scale s nor the zero point of x is left in it.

The root is taken of the leading 32 bits, which starts as exactly for a variance of 10^-9 as for one of 10^9 and errs by
at most one part in 2^15; the reciprocal by one in 2^16. Gamma is a code of 16 bits and beta one of 32 in the unit of
the product, so that neither a gamma near zero nor a negative one loses anything.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgeq.ir.bounds import normal_fraction_bits

RECIPROCAL_BITS = 32


def root(power: Tensor) -> tuple[Tensor, Tensor]:
    """(q, t) with q = floor(sqrt(power / 4^t)) and 2^15 <= q < 2^16, for int64 1 <= power < 2^62.

    power / 4^t is cut to its integer part, 2^30 <= … < 2^32, whose root double precision gives exactly.

    >>> [part.tolist() for part in root(torch.tensor([1, 100, 1 << 31, 1 << 50]))]
    [[32768, 40960, 46340, 32768], [-15, -12, 0, 10]]
    """
    exponent = torch.zeros_like(power)
    for k in range(1, 16):
        exponent += (power >> (30 + 2 * k) > 0).to(torch.int64) - (power >> (32 - 2 * k) == 0).to(torch.int64)
    leading = (power << (-2 * exponent).clamp(min=0)) >> (2 * exponent).clamp(min=0)
    return leading.to(torch.float64).sqrt().to(torch.int64), exponent


def normalize(level: Tensor, axis: int, epsilon: int) -> Tensor:
    """round(2^b D / sqrt(V + epsilon)) over the axes from `axis` on, ties upward; b = normal_fraction_bits(n); int64.

    With (q, t) = root(V + epsilon) it is floor((D r + 2^(k - 1)) / 2^k), r = floor((2^32 - 1) / q), k = 32 + t - b.
    Domain: |D| < 2^30 and V + epsilon < 2^62 (verify refuses graphs that could leave it). Then |D r| < 2^47, and the
    result lies within normal_limit(n). A row of equal elements gives zeros.

    >>> normalize(torch.tensor([[7, 7, 7, 7], [0, 0, 0, 4], [-128, 127, -128, 127]]), 1, 1).tolist()
    [[0, 0, 0, 0], [-9362, -9362, -9362, 28087], [-16384, 16384, -16384, 16384]]
    """
    axes = tuple(range(axis, level.dim()))
    count = math.prod(level.shape[axis:])
    total, squares = level.sum(axes, keepdim=True), level.square().sum(axes, keepdim=True)
    found, exponent = root(count * squares - total * total + epsilon)
    reciprocal = torch.div((1 << RECIPROCAL_BITS) - 1, found, rounding_mode="floor")
    shift = RECIPROCAL_BITS + exponent - normal_fraction_bits(count)
    return ((count * level - total) * reciprocal + (torch.ones_like(shift) << (shift - 1))) >> shift
