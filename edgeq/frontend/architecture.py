"""`--arch timm:mobilenetv2_100,pad_type=same`: builds the network that a file of bare weights belongs to.

The name is looked up in a registry and its options are Python literals, so nothing in it can name code or a file, and
nothing is downloaded. The weights must then fit exactly.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from edgeq.errors import MissingDependencyError, UnsupportedError, UsageError, did_you_mean
from edgeq.frontend import torchvision_shim
from edgeq.frontend.cifar_resnet import DEPTHS, cifar_resnet
from edgeq.frontend.compiler_later import compiler_later

EXAMPLE = "timm:mobilenetv2_100,pad_type=same"
LOADING_OPTIONS = ("pretrained", "weights", "checkpoint", "cache_dir")  # how the names of such options start
COUNTER = "num_batches_tracked"  # counts training steps; checkpoints before torch 0.4.1 lack it
SHOWN_KEYS = 3


@dataclass(frozen=True)
class Built:
    """A network with random weights and the [channels, height, width] it was designed for."""

    module: nn.Module
    input_size: tuple[int, int, int]


def build(arch: str) -> Built:
    """The network that `arch`, `<registry>:<name>[,option=literal]...`, names; registries are timm, torchvision, edgeq.

    An option's value is a Python literal, or one bare word that is taken as text. Raises UsageError for a malformed or
    unknown name or option, MissingDependencyError when the registry's package is not installed.
    """
    registry, colon, call = arch.partition(":")
    builders: dict[str, Callable[[str, dict[str, Any]], Built]] = {
        "timm": _build_timm,
        "torchvision": _build_torchvision,
        "edgeq": _build_edgeq,
    }
    if not colon or registry not in builders:
        raise UsageError(
            "unknown architecture registry", value=arch, allowed=", ".join(builders), next_step=f"Example: {EXAMPLE}"
        )
    name, _, options = call.partition(",")
    try:
        return builders[registry](name, parse_options(arch, options))
    except (TypeError, ValueError, RuntimeError, AssertionError, AttributeError, KeyError) as refusal:
        raise UsageError("the architecture does not take these options", where=arch, value=refusal) from refusal


def parse_options(arch: str, options: str) -> dict[str, Any]:
    """`options`, as `name=literal,...`, as a mapping; `arch` is for messages.

    >>> parse_options("timm:x", "pad_type=same,img_size=(32, 64),act=None")
    {'pad_type': 'same', 'img_size': (32, 64), 'act': None}
    """
    try:
        call = ast.parse(f"f({options})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
            raise ValueError("only name=value pairs")
        pairs = {
            str(k.arg): k.value.id if isinstance(k.value, ast.Name) else ast.literal_eval(k.value)
            for k in call.keywords
        }
    except (SyntaxError, ValueError, RecursionError, MemoryError) as refusal:
        raise UsageError(
            "architecture options must be name=literal", where=arch, value=options, next_step=f"Example: {EXAMPLE}"
        ) from refusal
    if forbidden := [name for name in pairs if name.startswith(LOADING_OPTIONS)]:
        raise UsageError("this option would load weights", where=arch, value=", ".join(forbidden))
    return pairs


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], *, arch: str) -> None:
    """Copies `tensors` into `module`, every name and shape of which must match.

    Raises UnsupportedError if not.
    """
    wanted = {n: t for n, t in module.state_dict().items() if not n.endswith(COUNTER)}
    given = {n: t for n, t in tensors.items() if not n.endswith(COUNTER)}
    shapes = {n: (list(given[n].shape), list(t.shape)) for n, t in wanted.items() if n in given}
    problems = {
        "missing": [n for n in wanted if n not in given],
        "not in the architecture": [n for n in given if n not in wanted],
        "of another shape": [f"{n} {has} for {wants}" for n, (has, wants) in shapes.items() if has != wants],
    }
    if any(problems.values()):
        raise UnsupportedError(
            "the weights do not fit the architecture",
            where=arch,
            value="; ".join(_shown(kind, names) for kind, names in problems.items() if names),
            next_step="Check --arch and its options",
        )
    module.load_state_dict(given, strict=False)


def _shown(kind: str, names: list[str]) -> str:
    more = f" and {len(names) - SHOWN_KEYS} more" if len(names) > SHOWN_KEYS else ""
    return f"{len(names)} {kind}: {', '.join(names[:SHOWN_KEYS])}{more}"


def _build_timm(name: str, options: dict[str, Any]) -> Built:
    torchvision_shim.install()
    try:
        with compiler_later():
            import timm
    except ModuleNotFoundError as missing:
        raise MissingDependencyError("timm", "yolo", needed_for="a timm architecture") from missing
    if not timm.is_model(name):
        raise UsageError("unknown timm architecture", value=name, next_step=did_you_mean(name, timm.list_models()))
    module: Any = timm.create_model(name, pretrained=False, **options)
    size = options.get("img_size", module.pretrained_cfg["input_size"][-2:])
    height, width = (size, size) if isinstance(size, int) else size
    return Built(module, (int(options.get("in_chans", 3)), int(height), int(width)))


def _build_torchvision(name: str, options: dict[str, Any]) -> Built:
    torchvision_shim.install()
    try:
        from torchvision import models
    except ModuleNotFoundError as missing:
        raise MissingDependencyError("torchvision", "yolo", needed_for="a torchvision architecture") from missing
    names = models.list_models(module=models)
    if name not in names:
        raise UsageError("unknown torchvision architecture", value=name, next_step=did_you_mean(name, names))
    size = int(options.get("image_size", 299 if name == "inception_v3" else 224))
    return Built(models.get_model(name, weights=None, **options), (3, size, size))


def _build_edgeq(name: str, options: dict[str, Any]) -> Built:
    names = {f"resnet{depth}": depth for depth in DEPTHS}
    if name not in names:
        raise UsageError("unknown edgeq architecture", value=name, allowed=", ".join(names))
    return Built(cifar_resnet(names[name], **options), (3, 32, 32))
