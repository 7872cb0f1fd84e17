"""What travels with an artifact: the record of how it was made, and what a runtime must know to use it."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch

from edgeq import __version__
from edgeq.calibrate.mixture import entry
from edgeq.datasets.dataset import Task
from edgeq.flow.inputs import CalibrationSet, InputRule
from edgeq.flow.ranges import ChosenRange
from edgeq.frontend.model import Model
from edgeq.ir.file import digest
from edgeq.ir.graph import Graph
from edgeq.target import Target
from edgeq.targets import describe

SCHEMA = "edgeq.manifest/1"
PREPROCESS_KEY = "edgeq.preprocess"


def manifest_of(
    model: Model,
    target: Target,
    rule: InputRule,
    calibration: CalibrationSet | None,
    lowered: Graph,
    chosen: Sequence[ChosenRange],
    options: dict[str, Any],
) -> dict[str, Any]:
    """Everything needed to make the artifact again: model, images, options, versions, ranges."""
    return {
        "schema": SCHEMA,
        "model": {"name": model.name, "sha256": model.digest},
        "target": describe(target),
        "options": options,
        "preprocess": rule.preprocess.to_dict(),
        "calibration": None
        if calibration is None
        else {
            "images": [entry(image) for image in calibration.images],
            "mixture": None if calibration.mixture is None else calibration.mixture.document(),
            "rejected": [item.path.name for item in calibration.rejected],
        },
        "ranges": {item.key: item.document() for item in chosen},
        "graph_sha256": digest(lowered),
        "versions": {
            "edgeq": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": importlib.metadata.version("onnxruntime"),
        },
    }


def metadata_of(model: Model, rule: InputRule, task: Task | None) -> dict[str, object]:
    """The model's own metadata, completed with what was found out about it."""
    preprocess = rule.preprocess
    found: dict[str, object] = {"batch": 1, "imgsz": list(preprocess.size), "channels": 3}
    if task is not None:
        found["task"] = task
    return {**found, **model.metadata, PREPROCESS_KEY: json.dumps(preprocess.to_dict())}
