"""What stands where: a room, its light, a camera and solids on the floor, drawn from one stream of numbers.

World frame: x right, y forward, z up, metres; the camera stands above the origin and looks along y, tilted down.
Nothing here depends on the image size, so that the same scene can be seen at any resolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgeq.datasets.scenes_materials import (
    DRINK,
    METAL,
    Material,
    ground_material,
    object_material,
    pick,
    wall_material,
)
from edgeq.datasets.scenes_objects import CLASSES, CLUTTER, build
from edgeq.datasets.scenes_shapes import Array, Draw, Part, Triple

HALF_WIDTH = 0.58  # tan of half the field of view: 60 degrees
FARTHEST_M = 16.0
_TRIES = 12


@dataclass(frozen=True)
class Camera:
    height: float
    sine: float  # of the angle by which it looks down
    cosine: float


@dataclass(frozen=True)
class Light:
    """A distant area light: unit vectors towards its middle and three points of it, its colour, and the light from all around."""

    directions: tuple[Triple, ...]
    key: Triple
    ambient: Triple
    window: float  # the side of a window's panes in metres, 0 without a window


@dataclass(frozen=True)
class Panel:
    """A rug or picture: the rectangle [u0, u1] x [v0, v1] of a plane, in metres, covered by a material."""

    u0: float
    u1: float
    v0: float
    v1: float
    material: Material


@dataclass(frozen=True)
class Plane:
    """The floor or a wall, { p : normal . p = offset }, with the directions that its texture follows."""

    normal: Triple
    offset: float
    u: Triple
    v: Triple
    material: Material
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Solid:
    """One object: its parts, what coats them, and where its frame stands (axes are unit vectors of the world)."""

    kind: str
    parts: tuple[Part, ...]
    coats: tuple[Material, ...]
    centre: Triple
    axes: tuple[Triple, Triple, Triple]
    reach: float

    @property
    def label(self) -> int:
        """Its index in CLASSES, or -1 for clutter."""
        return CLASSES.index(self.kind) if self.kind in CLASSES else -1


@dataclass(frozen=True)
class Stage:
    camera: Camera
    light: Light
    planes: tuple[Plane, ...]
    solids: tuple[Solid, ...]
    table: Array
    exposure: float
    noise: float


def crowded_stage(rng: np.random.Generator) -> Stage:
    """A room with two to eight objects and some clutter, seen from standing or sitting height."""
    draw = _draw(rng)
    camera = _camera(draw(0.9, 1.7), draw(0.14, 0.50))
    planes = _room(draw, draw(3.6, 7.5))
    kinds = [pick(CLASSES, draw) for _ in range(2 + int(draw(0, 7)))]
    kinds += [pick(CLUTTER, draw) for _ in range(int(draw(0, 3.5)))]
    solids: list[Solid] = []
    for kind in kinds:
        solid = _stand_somewhere(kind, camera, planes, solids, draw)
        if solid is not None:
            solids.append(solid)
    return _stage(camera, planes, tuple(solids), rng, draw)


def portrait_stage(rng: np.random.Generator, label: int) -> Stage:
    """A room seen from close to one object of class `label`, with clutter beside and sometimes before it."""
    draw = _draw(rng)
    kind, fill = CLASSES[label], draw(0.34, 0.95)
    parts = build(kind, draw)
    reach = max(part.reach() for part in parts)
    away = max(reach / (HALF_WIDTH * fill), reach + 0.25)
    height = draw(0.15, 1.0) * away + 0.15
    camera = _camera(height, max(0.0, height - reach) / away + draw(-0.13, 0.13))
    planes = _room(draw, away + draw(1.0, 4.0))
    sideways = draw(-0.22, 0.22) * away
    solids = [_stand(kind, parts, _coats(kind, draw), (sideways, away), draw)]
    for _ in range(int(draw(0, 4.5))):
        at = (sideways + draw(-1.2, 1.2) * reach, away + draw(-2.2, 2.2) * reach)
        other = pick(CLUTTER, draw)
        clutter = _stand(other, build(other, draw), _coats(other, draw), at, draw)
        if _fits(clutter, planes, solids) and at[1] > clutter.reach + 0.3:
            solids.append(clutter)
    return _stage(camera, planes, tuple(solids), rng, draw)


def _draw(rng: np.random.Generator) -> Draw:
    return lambda low, high: low + (high - low) * float(rng.random())


def _stage(
    camera: Camera, planes: tuple[Plane, ...], solids: tuple[Solid, ...], rng: np.random.Generator, draw: Draw
) -> Stage:
    light, exposure = _light(draw), draw(0.75, 1.35)
    noise = draw(0, 0.03) if draw(0, 1) < 0.7 else draw(0.03, 0.07)
    table = rng.random((64, 64)).astype(np.float32)
    return Stage(camera, light, planes, solids, table, exposure, noise)


def _camera(height: float, slope: float) -> Camera:
    cosine = 1.0 / math.sqrt(1.0 + slope * slope)
    return Camera(height, slope * cosine, cosine)


def _direction(draw: Draw) -> tuple[float, float]:
    """A uniform unit vector of the plane, by rejection (no sine, whose last bit differs between machines)."""
    while True:
        x, y = draw(-1, 1), draw(-1, 1)
        length = math.sqrt(x * x + y * y)
        if 0.1 < length < 1.0:
            return x / length, y / length


def _unit(x: float, y: float, z: float) -> Triple:
    length = math.sqrt(x * x + y * y + z * z)
    return (x / length, y / length, z / length)


def _room(draw: Draw, back: float) -> tuple[Plane, ...]:
    """The floor, the wall ahead at `back` metres, and the walls left and right, turned together."""
    along = _unit(1.0, draw(-0.45, 0.45), 0.0)
    ahead = (-along[1], along[0], 0.0)
    wall = wall_material(draw)
    skirting = Material("plain", *((wall.second, wall.first) if draw(0, 1) < 0.5 else (wall.first,) * 2), 2.0, 0.1)
    up = (0.0, 0.0, 1.0)
    rug = _panels(draw, 0.6, (-1.6, 1.6, 1.2, 4.5), 2.2, ground=True)
    floor = Plane(up, 0.0, along, ahead, ground_material(draw), rug)
    walls = []
    for (x, y, _), distance in ((ahead, back), (along, draw(1.9, 4.5)), ((-along[0], -along[1], 0.0), draw(1.9, 4.5))):
        strip = Panel(-FARTHEST_M, FARTHEST_M, 0.0, 0.09, skirting)
        pictures = _panels(draw, 0.75, (-2.0, 1.5, 0.6, 1.5), 1.3, ground=False)
        walls.append(Plane((-x, -y, 0.0), -distance, (y, -x, 0.0), up, wall, (strip, *pictures)))
    return (floor, *walls)


def _panels(
    draw: Draw, chance: float, area: tuple[float, float, float, float], largest: float, *, ground: bool
) -> tuple[Panel, ...]:
    """Up to two rectangles whose lower left corner lies in `area` (u0, u1, v0, v1)."""
    panels = []
    for _ in range(2):
        if draw(0, 1) > chance:
            continue
        u, v = draw(area[0], area[1]), draw(area[2], area[3])
        cover = ground_material(draw) if ground and draw(0, 1) < 0.3 else object_material(draw)
        panels.append(Panel(u, u + draw(0.4, largest), v, v + draw(0.3, 0.8 * largest), cover))
    return tuple(panels)


def _light(draw: Draw) -> Light:
    x, y, spread = draw(-1.0, 1.0), draw(-1.1, 0.45), draw(0.015, 0.08)
    corners = ((0, 0), (1, 0.2), (-0.7, 0.8), (-0.3, -1))
    directions = tuple(_unit(x + spread * i, y + spread * j, 1.0) for i, j in corners)
    warmth, strength, around = draw(-0.14, 0.16), draw(0.75, 1.45), draw(0.22, 0.5)
    key = (strength * (1 + warmth), strength, strength * (1 - warmth))
    ambient = (around * (1 - 0.6 * warmth), around, around * (1 + 0.6 * warmth))
    return Light(directions, key, ambient, draw(0.5, 1.1) if draw(0, 1) < 0.3 else 0.0)


def _stand_somewhere(
    kind: str, camera: Camera, planes: tuple[Plane, ...], others: list[Solid], draw: Draw
) -> Solid | None:
    """The object at a free place of the floor that the camera sees; None when no try finds one."""
    parts, coats = build(kind, draw), _coats(kind, draw)
    nearest = _nearest_floor_m(camera)
    for _ in range(_TRIES):
        y = nearest + 0.2 + (-planes[1].offset - nearest) * draw(0, 1) * draw(0.35, 1)
        x = draw(-0.95, 0.95) * HALF_WIDTH * y
        solid = _stand(kind, parts, coats, (x, y), draw)
        if _fits(solid, planes, others):
            return solid
    return None


def _nearest_floor_m(camera: Camera) -> float:
    """How far ahead the lowest row of the image meets the floor."""
    down = camera.sine + HALF_WIDTH * camera.cosine
    return camera.height * (camera.cosine - HALF_WIDTH * camera.sine) / down


def _coats(kind: str, draw: Draw) -> tuple[Material, Material]:
    return object_material(draw), {"mug": DRINK, "can": METAL}.get(kind) or object_material(draw)


def _stand(
    kind: str, parts: tuple[Part, ...], coats: tuple[Material, ...], at: tuple[float, float], draw: Draw
) -> Solid:
    """The object on the floor at (x, y), upright or lying as its kind allows."""
    x, y = _direction(draw)
    axes: tuple[Triple, Triple, Triple] = ((x, y, 0.0), (-y, x, 0.0), (0.0, 0.0, 1.0))
    if draw(0, 1) < {"can": 0.3, "ring": 0.5}.get(kind, 0.0):
        i, j = _direction(draw)
        axes = ((-i * y, i * x, j), (j * y, -j * x, i), (x, y, 0.0))
    if kind == "ball":
        axes = (_unit(x, y, draw(-1, 1)), axes[1], axes[2])
        axes = (axes[0], axes[1], _cross(axes[0], axes[1]))
    up = (axes[0][2], axes[1][2], axes[2][2])
    lowest = min(part.lowest(up) for part in parts)
    return Solid(kind, parts, coats, (*at, -lowest), axes, max(part.reach() for part in parts))


def _cross(a: Triple, b: Triple) -> Triple:
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def _fits(solid: Solid, planes: tuple[Plane, ...], others: list[Solid]) -> bool:
    x, y, _ = solid.centre
    inside = all(w.normal[0] * x + w.normal[1] * y - w.offset > solid.reach for w in planes[1:])
    return inside and all(
        math.sqrt((x - o.centre[0]) ** 2 + (y - o.centre[1]) ** 2) > 0.8 * (solid.reach + o.reach) for o in others
    )
