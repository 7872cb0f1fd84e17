"""Makes `import torchvision` work where its C++ extension cannot be loaded (a CUDA-linked wheel beside a CPU torch).

torchvision registers shape rules for `torchvision::nms` and `torchvision::qnms` while it is imported, and fails when
no library has defined those operators. `install()` defines them first, with a kernel for `nms` that keeps the same
boxes as the C++ one. When the real extension loads, or torchvision is already imported, nothing is changed.
torchvision itself takes a while to import, so a package that may never need it gets `define_operators()` alone.
The operators that need the extension and have no kernel here (`deform_conv2d`, `roi_pool`) keep their own error.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch
from torch import Tensor

from edgeq.frontend.compiler_later import compiler_later

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_libraries: list[torch.library.Library] = []  # a Library takes its operators away when it is collected


def install() -> None:
    """Defines the missing operators, imports torchvision if it is there and lets its `nms` use them.

    Call before torchvision or timm is imported; safe to repeat.
    """
    define_operators()
    if importlib.util.find_spec("torchvision") is None:
        return
    with compiler_later():
        from torchvision.ops import boxes
    if _libraries:
        boxes._assert_has_ops = lambda: None


def define_operators() -> None:
    """Defines the missing operators, so that torchvision can be imported; safe to repeat."""
    if _libraries or "torchvision" in sys.modules or not _extension_is_missing():
        return
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    library.define(f"nms{_SCHEMA}")  # type: ignore[no-untyped-call]
    library.define(f"qnms{_SCHEMA}")  # type: ignore[no-untyped-call]
    library.impl("nms", nms, "CPU")  # type: ignore[no-untyped-call]
    _libraries.append(library)


def _extension_is_missing() -> bool:
    """True when torchvision is installed but its extension does not load into this process."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    for path in sorted(Path(spec.origin).parent.glob("_C.*")):
        try:
            torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
        except (ImportError, OSError):
            continue
        return False
    return True


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression.

    `boxes` is [n, 4] as x1, y1, x2, y2, `scores` is [n]. Returns the int64 indices of the kept boxes, best score first
    (the earlier index first among equal scores). A box is dropped when its intersection over union with a kept box is
    greater than `iou_threshold`.

    >>> nms(torch.tensor([[0., 0, 4, 4], [0, 0, 4, 3], [5, 5, 6, 6]]), torch.tensor([.5, .9, .1]), .5).tolist()
    [1, 2]
    """
    order = scores.argsort(descending=True, stable=True)
    sorted_boxes = boxes[order]
    area = (sorted_boxes[:, 2] - sorted_boxes[:, 0]) * (sorted_boxes[:, 3] - sorted_boxes[:, 1])
    rest = torch.arange(len(order))
    kept = []
    while len(rest):
        best, rest = rest[0], rest[1:]
        kept.append(best)
        low = torch.maximum(sorted_boxes[best, :2], sorted_boxes[rest, :2])
        high = torch.minimum(sorted_boxes[best, 2:], sorted_boxes[rest, 2:])
        shared = (high - low).clamp(min=0).prod(dim=1)
        rest = rest[~(shared / (area[best] + area[rest] - shared) > iou_threshold)]
    return order[torch.stack(kept)] if kept else order
