"""From a stage to pixels, by casting rays.

The first pass looks through the pixel centres and defines what is seen: depth and which solid each pixel shows.
Three more rays, each with its own sub-pixel shift and its own point of the light, go through the pixels near
some contrast; the mean of the four smooths edges and softens shadows in one go.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeq.datasets.scenes_materials import Material, albedo
from edgeq.datasets.scenes_shapes import MISS, Array, Triple, Vector, dot
from edgeq.datasets.scenes_stage import HALF_WIDTH, Camera, Plane, Solid, Stage

_SHIFTS = ((0.38, -0.14), (-0.26, -0.32), (-0.12, 0.40))  # pixels right, down
_SHADOW_BIAS_M = 2e-3
_GLOSS_SQUARINGS = 5  # (n . h) ** 32
_CONTRAST = 0.18  # of the local brightness: more than this is worth another look
_PARTS = 16  # more than any solid has

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Rays:
    """One ray for each of some pixels, with a unit component along the optical axis."""

    column: Array
    row: Array
    ray: Vector


@dataclass(frozen=True)
class Sight:
    """What rays meet, in the order of the rays."""

    depth: Array  # t along the ray, which is the distance along the optical axis, metres
    solid: npt.NDArray[np.int16]  # index of the solid seen, -1 for the room
    part: npt.NDArray[np.int16]  # index of its part, or of the plane
    covered: tuple[int, ...]  # rays that would meet each solid with nothing before it


def photograph(stage: Stage, size: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], Sight]:
    """RGB uint8 [size, size, 3] and what the pixel centres see, flat in row order."""
    steps = np.arange(size, dtype=np.float32)
    column, row = np.tile(steps, size), np.repeat(steps, size)
    rays = aim(stage.camera, column, row, size)
    sight = look(stage, rays, size)
    radiance = _shade(stage, rays, sight, _point(stage.light.directions[0]))
    busy = _busy_pixels(radiance, size)
    right, down, *towards = (
        np.repeat(np.array(axis, np.float32), busy.size)
        for axis in (*zip(*_SHIFTS, strict=True), *zip(*stage.light.directions[1:], strict=True))
    )
    rays = aim(stage.camera, np.tile(column[busy], 3) + right, np.tile(row[busy], 3) + down, size)
    again = _shade(stage, rays, look(stage, rays, size), (towards[0], towards[1], towards[2]))
    radiance[:, busy] = (radiance[:, busy] + again.reshape(3, 3, busy.size).sum(axis=1)) * np.float32(0.25)
    return _develop(radiance, stage, size, rng), sight


def aim(camera: Camera, column: Array, row: Array, size: int) -> Rays:
    """Rays through the image points (column + 0.5, row + 0.5)."""
    s, c, k = np.float32(camera.sine), np.float32(camera.cosine), np.float32(HALF_WIDTH)
    step = np.float32(2 / size)
    across, down = (column + np.float32(0.5)) * step - 1, (row + np.float32(0.5)) * step - 1
    return Rays(column, row, (across * k, c - down * (k * s), -s - down * (k * c)))


def look(stage: Stage, rays: Rays, size: int) -> Sight:
    """The nearest surface that each ray meets."""
    eye = _point((0.0, 0.0, stage.camera.height))
    depth, part = _room(stage, rays, eye)
    solid = np.full(depth.size, -1, np.int16)
    covered = []
    for i, body in enumerate(stage.solids):
        near = _window(body, stage.camera, rays, size)
        found, which = _meet(body, _enter(body, eye, body.centre), _enter(body, _take(rays.ray, near)))
        covered.append(int(np.count_nonzero(found < MISS)))
        seen = found < depth.take(near)
        at = near[seen]
        depth[at], solid[at], part[at] = found[seen], i, which[seen]
    return Sight(depth, solid, part, tuple(covered))


def _room(stage: Stage, rays: Rays, eye: Vector) -> tuple[Array, npt.NDArray[np.int16]]:
    """Depth and the index of the plane that each ray meets."""
    depth = np.full(rays.row.size, MISS)
    part = np.zeros(rays.row.size, np.int16)
    for i, plane in enumerate(stage.planes):
        slope = dot(plane.normal, rays.ray)
        height = float(dot(plane.normal, eye)[0]) - plane.offset  # positive: the eye is inside the room
        t = np.float32(-height) / np.minimum(slope, np.float32(-1e-12))
        part[t < depth] = i
        depth = np.minimum(depth, t)
    return depth, part


def _meet(body: Solid, origin: Vector, ray: Vector) -> tuple[Array, npt.NDArray[np.int16]]:
    """t of the first hit on a body, in its own frame, and the index of the part hit."""
    found = body.parts[0].hit(origin, ray)
    which = np.zeros(found.size, np.int16)
    for j, piece in enumerate(body.parts[1:], start=1):
        t = piece.hit(origin, ray)
        which[t < found] = j
        found = np.minimum(found, t)
    return found, which


def _busy_pixels(radiance: Array, size: int) -> Indices:
    """Flat indices of the pixels within two of a strong relative contrast."""
    light = radiance.sum(axis=0).reshape(size, size)
    floor = light * np.float32(_CONTRAST) + np.float32(0.005)
    busy = np.zeros((size, size), bool)
    down, right = np.abs(light[1:] - light[:-1]), np.abs(light[:, 1:] - light[:, :-1])
    busy[1:] |= down > np.minimum(floor[1:], floor[:-1])
    busy[:, 1:] |= right > np.minimum(floor[:, 1:], floor[:, :-1])
    for axis in (0, 1):
        busy = busy | np.roll(busy, 1, axis) | np.roll(busy, -1, axis)
    return np.flatnonzero(busy)


def _point(p: Triple) -> Vector:
    """One point or direction as arrays of length 1, which meet any other length."""
    x, y, z = (np.full(1, c, np.float32) for c in p)
    return (x, y, z)


def _enter(body: Solid, v: tuple[Array, ...], origin: Triple = (0.0, 0.0, 0.0)) -> Vector:
    """World vectors, or points when `origin` is the body's centre, in the body's own axes."""
    x, y, z = (c - np.float32(o) for c, o in zip(v, origin, strict=True))
    a, b, c = body.axes
    return (dot(a, (x, y, z)), dot(b, (x, y, z)), dot(c, (x, y, z)))


def _leave(body: Solid, v: Vector) -> Vector:
    (a, b, c), (x, y, z) = body.axes, v
    i, j, k = (a[n] * x + b[n] * y + c[n] * z for n in range(3))
    return (i, j, k)


def _take(v: Vector, at: Indices) -> Vector:
    return (v[0].take(at), v[1].take(at), v[2].take(at))


def _window(body: Solid, camera: Camera, rays: Rays, size: int) -> Indices:
    """Indices of the rays in a rectangle of the image that surely holds the body's bounding sphere."""
    x, y, z = body.centre[0], body.centre[1], body.centre[2] - camera.height
    ahead = y * camera.cosine - z * camera.sine
    below = -y * camera.sine - z * camera.cosine
    nearest = max(ahead - body.reach, 1e-3) * HALF_WIDTH
    farthest = (ahead + body.reach) * HALF_WIDTH
    inside = np.ones(rays.row.size, bool)
    for middle, place in ((x, rays.column), (below, rays.row)):
        low, high = middle - body.reach, middle + body.reach
        first = (min(low / nearest, low / farthest) + 1) * size / 2
        last = (max(high / nearest, high / farthest) + 1) * size / 2
        inside &= (place > first - 2) & (place < last + 2)
    return np.flatnonzero(inside)


def _shade(stage: Stage, rays: Rays, sight: Sight, towards: Vector) -> Array:
    """Linear RGB radiance [3, n]: ambient, diffuse and highlight of what one pass sees."""
    x, y, z = (t * sight.depth for t in rays.ray)
    points = (x, y, z + np.float32(stage.camera.height))
    normals, colour, gloss = _surfaces(stage, sight, points)
    facing = dot(towards, normals)
    lit = np.maximum(facing, 0) * _sunlit(stage, points, normals, facing, towards)
    ambient = (0.72 + 0.28 * normals[2]) * _contact(stage, sight, points)
    shine = gloss * lit * _highlight(rays.ray, normals, towards)
    key, around = stage.light.key, stage.light.ambient
    return np.stack([colour[i] * (ambient * around[i] + lit * key[i]) + shine * key[i] for i in range(3)])


def _surfaces(stage: Stage, sight: Sight, points: Vector) -> tuple[Vector, Array, Array]:
    """Normals, linear RGB albedo [3, n] and gloss [n] of what each ray meets."""
    surface = sight.solid * np.int16(_PARTS) + sight.part
    order = np.argsort(surface, kind="stable")
    counts = np.bincount(surface + _PARTS)
    looks = np.empty((7, surface.size), np.float32)
    sorted_points, first = _take(points, order), 0
    for key in np.flatnonzero(counts):
        piece = slice(first, first + int(counts[key]))
        here = (sorted_points[0][piece], sorted_points[1][piece], sorted_points[2][piece])
        _paint(stage, int(key) - _PARTS, here, looks[:, piece])
        first = piece.stop
    spread = np.empty_like(looks)
    spread[:, order] = looks
    return (spread[0], spread[1], spread[2]), spread[3:6], spread[6]


def _paint(stage: Stage, surface: int, points: Vector, looks: Array) -> None:
    """Fill the rows of `looks` (normal, albedo, gloss) for points of one plane (negative) or part of a solid."""
    if surface < 0:
        plane = stage.planes[surface + _PARTS]
        looks[:3] = np.array(plane.normal, np.float32)[:, None]
        looks[3:6], looks[6] = _plane_colour(plane, points, stage.table)
        return
    body = stage.solids[surface // _PARTS]
    piece, local = body.parts[surface % _PARTS], _enter(body, points, body.centre)
    coat: Material = body.coats[piece.coat]
    for row, component in enumerate(_leave(body, piece.normal(local))):
        looks[row] = component
    looks[3:6], looks[6] = albedo(coat, local, stage.table), coat.gloss


def _plane_colour(plane: Plane, points: Vector, table: Array) -> tuple[Array, Array]:
    u, v = dot(plane.u, points), dot(plane.v, points)
    flat = np.zeros_like(u)
    colour, gloss = albedo(plane.material, (u, v, flat), table), np.full(u.size, plane.material.gloss, np.float32)
    for panel in plane.panels:
        at = np.flatnonzero((u > panel.u0) & (u < panel.u1) & (v > panel.v0) & (v < panel.v1))
        colour[:, at] = albedo(panel.material, (u[at], v[at], flat[at]), table)
    return colour, gloss


def _sunlit(stage: Stage, points: Vector, normals: Vector, facing: Array, towards: Vector) -> Array:
    """1 where the light's point at infinity is seen, 0 in shadow, for surfaces that face it."""
    at = np.flatnonzero(facing > 0)
    x, y, z = (p[at] + n[at] * np.float32(_SHADOW_BIAS_M) for p, n in zip(points, normals, strict=True))
    toward = lx, ly, lz = towards if towards[0].size == 1 else _take(towards, at)
    u, v = x - z * (lx / lz), y - z * (ly / lz)  # where the light's ray through the point meets the floor
    open_sky = np.ones(at.size, np.float32)
    for body in stage.solids:
        cu, cv = body.centre[0] - body.centre[2] * lx / lz, body.centre[1] - body.centre[2] * ly / lz
        widest = body.reach / lz
        near = (np.abs(u - cu) < widest) & (np.abs(v - cv) < widest) & (z < body.centre[2] + body.reach)
        some = np.flatnonzero(near)
        origin, local = (
            _enter(body, (x[some], y[some], z[some]), body.centre),
            _enter(body, toward if lx.size == 1 else _take(toward, some)),
        )
        for piece in body.parts:
            blocked = piece.hit(origin, local) < MISS
            open_sky[some[blocked]] = 0
    if stage.light.window:
        open_sky *= _window_light(u, v, stage.light.window)
    seen = np.zeros(facing.size, np.float32)
    seen[at] = open_sky
    return seen


def _window_light(u: Array, v: Array, pane: float) -> Array:
    """The patches of sun that a wide window with crossbars throws on the floor; a third of the light elsewhere."""
    bar_u = np.abs(u / pane - np.floor(u / pane) - 0.5)
    bar_v = np.abs(v / (1.4 * pane) - np.floor(v / (1.4 * pane)) - 0.5)
    inside = np.clip((0.44 - np.maximum(bar_u, bar_v)) * 25, 0, 1)
    stripe = np.clip((0.62 - np.abs(u / (4 * pane) - np.floor(u / (4 * pane)) - 0.5) * 2) * 12, 0, 1)
    return np.asarray(0.35 + 0.65 * inside * stripe, dtype=np.float32)


def _contact(stage: Stage, sight: Sight, points: Vector) -> Array:
    """Ambient light left near the foot of each solid: dims the floor within 1.3 of its reach."""
    left = np.ones(sight.depth.size, np.float32)
    at = np.flatnonzero((sight.solid < 0) & (sight.part == 0))
    x, y = points[0][at], points[1][at]
    dim = np.ones(at.size, np.float32)
    for body in stage.solids:
        dx, dy, reach = x - np.float32(body.centre[0]), y - np.float32(body.centre[1]), 1.3 * body.reach
        close = np.maximum(1 - (dx * dx + dy * dy) / np.float32(reach * reach), 0)
        dim *= 1 - 0.55 * close * close
    left[at] = dim
    return left


def _highlight(rays: Vector, normals: Vector, towards: Vector) -> Array:
    """The Blinn-Phong term (n . h) ** 32."""
    length = np.sqrt(dot(rays, rays))
    half = tuple(t - r / length for t, r in zip(towards, rays, strict=True))
    h = (half[0], half[1], half[2])
    shine = np.maximum(dot(normals, h), 0) / np.sqrt(np.maximum(dot(h, h), np.float32(1e-6)))
    for _ in range(_GLOSS_SQUARINGS):
        shine = shine * shine
    return shine


def _develop(radiance: Array, stage: Stage, size: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Exposure, a soft shoulder, lens shading, gamma 2 and sensor noise, to RGB uint8 [size, size, 3]."""
    side = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / size) - 1
    edge = (np.float32(0.12) * (side * side)[:, None] + np.float32(0.12) * (side * side)[None, :]).ravel()
    bright = radiance * ((1 - edge) * np.float32(1.5 * stage.exposure))
    display = np.sqrt(bright / (1 + 0.55 * bright))
    grain = rng.random((3, size * size), dtype=np.float32) + rng.random((3, size * size), dtype=np.float32) - 1
    level = (display + grain * np.float32(stage.noise)) * 255 + np.float32(0.5)
    pixels = np.asarray(np.clip(level, 0, 255), dtype=np.uint8)
    return np.ascontiguousarray(pixels.T).reshape(size, size, 3)
