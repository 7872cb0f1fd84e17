"""ONNX files of the trained models: opset 17, batch 1, batch normalization folded, nothing about this machine inside."""

from __future__ import annotations

import json
import logging
import os
import warnings
from pathlib import Path

import onnx
import torch
from torch import nn
from zoo_data import MEAN, STD
from zoo_models import STRIDES
from zoo_train import Spec

from edgeq.datasets.preprocess import Preprocess
from edgeq.datasets.scenes import CLASSES

OPSET = 17
OUTPUTS = {"detect": "output0", "classify": "logits", "depth": "depth"}


def export(model: nn.Module, spec: Spec, path: Path) -> None:
    """Write `path` in one step; the input is called images."""
    partial = path.with_name(f".{path.name}.partial")
    example = (torch.zeros(1, 3, spec.side, spec.side),)
    for name in ("torch.onnx", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(), example, str(partial), opset_version=OPSET, dynamo=True, external_data=False, verbose=False,
            input_names=["images"], output_names=[OUTPUTS[spec.task]],
        )  # fmt: skip
    graph = onnx.load(str(partial))
    _strip(graph)
    _describe(graph, spec)
    onnx.checker.check_model(graph, full_check=True)
    partial.write_bytes(graph.SerializeToString(deterministic=True))
    os.replace(partial, path)


def _strip(model: onnx.ModelProto) -> None:
    """Drop what the exporter notes about source files, and the shapes of inner values, which can be inferred."""
    graph = model.graph
    for item in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
    del graph.value_info[:]
    graph.name = "main"


def _describe(model: onnx.ModelProto, spec: Spec) -> None:
    """The metadata that Ultralytics' own runtimes read, and the same keys for the other tasks."""
    facts: dict[str, object] = {
        "description": f"edgeq zoo {spec.name}, trained on rendered scenes",
        "task": spec.task,
        "batch": 1,
        "imgsz": [spec.side, spec.side],
        "channels": 3,
        "names": dict(enumerate(CLASSES)) if spec.task != "depth" else {0: "depth"},
    }
    if spec.task == "detect":
        facts |= {"stride": max(STRIDES), "end2end": False}
    facts["edgeq.preprocess"] = json.dumps(preprocess(spec).to_dict())
    onnx.helper.set_model_props(model, {key: str(value) for key, value in facts.items()})


def preprocess(spec: Spec) -> Preprocess:
    """How any image becomes the model's input; scenes of the model's own size pass unresized."""
    size = (spec.side, spec.side)
    if not spec.normalized:
        return Preprocess(size)
    return Preprocess(size, "crop" if spec.task == "classify" else "stretch", mean=MEAN, std=STD)
