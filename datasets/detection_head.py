"""Which detection head a model has, from the shapes of its outputs and its metadata only.

The number of cells N of the usual strides is known from the input's size, so the axis of length N (or 3 N)
tells the layout whatever the nodes are called. Metadata (Ultralytics' keys) settles what shapes cannot: the
number of classes beside extra channels, and end-to-end outputs.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast, get_args

from edgeq.datasets.detection import DetectionHead, Kind, grid_size
from edgeq.errors import UnsupportedError

_USUAL_STRIDES = (8, 16, 32)
_STRIDES = (_USUAL_STRIDES, (8, 16, 32, 64), (4, 8, 16, 32), (16, 32), (8, 16, 32, 64, 128), (8, 16))
_MOST_END2END = 1000  # rows; more are cells
_KNOWN = "[1, 4+nc, N], [1, N, 5+nc], [1, K, 6], or boxes [1, 4, N] with scores [1, nc, N]"

Shape = Sequence[int]


@dataclass(frozen=True)
class _Layout:
    """rows_axis: the axis (1 or 2) whose length is `anchors` times the number of cells of `strides`."""

    rows_axis: int
    anchors: int
    strides: tuple[int, ...]

    @property
    def channel_axis(self) -> int:
        return 3 - self.rows_axis


def infer_head(
    output_shapes: Sequence[Shape], input_size: tuple[int, int], metadata: Mapping[str, str]
) -> DetectionHead:
    """The head behind these outputs. `input_size` is (height, width).

    Read from the metadata: names, end2end, task, and edgeq.head to name the kind outright (a decoded YOLOX
    or YOLOv6, whose shapes equal an undecoded YOLOX's, is "yolov5"). Raises UnsupportedError when nothing
    fits.
    """
    if metadata.get("task") == "obb":
        raise UnsupportedError("rotated boxes have no box accuracy", value="task obb")
    names = class_names(metadata)
    head = (
        _end_to_end(output_shapes, input_size, metadata, names)
        or _split(output_shapes, input_size, metadata, names)
        or _joined(output_shapes, input_size, metadata, names)
    )
    if head is None:
        shapes = " ".join(str(list(shape)) for shape in output_shapes)
        raise UnsupportedError("no known detection head has these outputs", value=shapes, allowed=_KNOWN)
    return head


def class_names(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Class names by index from the key `names` (a dict or list written as text); empty when absent or
    unreadable.
    """
    try:
        names = ast.literal_eval(metadata.get("names", ""))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ()
    if isinstance(names, dict):
        names = [names[k] for k in sorted(names)] if sorted(names) == list(range(len(names))) else []
    return tuple(str(name) for name in names) if isinstance(names, list | tuple) else ()


def cells(input_size: tuple[int, int], strides: tuple[int, ...]) -> int:
    """How many cells the strides have together.

    >>> cells((640, 640), (8, 16, 32))
    8400
    """
    return sum(rows * columns for rows, columns in (grid_size(input_size, stride) for stride in strides))


def _end_to_end(
    shapes: Sequence[Shape], input_size: tuple[int, int], metadata: Mapping[str, str], names: tuple[str, ...]
) -> DetectionHead | None:
    for index, shape in enumerate(shapes):
        if not _is_batch_of_rows(shape) or shape[2] < 6 or shape[1] > _MOST_END2END:
            continue
        layout = _layout(shape, input_size)
        if layout is None:
            plausible = shape[2] == 6 or _end_to_end_declared(metadata)
        else:
            plausible = shape[2] == 6 and layout.strides != _USUAL_STRIDES
        if plausible:
            return DetectionHead("end2end", len(names), (), shape[2] - 6, (index,), True, names=names)
    return None


def _split(
    shapes: Sequence[Shape], input_size: tuple[int, int], metadata: Mapping[str, str], names: tuple[str, ...]
) -> DetectionHead | None:
    """Boxes and scores as two outputs of the same cells."""
    rows = [(i, _layout(shape, input_size)) for i, shape in enumerate(shapes) if _is_batch_of_rows(shape)]
    fitting = [(i, layout) for i, layout in rows if layout is not None and layout.anchors == 1]
    if len(fitting) != 2 or fitting[0][1] != fitting[1][1]:
        return None
    layout = fitting[0][1]
    boxes, scores = sorted((i for i, _ in fitting), key=lambda i: shapes[i][layout.channel_axis] != 4)
    if shapes[boxes][layout.channel_axis] != 4:
        return None
    nc = shapes[scores][layout.channel_axis]
    kind: Kind = "one2one" if _end_to_end_declared(metadata) else "yolov8"
    last = layout.rows_axis == 1
    return DetectionHead(kind, nc, layout.strides, 0, (boxes, scores), last, names=_fit(names, nc))


def _joined(
    shapes: Sequence[Shape], input_size: tuple[int, int], metadata: Mapping[str, str], names: tuple[str, ...]
) -> DetectionHead | None:
    """Boxes and scores in one output."""
    masks = next((shape[1] for shape in shapes if len(shape) == 4), 0)  # mask prototypes [1, masks, h, w]
    for index, shape in enumerate(shapes):
        layout = _layout(shape, input_size) if _is_batch_of_rows(shape) else None
        if layout is None:
            continue
        channels = shape[layout.channel_axis]
        kind = _kind(layout, channels, metadata, names)
        before = 4 if kind in ("yolov8", "one2one") else 5
        nc = len(names) if names and before + len(names) <= channels else channels - before - masks
        if nc >= 1:
            extra, last = channels - before - nc, layout.rows_axis == 1
            return DetectionHead(kind, nc, layout.strides, extra, (index,), last, names=_fit(names, nc))
    return None


def _kind(layout: _Layout, channels: int, metadata: Mapping[str, str], names: tuple[str, ...]) -> Kind:
    named = metadata.get("edgeq.head")
    if named in get_args(Kind):
        return cast(Kind, named)
    if layout.anchors == 3:
        return "yolov5"
    if layout.rows_axis == 2 or "head" in metadata or (names and channels == 4 + len(names)):
        return "one2one" if _end_to_end_declared(metadata) else "yolov8"
    return "yolox"


def _layout(shape: Shape, input_size: tuple[int, int]) -> _Layout | None:
    for strides in _STRIDES:
        n = cells(input_size, strides)
        if shape[2] == n:
            return _Layout(2, 1, strides)
        if shape[1] in (n, 3 * n):
            return _Layout(1, shape[1] // n, strides)
    return None


def _end_to_end_declared(metadata: Mapping[str, str]) -> bool:
    return str(metadata.get("end2end")) == "True"


def _is_batch_of_rows(shape: Shape) -> bool:
    return len(shape) == 3 and shape[0] == 1


def _fit(names: tuple[str, ...], nc: int) -> tuple[str, ...]:
    return names if len(names) == nc else ()
