"""Formats of weights that designs hold, by name."""

from __future__ import annotations

import numpy as np

from edgeq.catalogue import FP8_E4M3, FP8_E5M2, KMeans, dense_shift
from edgeq.formats import E2M1, E2M3, POST4, POT4, Float, Format, Int
from edgeq.quantize.weights import typed_weight

KMEANS4 = typed_weight(np.random.default_rng(0).standard_t(5, 4096).astype(np.float32), KMeans(4), None).format
FORMATS: dict[str, Format] = {
    **{f"int{bits}": Int(bits, narrow=True) for bits in range(2, 9)}, "int16": Int(16, narrow=True),
    "e2m1": E2M1, "e2m2": Float(2, 2), "e2m3": E2M3, "e2m4": Float(2, 4), "e2m5": Float(2, 5),
    "e3m1": Float(3, 1), "e3m2": Float(3, 2), "e3m4": Float(3, 4), "e4m3": Float(4, 3),
    "fp8_e4m3": FP8_E4M3, "fp8_e5m2": FP8_E5M2,
    "post4": POST4, "pot4": POT4, "dense4": dense_shift(4), "kmeans4": KMEANS4,
}  # fmt: skip
