"""Images as batches of network inputs on a device, in an order that a seed decides; kept there while they fit.

Of several processes each gets its part of every batch, so that together they see what one would see alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgeq.datasets.preprocess import Preprocess

KEPT_BYTES = 4 << 30
"""Inputs that take more than this, or on a GPU than a quarter of its free memory, are decoded anew in every epoch."""

Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Read = Callable[[], npt.NDArray[np.uint8]]
"""Gives one image, RGB uint8 [height, width, 3]."""
Batch = tuple[Tensor, Tensor | None]
"""Images [N, C, H, W] and their labels [N, ...], if there are any."""


class Batches:
    """The images that `reads` give as inputs of one network, each with its entry of `labels` [images, ...] if there are any.

    `size` images make a batch, of which process `rank` of `world` gets its share; an epoch shows every image `rounds`
    times. Raises DataError naming an image that cannot be read.
    """

    def __init__(
        self,
        reads: Sequence[Read],
        labels: Tensor | None,
        preprocess: Preprocess,
        size: int,
        workers: int,
        device: torch.device | None = None,
        rank: int = 0,
        world: int = 1,
        rounds: int = 1,
    ) -> None:
        self.reads, self.preprocess, self.size, self.rounds = list(reads), preprocess, min(size, len(reads)), rounds
        self.device = device or torch.device("cpu")
        self.labels = None if labels is None else labels.to(self.device)
        self._rank, self._world = rank, world
        self._pool = ThreadPoolExecutor(workers)
        self._kept: Tensor | None = None

    def __len__(self) -> int:
        """Full batches in an epoch."""
        return len(self.reads) * self.rounds // self.size

    def epoch(self, seed: int) -> Iterator[Batch]:
        """Every image once in each round, shuffled; images that do not fill a batch wait for another epoch."""
        random = np.random.default_rng(seed)
        order = np.concatenate([random.permutation(len(self.reads)) for _ in range(self.rounds)])
        yield from self._batches([order[k * self.size : (k + 1) * self.size] for k in range(len(self))])

    def in_order(self) -> Iterator[Batch]:
        """Every image once; the last batch may be smaller."""
        order = np.arange(len(self.reads))
        yield from self._batches([order[k : k + self.size] for k in range(0, len(order), self.size)])

    def _batches(self, parts: Sequence[IntArray]) -> Iterator[Batch]:
        own = [part for whole in parts if len(part := whole[self._rank :: self._world])]
        if not own:
            return
        # One copy for all batches: each would wait until the device has done all that it was told before.
        places = torch.split(torch.from_numpy(np.concatenate(own)).to(self.device), [len(rows) for rows in own])
        for rows, images in zip(places, self._images(own, places), strict=True):
            yield images, None if self.labels is None else self.labels[rows]

    def _images(self, parts: Sequence[IntArray], places: Sequence[Tensor]) -> Iterator[Tensor]:
        if (kept := self._keep()) is not None:
            yield from (kept[rows] for rows in places)
            return
        waiting = [self._ahead(part) for part in parts[:1]]
        for following in range(1, len(parts) + 1):  # decode one batch ahead
            waiting += [self._ahead(part) for part in parts[following : following + 1]]
            yield torch.from_numpy(np.concatenate([future.result() for future in waiting.pop(0)])).to(self.device)

    def _ahead(self, rows: IntArray) -> list[Future[Float32Array]]:
        return [self._pool.submit(self._decode, int(row)) for row in rows]

    def _keep(self) -> Tensor | None:
        if self._kept is None and self.reads:
            first = self._decode(0)
            if first.nbytes * len(self.reads) > self._room():
                return None
            kept = torch.empty((len(self.reads), *first.shape[1:]), device=self.device)
            rows = np.arange(len(self.reads))
            for part in (rows[k : k + self.size] for k in range(0, len(rows), self.size)):
                images = np.concatenate(list(self._pool.map(self._decode, part)))
                kept[part[0] : part[-1] + 1] = torch.from_numpy(images).to(self.device)
            self._kept = kept
        return self._kept

    def _room(self) -> int:
        if self.device.type != "cuda":
            return KEPT_BYTES
        return torch.cuda.mem_get_info(self.device)[0] // 4

    def _decode(self, row: int) -> Float32Array:
        return self.preprocess.apply(self.reads[row]())
