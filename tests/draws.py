"""What random networks are made of: number formats, names, arrays from a drawn seed, windows, slices.

Hypothesis chooses the structure; arrays come from a seed that it chooses, so that examples stay quick to draw.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, get_args

import numpy as np
from hypothesis import strategies as st

from edgeq.formats import Codebook, Fixed, Float, Format, Int, code_range
from edgeq.ir import ops as o
from edgeq.ir.graph import Array, Graph

T = TypeVar("T")
Shape = tuple[int, ...]
Draw = Callable[[st.SearchStrategy[Any]], Any]

NARROW_INTS = st.builds(Int, st.integers(2, 8), st.just(True), st.just(True))
INTS = st.builds(Int, st.integers(2, 8), st.booleans()) | NARROW_INTS
WIDE_INTS = st.builds(Int, st.integers(9, 16), st.booleans())
FIXED = st.builds(Fixed, st.integers(2, 10), st.integers(-1, 9), st.booleans())
MINIFLOATS = st.sampled_from(
    [Float(2, 1), Float(2, 3), Float(3, 1), Float(3, 2), Float(3, 4), Float(4, 3), Float(2, 2, signed=False)]
)
POWERS_OF_TWO = Codebook("pot", (0, 1, 2, 4, 8, 16, 32, 64, -1, -2, -4, -8, -16, -32, -64, -128))
TABLES = st.lists(st.integers(-99, 99), min_size=2, max_size=9, unique=True).map(tuple)
CODEBOOKS = st.just(POWERS_OF_TWO) | st.builds(Codebook, st.just("table"), TABLES)
INTEGER_FORMATS = INTS | INTS | WIDE_INTS | FIXED
WEIGHT_FORMATS = INTS | INTS | FIXED | MINIFLOATS | CODEBOOKS
FORMATS = INTEGER_FORMATS | MINIFLOATS | CODEBOOKS
NAMES = st.sampled_from(["x", "conv", "/model.0/conv/Conv_output_0", "a:0", "w w", 'say "hi"', "naïve\n", "%@1", ""])


def random_codes(rng: np.random.Generator, format_: Format, shape: Shape) -> Array:
    """Random codes of a format: mostly anywhere, sometimes only its two ends."""
    low, high = code_range(format_)
    if rng.random() < 0.1:
        return np.where(rng.random(shape) < 0.5, low, high)
    return rng.integers(low, high, shape, endpoint=True)


def random_inputs(graph: Graph, seed: int) -> dict[o.Value, Array]:
    """Inputs of `graph`: codes where it takes codes, else float32 reals."""
    rng = np.random.default_rng(seed)
    return {value: _random_input(rng, graph, value) for value in graph.inputs}


def _random_input(rng: np.random.Generator, graph: Graph, value: o.Value) -> Array:
    type_ = graph.types[value]
    if type_.is_real:
        return rng.normal(0, 2, type_.shape).astype(np.float32)
    return random_codes(rng, type_.format, type_.shape)


class Draws:
    """Draws from Hypothesis by kind."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def integer(self, low: int, high: int) -> int:
        """low <= result <= high."""
        return int(self.draw(st.integers(low, high)))

    def one_of(self, *choices: T) -> T:
        """One of the choices; the first is the simplest."""
        chosen: T = self.draw(st.sampled_from(choices))
        return chosen

    def chance(self) -> bool:
        """A coin."""
        return bool(self.draw(st.booleans()))

    def window(self, x: Shape) -> tuple[o.Pair, o.Pair, o.Quad, o.Pair]:
        """kernel, stride, padding, dilation with at least one window in x [N,C,H,W], none of padding alone."""
        height, width = (self.integer(1, min(3, size)) for size in x[2:])
        down, right = (self.integer(1, 2) if (k - 1) * 2 < size else 1 for k, size in ((height, x[2]), (width, x[3])))
        rows, columns = down * (height - 1), right * (width - 1)
        padding = (self.integer(0, rows), self.integer(0, columns), self.integer(0, rows), self.integer(0, columns))
        return (height, width), (self.integer(1, 2), self.integer(1, 2)), padding, (down, right)

    def slice(self, x: Shape, source: o.Value, out: o.Value) -> o.Slice:
        """A slice that keeps at least one element of every axis."""
        starts, stops, steps = [], [], []
        for size in x:
            step, first = self.one_of(1, 2, -1, -2), self.integer(0, size - 1)
            last = self.integer(first, size - 1)
            starts.append(first if step > 0 else last)
            stops.append(last + 1 if step > 0 else first - 1)
            steps.append(step)
        return o.Slice(source, out, tuple(starts), tuple(stops), tuple(steps))

    def resize(self, x: Shape, source: o.Value, out: o.Value, *modes: o.ResizeMode) -> o.Resize:
        """Any size up to 8 x 8."""
        size = (self.integer(1, 8), self.integer(1, 8))
        scale = (size[0] / x[2], size[1] / x[3])
        coordinates, nearest = self.one_of(*get_args(o.Coordinates)), self.one_of(*get_args(o.NearestRounding))
        return o.Resize(source, out, size, scale, self.one_of(*modes), coordinates, nearest)

    def pad(self, x: Shape, source: o.Value, out: o.Value, value: float) -> o.Pad:
        """Up to two elements on every side."""
        mode = self.one_of("constant", "reflect", "edge")
        limits = [min(2, size - 1) if mode == "reflect" else 2 for size in x]
        before, after = (tuple(self.integer(0, limit) for limit in limits) for _ in range(2))
        return o.Pad(source, out, before, after, value if mode == "constant" else 0.0, mode)  # type: ignore[arg-type]

    def reshape(self, x: Shape, source: o.Value, out: o.Value) -> o.Reshape:
        """Another grouping of the same elements, again with four axes."""
        return o.Reshape(source, out, self.one_of((1, x[0] * x[1], x[3], x[2]), (x[0], x[1] * x[2], 1, x[3])))

    def permutation(self) -> o.Ints:
        """An order of four axes."""
        return tuple(self.draw(st.permutations(range(4))))

    def axes(self) -> o.Ints:
        """One to three of four axes."""
        return tuple(sorted(self.draw(st.sets(st.integers(0, 3), min_size=1, max_size=3))))
