"""A stand-in for trtexec: test equipment, no TensorRT. It checks what it is called with as strictly as that program does.

Called as `stand_in VERSION LOG FLAGS...`. It knows the flags of that version and refuses all others, refuses an ONNX file
that the TensorRT rules of `edgeq lint` find wrong, wants --int8 for codes where the version wants it, and calls a file an
engine only if it wrote it itself for the same version. Its arithmetic is ONNX Runtime's; its times are invented: those of
EDGEQ_STAND_IN_MS by layer and precision, a microsecond for every other layer, and their sum for the whole.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

BUILD = {"--onnx", "--saveEngine", "--profilingVerbosity", "--useDLACore"}
RUN = {"--loadEngine", "--exportTimes", "--exportProfile", "--exportLayerInfo", "--profilingVerbosity",
       "--separateProfileRun", "--loadInputs", "--exportOutput", "--iterations", "--warmUp", "--duration"}  # fmt: skip
WITH_VALUE = BUILD | (RUN - {"--separateProfileRun"})
MAGIC = b"stand-in engine "


def known_flags(version: int) -> set[str]:
    """The flags of a version: precision is the file's own from 11 on; --buildOnly was renamed in 8.6."""
    only = {"--skipInference"} if version >= 8600 else {"--buildOnly"}
    return BUILD | RUN | only | (set() if version >= 110000 else {"--int8", "--fp16"})


def fail(version: int, message: str) -> None:
    print(f"[11/26/2026-12:00:00] [E] {message}")
    print(f"&&&& FAILED TensorRT.trtexec [TensorRT v{version}]")
    sys.exit(1)


def parsed(version: int, words: list[str]) -> dict[str, str]:
    flags = dict(word.split("=", 1) if "=" in word else (word, "") for word in words)
    for flag, value in flags.items():
        if flag not in known_flags(version):
            fail(version, f"Unknown option: {flag} {value}")
        if (flag in WITH_VALUE) != bool(value):
            fail(version, f"Invalid value of {flag}")
    return flags


def build(version: int, flags: dict[str, str]) -> None:
    import onnx

    from edgeq.lint import lint_file

    path = Path(flags["--onnx"])
    errors = [f"{item.node}: {item.message}" for item in lint_file(path, "tensorrt") if item.severity == "error"]
    if errors:
        fail(version, f"ModelImporter.cpp: {errors[0]}")
    model = onnx.load(path)
    has_codes = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    if has_codes and version < 110000 and "--int8" not in flags:
        fail(version, "Int8 precision has been set for a layer, but int8 is not configured in the builder")
    if flags.get("--profilingVerbosity") != "detailed" or not {"--skipInference", "--buildOnly"} & flags.keys():
        fail(version, "the recipe must build only, with detailed profiling")
    Path(flags["--saveEngine"]).write_bytes(MAGIC + b"%d\n" % version + model.SerializeToString())


def run(version: int, flags: dict[str, str]) -> None:
    import numpy as np
    import onnx
    import onnxruntime

    head, _, content = Path(flags["--loadEngine"]).read_bytes().partition(b"\n")
    if head != MAGIC + b"%d" % version:
        fail(version, "The engine plan file is not compatible with this version of TensorRT")
    session = onnxruntime.InferenceSession(content)
    ports = {port.name: port.shape for port in session.get_inputs()}
    fed = {name: np.zeros(shape, np.float32) for name, shape in ports.items()}
    for item in filter(None, flags.get("--loadInputs", "").split(",")):
        name, _, file = item.partition(":")
        raw = np.fromfile(file, np.float32)
        if name not in ports or raw.size != np.prod(ports[name]):
            fail(version, f"Cannot find input tensor with name {name} or it has another size")
        fed[name] = raw.reshape(ports[name])
    outputs = session.run(None, fed)
    names = [port.name for port in session.get_outputs()]
    export(flags, onnx.load_from_string(content), dict(zip(names, outputs, strict=True)))


def export(flags: dict[str, str], model: Any, outputs: dict[str, Any]) -> None:
    """The files as samples/common/sampleReporting.cpp of NVIDIA/TensorRT writes them."""
    layers = [node for node in model.graph.node if node.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    told = json.loads(os.environ.get("EDGEQ_STAND_IN_MS", "{}"))
    codes = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    kinds = ["int8" if codes & set(node.input) else "fp16" for node in layers]
    means = [
        told.get(node.output[0].removesuffix(".acc"), {}).get(kind, 0.001)
        for node, kind in zip(layers, kinds, strict=True)
    ]
    if "--exportTimes" in flags:
        rows = [{"h2dMs": 0.0, "computeMs": sum(means), "d2hMs": 0.0, "latencyMs": sum(means)} for _ in range(20)]
        Path(flags["--exportTimes"]).write_text(json.dumps(rows))
    if "--exportProfile" in flags:
        entries = [{"name": f"{n.input[1]} + {n.name}" if len(n.input) > 1 else n.name, "timeMs": 10 * ms, "averageMs": ms,
                    "medianMs": ms, "percentage": 100 * ms / sum(means)} for n, ms in zip(layers, means, strict=True)]  # fmt: skip
        Path(flags["--exportProfile"]).write_text(json.dumps([{"count": 10}, *entries]))
        info = [{"Name": entry["name"], "LayerType": node.op_type, "Outputs": [{"Name": node.output[0],
                 "Format/Datatype": "Int8 NC/32HW32" if k == "int8" else "Half NC/2HW"}]}
                for entry, node, k in zip(entries, layers, kinds, strict=True)]  # fmt: skip
        Path(flags["--exportLayerInfo"]).write_text(json.dumps({"Layers": info, "Bindings": list(outputs)}))
    if "--exportOutput" in flags:
        values = [
            {
                "name": name,
                "dimensions": "x".join(map(str, array.shape)),
                "values": [float(f"{v:.6g}") for v in array.flat],
            }
            for name, array in outputs.items()
        ]
        Path(flags["--exportOutput"]).write_text(json.dumps(values))


def main(version: int, log: Path, words: list[str]) -> None:
    with log.open("a") as file:
        file.write(json.dumps(words) + "\n")
    print(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{version}] # trtexec {' '.join(words)}")
    if words == ["--help"]:
        print("\n".join(sorted(known_flags(version))))
        return
    flags = parsed(version, words)
    if "--onnx" in flags:
        build(version, flags)
    else:
        run(version, flags)
    print(f"&&&& PASSED TensorRT.trtexec [TensorRT v{version}]")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
