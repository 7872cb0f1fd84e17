"""Apple's coremltools as a second reader of CoreML packages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any


def load_program(package: Path) -> Any:
    """The program as coremltools loads it: it checks every operator's operands against the system's operator set."""
    from coremltools.converters.mil.frontend.milproto.load import load
    from coremltools.models.utils import load_spec

    spec = load_spec(str(package))
    return load(spec, spec.specificationVersion, str(package / "Data" / "com.apple.CoreML" / "weights"))


def declared(package: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor as the file declares it, read with coremltools' own messages."""
    from coremltools.models.utils import load_spec

    (block,) = load_spec(str(package)).mlProgram.functions["main"].block_specializations.values()
    return {
        output.name: tuple(dimension.constant.size for dimension in output.type.tensorType.dimensions)
        for operation in block.operations
        for output in operation.outputs
    }


def problems(package: Path) -> list[str]:
    """Tensors for which coremltools infers another shape than the file declares. It raises for worse."""
    return list(_problems(package))


def _problems(package: Path) -> Iterator[str]:
    shapes = declared(package)
    for operation in load_program(package).functions["main"].operations:
        for output in operation.outputs:
            if output.name in shapes and tuple(output.shape) != shapes[output.name]:
                yield f"{operation.op_type} {output.name}: {tuple(output.shape)} is not {shapes[output.name]}"


def constants(package: Path) -> dict[str, Any]:
    """The content of every compressed constant as coremltools decompresses it."""
    return {
        operation.outputs[0].name: operation.materialized_val_inference()
        for operation in load_program(package).functions["main"].operations
        if operation.op_type.startswith("constexpr_")
    }
