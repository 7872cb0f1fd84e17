"""A camera's pixels as input codes: the preprocessing of values, which is affine, as one table per channel."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from edgeq.emit.c_bank import Bank
from edgeq.formats import IntArray, bits_of, code_range
from edgeq.ir import ops as o
from edgeq.ir.graph import Type

KEY = "edgeq.preprocess"


def pixel_tables(metadata: Mapping[str, object], bank: Bank, type_: Type, ties: o.Ties) -> list[tuple[str, int]]:
    """For each channel of an image input: the array of codes by pixel value, and the channel of an RGB pixel it reads.

    Empty unless the metadata tells how RGB pixels become this input.
    """
    text = metadata.get(KEY)
    rule = json.loads(text) if isinstance(text, str) else {}
    if len(type_.shape) != 4 or type_.shape[1] != 3 or rule.get("color") not in ("RGB", "BGR"):
        return []
    codes = [_codes(rule["scale"], _of(rule["mean"], c), _of(rule["std"], c), type_, ties) for c in range(3)]
    order = (0, 1, 2) if rule["color"] == "RGB" else (2, 1, 0)
    add = bank.codes if bits_of(type_.format) == 8 else bank.halves
    return [(add(f"pixels_{c}", table, "input code by pixel value"), order[c]) for c, table in enumerate(codes)]


def _of(values: Sequence[float], channel: int) -> float:
    return values[channel] if len(values) > 1 else values[0]


def _codes(scale: float, mean: float, std: float, type_: Type, ties: o.Ties) -> IntArray:
    """What preprocessing and quantization give for pixels 0 ... 255, in the single precision that both use."""
    value = (np.arange(256, dtype=np.float32) * np.float32(scale) - np.float32(mean)) / np.float32(std)
    ratio = value / np.float32(type_.scale[0])
    whole = np.trunc(ratio)
    nearest = np.rint(ratio) if ties == "even" else whole + np.trunc(2 * (ratio - whole))
    return np.asarray(np.clip(nearest + type_.zero_point, *code_range(type_.format)), dtype=np.int64)
