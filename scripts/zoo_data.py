"""Scenes as arrays for training and measuring: rendered by several processes, held as uint8."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from edgeq.datasets import scenes

TRAIN_SEED, HELD_OUT_SEED = 1, 2
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the models that take normalized images
MOST_OBJECTS = 8
_CHUNK = 32

Arrays = tuple[npt.NDArray[np.generic], ...]


@dataclass(frozen=True)
class Examples:
    """images: RGB uint8 [n, size, size, 3]; answers: one array or more with n rows, by task."""

    images: npt.NDArray[np.uint8]
    answers: Arrays


def make_examples(task: str, seed: int, count: int, size: int, workers: int) -> Examples:
    """Scenes 0..count-1 of `seed`.

    detect answers: boxes float32 [n, 8, 4] (x0 y0 x1 y1, pixels), labels int64 [n, 8], -1 where there is no object.
    classify answers: labels int64 [n]. depth answers: metres, float32 [n, size, size].
    """
    makers: dict[str, Callable[..., Arrays]] = {"detect": _detect, "classify": _classify, "depth": _depth}
    make = partial(makers[task], seed, size)
    whole: Arrays = ()
    for i, row in enumerate(_in_order(make, count, workers)):
        if not whole:
            whole = tuple(np.empty((count, *np.shape(part)), np.asarray(part).dtype) for part in row)
        for target, part in zip(whole, row, strict=True):
            target[i] = part
    return Examples(whole[0].astype(np.uint8, copy=False), whole[1:])


def _in_order(make: Callable[[int], Arrays], count: int, workers: int) -> Iterator[Arrays]:
    if workers <= 1:
        yield from map(make, range(count))
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(make, range(count), chunksize=_CHUNK)


def _detect(seed: int, size: int, index: int) -> Arrays:
    scene = scenes.render(seed, index, size)
    boxes, labels = np.zeros((MOST_OBJECTS, 4), np.float32), np.full(MOST_OBJECTS, -1, np.int64)
    boxes[: len(scene.boxes)], labels[: len(scene.labels)] = scene.boxes, scene.labels
    return scene.image, boxes, labels


def _classify(seed: int, size: int, index: int) -> Arrays:
    image, label = scenes.classification_scene(seed, index, size)
    return image, np.asarray(label, np.int64)


def _depth(seed: int, size: int, index: int) -> Arrays:
    scene = scenes.render(seed, index, size)
    return scene.image, scene.depth
