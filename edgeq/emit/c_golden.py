"""Codes that a self-test makes for itself: a generator that C repeats."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgeq.emit.c_layout import from_memory
from edgeq.ir import ops as o

Codes = npt.NDArray[np.int8] | npt.NDArray[np.int16]


def golden_codes(ports: Mapping[o.Value, tuple[int, ...]], seed: int, bits: int = 8) -> dict[o.Value, Codes]:
    """Codes of inputs of these shapes, one after another: the stream of the self-test, byte by byte."""
    codes: dict[o.Value, Codes] = {}
    x = seed
    for name, shape in ports.items():
        flat = np.empty(int(np.prod(shape)) * bits // 8, dtype=np.int8)
        for k in range(len(flat)):
            x = (x * 1664525 + 1013904223) & 0xFFFFFFFF
            flat[k] = (x >> 24) - (256 if x >> 31 else 0)
        codes[name] = from_memory(flat.view(f"<i{bits // 8}"), shape)  # type: ignore[assignment]
    return codes
