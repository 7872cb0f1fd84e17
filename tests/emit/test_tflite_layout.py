"""Orders of axes: what needs no movement, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgeq.emit.tflite_layout import (
    NHWC,
    before_reshape,
    identity,
    inverse,
    moved_to_end,
    moves_nothing,
    permutation,
    reshaped,
    stored_shape,
    transposed,
)

layouts = st.permutations(range(4)).map(tuple)
SHAPES = [(1, 4, 16, 9), (2, 6, 1, 5), (1, 64, 9, 1), (12, 1, 1, 3)]
TARGETS = [
    (1, 64, 9),
    (576,),
    (1, 4, 144),
    (2, 6, 5),
    (1, 2, 3, 1, 10),
    (4, 16, 9),
    (36,),
    (1, 12, 3),
    (8, 8, 9),
    (1, 1, 60),
]


def values(shape: tuple[int, ...]) -> np.typing.NDArray[np.int64]:
    return np.arange(int(np.prod(shape))).reshape(shape)


@given(layouts, st.permutations(range(4)).map(tuple))
def test_a_transposition_is_another_layout_of_the_same_tensor(layout: tuple[int, ...], axes: tuple[int, ...]) -> None:
    x = values((2, 3, 4, 5))
    stored = x.transpose(layout)
    new = transposed(layout, axes)
    assert np.array_equal(stored.transpose(inverse(new)), x.transpose(axes))


@given(layouts, layouts)
def test_permutation_leads_from_one_layout_to_another(before: tuple[int, ...], after: tuple[int, ...]) -> None:
    x = values((2, 3, 4, 5))
    assert np.array_equal(x.transpose(before).transpose(permutation(before, after)), x.transpose(after))
    assert stored_shape(x.shape, after) == x.transpose(after).shape


def test_reshapes_that_move_nothing() -> None:
    found = 0
    for shape in SHAPES:
        for to in TARGETS:
            if np.prod(shape) != np.prod(to):
                continue
            for layout in [identity(4), NHWC, (0, 3, 2, 1), (1, 0, 2, 3), (3, 0, 1, 2)]:
                new = reshaped(shape, layout, to)
                if new is None:
                    continue
                found += 1
                x = values(shape)
                stored = x.transpose(layout).reshape(stored_shape(to, new))
                assert np.array_equal(stored.transpose(inverse(new)), x.reshape(to)), (shape, layout, to)
    assert found > 25


@given(layouts, st.sampled_from(SHAPES), st.sampled_from(TARGETS))
def test_after_moving_what_must_move_every_reshape_moves_nothing(
    layout: tuple[int, ...], shape: tuple[int, ...], to: tuple[int, ...]
) -> None:
    assume(np.prod(shape) == np.prod(to))
    home = before_reshape(shape, layout, to)
    assert sorted(home) == sorted(layout)
    assert reshaped(shape, home, to) is not None
    if reshaped(shape, layout, to) is not None:
        assert moves_nothing(shape, layout, home)


def test_a_channel_shuffle_moves_the_channels_alone() -> None:
    assert before_reshape((1, 4, 2, 8, 8), (0, 3, 4, 2, 1), (1, 8, 8, 8)) == (0, 3, 4, 1, 2)
    assert before_reshape((1, 4, 3, 5), NHWC, (1, 60)) == identity(4)


def test_reshapes_that_would_move_elements_are_none() -> None:
    assert reshaped((1, 4, 3, 5), NHWC, (1, 60)) is None
    assert reshaped((1, 4, 3, 5), NHWC, (1, 12, 5)) is None
    assert reshaped((1, 4, 3, 5), NHWC, (1, 4, 15)) == (0, 2, 1)
    assert reshaped((1, 7, 1, 1), NHWC, (1, 7)) == (0, 1)
    assert reshaped((1, 7), identity(2), (1, 7, 1, 1)) == NHWC
    assert reshaped((2, 3), identity(2), (3, 2)) == (0, 1)


@pytest.mark.parametrize(("shape", "same"), [((1, 5, 1, 1), True), ((2, 5, 1, 1), True), ((1, 5, 2, 1), False)])
def test_axes_of_size_one_change_places_freely(shape: tuple[int, ...], same: bool) -> None:
    assert moves_nothing(shape, identity(4), NHWC) == same
    assert moved_to_end(NHWC, 2) == (0, 3, 1, 2)
