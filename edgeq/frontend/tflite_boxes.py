"""Coordinates that the loader of an Ultralytics TFLite file multiplies by the image's width and height.

Such files hold them, of boxes and key points alike, as fractions of the image.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgeq.formats import FloatArray

_TASKS = ("detect", "segment", "pose", "obb")


@dataclass(frozen=True)
class Scaled:
    """An output that the file divides by `factors` along `axis`."""

    axis: int
    factors: tuple[float, ...]

    def document(self) -> dict[str, object]:
        """As plain JSON values."""
        return {"axis": self.axis, "factors": list(self.factors)}


def box_factors(shape: tuple[int, ...], size: tuple[int, int], metadata: Mapping[str, object]) -> Scaled | None:
    """What the first output [1, ...] of the model that `metadata` describes is divided by, for an image of `size`
    (height, width); None for one that holds no detections.

    Raises ValueError, TypeError or IndexError where the metadata is damaged.
    """
    declared = metadata.get("task") in _TASKS and {"names", "stride"} <= metadata.keys()
    if not declared or len(shape) != 3:
        return None
    ended = bool(literal(metadata.get("end2end", False)))
    axis = 2 if ended else 1
    classes = literal(metadata["names"])
    first_point = 6 if ended else 4 + (len(classes) if isinstance(classes, Mapping | list) else 0)
    factors = _factors(shape[axis], size, first_point, _step(metadata))
    return Scaled(axis, tuple(factors.tolist()))


def literal(value: object) -> object:
    """Values that came as text from another file's properties, as the objects that they are written forms of."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):  # all that text by anyone can cause
        return value


def _step(metadata: Mapping[str, object]) -> int | None:
    """Numbers per key point, for models that find them."""
    points = literal(metadata.get("kpt_shape"))
    return int(points[1]) if metadata.get("task") == "pose" and isinstance(points, tuple | list) else None


def _factors(channels: int, size: tuple[int, int], first_point: int, step: int | None) -> FloatArray:
    factors = np.ones(channels, dtype=np.float64)
    height, width = size
    factors[0:4] = [width, height, width, height][: min(channels, 4)]
    if step is not None:
        factors[first_point::step] = width
        factors[first_point + 1 :: step] = height
    return factors
