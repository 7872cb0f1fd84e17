"""Synthetic rooms with exact answers: images, boxes, classes and metric depth, from a seed and nothing else.

Scene `index` of a seed is the same bytes on every machine and does not depend on any other scene: its numbers come
from PCG64 keyed by (seed, index), and the renderer uses only operations that IEEE 754 rounds one way.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeq.datasets.scenes_objects import CLASSES
from edgeq.datasets.scenes_render import Sight, photograph
from edgeq.datasets.scenes_stage import Stage, crowded_stage, portrait_stage
from edgeq.errors import OutputError, UsageError

__all__ = ["CLASSES", "KINDS", "Scene", "classification_scene", "render", "write_dataset"]

KINDS = ("detect", "classify", "depth")
_SMALLEST_SIDE = 0.04  # of the image: shorter boxes are left out
_LEAST_VISIBLE = 0.25  # of the pixels an object would cover alone: more hidden objects are left out
_PORTRAIT = 1 << 32  # index offset that keeps portraits apart from crowded scenes of the same seed


@dataclass(frozen=True)
class Scene:
    """One rendered room and what is in it.

    image: RGB uint8 [size, size, 3]. boxes: float32 [n, 4], x0 y0 x1 y1 in pixels, the extent of what is visible.
    labels: int64 [n], indices into CLASSES. depth: float32 [size, size], metres along the optical axis.
    instances: int16 [size, size], the row of `boxes` that each pixel belongs to, -1 for none.
    """

    image: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    depth: npt.NDArray[np.float32]
    instances: npt.NDArray[np.int16]


def render(seed: int, index: int, size: int = 160) -> Scene:
    """Scene `index` of `seed`, a room with several objects. Raises UsageError on a negative or tiny argument."""
    rng = _stream(seed, index, size)
    stage = crowded_stage(rng)
    image, sight = photograph(stage, size, rng)
    boxes, labels, instances = annotate(stage, sight, size)
    return Scene(image, boxes, labels, sight.depth.reshape(size, size), instances)


def classification_scene(seed: int, index: int, size: int = 96) -> tuple[npt.NDArray[np.uint8], int]:
    """RGB uint8 [size, size, 3] of one dominant object, and its index in CLASSES; see `render`."""
    rng = _stream(seed, index + _PORTRAIT if index >= 0 else index, size)
    label = int(rng.random() * len(CLASSES))
    image, _ = photograph(portrait_stage(rng, label), size, rng)
    return image, label


def _stream(seed: int, index: int, size: int) -> np.random.Generator:
    if seed < 0 or index < 0 or size < 16:
        raise UsageError(
            "scene cannot be rendered", value=f"seed {seed}, index {index}, size {size}", allowed="0.., 0.., 16.."
        )
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))


def annotate(
    stage: Stage, sight: Sight, size: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int16]]:
    """Boxes, labels and the instance map (see `Scene`) of the classed solids that are visible enough."""
    seen = sight.solid.reshape(size, size)
    instances = np.full((size, size), -1, np.int16)
    boxes: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    for i, body in enumerate(stage.solids):
        rows, columns = np.nonzero(seen == i)
        if body.label < 0 or rows.size == 0 or rows.size < _LEAST_VISIBLE * sight.covered[i]:
            continue
        x0, y0, x1, y1 = int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
        if min(x1 - x0, y1 - y0) < _SMALLEST_SIDE * size:
            continue
        instances[rows, columns] = len(boxes)
        boxes.append((x0, y0, x1, y1))
        labels.append(body.label)
    return np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64), instances


def write_dataset(folder: Path, count: int, seed: int, size: int, kind: str) -> Path:
    """Write scenes 0..count-1 of `seed` as a folder that any other tool can read, and return it.

    detect: images/NNNNNN.png, labels/NNNNNN.txt (class, then centre x y and width height in 0..1), data.yaml.
    classify: images/NNNNNN.png and labels.csv with the columns file,class.
    depth: images/NNNNNN.png and depth/NNNNNN.png, 16-bit millimetres.

    Raises UsageError for an unknown kind or a count below 1, OutputError when the folder exists or cannot be written;
    the folder appears only when it is complete.
    """
    writers = {"detect": _write_detect, "classify": _write_classify, "depth": _write_depth}
    if kind not in writers:
        raise UsageError("unknown kind of scene data set", value=kind, allowed=", ".join(KINDS))
    if count < 1:
        raise UsageError("a data set needs at least one scene", value=count, allowed="1 or more")
    if folder.exists():
        raise OutputError("folder exists", where=folder, next_step="Choose a new folder or remove this one.")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        (partial / "images").mkdir(parents=True)
        writers[kind](partial, count, seed, size)
        os.replace(partial, folder)
    except OSError as error:
        raise OutputError("data set cannot be written", where=folder, value=error.strerror) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _write_detect(folder: Path, count: int, seed: int, size: int) -> None:
    (folder / "labels").mkdir()
    for i in range(count):
        scene = render(seed, i, size)
        _write_png(folder / "images" / f"{i:06d}.png", scene.image)
        lines = [_yolo_line(label, box, size) for label, box in zip(scene.labels, scene.boxes, strict=True)]
        (folder / "labels" / f"{i:06d}.txt").write_text("".join(lines))
    names = "".join(f"  {i}: {name}\n" for i, name in enumerate(CLASSES))
    (folder / "data.yaml").write_text(f"train: images\nval: images\nnames:\n{names}")


def _yolo_line(label: np.int64, box: npt.NDArray[np.float32], size: int) -> str:
    x0, y0, x1, y1 = (float(c) / size for c in box)
    return f"{label} {(x0 + x1) / 2:.6f} {(y0 + y1) / 2:.6f} {x1 - x0:.6f} {y1 - y0:.6f}\n"


def _write_classify(folder: Path, count: int, seed: int, size: int) -> None:
    lines = ["file,class\n"]
    for i in range(count):
        image, label = classification_scene(seed, i, size)
        _write_png(folder / "images" / f"{i:06d}.png", image)
        lines.append(f"images/{i:06d}.png,{label}\n")
    (folder / "labels.csv").write_text("".join(lines))


def _write_depth(folder: Path, count: int, seed: int, size: int) -> None:
    (folder / "depth").mkdir()
    for i in range(count):
        scene = render(seed, i, size)
        _write_png(folder / "images" / f"{i:06d}.png", scene.image)
        _write_png(folder / "depth" / f"{i:06d}.png", np.round(scene.depth * 1000).astype(np.uint16))


def _write_png(path: Path, pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> None:
    """Write RGB or grey pixels; the PNG is encoded in memory so that a failed write is an OSError."""
    import cv2

    encode: Callable[..., tuple[bool, npt.NDArray[np.uint8]]] = cv2.imencode
    _, data = encode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    path.write_bytes(data.tobytes())
