"""Terms of sums as a straight line over the codes and a byte for each code: a quarter of a table of terms.

A term is a scale times a code, rounded, so it leaves a line by little. Where a code is rounded twice on its way it may
leave it by more than a byte holds; all terms of that model are then whole (runtimes/c/edgeq_terms.h).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeq.emit.c_bank import Bank
from edgeq.formats import IntArray
from edgeq.passes.kernel import Kernel, Program

CODES = np.arange(-128, 128)


@dataclass(frozen=True)
class Terms:
    """term(code) = step code + start + fine[code + 128]."""

    step: int
    start: int
    fine: IntArray

    def named(self, bank: Bank, name: str) -> str:
        """The initializer of an edgeq_terms, its fine parts in `bank`; `start` belongs to the bias of the sum."""
        comment = "fine parts of terms by code"
        add = bank.bytes if self.fits else bank.words
        return f"{{{self.step}, {add(name, self.fine, comment)}}}"

    @property
    def fits(self) -> bool:
        """Whether bytes hold the fine parts, and 32 bits the line."""
        reach = 128 * abs(self.step) + abs(self.start) + 255
        return int(self.fine.max()) < 256 and reach < 1 << 31


def line(table: IntArray) -> Terms:
    """`table` (int64 [256], lowest code first) as its line and what is left.

    >>> found = line(3 * CODES + 5)
    >>> found.step, found.start, int(found.fine.max()), found.fits
    (3, 5, 0, True)
    """
    step = round(int(table[-1] - table[0]) / 255)
    rest = table - step * CODES
    return Terms(step, int(rest.min()), rest - rest.min())


def terms_of(program: Program, table: IntArray) -> Terms:
    """`table` as the model of `program` holds it."""
    return Terms(0, 0, table) if has_wide_terms(program) else line(table)


def has_wide_terms(program: Program) -> bool:
    """Whether some term of a sum leaves its line by more than a byte holds."""
    return any(not line(table).fits for kernel in program.kernels for table in _tables(kernel))


def _tables(kernel: Kernel) -> list[IntArray]:
    found = [] if kernel.joining else [term.table for term in kernel.terms]
    if kernel.residual:
        found += [kernel.residual.own, kernel.residual.other.table]
    return [table for table in found if table is not None]
