"""Reads torch checkpoints without running anything that is in them, unless `trust_pickle` says to.

Whatever the bytes are, the outcome is a value or a typed error; no code in the file runs, nothing is written, and the
memory taken stays in proportion to the file.
"""

from __future__ import annotations

import io
import pickle
import types
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeq.errors import EdgeqError, MissingDependencyError, UnsupportedError, UntrustedInputError, UsageError
from edgeq.frontend.restricted_pickle import ClassFinder, check_opcodes, restricted_unpickler, trusting_unpickler

MAX_FILE_BYTES = 4 << 30
MAX_EXPANSION = 20  # unpacked bytes per packed byte; torch itself does not compress
STATE_KEYS = ("state_dict", "model_state_dict", "ema", "model", "params", "net")


def no_network_classes(module: str, name: str) -> None:
    """Allows the classes of `torch.nn` alone."""


def load_pickled(path: Path, *, trust_pickle: bool = False, find_network: ClassFinder = no_network_classes) -> Any:
    """What `torch.save` wrote to `path`, on the CPU.

    `find_network` names the network classes that may be rebuilt, besides those of `torch.nn`. Raises UntrustedInputError
    for a name or layout that could run code or exhaust memory, UnsupportedError for TorchScript and `torch.export`
    archives, UsageError for a file that is missing, too large or damaged.
    """
    data = read_file(path)
    try:
        _check_layout(path, data)
        unpickler = trusting_unpickler(find_network) if trust_pickle else restricted_unpickler(path, find_network)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sources that changed since a network was saved
            return torch.load(
                io.BytesIO(data),  # not the path: torch unpacks a tar archive onto the disk when given a real file
                map_location="cpu",
                pickle_module=_as_module(unpickler),
                weights_only=False,
            )
    except EdgeqError:
        raise
    except ModuleNotFoundError as missing:
        raise UsageError("the checkpoint needs a module that is not here", where=path, value=missing.name) from missing
    except Exception as damage:  # damaged bytes can raise anything
        reason = f"{type(damage).__name__} {str(damage)[:120]}"
        raise UsageError("not a readable torch checkpoint", where=path, value=reason) from damage


def load_tensors(path: Path, *, trust_pickle: bool = False) -> dict[str, Tensor]:
    """The named weights of a safetensors file, or of a torch checkpoint that holds a state dict or a torch.nn network.

    Prefixes that data-parallel training and `torch.compile` add are taken off. Raises as `load_pickled` does.
    """
    if path.suffix == ".safetensors":
        tensors = _read_safetensors(path)
    else:
        tensors = _state_dict(load_pickled(path, trust_pickle=trust_pickle), path)
    for prefix in ("module.", "_orig_mod."):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def read_file(path: Path) -> bytes:
    """The bytes of `path`. Raises UsageError when it cannot be read or is larger than any model edgeq takes."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise UsageError("the file is too large", where=path, value=f"{size} bytes", allowed=MAX_FILE_BYTES)
        return path.read_bytes()
    except OSError as error:
        raise UsageError("the file cannot be read", where=path, value=error.strerror) from error


def _as_module(unpickler: type[pickle.Unpickler]) -> object:
    """The two names that `torch.load` uses of a pickle module."""
    return types.SimpleNamespace(
        __name__="pickle", Unpickler=unpickler, load=lambda stream, **options: unpickler(stream, **options).load()
    )


def _check_layout(path: Path, data: bytes) -> None:
    """Checks the container and the opcodes of each pickle that torch would run, before it runs one."""
    if data[:2] == b"PK":
        _check_archive(path, data)
    elif data[:1] == pickle.PROTO:  # before torch 1.6: magic number, version, system, object, keys, then the weights
        stream = io.BytesIO(data)
        for _ in range(5):
            check_opcodes(path, stream, len(data))
    else:
        raise UsageError("not a torch checkpoint: neither a zip archive nor a pickle", where=path)


def _check_archive(path: Path, data: bytes) -> None:
    archive = zipfile.ZipFile(io.BytesIO(data))
    entries = archive.infolist()
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > MAX_EXPANSION * len(data):
        found, limit = f"{unpacked} bytes from {len(data)}", f"{MAX_EXPANSION} times"
        raise UntrustedInputError(
            "the archive unpacks to far more than it holds", where=path, value=found, allowed=limit
        )
    names = {Path(entry.filename).name for entry in entries}
    for marker, kind in (("constants.pkl", "TorchScript"), ("archive_format", "torch.export")):
        if marker in names:
            raise UnsupportedError(
                f"a {kind} archive is not a checkpoint",
                where=path,
                next_step="Pass the original network, or export it to ONNX and pass the .onnx file",
            )
    for entry in entries:
        if Path(entry.filename).name == "data.pkl":
            check_opcodes(path, io.BytesIO(archive.read(entry)), len(data))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load
    except ModuleNotFoundError as missing:
        raise MissingDependencyError("safetensors", "yolo", needed_for="a .safetensors file") from missing
    try:
        return load(read_file(path))
    except (SafetensorError, KeyError) as damage:
        raise UsageError("not a readable safetensors file", where=path, value=damage) from damage


def _state_dict(loaded: object, path: Path) -> dict[str, Tensor]:
    if isinstance(loaded, nn.Module):
        return loaded.state_dict()
    if isinstance(loaded, Mapping):
        if loaded and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in loaded.items()):
            return dict(loaded)
        for key in STATE_KEYS:
            if isinstance(loaded.get(key), Mapping | nn.Module):
                return _state_dict(loaded[key], path)
    raise UsageError("the checkpoint holds no state dict", where=path, value=type(loaded).__name__)
