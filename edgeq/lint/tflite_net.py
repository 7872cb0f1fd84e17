"""A .tflite file seen for linting: who computes and reads each tensor, and which operators run on codes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from edgeq.frontend.tflite_file import ABSENT, FileOperator, FileTensor, TfliteFile

# Position of weight and bias, and the axis of output channels of the weight.
PARAMETERS = {
    "CONV_2D": (1, 2, 0), "DEPTHWISE_CONV_2D": (1, 2, 3), "FULLY_CONNECTED": (1, 2, 0), "TRANSPOSE_CONV": (1, 3, 0),
}  # fmt: skip
MOVING = (
    "RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "SLICE", "STRIDED_SLICE", "SPLIT", "SPLIT_V", "CONCATENATION",
    "PACK", "UNPACK", "GATHER", "TILE", "BROADCAST_TO", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH", "PAD", "PADV2", "MIRROR_PAD",
    "MAX_POOL_2D", "RESIZE_NEAREST_NEIGHBOR",
)  # fmt: skip
BORDERS = ("QUANTIZE", "DEQUANTIZE")


@dataclass(frozen=True)
class Parameter:
    """A constant weight and the operator that reads it."""

    op: FileOperator
    x: FileTensor
    weight: FileTensor
    bias: FileTensor | None
    axis: int


class TfliteNet:
    """The main subgraph of a file."""

    def __init__(self, file: TfliteFile) -> None:
        self.file = file
        self.ops = [op for op in file.operators if op.outputs and op.outputs[0] != ABSENT]
        self.producer = {index: op for op in self.ops for index in op.outputs}
        self.readers: dict[int, list[FileOperator]] = {}
        for op in self.ops:
            for index in dict.fromkeys(op.inputs):
                self.readers.setdefault(index, []).append(op)

    def title(self, op: FileOperator) -> str:
        """How findings call an operator."""
        return f"{op.kind} {self.file.tensors[op.outputs[0]].name}"

    def operands(self, op: FileOperator) -> list[FileTensor]:
        """The operands that are there."""
        return [self.file.tensors[index] for index in op.inputs if index != ABSENT]

    def activations(self, op: FileOperator) -> list[FileTensor]:
        """The operands that the network computes or takes, apart from indices."""
        return [t for t in self.operands(op) if t.content is None and (t.is_quantized or "float" in t.element)]

    def results(self, op: FileOperator) -> list[FileTensor]:
        """The results."""
        return [self.file.tensors[index] for index in op.outputs if index != ABSENT]

    @cached_property
    def quantized(self) -> list[FileTensor]:
        """Every tensor of codes, constants included."""
        return [tensor for tensor in self.file.tensors if tensor.is_quantized]

    @cached_property
    def computed(self) -> list[FileTensor]:
        """Every tensor of codes that the network takes or computes."""
        return [tensor for tensor in self.quantized if tensor.content is None]

    @cached_property
    def parameters(self) -> list[Parameter]:
        """Every operator with a constant weight."""
        return list(self._parameters())

    def _parameters(self) -> Iterator[Parameter]:
        for op in self.ops:
            if op.kind not in PARAMETERS:
                continue
            position, bias, axis = PARAMETERS[op.kind]
            x = op.inputs[2 if op.kind == "TRANSPOSE_CONV" else 0] if len(op.inputs) > position else ABSENT
            weight = op.inputs[position] if len(op.inputs) > position else ABSENT
            if ABSENT in (x, weight) or self.file.tensors[weight].content is None:
                continue
            index = op.inputs[bias] if len(op.inputs) > bias else ABSENT
            yield Parameter(
                op,
                self.file.tensors[x],
                self.file.tensors[weight],
                self.file.tensors[index] if index != ABSENT else None,
                axis,
            )

    def on_codes(self, op: FileOperator) -> bool:
        """Whether the first result of `op` is codes."""
        return self.results(op)[0].is_quantized

    def in_float(self, op: FileOperator) -> bool:
        """Whether `op` computes reals from reals."""
        results = self.results(op)
        return "float" in results[0].element and op.kind not in BORDERS
