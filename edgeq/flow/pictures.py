"""Images with what each runner saw in them, side by side, small enough to travel inside a page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgeq.calibrate.degrade import Degradation
from edgeq.datasets.dataset import Dataset
from edgeq.datasets.folder import read_image
from edgeq.datasets.outcomes import SURE, BoxOutcomes, ClassOutcomes, Outcomes

_SIDE = 288
_QUALITY = 72
_MOST_ROWS = 18
_MOST_BOXES = 12

Image = npt.NDArray[np.uint8]


def picture_rows(
    data: Dataset,
    conditions: Mapping[str, Sequence[Degradation | None]],
    runners: Sequence[str],
    outcomes: Mapping[tuple[str, str], Outcomes],
    seed: int,
) -> list[dict[str, Any]]:
    """One row per condition: the same image with the answers of every runner. Empty for what has no answers to draw.

    `conditions` says what is done to each image of `data`; the first runner under the first condition chooses the image.
    """
    first = outcomes[runners[0], next(iter(conditions))]
    if not isinstance(first, BoxOutcomes | ClassOutcomes):
        return []
    index = _telling(first)
    sample = data.samples[index]
    source = read_image(sample.path)
    rows = []
    for condition in _spread(list(conditions)):
        part = conditions[condition][index]
        image = source if part is None else part.apply(source, sample.path.name, seed)
        jpeg = _thumbnail(image)
        shown = [_shown(outcomes[runner, condition], index, runner, jpeg, image) for runner in runners]
        rows.append({"title": condition, "pictures": shown})
    return rows


def _telling(outcomes: BoxOutcomes | ClassOutcomes) -> int:
    """An image with several sure boxes, or one answered rightly."""
    if isinstance(outcomes, ClassOutcomes):
        return int(np.argmin(outcomes.ranks))
    counts = np.array([len(found.above(SURE)) for found in outcomes.found])
    return int(np.argmax(np.where(counts <= _MOST_BOXES, counts, -1)))


def _spread(conditions: Sequence[str]) -> list[str]:
    """Clean and the strongest of each kind, where there are too many."""
    if len(conditions) <= _MOST_ROWS:
        return list(conditions)
    return list({name.partition(":")[0]: name for name in conditions}.values())[:_MOST_ROWS]


def _thumbnail(image: Image) -> str:
    height, width = image.shape[:2]
    ratio = min(_SIDE / max(height, width), 1.0)
    size = max(round(width * ratio), 1), max(round(height * ratio), 1)
    small = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
    return base64.b64encode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()).decode()


def _shown(outcomes: Outcomes, index: int, runner: str, jpeg: str, image: Image) -> dict[str, str]:
    if isinstance(outcomes, ClassOutcomes):
        right = "right" if outcomes.ranks[index] == 0 else "wrong"
        caption = f"{runner}: class {outcomes.answers[index]} ({outcomes.confidences[index]:.2f}, {right})"
        return {"jpeg": jpeg, "svg": "", "caption": caption, "alt": caption}
    assert isinstance(outcomes, BoxOutcomes)
    found = outcomes.found[index].above(SURE)
    height, width = image.shape[:2]
    unit = max(height, width) / _SIDE
    marks = []
    for (x0, y0, x1, y1), score, label in zip(
        found.boxes.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True
    ):
        colour = f"var(--c{label % 7})"
        marks.append(
            f'<rect x="{x0:.0f}" y="{y0:.0f}" width="{max(x1 - x0, 0):.0f}" height="{max(y1 - y0, 0):.0f}" fill="none"'
            f' stroke="{colour}" stroke-width="{2 * unit:.1f}"><title>class {label}, score {score:.2f}</title></rect>'
        )
    caption = f"{runner}: {len(found)} sure detections"
    svg = f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true">{"".join(marks)}</svg>'
    return {"jpeg": jpeg, "svg": svg, "caption": caption, "alt": caption}
