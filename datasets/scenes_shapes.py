"""Solids that a ray can hit: four primitives, and the parts that place them in an object.

A primitive answers three questions in its own frame: where a ray first enters it, which way its surface faces at
a point, and how far it reaches against a direction (to stand it on the floor). Everything is float32 and uses only
+ - * / and sqrt, which IEEE 754 fixes to the bit, so that every machine renders the same scene.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.floating[Any]]  # float32 throughout; the stubs call some products wider
Vector: TypeAlias = tuple[Array, Array, Array]
Triple: TypeAlias = tuple[float, float, float]
Draw: TypeAlias = Callable[[float, float], float]
"""`draw(low, high)`: one uniform real of the scene's own stream."""

MISS = np.float32(np.inf)
BEHIND = np.float32(-1)
NEAREST_M = np.float32(1e-4)


def dot(a: Vector | Triple, b: Vector) -> Array:
    """a . b, one product after the other (BLAS sums in an order that differs between machines).

    Products with an exact zero of a Triple are left out: most axes and faces have some.
    """
    weights: tuple[Array | float, ...] = a
    total: Array | None = None
    for x, y in zip(weights, b, strict=True):
        if isinstance(x, float) and x == 0.0:
            continue
        total = x * y if total is None else total + x * y
    assert total is not None, "a has a length"
    return total


class Shape(Protocol):
    def hit(self, origin: Vector, ray: Vector) -> Array:
        """The smallest t > 0 at which origin + t * ray meets the surface from outside, else inf."""

    def normal(self, point: Vector) -> Vector:
        """The outward unit normal at points of the surface."""

    def lowest(self, up: Triple) -> float:
        """The minimum of p . up over the shape, metres; `up` has length 1."""

    def reach(self) -> float:
        """The radius of a sphere about the frame's origin that holds the shape, metres."""


@dataclass(frozen=True)
class Sphere:
    radius: float

    def hit(self, origin: Vector, ray: Vector) -> Array:
        near, _ = _roots(dot(ray, ray), dot(origin, ray), dot(origin, origin) - self.radius * self.radius)
        return np.where(near > NEAREST_M, near, MISS)

    def normal(self, point: Vector) -> Vector:
        scale = 1.0 / self.radius
        return (point[0] * scale, point[1] * scale, point[2] * scale)

    def lowest(self, up: Triple) -> float:
        return -self.radius

    def reach(self) -> float:
        return self.radius


@dataclass(frozen=True)
class Frustum:
    """A cylinder or cone about z, from radius `below` at -half to radius `above` at +half, with flat ends."""

    below: float
    above: float
    half: float

    def hit(self, origin: Vector, ray: Vector) -> Array:
        (x, y, z), (dx, dy, dz) = origin, ray
        slope = (self.above - self.below) / (2 * self.half)
        radius = (z + self.half) * slope + self.below
        roots = _roots(
            dx * dx + dy * dy - dz * dz * (slope * slope),
            x * dx + y * dy - radius * dz * slope,
            x * x + y * y - radius * radius,
        )
        first = _end_caps(origin, ray, self.half, (0.0, self.below), (0.0, self.above))
        for t in roots:
            on_side = (np.abs(z + t * dz) <= self.half) & (t > NEAREST_M)
            first = np.where(on_side & (t < first), t, first)
        return first

    def normal(self, point: Vector) -> Vector:
        x, y, z = point
        slope = (self.above - self.below) / (2 * self.half)
        rho = np.sqrt(x * x + y * y)
        radius = (z + self.half) * slope + self.below
        on_cap = self.half - np.abs(z) < np.abs(rho - radius)
        lean = 1.0 / math.sqrt(1.0 + slope * slope)
        scale = np.where(on_cap, np.float32(0), np.float32(lean) / np.maximum(rho, np.float32(1e-6)))
        return (x * scale, y * scale, np.where(on_cap, np.sign(z), np.float32(-slope * lean)))

    def lowest(self, up: Triple) -> float:
        across = math.sqrt(max(0.0, 1.0 - up[2] * up[2]))
        return min(-self.half * up[2] - self.below * across, self.half * up[2] - self.above * across)

    def reach(self) -> float:
        widest = max(self.below, self.above)
        return math.sqrt(widest * widest + self.half * self.half)


@dataclass(frozen=True)
class Tube:
    """A ring with a square section about z: inner < radius < outer, |z| < half."""

    inner: float
    outer: float
    half: float

    def hit(self, origin: Vector, ray: Vector) -> Array:
        (x, y, z), (dx, dy, dz) = origin, ray
        a, b, c = dx * dx + dy * dy, x * dx + y * dy, x * x + y * y
        outside, _ = _roots(a, b, c - self.outer * self.outer)
        _, inside = _roots(a, b, c - self.inner * self.inner)
        first = _end_caps(origin, ray, self.half, (self.inner, self.outer), (self.inner, self.outer))
        for t in (outside, inside):
            on_side = (np.abs(z + t * dz) <= self.half) & (t > NEAREST_M)
            first = np.where(on_side & (t < first), t, first)
        return first

    def normal(self, point: Vector) -> Vector:
        x, y, z = point
        rho = np.sqrt(x * x + y * y)
        from_outer, from_inner = np.abs(rho - self.outer), np.abs(rho - self.inner)
        on_cap = np.abs(self.half - np.abs(z)) < np.minimum(from_outer, from_inner)
        outward = np.where(from_outer < from_inner, np.float32(1), np.float32(-1))
        scale = np.where(on_cap, np.float32(0), outward / np.maximum(rho, np.float32(1e-6)))
        return (x * scale, y * scale, np.where(on_cap, np.sign(z), np.float32(0)))

    def lowest(self, up: Triple) -> float:
        return Frustum(self.outer, self.outer, self.half).lowest(up)

    def reach(self) -> float:
        return math.sqrt(self.outer * self.outer + self.half * self.half)


@dataclass(frozen=True)
class Polyhedron:
    """The convex body { p : face . p <= offset for every face } with the corners given."""

    faces: tuple[tuple[Triple, float], ...]
    corners: tuple[Triple, ...]

    def hit(self, origin: Vector, ray: Vector) -> Array:
        enter, leave = np.full(1, NEAREST_M), np.full(1, MISS)
        for face, offset in self.faces:
            towards = dot(face, ray)
            t = (offset - dot(face, origin)) / np.where(towards == 0, np.float32(1e-12), towards)
            enter = np.where(towards < 0, np.maximum(enter, t), enter)
            leave = np.where(towards < 0, leave, np.minimum(leave, t))
        return np.where((enter < leave) & (enter > NEAREST_M), enter, MISS)

    def normal(self, point: Vector) -> Vector:
        heights = np.stack([dot(face, point) - np.float32(offset) for face, offset in self.faces])
        faces = np.array([face for face, _ in self.faces], dtype=np.float32)
        picked = faces[heights.argmax(axis=0)]
        return (picked[..., 0], picked[..., 1], picked[..., 2])

    def lowest(self, up: Triple) -> float:
        return min(x * up[0] + y * up[1] + z * up[2] for x, y, z in self.corners)

    def reach(self) -> float:
        return max(math.sqrt(x * x + y * y + z * z) for x, y, z in self.corners)


@dataclass(frozen=True)
class Part:
    """A shape moved by `offset`, its axis along z, or along y when `turned`, in its object's frame."""

    shape: Shape
    offset: Triple = (0.0, 0.0, 0.0)
    turned: bool = False
    coat: int = 0  # which of the object's materials covers it

    def enter(self, v: Vector) -> Vector:
        return (v[0], v[2], v[1]) if self.turned else v

    def hit(self, origin: Vector, ray: Vector) -> Array:
        return self.shape.hit(self.enter(self.place(origin)), self.enter(ray))

    def normal(self, point: Vector) -> Vector:
        return self.enter(self.shape.normal(self.enter(self.place(point))))

    def place(self, point: Vector) -> Vector:
        return (point[0] - self.offset[0], point[1] - self.offset[1], point[2] - self.offset[2])

    def lowest(self, up: Triple) -> float:
        shift = sum(a * b for a, b in zip(self.offset, up, strict=True))
        return shift + self.shape.lowest((up[0], up[2], up[1]) if self.turned else up)

    def reach(self) -> float:
        return math.sqrt(sum(c * c for c in self.offset)) + self.shape.reach()


def _roots(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """Both t of a*t*t + 2*b*t + c = 0; -1, which is behind the ray, where there is none."""
    discriminant = b * b - a * c
    real = discriminant >= 0
    root = np.sqrt(np.where(real, discriminant, np.float32(0)))
    a = np.where(a == 0, np.float32(1e-12), a)
    return (np.where(real, (-b - root) / a, BEHIND), np.where(real, (-b + root) / a, BEHIND))


def _end_caps(
    origin: Vector, ray: Vector, half: float, below: tuple[float, float], above: tuple[float, float]
) -> Array:
    """The first hit on the flat ends z = -half and z = +half, each an annulus (inner, outer)."""
    (x, y, z), (dx, dy, dz) = origin, ray
    dz = np.where(dz == 0, np.float32(1e-12), dz)
    first = np.full(1, MISS)
    for height, (inner, outer) in ((-half, below), (half, above)):
        t = (height - z) / dz
        px, py = x + t * dx, y + t * dy
        rho2 = px * px + py * py
        on_cap = (rho2 <= outer * outer) & (rho2 >= inner * inner) & (t > NEAREST_M)
        first = np.where(on_cap & (t < first), t, first)
    return first
