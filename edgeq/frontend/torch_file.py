"""Any file that torch or Ultralytics wrote becomes one ONNX model in memory: `.pt .pth .th .safetensors .pt2`.

A file of bare weights says nothing about its network, so it needs `arch`; a file that holds a network needs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from edgeq.errors import UntrustedInputError, UsageError
from edgeq.frontend import architecture, ultralytics
from edgeq.frontend.safe_load import load_pickled, load_tensors
from edgeq.frontend.torch_export import ExportedModel, to_onnx

SUFFIXES = (".pt", ".pth", ".th", ".safetensors", ".pt2")


def load(
    path: Path,
    *,
    arch: str | None = None,
    imgsz: int | Sequence[int] | None = None,
    trust_pickle: bool = False,
    end2end: bool = True,
) -> ExportedModel:
    """Opens `path` safely and exports what it holds at batch 1.

    `arch` names the network of bare weights (see `architecture.build`), `imgsz` is a side or (height, width) in pixels,
    `end2end` chooses the NMS-free head of an Ultralytics network that has one. Raises UntrustedInputError for a file that
    could run code (unless `trust_pickle`), UsageError and UnsupportedError as its parts do.
    """
    if path.suffix == ".pt2":
        return to_onnx(_load_program(path, trust_pickle))
    if arch is not None:
        return _load_weights(path, arch, imgsz, trust_pickle)
    if path.suffix == ".safetensors":
        raise _bare_weights(path)
    loaded = load_pickled(path, trust_pickle=trust_pickle, find_network=ultralytics.find_network)
    network = ultralytics.network_in(loaded)
    if network is not None:
        return ultralytics.export(network, imgsz, end2end=end2end)
    if not isinstance(loaded, nn.Module):
        raise _bare_weights(path)
    if imgsz is None:
        raise UsageError("a torch network does not say its input size", where=path, next_step="Pass --imgsz")
    return _export_images(loaded, (3, *_sides(imgsz)), {})


def _bare_weights(path: Path) -> UsageError:
    return UsageError(
        "the file holds weights but no network",
        where=path,
        next_step=f"Pass --arch, for example {architecture.EXAMPLE}",
    )


def _load_weights(path: Path, arch: str, imgsz: int | Sequence[int] | None, trust_pickle: bool) -> ExportedModel:
    tensors = load_tensors(path, trust_pickle=trust_pickle)
    built = architecture.build(arch)
    architecture.load_weights(built.module, tensors, arch=arch)
    channels, *size = built.input_size
    height, width = size if imgsz is None else _sides(imgsz)
    return _export_images(built.module, (channels, height, width), {"arch": arch})


def _export_images(module: nn.Module, size: tuple[int, int, int], metadata: dict[str, object]) -> ExportedModel:
    metadata |= {"imgsz": list(size[1:]), "batch": 1, "channels": size[0]}
    return to_onnx(module.float(), (torch.zeros(1, *size),), metadata=metadata)


def _sides(imgsz: int | Sequence[int]) -> tuple[int, int]:
    sides = (imgsz, imgsz) if isinstance(imgsz, int) else tuple(imgsz)
    if len(sides) != 2 or min(sides) < 1:
        raise UsageError("the image size must be one side, or height and width", value=imgsz)
    return sides[0], sides[1]


def _load_program(path: Path, trust: bool) -> torch.export.ExportedProgram:
    """Unlike a checkpoint, a program cannot be read safely in part: its text is evaluated and may name any function."""
    if not trust:
        raise UntrustedInputError(
            "a torch.export program can run code when it is loaded",
            where=path,
            next_step="Pass --trust-pickle if you trust the author of the file, or export the network to ONNX",
        )
    try:
        return torch.export.load(path)
    except Exception as damage:  # damaged bytes can raise anything
        reason = f"{type(damage).__name__} {str(damage)[:120]}"
        raise UsageError("not a readable torch.export program", where=path, value=reason) from damage
