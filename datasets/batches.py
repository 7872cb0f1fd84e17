"""Images as batches of network inputs, in an order that a seed decides; kept in memory while they fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeq.datasets.folder import read_image
from edgeq.datasets.preprocess import Preprocess

KEPT_BYTES = 4 << 30
"""Inputs that take more than this are decoded anew in every epoch."""

Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


class Batches:
    """The images at `paths` as inputs of one network, with a class for each when `labels` are given.

    Raises DataError naming an image that cannot be read.
    """

    def __init__(
        self, paths: Sequence[Path], labels: Sequence[int] | None, preprocess: Preprocess, size: int, workers: int
    ) -> None:
        self.paths, self.preprocess, self.size = list(paths), preprocess, min(size, len(paths))
        self.labels = None if labels is None else np.asarray(labels, dtype=np.int64)
        self._pool = ThreadPoolExecutor(workers)
        self._kept: Float32Array | None = None

    def __len__(self) -> int:
        """Full batches in an epoch."""
        return len(self.paths) // self.size

    def epoch(self, seed: int) -> Iterator[tuple[Float32Array, IntArray | None]]:
        """Every image at most once, shuffled; images that do not fill a batch wait for another epoch."""
        order = np.random.default_rng(seed).permutation(len(self.paths))
        yield from self._batches([order[k * self.size : (k + 1) * self.size] for k in range(len(self))])

    def in_order(self) -> Iterator[tuple[Float32Array, IntArray | None]]:
        """Every image once; the last batch may be smaller."""
        order = np.arange(len(self.paths))
        yield from self._batches([order[k : k + self.size] for k in range(0, len(order), self.size)])

    def _batches(self, parts: Sequence[IntArray]) -> Iterator[tuple[Float32Array, IntArray | None]]:
        for rows, images in zip(parts, self._images(parts), strict=True):
            yield images, None if self.labels is None else self.labels[rows]

    def _images(self, parts: Sequence[IntArray]) -> Iterator[Float32Array]:
        if (kept := self._keep()) is not None:
            yield from (kept[rows] for rows in parts)
            return
        waiting = [self._ahead(part) for part in parts[:1]]
        for following in range(1, len(parts) + 1):  # decode one batch ahead
            waiting += [self._ahead(part) for part in parts[following : following + 1]]
            yield np.concatenate([future.result() for future in waiting.pop(0)])

    def _ahead(self, rows: IntArray) -> list[Future[Float32Array]]:
        return [self._pool.submit(self._decode, int(row)) for row in rows]

    def _keep(self) -> Float32Array | None:
        if self._kept is None and self.paths:
            first = self._decode(0)
            if first.nbytes * len(self.paths) > KEPT_BYTES:
                return None
            self._kept = np.empty((len(self.paths), *first.shape[1:]), np.float32)
            for row, image in enumerate(self._pool.map(self._decode, range(len(self.paths)))):
                self._kept[row] = image[0]
        return self._kept

    def _decode(self, row: int) -> Float32Array:
        return self.preprocess.apply(read_image(self.paths[row]))
