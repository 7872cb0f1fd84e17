"""An ML program under construction: operators of Apple's MIL, constants, and the weight file beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from edgeq.emit.coreml_blob import WeightFile, pack
from edgeq.emit.coreml_schema import DATA_TYPES, Argument, Operation, Value, ValueType
from edgeq.errors import UnsupportedError
from edgeq.ir.graph import Array

Shape = tuple[int, ...]
WEIGHT_FILE = "@model_path/weights/weight.bin"
LARGEST_RANK = 5
SMALLEST_BLOB = 10
"""Constants of fewer elements stand in the program itself."""

_RESERVED = {
    "any", "bool", "program", "func", "tensor", "list", "dict", "tuple", "true", "false", "string", "bf16", "fp16",
    "fp32", "fp64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "state", "pass", "main",
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """A named result of the program."""

    name: str
    shape: Shape
    dtype: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


Scalar = bool | int | float | str
Operand = Tensor | list[Tensor] | Array | Scalar


def identifier(name: str) -> str:
    """`name` as the language of programs allows it: letters, digits and underscores.

    >>> identifier("model.0/conv"), identifier("2d"), identifier("tensor")
    ('model_0_conv', '_2d', 'tensor_')
    """
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
    plain = f"_{plain}" if not plain or plain[0].isdigit() else plain
    return f"{plain}_" if plain in _RESERVED else plain


def value_type(shape: Shape, dtype: str) -> ValueType:
    """The type of a tensor as a message."""
    message = ValueType()
    message.tensorType.dataType = DATA_TYPES[dtype]
    message.tensorType.rank = len(shape)
    for size in shape:
        message.tensorType.dimensions.add().constant.size = size
    return message


class Program:
    """Collects operators and the weight file; names never clash, equal constants are stored once.

    `ios` is the oldest system that loads the file, `real_dtype` the element type of reals, "fp16" or "fp32".
    """

    def __init__(self, ios: int, real_dtype: str) -> None:
        self.ios, self.real_dtype = ios, real_dtype
        self.operations: list[Operation] = []
        self.weights = WeightFile()
        self._names: set[str] = set()
        self._constants: dict[tuple[str, Shape, bytes], Tensor] = {}

    def fresh(self, hint: str) -> str:
        """An unused name like `hint`."""
        name, count = identifier(hint), 0
        while name in self._names:
            count += 1
            name = f"{identifier(hint)}_{count}"
        self._names.add(name)
        return name

    def op(
        self,
        kind: str,
        hint: str,
        shape: Shape,
        dtype: str | None = None,
        name: str | None = None,
        /,
        **inputs: Operand | None,
    ) -> Tensor:
        """Append an operator with the inputs that are not None; `hint` is like what its result is called."""
        (result,) = self.several(kind, [(hint, shape, dtype or self.real_dtype)], name, **inputs)
        return result

    def several(
        self, kind: str, outputs: Sequence[tuple[str, Shape, str]], name: str | None = None, /, **inputs: Operand | None
    ) -> list[Tensor]:
        """Append an operator with several results, given as hint, shape and element type."""
        results = [Tensor(name or self.fresh(hint), tuple(shape), dtype) for hint, shape, dtype in outputs]
        for result in results:
            if len(result.shape) > LARGEST_RANK:
                raise UnsupportedError(
                    "CoreML tensors have at most five axes", where=outputs[0][0], value=list(result.shape)
                )
        arguments = {
            key: self._argument(operand, f"{results[0].name}_{key}")
            for key, operand in inputs.items()
            if operand is not None
        }
        operation = self._append(kind, results)
        for key, argument in arguments.items():
            operation.inputs[key].CopyFrom(argument)
        return results

    def _append(self, kind: str, results: Sequence[Tensor]) -> Operation:
        operation = Operation(type=kind)
        for result in results:
            operation.outputs.add(name=result.name, type=value_type(result.shape, result.dtype))
        self.attribute(operation, "name", results[0].name)
        self.operations.append(operation)
        return operation

    def attribute(self, operation: Operation, key: str, content: str | Array, dtype: str = "string") -> None:
        """Attach a constant to an operator itself."""
        operation.attributes[key].CopyFrom(self.value(content, dtype))

    def compressed(
        self, kind: str, hint: str, shape: Shape, dtype: str, parts: Mapping[str, tuple[Array | Tensor, str]]
    ) -> Tensor:
        """Append a `constexpr_…` operator; iOS 18 reads its parts as inputs, earlier systems as attributes."""
        result = Tensor(self.fresh(hint), shape, dtype)
        operation = self._append(kind, [result])
        for key, (content, part_dtype) in parts.items():
            if self.ios < 18:
                assert not isinstance(content, Tensor)
                self.attribute(operation, key, content, part_dtype)
            elif isinstance(content, Tensor):
                operation.inputs[key].arguments.add(name=content.name)
            else:
                operation.inputs[key].arguments.add(value=self.value(content, part_dtype))
        return result

    def _argument(self, operand: Operand, hint: str) -> Argument:
        argument = Argument()
        if isinstance(operand, Tensor):
            tensors = [operand]
        else:
            tensors = operand if isinstance(operand, list) else [self.constant(operand, hint)]
        for tensor in tensors:
            argument.arguments.add(name=tensor.name)
        return argument

    def constant(self, content: Array | Scalar, hint: str, dtype: str | None = None) -> Tensor:
        """A constant; numbers take the element type of reals, indices int32, unless `dtype` says otherwise."""
        if isinstance(content, str):
            array, dtype = np.array(content), "string"
        else:
            array = np.asarray(content)
            dtype = dtype or self._dtype_of(array)
        if dtype in ("fp16", "fp32"):
            array = self._rounded(array, dtype, hint)
        key = (dtype, array.shape, array.tobytes())
        if key not in self._constants:
            tensor = Tensor(self.fresh(hint), array.shape, dtype)
            operation = self._append("const", [tensor])
            self.attribute(operation, "val", content if isinstance(content, str) else array, dtype)
            self._constants[key] = tensor
        return self._constants[key]

    def _dtype_of(self, array: Array) -> str:
        return {"f": self.real_dtype, "b": "bool"}.get(array.dtype.kind, "int32")

    def _rounded(self, array: Array, dtype: str, where: str) -> Array:
        wide = array.astype(np.float64)
        with np.errstate(over="ignore"):
            found = wide.astype(np.float16 if dtype == "fp16" else np.float32)
        if bool((np.isinf(found) & np.isfinite(wide)).any()):
            raise UnsupportedError(
                "a constant is beyond half precision",
                where=where,
                value=float(np.abs(wide[np.isfinite(wide)]).max()),
                next_step="Use --target coreml-fp32.",
            )
        return found

    def value(self, content: str | Array, dtype: str) -> Value:
        """A constant as a message: in the weight file if it is large, else in place."""
        array = np.asarray(content)
        message = Value(type=value_type(array.shape, dtype))
        if array.size >= SMALLEST_BLOB and dtype not in ("int32", "bool", "string"):
            message.blobFileValue.fileName = WEIGHT_FILE
            message.blobFileValue.offset = self.weights.add(array, dtype)
            return message
        tensor = message.immediateValue.tensor
        match dtype:
            case "string":
                tensor.strings.values.append(str(content))
            case "bool":
                tensor.bools.values.extend(array.reshape(-1).tolist())
            case "int32":
                tensor.ints.values.extend(array.reshape(-1).tolist())
            case "fp32":
                tensor.floats.values.extend(array.reshape(-1).tolist())
            case _:
                tensor.bytes.values = pack(array, dtype)
        return message
