"""edgeq: exact, measured quantization of vision models for small devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["convert", "prepare_qat"]

if TYPE_CHECKING:
    from edgeq.flow.qat import convert, prepare_qat


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'edgeq' has no attribute {name!r}")
    from edgeq.flow import qat  # loads torch, which the command line does without

    return getattr(qat, name)
