"""What a written file says of its numbers: every quantized tensor as it is stored, whoever wrote the file.

Nothing is interpreted here beyond the order of axes: weights come as [out, in, ...], of a transposed convolution
[in, out, ...], so that they can be laid beside those of a graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]
Role = Literal["input", "output", "activation", "weight", "bias", "constant"]


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of codes (`scale` and `zero_point` with one entry, or one per index of `axis`) or of reals (none).

    `array` holds a constant as it is stored. `operator` computes the tensor, or reads it where it is a constant.
    """

    name: str
    role: Role
    element: str
    shape: tuple[int, ...] | None
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    axis: int | None = None
    operator: str = ""
    array: Numbers | None = field(default=None, repr=False)

    @property
    def is_quantized(self) -> bool:
        """Whether the numbers are codes, or come from a table or blocks."""
        return bool(self.scale) or "-bit" in self.element

    @property
    def levels(self) -> Numbers | None:
        """Codes less zero points (int64); None for a computed tensor or one of reals."""
        if self.array is None or not self.scale:
            return None
        zeros = np.asarray(self.zero_point, np.int64)
        return self.array.astype(np.int64) - self.along_axis(zeros)

    @property
    def reals(self) -> Numbers | None:
        """float32 reals of a constant."""
        levels = self.levels
        if levels is None:
            return None if self.array is None else self.array.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # a damaged scale gives infinite reals
            return levels.astype(np.float32) * self.along_axis(np.asarray(self.scale, np.float32))

    def along_axis(self, numbers: Numbers) -> Numbers:
        """`numbers`, one or one per channel, so that they broadcast against the constant."""
        if numbers.size == 1:
            return numbers.reshape(())
        if self.array is None or self.axis is None or not -self.array.ndim <= self.axis < self.array.ndim:
            return np.zeros((), numbers.dtype)
        if numbers.size != self.array.shape[self.axis]:
            return np.zeros((), numbers.dtype)  # damaged: the numbers themselves are reported
        return numbers.reshape([-1 if axis == self.axis % self.array.ndim else 1 for axis in range(self.array.ndim)])


@dataclass(frozen=True)
class StoredOperator:
    """An operator with constant weights; `outputs` are its results' names in the file."""

    name: str
    kind: str
    outputs: tuple[str, ...]
    weight: StoredTensor
    bias: StoredTensor | None = None


@dataclass(frozen=True)
class Stored:
    """The numbers of one file.

    `activations` has every quantized tensor that the network takes or computes (one whose readers see it with other
    numbers stands there again), `weighted` the operators with constant weights in execution order, `constants` other
    constants of codes. `operators` counts the kinds, `aliases` leads from a tensor to the one whose elements it moves.
    """

    format: str
    activations: tuple[StoredTensor, ...]
    weighted: tuple[StoredOperator, ...]
    constants: tuple[StoredTensor, ...] = ()
    operators: Mapping[str, int] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def tensors(self) -> tuple[StoredTensor, ...]:
        """All of them, constants behind the operators that read them."""
        parameters = [t for op in self.weighted for t in (op.weight, op.bias) if t is not None]
        return (*self.activations, *parameters, *self.constants)
