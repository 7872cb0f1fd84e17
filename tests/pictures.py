"""A picture made of integers: slopes, edges of every direction, discs, fine texture; the same on every machine."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from edgeq.calibrate.draws import Draws


def picture(side: int = 240, name: str = "picture") -> npt.NDArray[np.uint8]:
    """uint8 [side, side, 3]: about as hard to compress and as sharp as a photograph."""
    draws = Draws(name)
    y, x = np.mgrid[:side, :side].astype(np.int64)
    slope = np.stack([40 + x * 120 // side, 160 - y * 90 // side, 60 + (x + y) * 60 // side], -1)
    found = np.ascontiguousarray(slope, np.uint8)
    for _ in range(24):
        cx, cy, radius = (int(k) for k in (*draws.below(side, 2), 4 + draws.below(side // 6, 1)[0]))
        colour = tuple(int(k) for k in draws.below(256, 3))
        if draws.below(2, 1)[0]:
            cv2.circle(found, (cx, cy), radius, colour, -1)
        else:
            cv2.rectangle(found, (cx, cy), (cx + radius, cy + 2 * radius), colour, -1)
    texture = ((x * 7 + y * 13) % 11 - 5) * ((x // 40 + y // 40) % 3 == 0)
    return np.clip(found + texture[..., None], 0, 255).astype(np.uint8)
