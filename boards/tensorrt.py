"""A TensorRT engine on a Jetson: built there by its own trtexec from an ONNX file, kept there by content, measured there.

The recipe is the script that travels with every file for TensorRT (edgeq/emit/trtexec.py). Engines that were built stay
in the board's own cache folder, the one thing that is left there on purpose. Outputs come back through
--exportOutput, which prints six digits: enough for accuracy, and too few to compare bits.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.boards.board import Finished
from edgeq.boards.device import TIMEOUT_S, Array, Device, Ran, Settings, bench_job
from edgeq.boards.jetson import layers_of, times_of
from edgeq.boards.probe import Facts, tensorrt_version
from edgeq.emit.trtexec import BUILD_SCRIPT, Precision, build_script
from edgeq.errors import BoardError
from edgeq.runtimes.device import bench

CACHE = 'EDGEQ_ENGINE_CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/edgeq/engines"'
_RUN_ONCE = ("--iterations=1", "--warmUp=0", "--duration=0")


async def run_engine(
    board: Device,
    artifact: Path,
    precision: Precision,
    samples: Sequence[Mapping[str, Array]],
    settings: Settings,
) -> Ran:
    """Build or find the engine of an ONNX file, measure it, and run it on `samples` (inputs by name, float32).

    The document has the engine's sidecar and, by layer, its times. Raises BoardError.
    """
    facts = await board.probe()
    if not facts.trtexec:
        raise BoardError(
            "the board has no trtexec", where=board.name,
            next_step="JetPack brings it (apt install tensorrt); or run the file with: --runtime onnxruntime",
        )  # fmt: skip
    script = build_script("model.onnx", "model", precision)
    await board.put({"model.onnx": artifact, BUILD_SCRIPT: script.encode()})
    started = f"{'' if settings.fresh else CACHE} TRTEXEC={shlex.quote(facts.trtexec)} exec sh {BUILD_SCRIPT}"
    done = await board.run(["sh", "-c", f"{started} build"], timeout_s=TIMEOUT_S)
    if done.exit:
        raise _refusal(board, done, facts)
    document: dict[str, Any] = {"engine": json.loads(await board.get("model.engine.json"))}
    document["engine"]["from_cache"] = "took model.engine" in done.stdout
    if settings.runs:
        document |= await _measure(board, facts, started, settings)
    document["runtime"] = {"name": "TensorRT", "version": tensorrt_version(document["engine"]["tensorrt"])}
    outputs = [await _outputs(board, facts, sample) for sample in samples]
    return Ran(outputs, document, facts)


def _refusal(board: Device, done: Finished, facts: Facts) -> BoardError:
    """What trtexec said: its first error, which names the cause."""
    lines = [
        line for line in (done.stdout + "\n" + done.stderr).splitlines() if "[E]" in line or "build_engine.sh:" in line
    ]
    return BoardError(
        "trtexec could not build the engine", where=f"{board.name}, TensorRT {facts.tensorrt}",
        value=lines[0].strip() if lines else done.complaint, next_step="edgeq lint MODEL.onnx --for tensorrt may say why.",
    )  # fmt: skip


async def _measure(board: Device, facts: Facts, started: str, settings: Settings) -> dict[str, Any]:
    """Times of the engine and of its layers, and the state of the board around them."""
    job = {"kind": "command", "command": ["sh", "-c", f"{started} measure"], "samples": 0, "warm_up": 0, "runs": 1}
    if facts.python:
        document = await bench_job(board, job)
    else:
        done = await board.run(job["command"], timeout_s=TIMEOUT_S)  # type: ignore[arg-type]
        if done.exit:
            raise _refusal(board, done, facts)
        document = {"schema": bench.SCHEMA}
    times = times_of((await board.get("latency.json")).decode(errors="replace"))
    document["timings"] = [bench.timing(0, None, times)]
    files = [(await board.get(name)).decode(errors="replace") for name in ("layers.json", "layer_info.json")]
    document["layers"] = layers_of(*files)
    document["warm_up"] = settings.warm_up
    return document


async def _outputs(board: Device, facts: Facts, sample: Mapping[str, Array]) -> dict[str, Array]:
    """One run on one sample."""
    files = {f"input{k}.bin": np.ascontiguousarray(a, dtype=np.float32) for k, a in enumerate(sample.values())}
    await board.put({name: array.tobytes() for name, array in files.items()})
    loads = ",".join(f"{port}:{file}" for port, file in zip(sample, files, strict=True))
    command = [
        facts.trtexec,
        "--loadEngine=model.engine",
        f"--loadInputs={loads}",
        "--exportOutput=output.json",
        *_RUN_ONCE,
    ]
    done = await board.run(command, timeout_s=TIMEOUT_S)
    if done.exit:
        raise BoardError("trtexec could not run the engine", where=board.name, value=done.complaint)
    return outputs_of((await board.get("output.json")).decode(errors="replace"))


def outputs_of(exported: str) -> dict[str, Array]:
    """The arrays of --exportOutput by name. Raises BoardError.

    >>> outputs_of('[ { "name" : "y", "dimensions" : "1x2", "values" : [ 0.5, -1 ] } ]')["y"].tolist()
    [[0.5, -1.0]]
    """
    try:
        return {
            entry["name"]: np.array(entry["values"], dtype=np.float32).reshape(
                [int(size) for size in entry["dimensions"].split("x")]
            )
            for entry in json.loads(exported)
        }
    except (ValueError, TypeError, KeyError) as error:
        raise BoardError("the outputs of trtexec cannot be read", value=error) from error
