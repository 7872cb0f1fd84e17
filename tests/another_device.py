"""A device that is not the CPU, on any machine: tensors that claim to lie on `meta` and hold their numbers apart.

Inside of `another_device()` a tensor on DEVICE is computed as on the CPU, number for number, but it may not meet a
tensor of the CPU in one operator, nor become a numpy array: what an accelerator refuses, this refuses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")

_INDEXING = (torch.ops.aten.index.Tensor,)
"""Accelerators take indices from the CPU."""


class _Generator(torch.Generator):
    """One for DEVICE draws on the CPU."""

    def __new__(cls, device: torch.device | str = "cpu") -> _Generator:
        return super().__new__(cls, "cpu" if torch.device(device) == DEVICE else device)

    def __init__(self, device: torch.device | str = "cpu") -> None:
        pass


class Away(torch.Tensor):
    """A tensor on DEVICE; its numbers are in `numbers`."""

    numbers: torch.Tensor

    @staticmethod
    def __new__(cls, numbers: torch.Tensor) -> Away:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, numbers.size(), strides=numbers.stride(), storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype, device=DEVICE,
        )  # fmt: skip
        made.numbers = numbers
        return made  # type: ignore[no-any-return]

    def __repr__(self, **_: Any) -> str:
        return f"Away({self.numbers})"

    def tolist(self) -> Any:
        return self.numbers.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} on {DEVICE} outside of another_device()")


class _Another(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        away = [x for x in tensors if isinstance(x, Away)]
        asked = kwargs.get("device")
        moves = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        if away and not moves:
            self.count += 1
            strangers = [x for x in tensors if not isinstance(x, Away) and x.dim() > 0 and func not in _INDEXING]
            assert not strangers, f"{func}: a tensor of the CPU {tuple(strangers[0].shape)} among those of {DEVICE}"
        goes = DEVICE if asked is not None and torch.device(asked) == DEVICE else None
        if goes:
            kwargs["device"] = torch.device("cpu")
        stays = asked is None and bool(away)
        inside = tree_map(lambda x: x.numbers if isinstance(x, Away) else x, (args, kwargs))
        found = func(*inside[0], **inside[1])
        if func is torch.ops.aten.copy_.default or _in_place(func):
            return args[0]
        if func is torch.ops.aten._local_scalar_dense.default or not (goes or stays):
            return found
        return tree_map(lambda x: Away(x) if isinstance(x, torch.Tensor) else x, found)


def _in_place(func: Any) -> bool:
    name: str = func._schema.name.split("::")[1]
    return name.endswith("_") and not name.endswith("__")


@contextmanager
def another_device() -> Iterator[_Another]:
    """Inside, DEVICE computes; what is given tells by `count` how many operators ran there."""
    with pytest.MonkeyPatch.context() as patch, _Another() as mode:
        patch.setattr(torch, "Generator", _Generator)
        yield mode
