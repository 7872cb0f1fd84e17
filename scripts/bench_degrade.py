"""Images per CPU second of every degradation, on one core."""

from __future__ import annotations

import sys
import time

import cv2
import numpy as np

from edgeq.calibrate.degrade import at_severity
from edgeq.calibrate.severity import SCALES


def main(side: int = 640, count: int = 20) -> None:
    """One line per kind, slowest last."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8), (side, side))
    found = {}
    for kind in SCALES:
        degradation = at_severity(kind, 3)
        degradation.apply(image, "warm.png", 0)
        times = []
        for index in range(count):
            started = time.process_time()
            degradation.apply(image, f"{index}.png", 0)
            times.append(time.process_time() - started)
        found[kind] = 1 / float(np.median(times))
    for kind, rate in sorted(found.items(), key=lambda item: -item[1]):
        print(f"{kind:14} {rate:8.0f} images/s at {side}x{side}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
