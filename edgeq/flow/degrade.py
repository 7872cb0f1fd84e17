"""`edgeq degrade`: a folder of images in, the same images degraded out, with a record of what was done to each."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgeq.calibrate.degrade import Degradation, at_severity, degrade_all, parse_degradation, study
from edgeq.calibrate.likeness import psnr, ssim
from edgeq.calibrate.mixture import STUDY_SEED, Mixture
from edgeq.calibrate.severity import SCALES
from edgeq.datasets.folder import list_images, pixel_sha256, read_image
from edgeq.emit.artifact import MANIFEST, filling, output_folder, to_json, write_file
from edgeq.errors import DataError, OutputError, UsageError
from edgeq.progress import Progress, silent
from edgeq.report import Report, Row

SCHEMA = "edgeq.degraded/1"
MIXED = "mixed"


@dataclass(frozen=True)
class DegradeRequest:
    """The options of `edgeq degrade`: kinds with their severities, or a name of the study, or mixed."""

    images: str
    severities: tuple[tuple[str, int], ...] = ()
    study: str | None = None
    out: Path | None = None
    exist_ok: bool = False
    seed: int = STUDY_SEED


def degrade_images(request: DegradeRequest, progress: Progress = silent) -> Report:
    """Write every image, degraded, as PNG under its own name into a new folder, beside a manifest.

    Images that cannot be read or degraded are left out and named in the report. Raises UsageError if nothing is asked
    for, DataError if no image is left.
    """
    started = time.monotonic()
    source = Path(request.images)
    paths = list_images(source)
    chains = _chains(request, [path.name for path in paths])
    names = _file_names(paths, source)
    folder = output_folder(request.out, source.stem or "images", "degraded", exist_ok=request.exist_ok)
    if folder.resolve() == source.resolve():
        raise OutputError("the output is the folder of the images", value=folder, next_step="Use another.")
    report = Report("degrade")
    records: list[dict[str, Any]] = []
    rejected: list[dict[str, str]] = []
    with filling(folder) as temporary:
        for done, (path, name, chain) in enumerate(zip(paths, names, chains, strict=True), start=1):
            try:
                image = read_image(path)
                degraded = degrade_all(image, chain, path.name, request.seed)
            except DataError as error:
                rejected.append({"name": str(path), "reason": error.what})
            else:
                write_file(temporary / name, _png(degraded))
                records.append(_record(path, name, chain, request.seed, image, degraded))
            progress("degrading", done, len(paths))
        if not records:
            raise DataError("none of the images can be read", where=source, value=_listed(rejected))
        manifest = {"schema": SCHEMA, "seed": request.seed, "images": records, "rejected": rejected}
        write_file(temporary / MANIFEST, to_json(manifest))
    report.manifest = manifest
    report.rows = _rows(records)
    report.notes = _notes(records, rejected, folder)
    report.seconds = time.monotonic() - started
    return report


def _chains(request: DegradeRequest, names: Sequence[str]) -> list[tuple[Degradation, ...]]:
    """What is done to each image; kinds are applied in the order of the light path."""
    if bool(request.severities) == bool(request.study):
        raise UsageError(
            "what to do is not known",
            allowed="severities of kinds, or --study NAME",
            next_step="For example --noise 3 --jpeg 2.",
        )
    if request.study == MIXED:
        assigned = Mixture(study(), seed=request.seed).assign(names)
        return [(part,) if part is not None else () for part in assigned]
    if request.study:
        return [(parse_degradation(request.study),)] * len(names)
    order = list(SCALES)
    chosen = sorted(request.severities, key=lambda item: order.index(item[0]))
    return [tuple(at_severity(kind, severity) for kind, severity in chosen)] * len(names)


def _file_names(paths: Sequence[Path], source: Path) -> list[str]:
    """The image's own path below `source` as .png; where two would meet, the old suffix stays too."""
    below = [path.relative_to(source) if source in path.parents else Path(path.name) for path in paths]
    plain = [str(path.with_suffix(".png")) for path in below]
    count = Counter(plain)
    found = [name if count[name] == 1 else f"{path}.png" for path, name in zip(below, plain, strict=True)]
    if len(set(found)) < len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise UsageError("two images have the same name", value=twice, next_step="Give a folder instead of a list.")
    return found


def _png(image: npt.NDArray[np.uint8]) -> bytes:
    written, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not written:
        raise DataError("image cannot be written as PNG", value=image.shape)
    return data.tobytes()


def _record(
    path: Path,
    name: str,
    chain: Sequence[Degradation],
    seed: int,
    image: npt.NDArray[np.uint8],
    degraded: npt.NDArray[np.uint8],
) -> dict[str, Any]:
    likeness = psnr(image, degraded)
    return {
        "source": path.name,
        "file": name,
        "degradations": [{"name": part.name, "level": part.level(path.name, seed)} for part in chain],
        "source_sha256": pixel_sha256(image),
        "sha256": pixel_sha256(degraded),
        "psnr_db": round(likeness, 2) if np.isfinite(likeness) else None,
        "ssim": round(ssim(image, degraded), 4),
    }


def _rows(records: Sequence[dict[str, Any]]) -> list[Row]:
    touched = [record for record in records if record["psnr_db"] is not None]
    if not touched:
        return []
    figures = {"psnr": ("psnr_db", "dB"), "ssim": ("ssim", "")}
    return [
        Row(metric, float(np.mean([record[key] for record in touched])), unit, len(touched), "degraded", "mean")
        for metric, (key, unit) in figures.items()
    ]


def _listed(rejected: Sequence[dict[str, str]]) -> str:
    return ", ".join(f"{item['name']} ({item['reason']})" for item in rejected[:10])


def _notes(records: Sequence[dict[str, Any]], rejected: Sequence[dict[str, str]], folder: Path) -> list[str]:
    notes = [f"wrote {len(records)} images to {folder}"]
    if rejected:
        notes.append(f"left out {len(rejected)} images: {_listed(rejected)}")
    same = [record["source"] for record in records if record["degradations"] and record["psnr_db"] is None]
    if same:
        notes.append(f"warning: {len(same)} images did not change, such as {same[0]}")
    return notes
