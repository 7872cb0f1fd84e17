"""Exports each model in every calibration mode, measures the study's conditions, and writes the document.

Every step is a command that a person could type; they run side by side as processes of one thread. Steps whose
result is there are skipped, so an interrupted study goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODES = ("clean", "mixed", "robust")
CONDITIONS = "noise-low,noise-medium,blur-low,blur-medium,contrast-low,jpeg-moderate,jpeg-heavy,mixed"
TELLING = "blur:3,blur:4,contrast:2,contrast:4,low-light:2,fog:3,defocus:3"
MEAN, FP32 = "mean of degraded", "fp32"


@dataclass(frozen=True)
class Subject:
    """A model, its float file, and the images that calibrate and measure it."""

    name: str
    source: tuple[str, ...]
    calib: str
    data: str
    images: int
    preprocess: tuple[str, ...] = ()


_COCO = ("coco/images/train2017", "coco/data.yaml", 128)
SUBJECTS = (
    Subject("yolox_nano", ("models/yolox_nano_416.onnx",), *_COCO),
    Subject("yolov5n", ("models/yolov5n.onnx",), *_COCO),
    Subject("yolov8n", ("models/yolov8n_deq8.pt",), *_COCO),
    Subject("yolo26n", ("models/yolo26n_lut8.pt",), *_COCO),
    Subject(
        "mobilenetv2",
        ("models/mobilenetv2_100_keras_deq8.pth", "--arch", "timm:mobilenetv2_100,pad_type=same"),
        "imagenet/train500",
        "imagenet/val1000",
        1000,
        ("--preprocess", "tf"),
    ),
)
VARIANTS = {
    "full": ("INT8, every operator on integers", ("--float-share", "0")),
    "default": ("INT8, a few operators in float as the target has it", ()),
    "w4a8": ("INT4 weights, every operator on integers", ("--float-share", "0", "--weights", "int4")),
    "best": ("INT8, every operator on integers, --effort best", ("--float-share", "0", "--effort", "best")),
}
"""Title and options. With learned roundings (w4a8, best) the degraded images also teach the roundings."""


@dataclass(frozen=True)
class Study:
    """Where everything is, and how much of it is done at once."""

    real: Path
    out: Path
    workers: int
    calib_images: int
    data_images: int | None
    subjects: tuple[Subject, ...]
    variants: tuple[str, ...]
    resamples: int

    def float_file(self, subject: Subject) -> Path:
        """ONNX files are used as they are, other models once `prepare` has written them."""
        source = self.real / subject.source[0]
        return source if source.suffix == ".onnx" else self.out / "float" / f"{subject.name}.onnx"

    def folder(self, subject: Subject, variant: str, mode: str) -> Path:
        """Of one export."""
        return self.out / "exports" / f"{subject.name}-{variant}-{mode}"

    def table(self, subject: Subject, variant: str) -> Path:
        """Of one measurement."""
        return self.out / "tables" / f"{subject.name}-{variant}"


def edgeq(*arguments: object) -> subprocess.CompletedProcess[str]:
    """One command; its document goes to stdout."""
    command = [sys.executable, "-m", "edgeq.cli", *map(str, arguments), "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def prepare(study: Study) -> None:
    """Float ONNX files of the models that are none."""
    for subject in study.subjects:
        path = study.float_file(subject)
        if path.exists():
            continue
        folder = path.parent / subject.name
        source = [str(study.real / subject.source[0]), *subject.source[1:]]
        done = edgeq("export", *source, "-t", "onnx-fp32", *subject.preprocess, "--out", folder, "--exist-ok")
        written = sorted(folder.glob("*.onnx"))
        if len(written) != 1:
            raise SystemExit(f"{subject.name}: {done.stdout[-500:]} {done.stderr[-500:]}")
        written[0].rename(path)
        print(f"prepared {path}", flush=True)


def export(study: Study, subject: Subject, variant: str, mode: str) -> None:
    """One artifact; an export below its promise of agreement (5) still counts."""
    folder = study.folder(subject, variant, mode)
    if (folder / "report.json").exists():
        return
    started = time.monotonic()
    done = edgeq(
        "export", study.float_file(subject), "-t", "onnx-int8", *VARIANTS[variant][1], *subject.preprocess,
        "--calib", study.real / subject.calib, "--calib-images", study.calib_images, "--calib-mode", mode,
        "--out", folder, "--exist-ok", "--threads", 1,
    )  # fmt: skip
    print(f"{folder.name}: exit {done.returncode} after {time.monotonic() - started:.0f} s", flush=True)
    if done.returncode not in (0, 5):
        raise SystemExit(f"{folder.name}: {done.stdout[-600:]} {done.stderr[-600:]}")


def measure(study: Study, subject: Subject, variant: str) -> None:
    """All conditions of one model; the cells run in parallel."""
    if (study.table(subject, variant) / "report.json").exists():
        return
    started = time.monotonic()
    runners = [f"{mode}={study.folder(subject, variant, mode)}" for mode in MODES]
    done = edgeq(
        "robustness", study.float_file(subject), *runners, *subject.preprocess,
        "--data", study.real / subject.data, "--data-images", study.data_images or subject.images,
        "--degrade", f"{CONDITIONS},{TELLING}", "--resamples", study.resamples, "--workers", study.workers,
        "--out", study.table(subject, variant), "--exist-ok",
    )  # fmt: skip
    print(f"table {subject.name} {variant}: exit {done.returncode}, {time.monotonic() - started:.0f} s", flush=True)
    if done.returncode:
        raise SystemExit(done.stdout[-600:] + done.stderr[-600:])


def run(study: Study) -> None:
    """Everything that is not there yet, and the document."""
    for subject in study.subjects:
        if not study.float_file(subject).exists():
            raise SystemExit(f"{study.float_file(subject)} is missing: run `prepare` first")
    pairs = [(subject, variant) for subject in study.subjects for variant in study.variants]
    jobs = [(subject, variant, mode) for subject, variant in pairs for mode in MODES]
    with ThreadPoolExecutor(study.workers) as pool:
        for future in [pool.submit(export, study, *job) for job in jobs]:
            future.result()
    for subject, variant in pairs:
        measure(study, subject, variant)
        write_document(study)


# --- the document ---------------------------------------------------------------------------------------------


def write_document(study: Study) -> None:
    """ROBUSTNESS.md from the tables that are there."""
    parts = [_introduction(study)]
    for variant in study.variants:
        for subject in study.subjects:
            path = study.table(subject, variant) / "report.json"
            if path.exists():
                parts.append(_chapter(subject, variant, json.loads(path.read_text())))
    (study.out / "ROBUSTNESS.md").write_text("\n".join(parts))


def _introduction(study: Study) -> str:
    images = study.data_images or "128 images of COCO val2017, 1000 of ImageNet's validation set"
    return f"""# Calibration on degraded images, measured

The study AllanK24/QRID (arXiv 2508.19600) found no consistent gain from calibrating on degraded images. Its numbers
cannot tell: calibration caches were reused, one degradation did nothing, and losses were taken against each engine's
own clean accuracy. Here the pixels of every degradation are tested, statistics are found by the content of the images,
and losses are taken against FP32, on clean images and on the same degraded ones.

Measured on {images}, calibrated on {study.calib_images} training images. `clean`, `mixed` (half of the images
degraded by one of the study's seven) and `robust` (all clean images and degraded copies of half, ranges by the mean
over the worst quarter of the images) are exports with `--calib-mode`. Intervals are 95 % bootstrap intervals over
images, differences are paired. Made by

```
scripts/robustness-study prepare --real $EDGEQ_REAL --out study
scripts/robustness-study run --real $EDGEQ_REAL --out study --calib-images {study.calib_images}
```
"""


def _chapter(subject: Subject, variant: str, document: Mapping[str, Any]) -> str:
    cells = document["cells"]
    metric = cells[0]["metric"]
    found = {(c["runner"], c["condition"]): c for c in cells if c["metric"] == metric}
    names = list(dict.fromkeys(c["condition"] for c in cells))
    lines = [f"## {subject.name}: {VARIANTS[variant][0]}", "", f"{metric} x 100:", ""]
    lines += [
        f"| condition | {FP32} | clean | mixed | robust | mixed above clean | robust above clean |",
        "|---|" + "---|" * 6,
    ]
    for name in names:
        row = [f"{100 * found[runner, name]['value']:.1f}" for runner in (FP32, *MODES)]
        row += [_signed(found[mode, name], "gained") for mode in MODES[1:]]
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    lines += [
        "",
        "Relative drop in %, of the runner's own clean figure / of FP32's clean figure (the study's table):",
        "",
    ]
    lines += [f"| condition | {FP32} | clean | mixed | robust |", "|---|" + "---|" * 4]
    for name in CONDITIONS.split(","):
        row = [f"{_drop(found, r, name, r):.2f} / {_drop(found, r, name, FP32):.2f}" for r in (FP32, *MODES)]
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    return "\n".join([*lines, "", *_conclusion(found), ""])


def _signed(cell: Mapping[str, Any], key: str) -> str:
    return f"{cell[key]:+.2f} [{cell[f'{key}_low']:+.2f}, {cell[f'{key}_high']:+.2f}]"


def _drop(found: Mapping[tuple[str, str], Mapping[str, Any]], runner: str, name: str, base: str) -> float:
    clean = found[base, "clean"]["value"]
    return float(100 * (clean - found[runner, name]["value"]) / clean) if clean else float("nan")


def _conclusion(found: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[str]:
    """What the intervals allow to say, in words."""
    lines = []
    for mode in MODES[1:]:
        mean, clean = found[mode, MEAN], found[mode, "clean"]
        verdict = (
            "improves" if mean["gained_low"] > 0 else "worsens" if mean["gained_high"] < 0 else "does not surely change"
        )
        lines.append(
            f"* `{mode}` {verdict} the mean over all degraded conditions: {_signed(mean, 'gained')} points against"
            f" `clean`; on clean images {_signed(clean, 'gained')}."
        )
    lost = _signed(found["clean", MEAN], "lost_beside"), _signed(found["clean", "clean"], "lost_beside")
    lines.append(f"* `clean` lies {lost[0]} points below FP32 over the degraded conditions, {lost[1]} on clean images.")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["prepare", "run", "document"])
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--calib-images", type=int, default=128)
    parser.add_argument("--data-images", type=int, help="fewer than all")
    parser.add_argument("--resamples", type=int, default=300)
    parser.add_argument("--models", default=",".join(subject.name for subject in SUBJECTS))
    parser.add_argument("--variants", default="full,default", help=", ".join(VARIANTS))
    options = parser.parse_args(arguments)
    chosen = tuple(subject for subject in SUBJECTS if subject.name in options.models.split(","))
    study = Study(
        options.real.resolve(), options.out.resolve(), options.workers, options.calib_images, options.data_images,
        chosen, tuple(options.variants.split(",")), options.resamples,
    )  # fmt: skip
    {"prepare": prepare, "run": run, "document": write_document}[options.step](study)


if __name__ == "__main__":
    main()
