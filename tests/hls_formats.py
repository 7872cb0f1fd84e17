"""Formats of weights that designs hold, by name."""

from __future__ import annotations

import numpy as np

from edgeq.catalogue import NAMED, KMeans, Nupes
from edgeq.formats import E2M1, E2M3, Float, Format, Int
from edgeq.quantize.weights import typed_weight

HEAVY_TAILS = np.random.default_rng(0).standard_t(5, 4096).astype(np.float32)
FORMATS: dict[str, Format] = {
    **{f"int{bits}": Int(bits, narrow=True) for bits in range(2, 9)}, "int12": Int(12), "int16": Int(16, narrow=True),
    "e2m1": E2M1, "e2m2": Float(2, 2), "e2m3": E2M3, "e2m4": Float(2, 4), "e2m5": Float(2, 5),
    "e3m1": Float(3, 1), "e3m2": Float(3, 2), "e3m3": Float(3, 3), "e3m4": Float(3, 4), "e4m3": Float(4, 3),
    **{name: NAMED[name] for name in (
        "fp8_e4m3", "fp8_e5m2", "post3", "post4", "pot4", "pot5", "dense3", "dense4", "khot5", "khot6", "khot7",
    )},
    **{str(family): typed_weight(HEAVY_TAILS, family, None).format for family in (KMeans(4), KMeans(6), Nupes(4))},
}  # fmt: skip
