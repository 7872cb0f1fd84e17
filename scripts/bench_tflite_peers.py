"""Other tools' TFLite conversions, each the shortest program of its documentation, run by their own interpreter.

AI_EDGE_QUANTIZER  float.tflite images.npy (all|trunk) out.tflite
LITERT_TORCH       weights architecture images.npy out.tflite
ULTRALYTICS        checkpoint data.yaml sides out.tflite
"""

from __future__ import annotations

# Static int8 with reals at the ports, as Ultralytics calls it too. `trunk` leaves what lies behind the last weights in
# float: a detector's boxes and scores end in one tensor, which has one scale.
QUANTIZER = """
import re, sys
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import qtyping, quantizer, recipe

WEIGHTED = {"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL"}

def behind_the_last_weights(path):
    model = schema.ModelT.InitFromPackedBuf(open(path, "rb").read(), 0)
    graph, codes = model.subgraphs[0], {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    needed, behind = set(), []
    for op in reversed(graph.operators):
        if codes[model.operatorCodes[op.opcodeIndex].builtinCode] in WEIGHTED or needed.intersection(op.outputs):
            needed.update(op.inputs)
        else:
            behind += [graph.tensors[k].name.decode() for k in op.outputs]
    return behind

def samples(path, data):
    interpreter = Interpreter(path)
    (key, ports), = interpreter.get_signature_list().items()
    (name,) = ports["inputs"]
    stored = tuple(interpreter.get_input_details()[0]["shape"])
    for image in np.load(data, mmap_mode="r"):
        image = np.asarray(image)[None]
        yield key, {name: image if image.shape == stored else np.ascontiguousarray(image.transpose(0, 2, 3, 1))}

def quantize(path, data, part, out):
    tool = quantizer.Quantizer(path)
    tool.load_quantization_recipe(recipe.static_wi8_ai8())
    def leave(names, operator):
        tool.update_quantization_recipe(
            regex=names, operation_name=operator, algorithm_key=recipe.AlgorithmName.NO_QUANTIZE)
    for port in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        leave(".*", port)
    if part == "trunk" and (names := behind_the_last_weights(path)):
        leave("^(" + "|".join(map(re.escape, names)) + ")(;|$)", qtyping.TFLOperationName.ALL_SUPPORTED)
    found = list(samples(path, data))
    tool.quantize(tool.calibrate({found[0][0]: [sample for _, sample in found]})).export_model(out, overwrite=True)
"""

AI_EDGE_QUANTIZER = f"{QUANTIZER}\nquantize(*sys.argv[1:])\n"

_TORCH = """
import sys
from pathlib import Path
import torch
from edgeq.frontend.torchvision_shim import install
install()
"""

LITERT_TORCH = f"""{_TORCH}{QUANTIZER}
import litert_torch
from edgeq.frontend.architecture import build, load_weights
from edgeq.frontend.safe_load import load_tensors
weights, arch, data, out = sys.argv[1:]
built = build(arch)
load_weights(built.module, load_tensors(Path(weights)), arch=arch)
litert_torch.convert(built.module.eval(), (torch.zeros(1, *built.input_size),)).export(out + ".float")
quantize(out + ".float", data, "all", out)
"""

# The export lands beside the checkpoint, so it works on a link of its own.
ULTRALYTICS = f"""{_TORCH}
from ultralytics import YOLO
checkpoint, data, height, width, out = sys.argv[1:]
own = Path(out).with_suffix("").with_suffix(".pt")
own.unlink(missing_ok=True)
own.symlink_to(Path(checkpoint).resolve())
made = YOLO(own).export(format="litert", quantize=8, data=data, batch=1, imgsz=[int(height), int(width)], device="cpu")
Path(made).replace(out)
"""
