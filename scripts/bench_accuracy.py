"""Models, cells, tools and rows of scripts/bench-accuracy: who quantizes what, and one evaluation for all of them.

Every tool gets the same float network (edgeq's, as ONNX) and the same calibration images, in a process of its own.
Whatever it makes is evaluated here on the same images by edgeq's data sets and metrics, beside the float network.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path

import bench_accuracy_peers as programs
import numpy as np
from bench_tools import EDGEQ_WRITTEN, Conversion, convert, peer, store_images
from numpy.typing import NDArray

from edgeq.datasets.dataset import Dataset
from edgeq.datasets.evaluate import evaluate, prepare
from edgeq.emit.onnx import build_model, to_bytes
from edgeq.flow import ExportRequest, export_model
from edgeq.flow.accelerator import device_of
from edgeq.flow.artifacts import open_runtime
from edgeq.flow.check import float_runtime, interpreter_run, runtime_run
from edgeq.flow.inputs import InputRule, calibration_set, choose_preprocess, evaluation_set, task_of
from edgeq.frontend.model import Model, open_model
from edgeq.ir.file import load
from edgeq.passes.simplify import simplify

Array = NDArray[np.float32]
Run = Callable[[Array], list[Array]]


@dataclass(frozen=True)
class Subject:
    """A model to measure, with paths below the folder of real data; `metric` is the one that ranks the tools."""

    name: str
    model: str
    calib: str
    data: str
    metric: str
    arch: str | None = None
    preprocess: str | None = None

    def is_there(self, root: Path) -> bool:
        """Whether the model exists."""
        return self.model.startswith("zoo:") or (root / self.model).exists()

    def options(self, root: Path) -> list[str]:
        """Of edgeq: the model, and what it needs to be understood."""
        found = [_under(root, self.model)]
        for name, value in (("--arch", self.arch), ("--preprocess", self.preprocess)):
            found += [name, value] if value else []
        return found


def _under(root: Path, path: str) -> str:
    return path if path.startswith(("zoo:", "scenes")) else str(root / path)


CIFAR = ("small/cifar10_train_jpg.zip", "small/cifar10_test_jpg.zip", "top1")
COCO = ("coco/images/train2017", "coco/data.yaml", "map50-95")
SUBJECTS: tuple[Subject, ...] = (
    Subject("resnet20", "models/resnet20-12fca82f.th", *CIFAR, "edgeq:resnet20", "cifar"),
    Subject("resnet8", "mlperf_tiny/ic/pretrainedResnet.tflite", *CIFAR, preprocess="cifar-pixels"),
    Subject(
        "vit_tiny", "models/vit_tiny_cifar10.safetensors", *CIFAR,
        "timm:vit_tiny_patch16_224,img_size=32,patch_size=4,depth=9,num_classes=10", "cifar",
    ),
    Subject(
        "mobilenetv2", "models/mobilenetv2_100_keras_deq8.pth", "imagenet/train500", "imagenet/val1000", "top1",
        "timm:mobilenetv2_100,pad_type=same", "tf",
    ),
    Subject("yolov5n", "models/yolov5n.onnx", *COCO),
    Subject("yolox_nano", "models/yolox_nano_416.onnx", *COCO),
    Subject("yolov8n", "models/yolov8n_deq8.pt", *COCO),
    Subject("yolo11n", "models/yolo11n_deq8.pt", *COCO),
    Subject("yolo26n", "models/yolo26n_lut8.pt", *COCO),
    Subject("zoo_classifier", "zoo:classifier", "scenes", "scenes", "top1"),
    Subject("zoo_detector", "zoo:detector", "scenes", "scenes", "map50-95"),
    Subject("zoo_depth", "zoo:depth", "scenes", "scenes", "absrel"),
)  # fmt: skip

CELLS: dict[str, tuple[int, int] | None] = {"w8a8": (8, 8), "w4a8": (4, 8), "w4a4": (4, 4), "mixed5": None}
"""Bits of weights and activations; None: five on average, as each tool allocates them."""


@dataclass(frozen=True)
class Tool:
    """A way to quantize: its program, the interpreter that runs it (by option), and the program's own option."""

    name: str
    program: str
    python: str
    option: str
    suffix: str = ".onnx"


TOOLS: tuple[Tool, ...] = (
    Tool("onnxruntime minmax", programs.ONNX_RUNTIME, "peers", "MinMax"),
    Tool("onnxruntime percentile", programs.ONNX_RUNTIME, "peers", "Percentile"),
    Tool("nncf", programs.NNCF, "peers", "accurate"),
    Tool("modelopt entropy", programs.MODELOPT, "peers", "entropy"),
    Tool("modelopt max", programs.MODELOPT, "peers", "max"),
    Tool("aimet", programs.AIMET, "aimet", "plain", ""),
    Tool("aimet cle", programs.AIMET, "aimet", "cle", ""),
    Tool("aimet seqmse", programs.AIMET, "aimet", "cle seqmse", ""),
    Tool("aimet adaround", programs.AIMET, "aimet", "cle adaround", ""),
    Tool("brevitas", programs.BREVITAS, "brevitas", "plain", ""),
    Tool("brevitas gptq", programs.BREVITAS, "brevitas", "gptq", ""),
    Tool("ai-edge-quantizer", programs.AI_EDGE_QUANTIZER, "peers", "trunk", ".tflite"),
)
EDGEQ = "edgeq"
FILES: dict[str, str] = {"edgeq onnx-int8": "*.onnx", "edgeq tflite-int8": "*.tflite"}
"""edgeq's files, which hold eight bits of activations, by target; run by their own runtimes."""


@dataclass(frozen=True)
class Row:
    """One measured combination; `metrics` of what the tool made, `fp32` of the float network on the same images."""

    model: str
    cell: str
    tool: str
    effort: str
    calib_images: int
    images: int
    metrics: dict[str, float] = field(default_factory=dict)
    fp32: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    cpu_seconds: float | None = None
    peak_mb: float | None = None
    problem: str | None = None

    @property
    def key(self) -> tuple[str | int, ...]:
        """What makes a row the same as another."""
        return self.model, self.cell, self.tool, self.effort, self.calib_images, self.images


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSON-lines file; none where there is no file. A line that was cut off is left out."""
    rows = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(Row(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return rows


def append_row(path: Path, row: Row) -> None:
    """Add one line, so that a run that is stopped loses nothing."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(row)) + "\n")


@dataclass(frozen=True)
class Bench:
    """One model prepared: its float file and its images lie in `folder`, made when they are first asked for."""

    subject: Subject
    root: Path
    folder: Path
    calib_images: int
    images: int | None

    @cached_property
    def model(self) -> Model:
        """The float model."""
        return open_model(_under(self.root, self.subject.model), arch=self.subject.arch)

    @cached_property
    def data(self) -> Dataset:
        """The images that measure."""
        return evaluation_set(_under(self.root, self.subject.data), self.images, self.rule, task_of(self.model))

    @cached_property
    def rule(self) -> InputRule:
        """How images enter the model."""
        return choose_preprocess(self.subject.preprocess, self.model)

    @cached_property
    def float_run(self) -> Run:
        """The float network."""
        return runtime_run(float_runtime(simplify(self.model.graph), None))

    def files(self, *, tflite: bool = False) -> tuple[Path, Path, Path]:
        """The float ONNX (or TFLite) file, the calibration images and the evaluation images."""
        self.folder.mkdir(parents=True, exist_ok=True)
        paths = tuple(self.folder / name for name in ("float.onnx", "calibration.npy", "evaluation.npy"))
        if not paths[0].exists():
            paths[0].write_bytes(to_bytes(build_model(simplify(self.model.graph), "onnxruntime")[0]))
        if not paths[1].exists():
            found = calibration_set(
                _under(self.root, self.subject.calib), self.calib_images, self.rule, task_of(self.model)
            )
            store_images(paths[1], found.tensors(), len(found.images))
        if not paths[2].exists():
            tensors = (prepared.tensor for prepared in prepare(self.data, self.rule.preprocess))
            store_images(paths[2], tensors, len(self.data.samples))
        return (self.float_tflite(), *paths[1:]) if tflite else paths

    def float_tflite(self) -> Path:
        """The float TFLite file."""
        if not (folder := self.folder / "tflite").exists():
            request = ExportRequest(_under(self.root, self.subject.model), "tflite-fp32", arch=self.subject.arch,
                                    preprocess=self.subject.preprocess, out=folder)  # fmt: skip
            export_model(request)
        return next(folder.glob("*.tflite"))

    def measured(self, cell: str, tool: str, effort: str, found: Conversion, run: Callable[[], Run]) -> Row:
        """The row of a conversion; evaluated if there is something to evaluate."""
        row = Row(
            self.subject.name, cell, tool, effort, self.calib_images, len(self.data.samples), seconds=found.seconds,
            cpu_seconds=found.cpu_seconds, peak_mb=found.peak_mb, problem=found.problem,
        )  # fmt: skip
        if found.problem is not None:
            return row
        try:
            runners = {"fp32": self.float_run, tool: run()}
            metrics = evaluate(self.data, self.rule.preprocess, runners, self.model.metadata)
        except Exception as error:  # what another tool made may fail in any way; the next tool is still measured
            return Row(**{**asdict(row), "problem": f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"})
        values = {name: {m.name: m.value for m in found} for name, found in metrics.items()}
        return Row(**{**asdict(row), "metrics": values[tool], "fp32": values["fp32"]})


def edgeq_row(bench: Bench, cell: str, effort: str) -> Row:
    """edgeq's own integers, run by its reference."""
    bits = CELLS[cell]
    formats = ["--avg-bits", "5"] if bits is None else ["--weights", f"int{bits[0]}", "--activations", f"int{bits[1]}"]
    return formats_row(bench, cell, effort, formats)


def formats_row(bench: Bench, cell: str, effort: str, formats: list[str]) -> Row:
    """edgeq's own integers in the formats that the options `formats` ask for; `cell` names them."""
    out = bench.folder / f"edgeq-{cell.replace('/', '-')}-{effort}"
    found = _edgeq(bench, ["quantize", *bench.subject.options(bench.root), *formats], effort, out, "graph.edgeq")
    return bench.measured(
        cell, EDGEQ, effort, found, lambda: interpreter_run(load(out / "graph.edgeq"), device_of(None))
    )


def file_row(bench: Bench, cell: str, tool: str, effort: str) -> Row:
    """A file of edgeq's for a runtime, run by that runtime as users run it."""
    target, bits = tool.split()[1], CELLS[cell]
    if bits is None or bits[1] != 8:
        return bench.measured(cell, tool, effort, Conversion(tool, problem="NotImplementedError: activations"), list)
    out = bench.folder / f"{target}-{cell}-{effort}"
    command = ["export", *bench.subject.options(bench.root), "--target", target, "--weights", f"int{bits[0]}"]
    found = _edgeq(bench, command, effort, out, "manifest.json")
    return bench.measured(cell, tool, effort, found, lambda: _made(next(out.glob(FILES[tool]))))


def _edgeq(bench: Bench, command: list[str], effort: str, out: Path, made: str) -> Conversion:
    calib = _under(bench.root, bench.subject.calib)
    command = [sys.executable, "-m", "edgeq.cli", *command, "--out", str(out), "--exist-ok", "--calib", calib]
    command += ["--calib-images", str(bench.calib_images), *(["--effort", effort] if has_efforts() else [])]
    (out / made).unlink(missing_ok=True)
    return convert(EDGEQ, command, out / made, accepted=EDGEQ_WRITTEN)


@cache
def has_efforts() -> bool:
    """Whether this edgeq knows --effort; without it there is one, called fast."""
    shown = subprocess.run([sys.executable, "-m", "edgeq.cli", "quantize", "--help"], capture_output=True, check=True)
    return b"--effort" in shown.stdout


def peer_row(bench: Bench, cell: str, tool: Tool, python: str) -> Row:
    """Another tool's file, or the outputs that it stored."""
    bits = CELLS[cell]
    if bits is None:
        return bench.measured(cell, tool.name, "", Conversion(tool.name, problem="no allocation of bits tried"), list)
    out = bench.folder / f"{tool.name.replace(' ', '-')}-{cell}{tool.suffix}"
    inputs = bench.files(tflite=tool.suffix == ".tflite")
    arguments = [*map(str, inputs), *map(str, bits), tool.option]
    found = Conversion(tool.name) if out.exists() else peer(tool.name, tool.program, python, arguments, out)
    return bench.measured(cell, tool.name, "", found, lambda: _made(out))


def _made(out: Path) -> Run:
    return stored_run(out) if out.is_dir() else runtime_run(open_runtime(out))


def stored_run(folder: Path) -> Run:
    """Outputs in the order of the evaluation images, one call after another."""
    arrays = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"), key=lambda path: int(path.stem))]
    rows: Iterator[list[Array]] = ([np.asarray(array[k]) for array in arrays] for k in range(len(arrays[0])))
    return lambda _: next(rows)


def best_of(rows: Sequence[Row], metric: str) -> Row | None:
    """The row that `metric` ranks first; errors rank upside down."""
    sign = -1 if metric in ("absrel", "rmse") else 1
    measured = [row for row in rows if metric in row.metrics]
    return max(measured, key=lambda row: sign * row.metrics[metric], default=None)
