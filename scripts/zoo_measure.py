"""Accuracy of an exported zoo model under ONNX Runtime, by the same data folders and metrics that users have."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from edgeq.datasets.evaluate import evaluate
from edgeq.datasets.open import open_dataset
from edgeq.datasets.preprocess import Preprocess
from edgeq.datasets.scenes import write_dataset


def measure(model: Path, kind: str, seed: int, count: int) -> dict[str, float]:
    """Metrics by name on scenes 0..count-1 of `seed`, rendered at the model's own size."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    port, metadata = session.get_inputs()[0], session.get_modelmeta().custom_metadata_map
    preprocess = Preprocess.from_dict(json.loads(metadata["edgeq.preprocess"]))

    def run(images: npt.NDArray[np.float32]) -> list[Any]:
        return list(session.run(None, {port.name: images}))

    with tempfile.TemporaryDirectory() as folder:
        data = open_dataset(write_dataset(Path(folder) / "scenes", count, seed, port.shape[-1], kind))
        (metrics,) = evaluate(data, preprocess, {"float32": run}, metadata).values()
    return {metric.name: round(metric.value, 5) for metric in metrics}
