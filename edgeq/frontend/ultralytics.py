"""Ultralytics YOLO checkpoints (v5u, v8, 11, 26; detect, segment, pose, classify, obb) become one ONNX model in memory.

The graph and its metadata are those of Ultralytics' own export at batch 1, so `YOLO("x.onnx").val()` reads the result.
Ultralytics is optional and AGPL-3.0: it is imported only here, told to stay offline and to install nothing.
"""

from __future__ import annotations

import copy
import importlib
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from edgeq.errors import EdgeqError, MissingDependencyError, UnsupportedError, UsageError
from edgeq.frontend import torchvision_shim
from edgeq.frontend.safe_load import load_pickled
from edgeq.frontend.torch_export import TRACED_OPSET, ExportedModel, to_onnx

TASKS = ("detect", "segment", "pose", "classify", "obb")
NETWORKS = ("DetectionModel", "SegmentationModel", "PoseModel", "ClassificationModel", "OBBModel")
PARTS = ("activation", "block", "conv", "head", "transformer", "utils")
MOVED = {
    "ultralytics.nn.modules.block.Silence": ("torch.nn", "Identity"),  # YOLOv9e
    "ultralytics.nn.tasks.YOLOv10DetectionModel": ("ultralytics.nn.tasks", "DetectionModel"),
}
MAX_DETECTIONS = 300


def import_ultralytics() -> None:
    """Imports the package offline. Raises MissingDependencyError when it is not installed."""
    torchvision_shim.define_operators()
    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeq"
    os.environ.setdefault("YOLO_CONFIG_DIR", str(cache))
    try:
        with _process_settings_kept():
            import ultralytics  # noqa: F401
    except ModuleNotFoundError as missing:
        raise MissingDependencyError("ultralytics", "yolo", needed_for="an Ultralytics checkpoint") from missing


@contextmanager
def _process_settings_kept() -> Iterator[None]:
    """The package sets threads, variables that child processes inherit and the way arrays are printed: undo all that."""
    variables, cv2_threads, printed = dict(os.environ), cv2.getNumThreads(), np.get_printoptions()
    tensors = copy.copy(torch._tensor_str.PRINT_OPTS)
    try:
        yield
    finally:
        for name in set(os.environ) - set(variables):
            del os.environ[name]
        os.environ.update(variables)
        cv2.setNumThreads(cv2_threads)
        np.set_printoptions(**printed)
        torch._tensor_str.PRINT_OPTS = tensors


def load(
    path: Path,
    *,
    trust_pickle: bool = False,
    imgsz: int | Sequence[int] | None = None,
    end2end: bool = True,
) -> ExportedModel:
    """Reads an Ultralytics `.pt` checkpoint safely and exports it; options as in `export`.

    Raises UntrustedInputError, UsageError and UnsupportedError as `load_pickled` and `export` do.
    """
    network = network_in(load_pickled(path, trust_pickle=trust_pickle, find_network=find_network))
    if network is None:
        raise UnsupportedError("the checkpoint holds no Ultralytics network", where=path)
    return export(network, imgsz, end2end=end2end)


def find_network(module: str, name: str) -> type[nn.Module] | None:
    """The class that an Ultralytics checkpoint names, where `edgeq` reads it; None for anything else.

    Raises UnsupportedError for the classes of YOLOv5's own repository and for Ultralytics networks of other kinds.
    """
    if module in ("models.yolo", "models.common", "models.experimental"):
        raise UnsupportedError(
            "a checkpoint of the YOLOv5 repository needs that repository's classes",
            value=f"{module}.{name}",
            next_step="Export it there (python export.py --weights yolov5n.pt --include onnx) and pass the .onnx file",
        )
    parts = ("ultralytics.nn.modules", *(f"ultralytics.nn.modules.{part}" for part in PARTS))
    if module not in (*parts, "ultralytics.nn.tasks"):
        return None
    if module == "ultralytics.nn.tasks" and name not in (*NETWORKS, "YOLOv10DetectionModel"):
        raise UnsupportedError("edgeq does not read this Ultralytics network", value=name, allowed=", ".join(NETWORKS))
    import_ultralytics()
    module, name = MOVED.get(f"{module}.{name}", (module, name))
    found = getattr(importlib.import_module(module), name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UnsupportedError("the installed ultralytics has no such part", value=f"{module}.{name}")
    return found


def network_in(checkpoint: Any) -> nn.Module | None:
    """The network of a loaded checkpoint (the averaged one where there are two) with its training options, or None."""
    options = checkpoint.get("train_args") if isinstance(checkpoint, dict) else None
    held = (checkpoint.get("ema") or checkpoint.get("model")) if isinstance(checkpoint, dict) else checkpoint
    kind = type(held).__name__
    if not isinstance(held, nn.Module) or kind not in NETWORKS:
        return None
    vars(held)["args"] = options if isinstance(options, dict) else {}
    vars(held).setdefault("task", TASKS[NETWORKS.index(kind)])
    return held


def export(model: nn.Module, imgsz: int | Sequence[int] | None = None, *, end2end: bool = True) -> ExportedModel:
    """Exports an Ultralytics network, which is left unchanged.

    `imgsz` is a side or (height, width) in pixels, by default the size it was trained at. The input `images` is
    [1, channels, height, width], RGB in 0..1; `output0` (and `output1`, the mask prototypes) are as Ultralytics
    documents them. A network with a one-to-one head gives [1, 300, 6 + extra] detections without NMS, or with
    `end2end=False` the one-to-many head's [1, 4 + classes, anchors] before NMS.
    Raises UnsupportedError for a task or head that edgeq does not read, UsageError for a size the strides do not divide.
    """
    task = str(getattr(model, "task", None))
    if task not in TASKS:
        raise UnsupportedError("edgeq does not read this Ultralytics task", value=task, allowed=", ".join(TASKS))
    try:
        height, width = _image_size(model, imgsz)
        network: Any = copy.deepcopy(model).cpu().float().eval()
        channels = int(network.yaml.get("channels", 3))
        _set_for_export(network, end2end, height * width)
        metadata = _metadata(network, (height, width), channels)
    except EdgeqError:
        raise
    except Exception as broken:  # a checkpoint can lack or replace any part of its network
        reason = f"{type(broken).__name__} {str(broken)[:120]}"
        raise UnsupportedError("not a working Ultralytics network", value=reason) from broken
    return to_onnx(network, (torch.zeros(1, channels, height, width),), metadata=metadata)


def _image_size(model: nn.Module, imgsz: int | Sequence[int] | None) -> tuple[int, int]:
    """(height, width), each a multiple of the largest stride."""
    if imgsz is None:
        imgsz = _training_size(model)
    sides = (imgsz, imgsz) if isinstance(imgsz, int) else tuple(imgsz)
    stride = _stride(model)
    if len(sides) != 2 or any(side <= 0 or side % stride for side in sides):
        nearest = " ".join(str(max(1, math.ceil(side / stride)) * stride) for side in sides)
        raise UsageError(
            "the image size does not fit this network",
            value=imgsz,
            allowed=f"one side or height and width, multiples of {stride}",
            next_step=f"Nearest: {nearest}",
        )
    return sides[0], sides[1]


def _training_size(model: nn.Module) -> int:
    args = getattr(model, "args", None)
    size = args.get("imgsz") if isinstance(args, dict) else None
    return size if isinstance(size, int) else 224 if model.task == "classify" else 640


def _stride(model: Any) -> int:
    return int(max(model.stride)) if hasattr(model, "stride") else 32


def _set_for_export(model: Any, end2end: bool, pixels: int) -> None:
    """Chooses the head, folds batch norms and asks every part for its deployment form, in place."""
    from ultralytics.nn.modules import C2f, Classify, Detect

    head: Any = model.model[-1]
    detects = isinstance(head, Detect)
    if not detects and not isinstance(head, Classify):
        raise UnsupportedError("edgeq does not read this Ultralytics head", value=type(head).__name__)
    if detects:
        head.end2end = end2end and getattr(head, "one2one_cv2", None) is not None
        head.max_det = min(MAX_DETECTIONS, sum(pixels // int(s) ** 2 for s in model.stride.tolist()))
        head.dynamic, head.xyxy, head.agnostic_nms, head.shape = False, False, False, None
    head.export, head.format = True, "onnx"
    model.fuse(verbose=False)
    splitting: list[Any] = [part for part in model.modules() if isinstance(part, C2f)]
    for part in splitting:
        part.forward = part.forward_split  # one Split instead of slices


def _metadata(model: Any, imgsz: tuple[int, int], channels: int) -> dict[str, object]:
    """The keys that Ultralytics' exporter writes, from which its AutoBackend sets up prediction and validation.

    All but the date: the same checkpoint gives the same bytes.
    """
    import ultralytics

    head = model.model[-1]
    metadata: dict[str, object] = {
        "description": f"Ultralytics {_title(model)} model",
        "author": "Ultralytics",
        "version": ultralytics.__version__,
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
        "stride": _stride(model),
        "task": model.task,
        "head": type(head).__name__,
        "batch": 1,
        "imgsz": list(imgsz),
        "names": _class_names(model, head),
        "args": {"batch": 1, "dynamic": False, "opset": TRACED_OPSET, "simplify": False, "nms": False},
        "channels": channels,
        "end2end": bool(getattr(head, "end2end", False)),
    }
    if model.task == "pose":
        metadata["kpt_shape"] = [int(n) for n in head.kpt_shape]
        if hasattr(model, "kpt_names"):
            metadata["kpt_names"] = model.kpt_names
    return metadata


def _title(model: Any) -> str:
    return Path(str(model.yaml.get("yaml_file", ""))).stem.replace("yolo", "YOLO") or type(model).__name__


def _class_names(model: Any, head: Any) -> dict[int, str]:
    names = getattr(model, "names", None) or {}
    names = names if isinstance(names, dict) else dict(enumerate(names))
    count = head.linear.out_features if hasattr(head, "linear") else head.nc
    return {i: str(names.get(i, f"class{i}")) for i in range(count)}
