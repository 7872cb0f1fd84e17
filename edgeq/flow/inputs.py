"""What goes into a run: how images become inputs, and which images calibrate or measure."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from edgeq.calibrate.importance import DetectionWeights
from edgeq.calibrate.mixture import DegradedImage, Mixture, cover, mixed
from edgeq.calibrate.robust import RiskKind
from edgeq.datasets.coco import BoxLabels
from edgeq.datasets.dataset import Dataset, Task
from edgeq.datasets.detection_head import infer_head
from edgeq.datasets.folder import ImageFile, Rejected, image_hashes, list_images, overlap, read_images, spread
from edgeq.datasets.open import open_dataset
from edgeq.datasets.preprocess import PRESETS, Preprocess, preset
from edgeq.datasets.scenes import write_dataset
from edgeq.errors import EdgeqError, UsageError, did_you_mean
from edgeq.frontend.model import Model
from edgeq.ir.graph import Graph
from edgeq.quantize.sensitivity import Weigh

SCENES = "scenes"
CPU = torch.device("cpu")
HELD_OUT, MOST_HELD_OUT = 4, 128
"""Of so many calibration images one is held out where what was learned is judged, and about so many in all."""

_AHEAD = 8
"""Images that are decoded before they are asked for."""

_CALIBRATION_SEED, _EVALUATION_SEED, _TRAINING_SEED = 1, 2, 3


@dataclass(frozen=True)
class InputRule:
    """How images become inputs, and how that was decided."""

    preprocess: Preprocess
    how: str


def input_size(model: Model) -> tuple[int, int]:
    """(height, width) of the model's image input; raises UsageError if it has no single image input."""
    shapes = [model.graph.types[value].shape for value in model.graph.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise UsageError("edgeq measures models with one image input [1, C, H, W]", value=shapes)
    return shapes[0][2], shapes[0][3]


def choose_preprocess(option: str | None, model: Model) -> InputRule:
    """The preprocessing asked for, else what the model declares, else what its detection head is known to take."""
    size = input_size(model)
    if option is not None:
        return InputRule(_named(option, size), "as given")
    if model.preprocess is not None:
        return InputRule(replace(Preprocess.from_dict(model.preprocess), size=size), "declared by the model")
    shapes = [model.graph.types[value].shape for value in model.graph.outputs]
    try:
        kind = infer_head(shapes, size, model.metadata).kind
    except EdgeqError:
        raise UsageError(
            "how images enter this model is not known",
            where=model.name,
            allowed=", ".join(PRESETS),
            next_step="Give --preprocess a preset or a JSON file.",
        ) from None
    name = "yolox" if kind == "yolox" else "yolo"
    return InputRule(preset(name, size), f"usual for a {kind} head; --preprocess overrides it")


def _named(option: str, size: tuple[int, int]) -> Preprocess:
    if not option.endswith(".json"):
        return preset(option, size)
    try:
        content = json.loads(Path(option).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError("the preprocessing file cannot be read", where=option, value=error) from error
    if not isinstance(content, dict):
        raise UsageError("the preprocessing file must hold one JSON object", where=option)
    return Preprocess.from_dict({"size": list(size), **content})


def task_of(model: Model) -> Task | None:
    """The model's task by its metadata, else by its outputs."""
    declared: dict[str, Task] = {
        "detect": "detect", "segment": "segment", "pose": "pose", "classify": "classify", "depth": "depth"
    }  # fmt: skip
    if found := declared.get(model.metadata.get("task", "")):
        return found
    shapes = [model.graph.types[value].shape for value in model.graph.outputs]
    if len(shapes) == 1 and len(shapes[0]) == 2:
        return "classify"
    try:
        infer_head(shapes, input_size(model), model.metadata)
    except EdgeqError:
        return "depth" if len(shapes) == 1 and len(shapes[0]) in (3, 4) else None
    return "detect"


@dataclass(frozen=True)
class CalibrationSet:
    """The images that ranges are chosen from; `weigh` tells how errors at the model's outputs count for its task.

    What is computed from them is computed on `device`.
    `mixture` says how the degraded ones among them came about. `guarded` chooses ranges by `risk`, so that hard images
    do not fare badly; otherwise the mean over all images decides. Of large maps at least `least` elements are looked at.
    """

    images: tuple[ImageFile | DegradedImage, ...]
    rejected: tuple[Rejected, ...]
    preprocess: Preprocess
    weigh: Weigh | None = None
    mixture: Mixture | None = None
    guarded: bool = False
    risk: RiskKind = "cvar"
    device: torch.device = CPU
    least: int | None = None

    def tensors(self) -> Iterator[npt.NDArray[np.float32]]:
        """One input [1, C, H, W] per image, in order; a few are decoded ahead of those that are needed."""
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            ahead = deque[Future[npt.NDArray[np.float32]]]()
            for image in self.images:
                ahead.append(pool.submit(self._tensor, image))
                if len(ahead) > _AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _tensor(self, image: ImageFile | DegradedImage) -> npt.NDArray[np.float32]:
        return self.preprocess.apply(image.read())

    @property
    def hashes(self) -> dict[Path, str]:
        """Pixel hash of every image as it came, before degradation."""
        sources = (image.source if isinstance(image, DegradedImage) else image for image in self.images)
        return {image.path: image.sha256 for image in sources}

    @property
    def parts(self) -> dict[str, CalibrationSet]:
        """The clean images and the degraded ones apart, where there are any."""
        clean = tuple(image for image in self.images if not isinstance(image, DegradedImage))
        other = tuple(image for image in self.images if isinstance(image, DegradedImage))
        sets = {"clean": replace(self, images=clean, mixture=None), "degraded": replace(self, images=other)}
        return {name: part for name, part in sets.items() if part.images}

    def mixed(self, mixture: Mixture) -> CalibrationSet:
        """The same images, a share of them degraded instead of clean."""
        return replace(self, images=tuple(mixed(self._files, mixture)), mixture=mixture)

    def guarded_mixed(self, mixture: Mixture) -> CalibrationSet:
        """All the clean images, and degraded copies of a share of them."""
        return replace(self, images=tuple(mixed(self._files, mixture, keep=True)), mixture=mixture, guarded=True)

    def sample(self, count: int) -> CalibrationSet:
        """At most `count` of the images, spread evenly over them."""
        return replace(self, images=tuple(self.images[index] for index in spread(len(self.images), count)))

    def parted(self) -> tuple[CalibrationSet, CalibrationSet]:
        """The images to learn from, and every fourth of a few, which is held out to judge what was learned."""
        every = max(HELD_OUT, len(self.images) // MOST_HELD_OUT)
        held = self.images[every - 1 :: every]
        seen = tuple(image for index, image in enumerate(self.images) if index % every != every - 1)
        return replace(self, images=seen), replace(self, images=held)

    @property
    def _files(self) -> list[ImageFile]:
        return [image for image in self.images if not isinstance(image, DegradedImage)]


def weigh_for_task(task: Task | None, model: Model, graph: Graph) -> Weigh | None:
    """How errors at the outputs of `graph` count, for a detector whose outputs are the model's own."""
    shapes = [graph.types[value].shape for value in graph.outputs]
    if task not in ("detect", "segment", "pose") or graph.outputs != model.graph.outputs:
        return None
    size = input_size(model)
    try:
        head = infer_head(shapes, size, model.metadata)
    except EdgeqError:
        return None
    return DetectionWeights(head, max(size))


def _rendered(option: str, task: Task | None, count: int, seed: int, size: tuple[int, int]) -> Path:
    """A folder of rendered scenes, there until the program ends; `option` is scenes or scenes:COUNT."""
    _, _, number = option.partition(":")
    if number and not (number.isascii() and number.isdigit() and 0 < int(number) <= 1_000_000):
        raise UsageError("cannot read the number of scenes", value=option, allowed="scenes or scenes:64")
    kind = task if task in ("detect", "classify", "depth") else "detect"
    temporary = tempfile.mkdtemp(prefix="edgeq-scenes-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    folder = Path(temporary) / kind
    write_dataset(folder, int(number or count), seed, max(size), kind)
    return folder


def named(option: str) -> str:
    """What images `option` names, wherever a command is started."""
    return option if _is_scenes(option) else str(Path(option).resolve())


def _is_scenes(option: str) -> bool:
    return option == SCENES or option.startswith(f"{SCENES}:")


def calibration_set(
    option: str, limit: int, rule: InputRule, task: Task | None, device: torch.device = CPU
) -> CalibrationSet:
    """At most `limit` images, spread evenly over what `option` names.

    Of a data.yaml they are training images, chosen so that they show as many of its classes as they can. Raises
    DataError if there are none.
    """
    if _is_scenes(option):
        folder = _rendered(option, task, min(limit, 128), _CALIBRATION_SEED, rule.preprocess.size)
        paths = list_images(folder)
    elif Path(option).suffix.lower() in (".yaml", ".yml"):
        paths = _covering(open_dataset(Path(option), task, split="train"), limit)
    else:
        paths = list_images(Path(option))
    chosen = [paths[index] for index in spread(len(paths), limit)]
    images, rejected = read_images(chosen)
    return CalibrationSet(tuple(images), tuple(rejected), rule.preprocess, device=device)


def _covering(data: Dataset, limit: int) -> list[Path]:
    labels = (sample.label for sample in data.samples)
    classes = [frozenset(label.classes.tolist() if isinstance(label, BoxLabels) else ()) for label in labels]
    return [data.samples[index].path for index in cover(classes, limit)]


def evaluation_set(option: str, limit: int | None, rule: InputRule, task: Task | None) -> Dataset:
    """The labelled images that `option` names."""
    if _is_scenes(option):
        folder = _rendered(option, task, limit or 128, _EVALUATION_SEED, rule.preprocess.size)
        return open_dataset(folder, task, limit)
    if not Path(option).exists():
        hint = did_you_mean(option, [SCENES])
        raise UsageError("no such data", where=option, next_step=hint)
    return open_dataset(Path(option), task, limit)


def training_set(option: str, rule: InputRule, task: Task | None) -> Dataset:
    """The images that `option` names to train on: of a data.yaml the training ones; labels count where they can."""
    if _is_scenes(option):
        return open_dataset(_rendered(option, task, 1024, _TRAINING_SEED, rule.preprocess.size), task)
    if not Path(option).exists():
        raise UsageError("no such data", where=option, next_step=did_you_mean(option, [SCENES]))
    return open_dataset(Path(option), task, split="train")


def overlapping_images(calibration: CalibrationSet, evaluation: Dataset) -> int:
    """How many images serve both; accuracy on them is not held out."""
    hashes = image_hashes([sample.path for sample in evaluation.samples])
    return len(overlap(calibration.hashes, hashes))
