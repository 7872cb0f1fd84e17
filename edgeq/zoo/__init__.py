"""Three small trained networks, so that every step can be tried without a download: a detector, a classifier, a depth
estimator.

They know the rooms of `edgeq.datasets.scenes`: trained on scenes of seed 1, measured on scenes of seed 2 (any other
seed is free for calibration). `zoo.json` holds each file's digest, input, preprocessing and measured accuracy;
`scripts/train-zoo` made all of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeq.errors import UsageError, did_you_mean

_FOLDER = Path(__file__).resolve().parent


def names() -> tuple[str, ...]:
    """The models there are.

    >>> names()
    ('detector', 'classifier', 'depth')
    """
    return tuple(_cards())


def path(name: str) -> Path:
    """The ONNX file of a model. Raises UsageError for an unknown name."""
    return _FOLDER / str(card(name)["file"])


def card(name: str) -> dict[str, Any]:
    """What zoo.json says of a model. Raises UsageError for an unknown name.

    >>> card("detector")["task"], card("detector")["size"]
    ('detect', 160)
    """
    cards = _cards()
    if name not in cards:
        raise UsageError("no such zoo model", value=name, allowed=", ".join(cards), next_step=did_you_mean(name, cards))
    return cards[name]


def _cards() -> dict[str, dict[str, Any]]:
    cards: dict[str, dict[str, Any]] = json.loads((_FOLDER / "zoo.json").read_text(encoding="utf-8"))
    return cards
