"""The eight classes of objects and two kinds of clutter, built from primitives with drawn sizes in metres."""

from __future__ import annotations

import math
from collections.abc import Callable

from edgeq.datasets.scenes_shapes import Draw, Frustum, Part, Polyhedron, Sphere, Triple, Tube

CLASSES = ("ball", "box", "can", "cone", "ring", "pyramid", "mug", "stool")
CLUTTER = ("wedge", "rod")


def box(x: float, y: float, z: float) -> Polyhedron:
    """A box with the half sides x, y, z."""
    faces: list[tuple[Triple, float]] = []
    for sign in (-1.0, 1.0):
        faces += [((sign, 0.0, 0.0), x), ((0.0, sign, 0.0), y), ((0.0, 0.0, sign), z)]
    return Polyhedron(tuple(faces), tuple((i * x, j * y, k * z) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)))


def pyramid(side: float, half: float) -> Polyhedron:
    """A square pyramid with the half side `side` and the height 2 * half."""
    length = math.sqrt(4 * half * half + side * side)
    out, rise = 2 * half / length, side / length
    offset = rise * half
    faces = [((0.0, 0.0, -1.0), half)]
    faces += [((sx * out, sy * out, rise), offset) for sx, sy in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    corners = [(i * side, j * side, -half) for i in (-1, 1) for j in (-1, 1)]
    return Polyhedron(tuple(faces), (*corners, (0.0, 0.0, half)))


def wedge(x: float, y: float, z: float) -> Polyhedron:
    """A ramp: the box with its upper +x edge cut away."""
    length = math.sqrt(x * x + z * z)
    faces = (
        ((0.0, 0.0, -1.0), z),
        ((-1.0, 0.0, 0.0), x),
        ((0.0, -1.0, 0.0), y),
        ((0.0, 1.0, 0.0), y),
        ((z / length, 0.0, x / length), 0.0),
    )
    corners = tuple((i, j * y, k) for i, k in ((-x, -z), (x, -z), (-x, z)) for j in (-1, 1))
    return Polyhedron(faces, corners)


def _ring(draw: Draw) -> tuple[Part, ...]:
    outer = draw(0.20, 0.34)
    return (Part(Tube(outer * draw(0.52, 0.74), outer, outer * draw(0.16, 0.36))),)


def _can(draw: Draw) -> tuple[Part, ...]:
    radius = draw(0.12, 0.22)
    half, lid = radius * draw(1.1, 1.9), radius * 0.86
    rim = Part(Tube(lid, radius * 0.98, 0.012), (0.0, 0.0, half + 0.008), coat=1)
    return (Part(Frustum(radius, radius, half)), rim)


def _mug(draw: Draw) -> tuple[Part, ...]:
    radius = draw(0.14, 0.22)
    half = radius * draw(1.0, 1.35)
    grip = half * draw(0.55, 0.7)
    handle = Part(Tube(grip * 0.66, grip, radius * 0.16), (radius, 0.0, 0.0), turned=True)
    drink = Part(Frustum(radius * 0.86, radius * 0.86, 0.004), (0.0, 0.0, half), coat=1)
    return (Part(Frustum(radius * draw(0.8, 1.0), radius, half)), handle, drink)


def _stool(draw: Draw) -> tuple[Part, ...]:
    seat, height = draw(0.18, 0.28), draw(0.34, 0.56)
    thick, leg = height * draw(0.08, 0.14), seat * draw(0.10, 0.16)
    at, half = seat * 0.66, (height - thick) / 2
    top = Part(Frustum(seat, seat, thick / 2), (0.0, 0.0, height / 2 - thick / 2))
    feet = ((at, at), (-at, at), (at, -at), (-at, -at))
    return (top, *(Part(Frustum(leg * 0.7, leg, half), (x, y, -thick / 2), coat=1) for x, y in feet))


def build(kind: str, draw: Draw) -> tuple[Part, ...]:
    """The parts of one object of a class or clutter kind, upright, about its own centre; sizes in metres."""
    makers: dict[str, Callable[[Draw], tuple[Part, ...]]] = {
        "ball": lambda draw: (Part(Sphere(draw(0.14, 0.32))),),
        "box": lambda draw: (Part(box(draw(0.13, 0.30), draw(0.13, 0.30), draw(0.13, 0.30))),),
        "can": _can,
        "cone": lambda draw: (Part(Frustum(draw(0.16, 0.28), draw(0.0, 0.03), draw(0.20, 0.36))),),
        "ring": _ring,
        "pyramid": lambda draw: (Part(pyramid(draw(0.18, 0.32), draw(0.16, 0.30))),),
        "mug": _mug,
        "stool": _stool,
        "wedge": lambda draw: (Part(wedge(draw(0.10, 0.26), draw(0.08, 0.22), draw(0.05, 0.14))),),
        "rod": lambda draw: (Part(Frustum(0.03, draw(0.02, 0.04), draw(0.2, 0.5)), turned=True),),
    }
    return makers[kind](draw)
