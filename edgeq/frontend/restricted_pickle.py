"""An unpickler that rebuilds tensors and networks and cannot do anything else.

A pickle is a program: it imports names and calls them. Each name resolves here to one of three inert things, or the load
ends before anything has run:

- a function that rebuilds a tensor or a plain container, with its arguments checked;
- a network class, which may be filled with saved state but whose constructor cannot be called;
- `Ignored`, for the bookkeeping beside the network (paths, training options, losses, NumPy scalars).

So whatever the pickle says, the only callables in its result are parts of networks.
"""

from __future__ import annotations

import pickle
import pickletools
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from edgeq.errors import UntrustedInputError

ClassFinder = Callable[[str, str], type[nn.Module] | None]
"""(module, name) as the pickle gives them -> the network class that may be rebuilt, or None for none of its concern."""

TRUST = "Pass --trust-pickle if you trust the author of the file, or pass a state dict with --arch"
FORWARDS = frozenset({"forward", "forward_fuse", "forward_split"})
FREE_ELEMENTS = 1 << 20
IGNORED_MODULES = ("ultralytics.utils", "ultralytics.yolo", "torchvision.transforms")
IGNORED_NAMES = frozenset(
    {f"{package}.multiarray.{name}" for package in ("numpy.core", "numpy._core") for name in ("scalar", "_reconstruct")}
    | {"numpy.dtype", "numpy.ndarray", "argparse.Namespace"}
    | {f"pathlib{local}.{name}Path" for local in ("", "._local") for name in ("", "Posix", "Windows")}
    | {f"pathlib{local}.Pure{name}Path" for local in ("", "._local") for name in ("", "Posix", "Windows")}
)


class Ignored:
    """Stands for a value that no network needs: made, called and filled without effect."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class Function:
    """A callable whose attributes a pickle cannot change."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def __call__(self, *args: object) -> object:
        return self._call(*args)


class Shell(type):
    """The type of a stand-in for a network class: `__new__` makes an empty network, calling it is refused."""

    network: type[nn.Module]

    def __call__(cls, *args: object) -> object:
        raise UntrustedInputError(
            "the pickle calls a class",
            value=f"{cls.network.__module__}.{cls.network.__qualname__}",
            next_step=TRUST,
        )


def shell_of(network: type[nn.Module]) -> Shell:
    """A stand-in whose instances are bare instances of `network`, ready for the pickle's BUILD step."""
    members = {
        "network": network,
        "__new__": lambda cls, *args: object.__new__(network),
        "dump_patches": False,  # torch asks when it reads the format before 1.6
    }
    return Shell("Shell", (), members)


def trusting_unpickler(find_network: ClassFinder) -> type[pickle.Unpickler]:
    """Python's own unpickler, which runs what it reads; `find_network` supplies classes that have moved."""

    class TrustingUnpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return find_network(module, name) or super().find_class(module, name)

    return TrustingUnpickler


def restricted_unpickler(path: Path, find_network: ClassFinder) -> type[pickle.Unpickler]:
    """The unpickler class for one file; `path` is for messages."""

    class RestrictedUnpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            module = "builtins" if module == "__builtin__" else module  # as Python 2 called it; torch keeps protocol 2
            network = _torch_network(module, name) or find_network(module, name)
            if network is not None:
                return shell_of(network)
            full = f"{module}.{name}"
            if full in _FUNCTIONS:
                return _FUNCTIONS[full]()
            if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
                return dtype
            if full in IGNORED_NAMES or _is_inside(module, IGNORED_MODULES):
                return Ignored
            raise UntrustedInputError(
                "the pickle names something that could run code",
                where=path,
                value=full,
                next_step=TRUST,
            )

    return RestrictedUnpickler


def _is_inside(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _torch_network(module: str, name: str) -> type[nn.Module] | None:
    """A class of `torch.nn`, all of which is imported with torch; nothing is imported here."""
    if not _is_inside(module, ("torch.nn.modules",)):
        return None
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) and issubclass(found, nn.Module) else None


def check_opcodes(path: Path, stream: IO[bytes], size: int) -> None:
    """Reads one pickle's opcodes to its end, running none. Refuses a memo that is larger than the file could fill.

    The unpickler allocates its memo up to the highest index named, so one index near 2^32 would take 32 GB.
    """
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name.startswith("EXT") or ("PUT" in opcode.name and isinstance(argument, int) and argument > size):
            raise UntrustedInputError("the pickle is built to harm", where=path, value=f"{opcode.name} {argument}")


def _forward_method(owner: object, name: str) -> object:
    """`getattr` as old networks use it: a class's forward method, a network's own, or a member of an ignored enum."""
    if owner is Ignored and name.isupper():
        return Ignored()
    if name in FORWARDS and isinstance(owner, Shell) and hasattr(owner.network, name):
        return getattr(owner.network, name)
    if name in FORWARDS and isinstance(owner, nn.Module) and hasattr(type(owner), name):
        return getattr(type(owner), name).__get__(owner)
    raise UntrustedInputError(
        "the pickle reads an attribute",
        value=f"{type(owner).__name__}.{name}",
        allowed=", ".join(sorted(FORWARDS)),
        next_step=TRUST,
    )


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text encoded as {encoding}")
    return text.encode("latin1")


def _inside_storage(rebuild: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`rebuild`, for tensors that lie inside their storage and are not blown up by zero strides."""

    def checked(storage: Any, offset: int, size: Any, stride: Any, *rest: object) -> Tensor:
        elements = storage._untyped_storage.nbytes() // storage.dtype.itemsize
        empty = any(n == 0 for n in size)
        last = 0 if empty else offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        count = 0 if empty else torch.Size(size).numel()
        inside = offset >= 0 and all(v >= 0 for v in (*size, *stride)) and (empty or last < elements)
        if not inside or count > max(elements, FREE_ELEMENTS):
            raise pickle.UnpicklingError(f"a tensor of size {tuple(size)} in a storage of {elements} elements")
        return rebuild(storage, offset, size, stride, *rest)

    return checked


def _function(call: Callable[..., object]) -> Callable[[], object]:
    return lambda: Function(call)  # a new one for each file: nothing that a pickle does to it lasts


_FUNCTIONS: dict[str, Callable[[], object]] = {
    "torch._utils._rebuild_tensor": _function(_inside_storage(torch._utils._rebuild_tensor)),
    "torch._utils._rebuild_tensor_v2": _function(_inside_storage(torch._utils._rebuild_tensor_v2)),
    "torch._utils._rebuild_parameter": _function(torch._utils._rebuild_parameter),
    "torch._utils._rebuild_parameter_with_state": _function(torch._utils._rebuild_parameter_with_state),
    "torch.Size": _function(torch.Size),
    "torch.device": _function(torch.device),
    "collections.OrderedDict": lambda: OrderedDict,
    "builtins.set": lambda: set,
    "builtins.getattr": _function(_forward_method),
    "_codecs.encode": _function(_latin1),
}
