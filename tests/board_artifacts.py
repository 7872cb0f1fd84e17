"""Small artifacts of every kind that boards run, and a board to run them on."""

from __future__ import annotations

import sys
from pathlib import Path

from edgeq.boards.entries import Entry
from tests.command_line import edgeq, write_noise_images, write_small_classifier
from tests.ssh_server import SshServer

TARGETS = {"onnx": "onnx-int8", "tflite": "tflite-int8", "c": "c-int8"}


def export_all(place: Path) -> dict[str, Path]:
    """The small classifier for every kind: the file that --board takes."""
    write_small_classifier(place / "net.onnx")
    write_noise_images(place / "images", 4)
    made = {}
    for kind, target in TARGETS.items():
        ran = edgeq(
            "export", place / "net.onnx", "-t", target, "--calib", place / "images", "--preprocess", "cifar",
            "--threads", 1, "--json", "--no-cache", "--estimator", "minmax", "--float-share", 0, "--out", place / kind,
        )  # fmt: skip
        assert ran.exit == 0, ran.stderr
        (made[kind],) = [place / kind] if kind == "c" else (place / kind).glob(f"*.{kind}")
    return made


def pi(server: SshServer, name: str = "pi", **changes: object) -> Entry:
    """The server as a board with this Python."""
    return server.entry(name, **{"python": sys.executable, **changes})
