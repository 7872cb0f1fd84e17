"""Imports torchvision and timm without torch's compiler, most of what either takes to import and nothing that edgeq uses.

torchvision asks the compiler one question when one of its operators is called, timm tells it what to pass over. Inside
`compiler_later` both get stand-ins, which import the compiler when they are called and do what it does then.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

COMPILER = "torch._dynamo"
_ASKED = "torch._dynamo.utils"
_QUESTION = "is_compile_supported"


@contextmanager
def compiler_later() -> Iterator[None]:
    """Import torchvision and timm inside; nothing changes where the compiler is there already."""
    if COMPILER in sys.modules:
        yield
        return
    vars(torch.compiler)["disable"] = _disabled_later
    sys.modules[_ASKED] = _Asked(_ASKED)
    try:
        yield
    finally:
        vars(torch.compiler)["disable"] = _disable
        _forget()


class _Asked(ModuleType):
    """Stands for the module that has the answer; asked for anything else, it gives what the real one has."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == _QUESTION:
            return _is_compile_supported
        return _real(name)


def _is_compile_supported(device: object) -> object:
    return _real(_QUESTION)(device)


def _real(name: str) -> Any:
    _forget()
    return getattr(importlib.import_module(_ASKED), name)


def _forget() -> None:
    if isinstance(sys.modules.get(_ASKED), _Asked):
        del sys.modules[_ASKED]


def _disabled_later(function: Any = None, *options: Any, **named: Any) -> Any:
    """`torch.compiler.disable` of a plain function, applied when that is called; as it is for anything else."""
    if not callable(function) or isinstance(function, type | torch.nn.Module) or options or named:
        return _disable(function, *options, **named)

    @functools.wraps(function)
    def called(*arguments: Any, **more: Any) -> Any:
        return _disable(function)(*arguments, **more)

    return called


_disable: Callable[..., Any] = torch.compiler.disable
