"""What surfaces look like: a colour pair, mixed by a solid pattern, with a little grain and gloss.

A pattern maps points (metres, in the surface's own frame) to a mix in [0, 1]. Noise comes from one 64 x 64 table
per scene, so that patterns need no hashing and no transcendental function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from edgeq.datasets.scenes_shapes import Array, Draw, Triple, Vector

_PERIOD = 64
_LAST = _PERIOD - 1  # a mask: the period is a power of two
T = TypeVar("T")

PALETTE: tuple[Triple, ...] = (
    (0.86, 0.24, 0.20), (0.95, 0.52, 0.16), (0.97, 0.78, 0.22), (0.48, 0.72, 0.26), (0.16, 0.56, 0.42),
    (0.20, 0.66, 0.72), (0.20, 0.42, 0.78), (0.32, 0.26, 0.62), (0.62, 0.30, 0.68), (0.90, 0.46, 0.62),
    (0.94, 0.92, 0.86), (0.24, 0.24, 0.27), (0.60, 0.60, 0.62), (0.55, 0.36, 0.22), (0.80, 0.66, 0.46),
    (0.72, 0.84, 0.88),
)  # fmt: skip
GROUND: tuple[Triple, ...] = (
    (0.62, 0.46, 0.32), (0.48, 0.33, 0.23), (0.72, 0.60, 0.46), (0.56, 0.56, 0.56), (0.40, 0.42, 0.46),
    (0.66, 0.66, 0.62), (0.36, 0.48, 0.32), (0.58, 0.34, 0.30), (0.34, 0.40, 0.54),
)  # fmt: skip
WALL: tuple[Triple, ...] = (
    (0.86, 0.83, 0.76), (0.74, 0.80, 0.82), (0.80, 0.70, 0.60), (0.62, 0.70, 0.62), (0.88, 0.78, 0.74),
    (0.50, 0.56, 0.64), (0.70, 0.42, 0.34), (0.90, 0.90, 0.90), (0.44, 0.40, 0.46),
)  # fmt: skip


@dataclass(frozen=True)
class Material:
    """Two linear-light colours mixed by `pattern` at `frequency` cells per metre; `gloss` scales the highlight."""

    pattern: str
    first: Triple
    second: Triple
    frequency: float
    gloss: float


def albedo(material: Material, point: Vector, table: Array) -> Array:
    """Linear RGB reflectance [3, n] at n points of the surface's own frame; `table` is the scene's noise."""
    f = material.frequency
    mix = PATTERNS[material.pattern]((point[0] * f, point[1] * f, point[2] * f), table)
    grain = 0.88 + 0.24 * noise(point[0] * 7 + point[2] * 2, point[1] * 7 - point[2] * 5, table)
    return np.stack([(a + (b - a) * mix) * grain for a, b in zip(material.first, material.second, strict=True)])


def noise(u: Array, v: Array, table: Array) -> Array:
    """Smooth value noise in [0, 1] with one cell per unit, repeating every 64 units."""
    left, low = np.floor(u), np.floor(v)
    s, t = _ease(u - left), _ease(v - low)
    column, row = left.astype(np.intp) & _LAST, (low.astype(np.intp) & _LAST) * _PERIOD
    right, high = (column + 1) & _LAST, (row + _PERIOD) & (_PERIOD * _LAST)
    flat = table.ravel()
    near, far = flat.take(row + column), flat.take(high + column)
    near += (flat.take(row + right) - near) * s
    far += (flat.take(high + right) - far) * s
    return np.asarray(near + (far - near) * t)


def _ease(x: Array) -> Array:
    return x * x * (3 - 2 * x)


def _fraction(x: Array) -> Array:
    return np.asarray(x - np.floor(x))


def _band(distance: Array, width: float) -> Array:
    """1 where distance < 0, falling to 0 at `width`: a soft edge."""
    return np.asarray(np.clip(1 - distance / np.float32(width), 0, 1))


def _tone(i: Array, j: Array, table: Array) -> Array:
    """One random real in [0, 1) per integer cell."""
    return table.ravel().take((i.astype(np.intp) & _LAST) + (j.astype(np.intp) & _LAST) * _PERIOD)


def _odd(x: Array) -> Array:
    """1 for odd integers, 0 for even ones."""
    return (x.astype(np.int32) & 1).astype(np.float32)


def _plain(p: Vector, table: Array) -> Array:
    return np.float32(0.35) * noise(p[0] + p[2], p[1] + p[2], table)


def _cloud(p: Vector, table: Array) -> Array:
    u, v = p[0] + 0.6 * p[2], p[1] - 0.8 * p[2]
    return 0.6 * noise(u, v, table) + 0.4 * noise(u * 2.7 + 9, v * 2.7, table)


def _checker(p: Vector, table: Array) -> Array:
    return _odd(np.floor(p[0] + 0.37) + np.floor(p[1] + 0.37) + np.floor(p[2] + 0.37))


def _stripes(p: Vector, table: Array) -> Array:
    return _band(np.abs(_fraction(p[2] + 0.25 * p[0]) - 0.5) - 0.22, 0.06)


def _dots(p: Vector, table: Array) -> Array:
    x, y, z = (_fraction(c) - 0.5 for c in p)
    return _band(np.sqrt(x * x + y * y + z * z) - 0.38, 0.08)


def _marble(p: Vector, table: Array) -> Array:
    bend = 3 * noise(p[0] * 0.8 + p[2], p[1] * 0.8 - p[2], table)
    return _band(np.abs(_fraction(p[0] * 0.5 + p[2] * 0.4 + bend) - 0.5) - 0.02, 0.3)


def _wood(p: Vector, table: Array) -> Array:
    rings = np.sqrt(p[0] * p[0] + p[1] * p[1]) + 0.35 * noise(p[0], p[1] + p[2] * 0.4, table)
    return _fraction(rings * 2.5)


def _planks(p: Vector, table: Array) -> Array:
    row = np.floor(p[0] * 1.6)
    along = p[1] * 0.35 + row * 0.377
    seam = np.minimum(np.abs(_fraction(p[0] * 1.6) - 0.5), 6 * np.abs(_fraction(along) - 0.5))
    streaks = noise(p[0] * 14, p[1] * 0.9, table)
    tone: Array = 0.45 * _tone(row, np.floor(along), table) + 0.25 * streaks
    return tone + 0.6 * _band(0.5 - seam, 0.04) * 0.5


def _bricks(p: Vector, table: Array) -> Array:
    row = np.floor(p[1] * 2)
    along = p[0] + 0.5 * _odd(row)
    joint = np.maximum(2 * np.abs(_fraction(along) - 0.5) - 0.93, np.abs(_fraction(p[1] * 2) - 0.5) * 2 - 0.87)
    return np.where(joint > 0, np.float32(1), 0.5 * _tone(np.floor(along), row, table))


def _tiles(p: Vector, table: Array) -> Array:
    cell = _tone(np.floor(p[0]), np.floor(p[1]), table)
    joint = np.maximum(np.abs(_fraction(p[0]) - 0.5), np.abs(_fraction(p[1]) - 0.5))
    return np.where(joint > 0.475, np.float32(1), 0.4 * cell)


def _paper(p: Vector, table: Array) -> Array:
    """Wallpaper: vertical stripes."""
    return _band(np.abs(_fraction(p[0]) - 0.5) - 0.2, 0.03)


PATTERNS: dict[str, Callable[[Vector, Array], Array]] = {
    "plain": _plain, "cloud": _cloud, "checker": _checker, "stripes": _stripes, "dots": _dots, "marble": _marble,
    "wood": _wood, "planks": _planks, "bricks": _bricks, "tiles": _tiles, "paper": _paper,
}  # fmt: skip
_ON_OBJECTS = ("plain", "plain", "plain", "cloud", "checker", "stripes", "dots", "marble", "wood")
_ON_GROUND = ("planks", "planks", "tiles", "checker", "cloud", "plain")
_ON_WALLS = ("plain", "plain", "bricks", "paper", "cloud", "tiles")


def object_material(draw: Draw) -> Material:
    """A random coat for an object: a palette colour with a lighter, darker or different partner."""
    first = _shade(pick(PALETTE, draw), draw)
    partner = pick(PALETTE, draw) if draw(0, 1) < 0.5 else tuple(c * draw(0.4, 1.3) for c in first)
    second = _shade((partner[0], partner[1], partner[2]), draw)
    return Material(pick(_ON_OBJECTS, draw), _linear(first), _linear(second), draw(3.0, 9.0), draw(0, 0.6))


def ground_material(draw: Draw) -> Material:
    return _background(draw, _ON_GROUND, GROUND, draw(1.0, 2.6))


def wall_material(draw: Draw) -> Material:
    return _background(draw, _ON_WALLS, WALL, draw(1.6, 4.0))


DRINK = Material("plain", (0.05, 0.02, 0.01), (0.10, 0.05, 0.02), 4.0, 0.7)
METAL = Material("plain", (0.35, 0.36, 0.38), (0.55, 0.56, 0.58), 4.0, 0.8)


def _background(draw: Draw, patterns: tuple[str, ...], colours: tuple[Triple, ...], frequency: float) -> Material:
    first = _shade(pick(colours, draw), draw)
    toned = draw(0.55, 0.9) if draw(0, 1) < 0.7 else draw(1.1, 1.35)
    return Material(
        pick(patterns, draw), _linear(first), _linear(tuple(c * toned for c in first)), frequency, draw(0, 0.12)
    )


def pick(choices: tuple[T, ...], draw: Draw) -> T:
    """One of the choices, uniformly."""
    return choices[min(int(draw(0, len(choices))), len(choices) - 1)]


def _shade(colour: Triple, draw: Draw) -> Triple:
    level = draw(0.8, 1.1)
    r, g, b = (min(1.0, max(0.02, c * level + draw(-0.06, 0.06))) for c in colour)
    return (r, g, b)


def _linear(colour: tuple[float, ...]) -> Triple:
    """Display to linear light with gamma 2, whose inverse is a square root."""
    r, g, b = (min(1.0, c) * min(1.0, c) for c in colour)
    return (r, g, b)
