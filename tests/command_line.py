"""Running the command line inside the test process, in a working folder of its own, and small files to give it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from click.testing import CliRunner

from edgeq.cli import main
from tests.onnx_text import model


@dataclass(frozen=True)
class Ran:
    """What one command did: its exit code and both streams."""

    exit: int
    stdout: str
    stderr: str

    @property
    def document(self) -> dict[str, Any]:
        """stdout as one JSON document."""
        found: dict[str, Any] = json.loads(self.stdout)
        return found


def edgeq(*arguments: object, env: dict[str, str] | None = None) -> Ran:
    """`edgeq ARGUMENTS` in the present working folder; a traceback would be raised here."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], env=env, prog_name="edgeq")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


def files_below(folder: Path) -> list[str]:
    """Every file and folder below `folder`, sorted."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def write_noise_images(folder: Path, count: int, size: int = 32, seed: int = 0) -> Path:
    """`count` PNG images of smooth noise."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = cv2.resize(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), (size, size))
        assert cv2.imwrite(str(folder / f"{index}.png"), pixels)
    return folder


def small_classifier(height: str = "32", *, extra: str = "", batch: str = "1") -> onnx.ModelProto:
    """images [1,3,32,32] -> conv, relu, conv, relu6, mean, linear -> logits [1,5]; `extra` nodes come first."""
    rng = np.random.default_rng(3)
    body = f"""(float[{batch},3,{height},{height}] images) => (float[{batch},5] logits) {{
        {extra}
        a = Conv <pads=[1,1,1,1], strides=[2,2]> ({"entered" if extra else "images"}, w1, b1)
        b = Relu(a)
        c = Conv <pads=[1,1,1,1], strides=[2,2]> (b, w2, b2)
        d = Clip(c, zero, six)
        e = GlobalAveragePool(d)
        f = Flatten(e)
        logits = Gemm <transB=1> (f, w3, b3)
    }}"""
    shapes = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (12, 8, 3, 3), "b2": (12,), "w3": (5, 12), "b3": (5,)}
    weights: dict[str, Any] = {
        name: rng.normal(0, 0.3 if name.startswith("w") else 0.05, shape) for name, shape in shapes.items()
    }
    return model(body, {**weights, "zero": np.float32(0), "six": np.float32(6)})


def write_small_classifier(path: Path, height: str = "32", *, extra: str = "") -> Path:
    """The small classifier as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(small_classifier(height, extra=extra), path)
    return path
