"""Other tools' quantization of one float ONNX file, each the shortest program of its documentation, in its own Python.

All take  float.onnx calibration.npy evaluation.npy weight_bits activation_bits option out  and write either an ONNX
file or a folder of outputs, 0.npy and so on, one row for each evaluation image, where only the tool itself can run
what it made. What lies behind the last convolution or matrix product stays in float wherever a tool can be told so: a
detector's boxes and scores end in one tensor, which has one scale.
"""

from __future__ import annotations

from bench_tflite_peers import QUANTIZER

_COMMON = """
import sys
from pathlib import Path
import numpy as np
import onnx
source, calibration, evaluation, weight, activation, option, out = sys.argv[1:]
weight, activation = int(weight), int(activation)
graph = onnx.load(source).graph
port = graph.input[0].name
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")

def images(path):
    for image in np.load(path, mmap_mode="r"):
        yield np.ascontiguousarray(image)[None]

def behind_the_last_weight(graph):
    needed, behind = set(), []
    for node in reversed(graph.node):
        if node.op_type in WEIGHTED or needed.intersection(node.output):
            needed.update(node.input)
        else:
            behind.append(node)
    return behind

def refuse(*cells):
    if (weight, activation) not in cells:
        raise NotImplementedError(f"W{weight}A{activation}")

def store(run):
    files, count = [], len(np.load(evaluation, mmap_mode="r"))
    Path(out).mkdir()
    for k, image in enumerate(images(evaluation)):
        for place, array in enumerate(run(image)):
            if not k:
                shape = (count, *np.shape(array))
                files.append(np.lib.format.open_memmap(f"{out}/{place}.npy", "w+", np.float32, shape))
            files[place][k] = array
"""

ONNX_RUNTIME = f"""{_COMMON}
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
refuse((8, 8), (4, 8))
class Reader(CalibrationDataReader):
    def __init__(self):
        self.feeds = ({{port: image}} for image in images(calibration))
    def get_next(self):
        return next(self.feeds, None)
prepared = out + ".prepared.onnx"
quant_pre_process(source, prepared, skip_symbolic_shape=True)
left = [node.name for node in behind_the_last_weight(onnx.load(prepared).graph)]
quantize_static(
    prepared, out, Reader(), per_channel=True, activation_type=QuantType.QUInt8,
    weight_type=QuantType.QInt8 if weight == 8 else QuantType.QInt4, nodes_to_exclude=left,
    calibrate_method=getattr(CalibrationMethod, option),
)
"""

NNCF = f"""{_COMMON}
import nncf
refuse((8, 8))
model = onnx.load(source)
for k, node in enumerate(model.graph.node):
    node.name = node.name or f"node{{k}}"
left = [node.name for node in behind_the_last_weight(model.graph)]
data = list(images(calibration))
made = nncf.quantize(
    model, nncf.Dataset(data, lambda image: {{port: image}}), subset_size=len(data),
    ignored_scope=nncf.IgnoredScope(names=left, validate=False) if left else None, fast_bias_correction=option == "fast",
)
onnx.save(made, out)
"""

MODELOPT = f"""{_COMMON}
from modelopt.onnx.quantization import quantize
refuse((8, 8))
left = [node.name for node in behind_the_last_weight(graph)]
data = np.concatenate(list(images(calibration)))
quantize(
    source, quantize_mode="int8", calibration_data={{port: data}}, calibration_method=option, calibration_eps=["cpu"],
    nodes_to_exclude=left or None, output_path=out,
)
"""

AIMET = f"""{_COMMON}
import aimet_onnx
from aimet_onnx.cross_layer_equalization import equalize_model
from aimet_onnx.quantsim import QuantizationSimModel
model = onnx.load(source)
left = {{name for node in behind_the_last_weight(model.graph) for name in node.output}}
if "cle" in option:
    equalize_model(model)
sim = QuantizationSimModel(
    model, param_type=f"int{{weight}}", activation_type=f"int{{activation}}", quant_scheme="min_max",
    providers=["CPUExecutionProvider"],
)
for name in left & set(sim.qc_quantize_op_dict):
    sim.qc_quantize_op_dict[name].enabled = False
feeds = [{{port: image}} for image in images(calibration)]
if "seqmse" in option:
    aimet_onnx.apply_seq_mse(sim, feeds)
if "adaround" in option:
    aimet_onnx.apply_adaround(sim, feeds)
sim.compute_encodings(feeds)
store(lambda image: sim.session.run(None, {{port: image}}))
"""

BREVITAS = f"""{_COMMON}
import torch
from edgeq.frontend.torchvision_shim import install
install()
from brevitas_examples.imagenet_classification.ptq import ptq_common as ptq
from onnx2torch import convert
device = "cuda" if torch.cuda.is_available() else "cpu"
model = convert(source).eval().to(device)
for name, parameter in model.named_parameters():
    parameter.requires_grad_(False)
model = ptq.quantize_model(
    model, "layerwise", weight_bit_width=weight, act_bit_width=activation, bias_bit_width=None,
    weight_quant_granularity="per_channel", act_quant_percentile=99.99, act_quant_type="asym",
    scale_factor_type="float_scale", quant_format="int", layerwise_first_last_bit_width=8, device=device,
)
loader = [(torch.from_numpy(image), torch.zeros(1)) for image in images(calibration)]
ptq.calibrate(loader, model)
with torch.no_grad():
    model(loader[0][0].to(device))  # GPTQ wants the scales of weights, which the first run outside calibration sets
if "gptq" in option:
    ptq.apply_gptq(loader, model)
ptq.apply_bias_correction(loader, model)
def run(image):
    with torch.no_grad():
        found = model(torch.from_numpy(image).to(device))
    return [tensor.cpu().numpy() for tensor in (found if isinstance(found, (list, tuple)) else [found])]
store(run)
"""

AI_EDGE_QUANTIZER = f"""{QUANTIZER}
source, calibration, evaluation, weight, activation, option, out = sys.argv[1:]
if (weight, activation) != ("8", "8"):
    raise NotImplementedError(f"W{{weight}}A{{activation}}")
quantize(source, calibration, option, out)
"""
